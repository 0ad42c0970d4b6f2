"""Keras files: what the real Keras wrote, read, gone on from, written, and broken."""

import json
import shutil
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from keras_network import LR, NAMES, go_on_from, stored, train, train_in_torch, write_for_keras
from mutations import check_reader
from sgdm.convert.files.keras import read, write
from sgdm.convert.hdf5 import find_datasets
from sgdm.convert.layout import Layout, to_torch
from sgdm.errors import FileError

FILES = Path(__file__).parent / "conformance" / "files"
TRAINING = FILES / "keras-training.keras"
LAYOUTS: dict[str, Layout] = {
    "depthwise_conv2d/kernel": "depthwise",
    "separable_conv1d/depthwise_kernel": "depthwise",
    "einsum_dense/kernel": "torch",
}


def everything(path, weights=None):
    """Read a file whole: its checkpoint, and of every slot parameter and buffer."""
    with read(path, weights) as checkpoint:
        tensors = {
            slot.name: tuple(part and part.read() for part in (slot.parameter, slot.buffer))
            for slot in checkpoint.slots
        }
    return checkpoint, tensors


def weights_of(path, target):
    """Unpack the `.weights.h5` of an archive."""
    with zipfile.ZipFile(path) as archive:
        target.write_bytes(archive.read("model.weights.h5"))
    return target


def repacked(path, target, *, compression=zipfile.ZIP_STORED, **changed):
    """Copy an archive with other members: config= a function, weights= bytes."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json" and "config" in changed:
                content = changed["config"](json.loads(content))
                content = content if isinstance(content, bytes) else json.dumps(content)
            if name == "model.weights.h5" and "weights" in changed:
                content = changed["weights"](content)
            new.writestr(name, content)
    return target


def in_memory(checkpoint, tensors):
    """The checkpoint with these tensors."""
    slots = [
        replace(
            slot,
            **{
                key: part if part is None else stored(part)
                for key, part in zip(("parameter", "buffer"), tensors[slot.name], strict=True)
            },
        )
        for slot in checkpoint.slots
    ]
    return replace(checkpoint, slots=slots)


def refusal(call, *args, **kwargs):
    with pytest.raises(FileError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def test_torch_goes_on_from_keras_as_keras_does():
    data = np.load(FILES / "keras-training.npz")
    network, optimizer, done = go_on_from(TRAINING, LR / 10)
    losses = train(network, optimizer, data, done, len(data["after"]))
    np.testing.assert_allclose(losses, data["after"], rtol=0, atol=1e-5)
    for name, param in zip(NAMES, network.parameters(), strict=True):
        layout = "depthwise" if "depthwise" in name else "kernel"
        final = to_torch(torch.from_numpy(data[f"final:{name}"]), layout)
        torch.testing.assert_close(param.detach(), final, rtol=0, atol=1e-5)


def test_without_its_momentum_it_would_not():
    data = np.load(FILES / "keras-training.npz")
    network, optimizer, done = go_on_from(TRAINING, LR / 10, with_momentum=False)
    losses = train(network, optimizer, data, done, len(data["after"]))
    assert np.abs(losses - data["after"]).max() > 0.1


def test_keras_goes_on_from_torch_as_torch_does(tmp_path):
    data, went_on = (np.load(FILES / f"keras-{name}.npz") for name in ("training", "from-torch"))
    network, optimizer, done = train_in_torch(FILES)
    # The file that Keras went on from is the one that is written here.
    write_for_keras(tmp_path / "x.keras", FILES, network, optimizer, done, LR / 10)
    (checkpoint, mine), (its_checkpoint, its) = (
        everything(path) for path in (tmp_path / "x.keras", FILES / "keras-from-torch.keras")
    )
    assert checkpoint.steps == its_checkpoint.steps == went_on["done"]
    assert checkpoint.hyperparameters["lr"] == went_on["lr"] == np.float32(LR / 10)
    for name in NAMES:
        torch.testing.assert_close(mine[name], its[name], rtol=0, atol=1e-5)
    optimizer.param_groups[0]["lr"] = LR / 10
    losses = train(network, optimizer, data, done, len(went_on["after"]))
    np.testing.assert_allclose(losses, went_on["after"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("title", ["nested", "schedule", "float64", "bfloat16"])
def test_every_variable_has_keras_s_name_and_its_own_momentum(title):
    path = FILES / f"keras-{title}.keras"
    recorded = np.load(path.with_suffix(".npz"))
    checkpoint, tensors = everything(path)
    assert checkpoint.convention == "keras3"
    assert checkpoint.steps == (3 if title == "nested" else 7)
    expected = {name.partition(":")[2] for name in recorded}
    assert tensors.keys() == expected
    for name, parts in tensors.items():
        own = name.removeprefix("inner/")
        layout = LAYOUTS.get(own, "kernel" if own.endswith("kernel") else "torch")
        for key, part in zip(("parameter", "momentum"), parts, strict=True):
            known = recorded.get(f"{key}:{name}")
            assert (part is None) == (known is None), f"{key} of {name}"
            if part is not None:
                assert known is not None
                assert torch.equal(part, to_torch(torch.from_numpy(known).to(part.dtype), layout))
                assert part.is_contiguous()


def test_what_the_files_say_besides():
    with read(FILES / "keras-nested.keras") as nested:
        assert nested.hyperparameters == {
            "lr": float(np.float32(0.1)),
            "momentum": 0.9,
            "nesterov": False,
            "weight_decay": 0.01,
        }
        assert nested.remarks == [
            "the moving average of every parameter (use_ema)",
            "gradients accumulated over 2 iterations",
            "what exclude_from_weight_decay leaves out, which Keras does not save",
        ]
        assert nested.slots[0].layout == "HWCM -> (CM)1HW"
        assert nested.slots[5].layout == "HWIO -> OIHW"
    with read(FILES / "keras-schedule.keras") as schedule:
        assert "lr" not in schedule.hyperparameters
        assert schedule.remarks == ["the learning rate is not a number but ExponentialDecay"]


@pytest.mark.parametrize("title", ["nested", "schedule", "float64", "bfloat16", "training"])
@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_what_is_written_is_read_to_the_bit(tmp_path, seed, title, suffix):
    template, path = FILES / f"keras-{title}.keras", tmp_path / f"x{suffix}"
    checkpoint, tensors = everything(template)
    drawn = {
        name: tuple(
            part if part is None else torch.randn(part.shape).to(part.dtype) for part in parts
        )
        for name, parts in tensors.items()
    }
    write(path, replace(in_memory(checkpoint, drawn), steps=41), template)
    again, read_back = everything(path, None if suffix == ".keras" else template)
    for name, parts in drawn.items():
        for part, back in zip(parts, read_back[name], strict=True):
            assert (part is None) == (back is None)
            assert part is None or back is None or torch.equal(part, back)
    assert again.steps == 41
    assert again.hyperparameters == checkpoint.hyperparameters
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_content_gives_the_same_bytes(tmp_path):
    checkpoint, tensors = everything(TRAINING)
    write(tmp_path / "x.weights.h5", in_memory(checkpoint, tensors), TRAINING)
    whole = weights_of(TRAINING, tmp_path / "whole.h5")
    assert (tmp_path / "x.weights.h5").read_bytes() == whole.read_bytes()


def test_a_template_may_be_written_over(tmp_path):
    path = Path(shutil.copy(TRAINING, tmp_path / "x.keras"))
    with read(path) as checkpoint:
        write(path, replace(checkpoint, steps=3), path)
    assert everything(path)[0].steps == 3


def test_absent_momentum_is_zeros_to_keras(tmp_path):
    checkpoint, tensors = everything(TRAINING)
    absent = {name: (parameter, None) for name, (parameter, _) in tensors.items()}
    write(tmp_path / "x.keras", in_memory(checkpoint, absent), TRAINING)
    _, back = everything(tmp_path / "x.keras")
    assert all(buffer is not None and not buffer.any() for _, buffer in back.values())


def test_weights_alone_are_named_by_their_paths(tmp_path):
    """Without momentum; with it, the archive of the same model must say which is whose."""
    alone = weights_of(TRAINING, tmp_path / "x.weights.h5")
    assert refusal(everything, alone) == (
        f"{alone}: HDF5: it does not say which momentum belongs to which variable; give the "
        ".keras file of the same model, as weights to read and template to write"
    )
    checkpoint, tensors = everything(alone, TRAINING)
    assert tensors.keys() == set(NAMES)
    assert checkpoint.steps == 100

    # The optimizer's group is renamed: a file that was saved without its optimizer.
    without = alone.read_bytes().replace(b"optimizer\0", b"metrics\0\0\0")
    alone.write_bytes(without)
    checkpoint, tensors = everything(alone)
    assert checkpoint.convention is None
    assert checkpoint.steps is None
    assert list(tensors) == [
        "layers/conv2d/vars/0",
        "layers/conv2d/vars/1",
        "layers/dense/vars/0",
        "layers/dense/vars/1",
        "layers/separable_conv2d/vars/0",
        "layers/separable_conv2d/vars/1",
        "layers/separable_conv2d/vars/2",
    ]
    depthwise, _ = tensors["layers/separable_conv2d/vars/0"]
    assert depthwise is not None
    assert depthwise.shape == (12, 1, 3, 3)
    template = Path(shutil.copy(alone, tmp_path / "template.weights.h5"))
    write(alone, in_memory(checkpoint, tensors), template)
    assert alone.read_bytes() == without


def changed_optimizer(**values):
    def change(config):
        config["compile_config"]["optimizer"]["config"].update(values)
        return config

    return change


def another_optimizer(config):
    config["compile_config"]["optimizer"]["class_name"] = "Adam"
    return config


def another_layer(config):
    config["config"]["layers"][1]["class_name"] = "MyConv"
    return config


def another_order(config):
    layers = config["config"]["layers"]
    layers[1], layers[2] = layers[2], layers[1]
    return config


def frozen(config):
    config["config"]["layers"][-1]["config"]["trainable"] = False
    return config


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (another_optimizer, "its optimizer is Adam; only Keras's SGD can be converted"),
        (
            another_layer,
            "layers/conv2d/vars/0 is of no layer, in a Sequential or functional model, that is "
            "known here; convert the layer's weights by hand, or put a layer of a known class in "
            "its place",
        ),
        (
            another_order,
            "optimizer/vars/2 is torch.float32 (3, 3, 1, 6), but separable_conv2d/depthwise_kernel "
            "is torch.float32 (3, 3, 6, 2); give the config.json of this very model",
        ),
        (
            frozen,
            "the optimizer has 9 variables, expected 7 with the 5 trainable variables of the "
            "model; compile the model again after a change of what is trainable, and save it",
        ),
        (
            changed_optimizer(use_ema=True),
            "the optimizer has 9 variables, expected 16 with the 7 trainable variables of the "
            "model; compile the model again after a change of what is trainable, and save it",
        ),
        (
            changed_optimizer(momentum="much"),
            "momentum is 'much'; save the model again with a valid one",
        ),
        (
            changed_optimizer(learning_rate={"class_name": "Mine"}),
            "the optimizer has 9 variables, expected 8 with the 7 trainable variables of the "
            "model; compile the model again after a change of what is trainable, and save it",
        ),
        (
            lambda _: {"config": 3},
            "it is not as Keras 3 writes it (AttributeError(\"'int' object has no attribute "
            "'get'\")); take an intact copy",
        ),
        (lambda _: b"[]", "it cannot be read (it is no JSON object); take an intact copy"),
        (lambda _: b"[" * 10**5, "RecursionError"),
        (lambda _: b" " * 2**24, "it cannot be read (16777216 bytes are too many); take an intact"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(tmp_path, change, text):
    path = repacked(TRAINING, tmp_path / "x.keras", config=change)
    message = refusal(everything, path)
    if text == "RecursionError":
        assert message.startswith(f"{path}: config.json: it cannot be read (maximum recursion")
    else:
        assert message.startswith(f"{path}: config.json: {text}")


def test_another_model_s_config_is_refused(tmp_path):
    alone = weights_of(TRAINING, tmp_path / "x.weights.h5")
    other = FILES / "keras-float64.keras"
    assert refusal(everything, alone, other).startswith(
        f"{alone}: config.json of {other}: layers/conv2d/vars/0 is of no layer"
    )
    assert refusal(everything, TRAINING, alone) == (
        f"{alone}: file: it has no config.json; give the .keras file of the same model, as weights "
        "to read and template to write"
    )


def test_what_is_no_keras_file_is_refused(tmp_path):
    path = tmp_path / "x.keras"
    assert refusal(everything, path) == (
        f"{path}: file: it cannot be read (No such file or directory); give another"
    )
    path.write_bytes(b"PNG")
    assert refusal(everything, path) == (
        f"{path}: byte 0: it is neither a zip archive nor HDF5; give a .keras or .weights.h5 file "
        "of Keras 3"
    )


def test_a_checkpoint_that_does_not_fit_the_template_is_refused(tmp_path):
    checkpoint, tensors = everything(TRAINING)
    checkpoint = in_memory(checkpoint, tensors)
    path = tmp_path / "x.keras"
    alone = weights_of(TRAINING, tmp_path / "alone.weights.h5")
    first, *others = checkpoint.slots
    assert first.parameter is not None
    wide = stored(first.parameter.read().double())
    unbuilt = tmp_path / "unbuilt.keras"
    repacked(TRAINING, unbuilt, config=lambda config: config | {"compile_config": None})
    cases = [
        (
            {},
            None,
            f"{path}: template: there is none, and Keras's files hold the model, which a "
            "checkpoint does not know; give a .keras file of the same model, saved by Keras",
        ),
        (
            {"convention": "torch"},
            TRAINING,
            f"{TRAINING}: template: the checkpoint's momentum is that of 'torch'; convert it to "
            "'keras3' first",
        ),
        (
            {"hyperparameters": {"dampening": 0.5}},
            TRAINING,
            f"{TRAINING}: template: the checkpoint has dampening=0.5, and Keras none; convert it "
            "to another convention first",
        ),
        (
            {"hyperparameters": {"nesterov": False}},
            TRAINING,
            f"{TRAINING}: config.json: its SGD has nesterov=True, the checkpoint nesterov=False; "
            "compile the model with nesterov=False",
        ),
        (
            {"slots": others},
            TRAINING,
            f"{TRAINING}: template: the checkpoint lacks conv2d/kernel; map the names of the one "
            "to those of the other, or take another template",
        ),
        (
            {"slots": [*checkpoint.slots, replace(first, name="x")]},
            TRAINING,
            f"{TRAINING}: template: the checkpoint alone has x; map the names of the one to those "
            "of the other, or take another template",
        ),
        (
            {"slots": [replace(first, parameter=None), *others]},
            TRAINING,
            f"{TRAINING}: conv2d/kernel: the checkpoint has its momentum alone; give the "
            "parameters too",
        ),
        (
            {"slots": [replace(first, parameter=wide), *others]},
            TRAINING,
            f"{TRAINING}: conv2d/kernel: it is torch.float32 (6, 1, 3, 3) there, in the checkpoint "
            "torch.float64 (6, 1, 3, 3); take a template of the same model and dtype",
        ),
        (
            {},
            unbuilt,
            f"{unbuilt}: conv2d/kernel: the template has no place for its momentum; have Keras "
            "save it after model.optimizer.build(model.trainable_variables), with a momentum that "
            "is not 0",
        ),
        (
            {},
            alone,
            f"{alone}: file: it has no config.json; give the .keras file of the same model, as "
            "weights to read and template to write",
        ),
    ]
    for change, template, text in cases:
        assert refusal(write, path, replace(checkpoint, **change), template) == text
    assert refusal(write, tmp_path / "x.pt", checkpoint, TRAINING) == (
        f"{tmp_path / 'x.pt'}: name: it ends neither in .keras nor in .h5; name it so"
    )
    assert not path.exists()


def test_a_failure_in_mid_write_leaves_what_was_there(tmp_path):
    def fail():
        raise FileError("mine")

    path = tmp_path / "x.keras"
    path.write_bytes(b"old")
    checkpoint, tensors = everything(TRAINING)
    *slots, last = in_memory(checkpoint, tensors).slots
    assert last.parameter is not None
    last = replace(last, parameter=replace(last.parameter, read=fail))
    assert refusal(write, path, replace(checkpoint, slots=[*slots, last]), TRAINING) == "mine"
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_compressed_and_overlapping_archives_are_refused(tmp_path):
    bomb = repacked(
        TRAINING,
        tmp_path / "bomb.keras",
        compression=zipfile.ZIP_DEFLATED,
        weights=lambda content: content + bytes(2**24),
    )
    assert refusal(everything, bomb) == (
        f"{bomb}: zip archive: it cannot be read (what is in it is compressed, which Keras never "
        "does); take an intact copy"
    )
    claims = bytearray(TRAINING.read_bytes())
    claims[(at := claims.rindex(b"PK\1\2") + 24) : at + 4] = b"\xff\xff\xff\x7f"
    path = tmp_path / "claims.keras"
    path.write_bytes(claims)
    assert refusal(everything, path) == (
        f"{path}: zip archive: it cannot be read (what is in it is said to be larger than the "
        "file); take an intact copy"
    )
    path = Path(shutil.copy(TRAINING, tmp_path / "twice.keras"))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("config.json", "{}")
    assert refusal(everything, path) == (
        f"{path}: zip archive: it cannot be read (two files in it have one name); take an intact "
        "copy"
    )
    flipped = bytearray(TRAINING.read_bytes())
    flipped[-3000] ^= 1  # in a tensor
    path = tmp_path / "flipped.keras"
    path.write_bytes(flipped)
    assert refusal(everything, path) == (
        f"{path}: model.weights.h5: it cannot be read (Bad CRC-32 for file 'model.weights.h5'); "
        "take an intact copy"
    )


REMEDY = "take an intact copy, or have the framework that wrote it save it again"


def test_hdf5_that_claims_too_much_is_refused(tmp_path):
    path = weights_of(TRAINING, tmp_path / "x.weights.h5")
    data = path.read_bytes()
    with path.open("rb") as file:
        block = find_datasets(file, path)["layers/dense/vars/0"]
    place = data.index(struct.pack("<QQ", block.offset, block.nbytes))
    root = struct.unpack_from("<Q", data, 64)[0]
    table = data.index(b"SNOD")
    name = data.index(b"optimizer\0")

    def patched(at, value):
        path.write_bytes(data[:at] + value + data[at + len(value) :])
        return refusal(everything, path, TRAINING)

    start = f"{path}: HDF5, layers/dense/vars/0:"
    assert patched(place + 8, struct.pack("<Q", 2**45)) == (
        f"{start} the shape (8, 10) does not fit the 35184372088832 bytes it is said to have; "
        f"{REMEDY}"
    )
    assert patched(place, struct.pack("<Q", 2**45)) == (
        f"{start} 320 bytes at 35184372088832 lie beyond the end of the file; {REMEDY}"
    )
    assert patched(place, b"\xff" * 8) == f"{start} it was never written; {REMEDY}"
    assert patched(place - 1, b"\2") == f"{start} it is stored in chunks; {REMEDY}"
    assert patched(table + 16, struct.pack("<Q", root)).endswith(
        f"a part of the file is linked twice; {REMEDY}"
    )
    assert patched(table + 24, struct.pack("<I", 2)) == (f"{path}: HDF5: it holds a link; {REMEDY}")
    assert patched(name, b"\xff") == f"{path}: HDF5: a name in it is no text; {REMEDY}"
    assert patched(8, b"\2") == (
        f"{path}: HDF5: it is HDF5 of another form than the classic one; {REMEDY}"
    )
    path.write_bytes(data[:-1])
    assert refusal(everything, path, TRAINING) == f"{path}: HDF5: it is cut off; {REMEDY}"


def test_a_depthwise_kernel_of_too_few_axes_is_refused(tmp_path):
    path, nested = tmp_path / "x.weights.h5", FILES / "keras-nested.keras"
    data = weights_of(nested, path).read_bytes()
    space = struct.pack("<BB6x4Q", 1, 4, 2, 2, 2, 2)
    without_maximum = space[:2] + b"\1" + space[3:]
    flat = struct.pack("<BBB5x4Q", 1, 1, 1, 16, 2, 2, 2)
    path.write_bytes(data.replace(space, flat).replace(without_maximum, flat))
    assert refusal(everything, path, nested) == (
        f"{path}: config.json of {nested}: inner/depthwise_conv2d/kernel has the shape (16,); take "
        "an intact copy"
    )


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_mutations(tmp_path, seed, suffix):
    """The archive's checksums see most of them; an HDF5 file alone has none."""
    source = FILES / "keras-float64.keras"
    path = tmp_path / f"x{suffix}"
    if suffix == ".keras":
        data, weights = source.read_bytes(), None
    else:
        data, weights = weights_of(source, path).read_bytes(), source
    refused = check_reader(lambda path: everything(path, weights), data, path, seed=seed)
    assert refused > 500
    print(refused)


def test_mutations_of_the_config(tmp_path, seed):
    """With checksums that are right."""
    source = FILES / "keras-float64.keras"
    with zipfile.ZipFile(source) as archive:
        data = archive.read("config.json")
    path = tmp_path / "x"

    def read_all(path):
        config = path.read_bytes()
        whole = path.with_suffix(".keras")
        everything(repacked(source, whole, config=lambda _: config))

    assert check_reader(read_all, data, path, seed=seed, count=3_000) > 500


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory(tmp_path):
    """One tensor at a time, reading and writing: four of 100 MiB."""
    h5py = pytest.importorskip("h5py")
    whole = tmp_path / "whole.h5"
    with h5py.File(whole, "w") as file:
        early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        for name in (
            "layers/dense/vars/0",
            "optimizer/vars/2",
            "layers/dense_1/vars/0",
            "optimizer/vars/3",
        ):
            group = file.require_group(str(Path(name).parent))
            h5py.h5d.create(
                group.id,
                name[-1:].encode(),
                h5py.h5t.IEEE_F32LE,
                h5py.h5s.create_simple((4096, 6400)),
                dcpl=early,
            )
        file["optimizer/vars/0"] = np.int32(1)
        file["optimizer/vars/1"] = np.float32(0.1)
    template = tmp_path / "template.keras"
    layers = [{"class_name": "Dense", "config": {"name": name, "use_bias": False}} for name in "ab"]
    sgd = {"learning_rate": 0.1, "momentum": 0.9, "nesterov": False}
    compiled = {"module": "keras.optimizers", "class_name": "SGD", "config": sgd}
    with zipfile.ZipFile(template, "w") as archive:
        config = {"config": {"layers": layers}, "compile_config": {"optimizer": compiled}}
        archive.writestr("config.json", json.dumps(config))
        archive.write(whole, "model.weights.h5")
    whole.unlink()
    answer = subprocess.run(
        [sys.executable, "-c", _MEASURE, template, tmp_path / "x.keras"],
        check=True,
        capture_output=True,
        text=True,
    )
    grown, largest = map(float, answer.stdout.split())
    print(f"grown by {grown:.0f} MB, the largest tensor has {largest:.0f} MB")
    assert largest >= 100
    assert grown < 2.2 * largest + 200


_MEASURE = r"""
import re, sys
from pathlib import Path
from sgdm.convert.files.keras import read, write

def peak():  # ru_maxrss would begin with what the parent had
    return int(re.search("VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1024

template, target = map(Path, sys.argv[1:])
before = peak()
with read(template) as checkpoint:
    write(target, checkpoint, template)
largest = 0
with read(target) as checkpoint:
    for slot in checkpoint.slots:
        for part in (slot.parameter, slot.buffer):
            largest = max(largest, part.read().nbytes / 2**20)
print(peak() - before, largest)
"""
