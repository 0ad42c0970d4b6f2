"""Keras files: what the real Keras wrote, read, gone on from, written, and broken."""

import io
import json
import os
import shutil
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from in_memory import stored
from keras_network import LR, NAMES, go_on_from, train, train_in_torch, write_for_keras
from live import recorded_or_live
from mutations import check_reader, mutations
from peak_memory import measures_memory, peak_growth
from sgdm.convert import hdf5
from sgdm.convert.files.keras import prepare, read
from sgdm.convert.hdf5 import find_datasets, read_dataset
from sgdm.convert.job import Job, convert_file
from sgdm.convert.layout import Layout, to_torch
from sgdm.convert.matching import NameMap
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


@pytest.fixture(scope="module", params=["recorded", "live"])
def trained(request, tmp_path_factory):
    """The folder in which Keras has trained, and gone on from torch."""
    training = "tools/peers/main/keras_training.py"
    programs = ((training, "start"), ("tests/keras_network.py",), (training, "go_on"))
    return recorded_or_live(request, tmp_path_factory, "keras", *programs)


def test_torch_goes_on_from_keras_as_keras_does(trained):
    data = np.load(trained / "keras-training.npz")
    network, optimizer, done = go_on_from(trained / "keras-training.keras", LR / 10)
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


def test_keras_goes_on_from_torch_as_torch_does(trained, tmp_path):
    data, went_on = (np.load(trained / f"keras-{name}.npz") for name in ("training", "from-torch"))
    network, optimizer, done = train_in_torch(trained)
    # The file that Keras went on from is the one that is written here.
    write_for_keras(tmp_path / "x.keras", trained, network, optimizer, done, LR / 10)
    (checkpoint, mine), (its_checkpoint, its) = (
        everything(path) for path in (tmp_path / "x.keras", trained / "keras-from-torch.keras")
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
            "an update begun: gradients of 1 of 2 iterations",
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
    prepare(path, replace(in_memory(checkpoint, drawn), steps=41), template)()
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
    prepare(tmp_path / "x.weights.h5", in_memory(checkpoint, tensors), TRAINING)()
    whole = weights_of(TRAINING, tmp_path / "whole.h5")
    assert (tmp_path / "x.weights.h5").read_bytes() == whole.read_bytes()


def test_a_template_may_be_written_over(tmp_path):
    path = Path(shutil.copy(TRAINING, tmp_path / "x.keras"))
    with read(path) as checkpoint:
        prepare(path, replace(checkpoint, steps=3), path)()
    assert everything(path)[0].steps == 3


def test_absent_momentum_is_zeros_to_keras(tmp_path):
    checkpoint, tensors = everything(TRAINING)
    absent = {name: (parameter, None) for name, (parameter, _) in tensors.items()}
    prepare(tmp_path / "x.keras", in_memory(checkpoint, absent), TRAINING)()
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
    prepare(alone, in_memory(checkpoint, tensors), template)()
    assert alone.read_bytes() == without


def made(path, layers, variables, **options):
    """Make an archive: layers as (class, configuration), variables by their places."""
    h5py = pytest.importorskip("h5py")
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        for place, value in variables.items():
            file[place] = value
    sgd = {"learning_rate": 0.1, "momentum": 0.9, "nesterov": False, **options}
    optimizer = {"module": "keras.optimizers", "class_name": "SGD", "config": sgd}
    if options.get("scaled"):
        inner = {"inner_optimizer": optimizer}
        optimizer = {**optimizer, "class_name": "LossScaleOptimizer", "config": inner}
    layers = [{"class_name": kind, "config": config} for kind, config in layers]
    config = {"config": {"layers": layers}, "compile_config": {"optimizer": optimizer}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights.getvalue())
    return path


def numbered(prefix, *values):
    """These values, as variables of an optimizer."""
    numbers = [np.int32(7), np.float32(0.1)]
    return {f"{prefix}/{i}": value for i, value in enumerate([*numbers, *values])}


def ones(*shape):
    return np.ones(shape, "f4")


DENSE = ("Dense", {"name": "a", "use_bias": True})
OF_DENSE = {"layers/dense/vars/0": ones(2, 3), "layers/dense/vars/1": ones(3)}


def test_what_no_optimizer_steps_is_told(tmp_path):
    norm = {"scale": True, "center": False}
    frozen = ("Dense", {"name": "b", "use_bias": False, "trainable": False})
    variables = {
        **OF_DENSE,
        **{f"layers/batch_normalization/vars/{i}": ones(3) for i in range(3)},
        "layers/dense_1/vars/0": ones(3, 1),
        **numbered("optimizer/vars", ones(2, 3), ones(3), ones(3)),
    }
    layers = [DENSE, ("BatchNormalization", {"name": "n", **norm}), frozen]
    path = made(tmp_path / "x.keras", layers, variables)
    with read(path) as checkpoint:
        assert {slot.name: slot.stepped for slot in checkpoint.slots} == {
            "a/kernel": True,
            "a/bias": True,
            "n/gamma": True,
            "n/moving_mean": False,
            "n/moving_variance": False,
            "b/kernel": False,
        }
        assert [slot.name for slot in checkpoint.slots if slot.buffer] == [
            "a/kernel",
            "a/bias",
            "n/gamma",
        ]


def test_without_a_config_statistics_are_told_by_their_number(tmp_path):
    h5py = pytest.importorskip("h5py")
    for count, statistics in ((4, 2), (3, 2), (2, 2), (7, 5), (5, 5)):
        path = tmp_path / f"{count}.weights.h5"
        with h5py.File(path, "w") as file:
            for i in range(count):
                file[f"layers/batch_normalization/vars/{i}"] = ones(3)
            file["layers/dense/vars/0"] = ones(3, 2)
        with read(path) as checkpoint:
            stepped = [slot.stepped for slot in checkpoint.slots]
        assert stepped == [True] * (count - statistics) + [False] * statistics + [True]


def test_batch_norm_goes_to_torch_and_back_with_its_statistics(tmp_path, seed):
    norm = {"name": "n", "scale": True, "center": True}
    generator = np.random.default_rng(seed)

    def drawn(*shape):
        return generator.standard_normal(shape).astype("f4")

    trained = [drawn(3, 2), drawn(2), drawn(2), drawn(2)]
    places = [f"layers/dense/vars/{i}" for i in range(2)]
    places += [f"layers/batch_normalization/vars/{i}" for i in range(4)]
    variables = {
        **dict(zip(places, [*trained, drawn(2), drawn(2) ** 2], strict=True)),
        **numbered("optimizer/vars", *(drawn(*value.shape) for value in trained)),
    }
    source = made(tmp_path / "a.keras", [DENSE, ("BatchNormalization", norm)], variables)
    names = {
        "a/kernel": "0.weight",
        "a/bias": "0.bias",
        "n/gamma": "1.weight",
        "n/beta": "1.bias",
        "n/moving_mean": "1.running_mean",
        "n/moving_variance": "1.running_var",
    }
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.SGD(network.named_parameters(), lr=0.1, momentum=0.9)
    template, there, back = (tmp_path / name for name in ("t.pt", "b.pt", "c.keras"))
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, template)
    for given in (template, None):
        convert_file(
            Job(
                source=source,
                target=there,
                source_format="keras",
                target_format="torch",
                template=given,
                names=NameMap(names),
            )
        )
        made_of = torch.load(there, weights_only=True)
        network.load_state_dict(made_of["model"])
        optimizer.load_state_dict(made_of["optimizer"])
        statistic = network.state_dict()["1.running_var"]
        assert statistic.tolist() == variables[places[-1]].tolist()
        convert_file(
            Job(
                source=there,
                target=back,
                source_format="torch",
                target_format="keras",
                template=source,
                names=NameMap({new: old for old, new in names.items()}),
            )
        )
        (_, before), (_, after) = everything(source), everything(back)
        for name, parts in before.items():
            torch.testing.assert_close(after[name], parts, rtol=1e-6, atol=0)


def test_what_the_template_s_optimizer_has_accumulated_begins_anew(tmp_path):
    """Its moving averages at the parameters, its gradients at zero, on an update's first one."""
    sevens = [7 * ones(2, 3), 7 * ones(3)]
    variables = {**OF_DENSE, **numbered("optimizer/vars", *sevens, *sevens, *sevens)}
    options = {"use_ema": True, "gradient_accumulation_steps": 2, "clipnorm": 0.5}
    template = made(tmp_path / "template.keras", [DENSE], variables, **options)
    checkpoint, _ = everything(template)
    new = {"a/kernel": (2.0, 3.0), "a/bias": (4.0, 5.0)}
    tensors = {
        slot.name: tuple(torch.full(slot.parameter.shape, value) for value in new[slot.name])
        for slot in checkpoint.slots
        if slot.parameter is not None
    }
    path = tmp_path / "x.keras"
    given = replace(in_memory(checkpoint, tensors), steps=None, remarks=[])
    prepare(path, given, template)()
    assert given.remarks == [
        "of the template: 3 updates done",
        "of the template: clipnorm=0.5",
        "of the template: gradients accumulated over 2 iterations",
        "of the template: the moving average of every parameter (use_ema)",
    ]
    with path.open("rb") as file, zipfile.ZipFile(path) as archive:
        start = archive.getinfo("model.weights.h5").header_offset + 30 + len("model.weights.h5")
        found = {
            place: read_dataset(file, path, dataset).unique().tolist()
            for place, dataset in find_datasets(file, path, start=start).items()
        }
    assert found == {
        "layers/dense/vars/0": [2],
        "layers/dense/vars/1": [4],
        "optimizer/vars/0": [6],
        "optimizer/vars/1": [pytest.approx(0.1)],
        **{f"optimizer/vars/{i + 2}": [value] for i, value in enumerate([2, 4, 0, 0, 3, 5])},
    }


def test_what_the_checkpoint_does_not_say_stays_and_is_told(tmp_path):
    checkpoint, tensors = everything(TRAINING)
    silent = replace(in_memory(checkpoint, tensors), hyperparameters={})
    prepare(tmp_path / "x.keras", silent, TRAINING)
    assert silent.remarks == [
        "of the template: lr=0.1",
        "of the template: momentum=0.9",
        "of the template: nesterov=1",
        "of the template: weight_decay=0",
    ]


def test_a_loss_scale_optimizer_is_read_and_both_copies_are_written(tmp_path):
    inner = numbered("optimizer/inner_optimizer/vars", ones(2, 3), ones(3))
    own = [np.int32(0), np.float32(1024), *inner.values()]
    variables = {**OF_DENSE, **inner, **numbered("optimizer/vars", *own)}
    template = made(tmp_path / "template.keras", [DENSE], variables, scaled=True)
    checkpoint, tensors = everything(template)
    assert checkpoint.steps == 7
    assert checkpoint.remarks == ["the scale of the loss (LossScaleOptimizer)"]
    tensors = {
        name: (p, torch.full_like(p, 2)) for name, (p, _) in tensors.items() if p is not None
    }
    path = tmp_path / "x.weights.h5"
    prepare(path, replace(in_memory(checkpoint, tensors), steps=9), template)()
    with path.open("rb") as file:
        found = {
            place: read_dataset(file, path, dataset).unique().tolist()
            for place, dataset in find_datasets(file, path).items()
        }
    for i, expected in enumerate([[9], [pytest.approx(0.1)], [2], [2]]):
        assert found[f"optimizer/inner_optimizer/vars/{i}"] == expected
        assert found[f"optimizer/vars/{i + 4}"] == expected
    assert found["optimizer/vars/3"] == [1024]


def test_lora_and_a_single_frozen_variable_are_named(tmp_path):
    path = tmp_path / "x.keras"
    made(path, [("Dense", {**DENSE[1], "lora_rank": 2})], OF_DENSE)
    assert refusal(everything, path) == (
        f"{path}: config.json: the layer 'a' has LoRA, whose factors are the ones that are "
        "trained; load its weights, which are saved merged, into the model without LoRA, and save "
        "that"
    )
    made(path, [DENSE], {**OF_DENSE, **numbered("optimizer/vars", ones(2, 3))})
    assert refusal(everything, path) == (
        f"{path}: config.json: the optimizer has 3 variables, expected 4 with the 2 trainable "
        f"variables of the model: it seems to be without a/bias; {COMPILE_AGAIN}"
    )


def test_names_that_models_make_longer_are_bounded(tmp_path):
    """A layer's name has those of the models around it before it: that would be quadratic."""
    layer = ("Dense", {"name": "x"})
    for _ in range(30):
        model = {"class_name": layer[0], "config": layer[1]}
        layer = ("Sequential", {"name": "n" * 100, "layers": [model]})
    path = made(tmp_path / "x.keras", [layer], OF_DENSE)
    message = refusal(everything, path)
    assert "has more than 1000 letters; give it a shorter one" in message
    assert len(message) < 500


def test_a_template_that_shrinks_meanwhile_is_refused(tmp_path):
    template = Path(shutil.copy(TRAINING, tmp_path / "template.keras"))
    checkpoint, tensors = everything(template)
    checkpoint = in_memory(checkpoint, tensors)
    first, *others = checkpoint.slots
    assert first.parameter is not None
    value = first.parameter.read()

    def cut():
        os.truncate(template, template.stat().st_size // 2)
        return value

    first = replace(first, parameter=replace(first.parameter, read=cut))
    path = tmp_path / "x.keras"
    write = prepare(path, replace(checkpoint, slots=[first, *others]), template)
    assert "it has become shorter" in refusal(write)
    assert not path.exists()


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


COMPILE_AGAIN = (
    "freeze layers and no single variables, which config.json does not say, compile the model "
    "again after a change of what is trainable, and save it"
)


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
            f"model; {COMPILE_AGAIN}",
        ),
        (
            changed_optimizer(use_ema=True),
            "the optimizer has 9 variables, expected 16 with the 7 trainable variables of the "
            f"model; {COMPILE_AGAIN}",
        ),
        (
            changed_optimizer(momentum="much"),
            "momentum is 'much'; save the model again with a valid one",
        ),
        (
            changed_optimizer(learning_rate={"class_name": "Mine"}),
            "the optimizer has 9 variables, expected 8 with the 7 trainable variables of the "
            f"model; {COMPILE_AGAIN}",
        ),
        (
            lambda _: {"config": 3},
            "it is not as Keras 3 writes it (AttributeError(\"'int' object has no attribute "
            "'get'\")); take an intact copy",
        ),
        (lambda _: b"[]", "it cannot be read (it is no JSON object); take an intact copy"),
        (lambda _: b"[" * 10**5, "RecursionError"),
        (
            lambda _: b"{}" * 10**6,
            "it cannot be read (more than 400000 objects are too many); take an intact",
        ),
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
        f"{path}: file: cannot be opened (No such file or directory); give a .keras or .weights.h5 "
        "file of Keras 3"
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
            f"{TRAINING}: checkpoint: the checkpoint's buffers are those of 'torch'; convert them "
            "to 'keras3' first",
        ),
        (
            {"hyperparameters": {"dampening": 0.5}},
            TRAINING,
            f"{TRAINING}: checkpoint: the checkpoint has dampening=0.5, which 'keras3' has not; "
            "convert it to another convention first",
        ),
        (
            {"hyperparameters": {"nesterov": False}},
            TRAINING,
            f"{TRAINING}: config.json: its SGD has nesterov=True, the checkpoint nesterov=False; "
            "compile the model with nesterov=False",
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
            f"{TRAINING}: conv2d/kernel: it is torch.float32 there, in the checkpoint "
            "torch.float64; take a template of the same dtype",
        ),
        (
            {},
            unbuilt,
            f"{unbuilt}: conv2d/kernel: the template has no place for its momentum; have Keras "
            "save it after model.optimizer.build(model.trainable_variables), with a momentum that "
            "is not 0, and this variable not frozen",
        ),
        (
            {},
            alone,
            f"{alone}: file: it has no config.json; give the .keras file of the same model, as "
            "weights to read and template to write",
        ),
    ]
    for change, template, text in cases:
        assert refusal(prepare, path, replace(checkpoint, **change), template) == text
    assert refusal(prepare, tmp_path / "x.pt", checkpoint, TRAINING) == (
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
    assert (
        refusal(
            lambda *given: prepare(*given)(),
            path,
            replace(checkpoint, slots=[*slots, last]),
            TRAINING,
        )
        == "mine"
    )
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
    entry = b"PK\1\2" + bytes(24) + b"\x01" + bytes(17) + b"x"
    directory = entry * 200_000
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(directory), 64, 0)
    path = tmp_path / "directory.keras"
    path.write_bytes(b"PK\3\4" + bytes(60) + directory + end)
    assert refusal(everything, path) == (
        f"{path}: zip archive: it cannot be read (its directory is longer than 8388608 bytes); "
        "take an intact copy"
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


def test_hdf5_of_too_many_or_too_long_names_is_refused(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "x.weights.h5"

    def written(*places):
        with h5py.File(path, "w") as file:
            for place in places:
                file[place] = 1.0
        return refusal(everything, path)

    assert written(*("/".join(["x" * 400] * depth) for depth in (3,))) == (
        f"{path}: HDF5, {'x' * 191}...: the names in it are too long; {REMEDY}"
    )
    twice = tmp_path / "twice.h5"
    written("layers/a", "layers/b")
    twice.write_bytes(path.read_bytes().replace(b"b\0\0\0\0\0\0\0", b"a\0\0\0\0\0\0\0"))
    assert refusal(everything, twice) == (
        f"{twice}: HDF5, layers: two entries of it are called a; {REMEDY}"
    )
    for limit, problem in (
        ("_MOST_DATASETS", "there are more than 10 datasets"),
        ("_MOST_CHARACTERS", "the names in it are too long"),
        ("_MOST_READS", "it consists of too many pieces"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(hdf5, limit, 10)
            assert problem in written(*(f"layers/{i}" for i in range(11)))


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
@mutations(10_000)
def test_mutations(tmp_path, seed, suffix, count):
    """The archive's checksums see most of them; an HDF5 file alone has none."""
    source = FILES / "keras-float64.keras"
    path = tmp_path / f"x{suffix}"
    if suffix == ".keras":
        data, weights = source.read_bytes(), None
    else:
        data, weights = weights_of(source, path).read_bytes(), source
    refused = check_reader(
        lambda path: everything(path, weights), data, path, seed=seed, count=count
    )
    assert refused > count // 20
    print(refused)


@mutations(3_000)
def test_mutations_of_the_config(tmp_path, seed, count):
    """With checksums that are right."""
    source = FILES / "keras-float64.keras"
    with zipfile.ZipFile(source) as archive:
        data = archive.read("config.json")
    path = tmp_path / "x"

    def read_all(path):
        config = path.read_bytes()
        whole = path.with_suffix(".keras")
        everything(repacked(source, whole, config=lambda _: config))

    assert check_reader(read_all, data, path, seed=seed, count=count) > count // 6


@measures_memory
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
    target = tmp_path / "x.keras"
    grown = peak_growth(
        "from sgdm.convert.files.keras import prepare, read",
        """
        template, target = paths
        with read(template) as checkpoint:
            prepare(target, checkpoint, template)()
        with read(target) as checkpoint:
            for slot in checkpoint.slots:
                for part in (slot.parameter, slot.buffer):
                    part.read()
        """,
        template,
        target,
    )
    assert target.stat().st_size > 4 * 100 * 2**20
    assert grown < (2.2 * 100 + 200) * 2**20
