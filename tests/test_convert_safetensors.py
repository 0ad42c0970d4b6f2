"""Files of safetensors: buffers beside their parameters, refused when broken."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from in_memory import slot
from mutations import check_reader, mutations
from peak_memory import measures_memory, peak_growth
from sgdm.convert.checkpoint import Checkpoint
from sgdm.convert.files.safetensors_file import prepare, read
from sgdm.errors import FileError

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
KNOWN = {"lr": 0.5, "momentum": 0.9, "nesterov": True, "weight_decay": 0.25, "dampening": 0.0}


def checkpoint(slots, **other: Any):
    other = {"convention": "keras3", "hyperparameters": KNOWN, **other}
    return Checkpoint(slots=slots, **other)


def read_all(path, weights=None) -> Any:
    """Return the checkpoint with its tensors read: {name: (parameter, buffer)}."""
    with read(path, weights) as found:
        values = {
            slot.name: tuple(t and t.read() for t in (slot.parameter, slot.buffer))
            for slot in found.slots
        }
    return found, values


def raw(path, header, data=b""):
    """Write a file by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(*shape, dtype="F32", at=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(at)}


def refused(path, weights=None):
    with pytest.raises(FileError) as caught:
        read_all(path, weights)
    message = str(caught.value)
    assert message.startswith(f"{path if weights is None else weights}: ")
    return message.removeprefix(f"{path if weights is None else weights}: ")


# ---- what is read and written ----


@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip_to_the_bit(dtype, tmp_path, seed):
    tensors = [torch.randn(shape).to(dtype) for shape in ((2, 3), (), (0, 4), (5,))]
    tensors[3] = torch.randn(5, 2).to(dtype)[:, 1]  # strided
    slots = [slot(f"pé{i}", t, t * 2 if i != 1 else None) for i, t in enumerate(tensors)]
    path = tmp_path / "x.safetensors"
    prepare(path, checkpoint(slots, steps=7))()
    back, values = read_all(path)
    assert (back.convention, back.hyperparameters, back.steps) == ("keras3", KNOWN, 7)
    assert back.remarks == []
    for i, t in enumerate(tensors):
        parameter, buffer = values[f"pé{i}"]
        assert (parameter.dtype, parameter.shape) == (dtype, t.shape)
        assert torch.equal(parameter, t)
        assert buffer is None if i == 1 else torch.equal(buffer, t * 2)
    again = tmp_path / "again.safetensors"
    with read(path) as found:
        prepare(again, found)()
    assert again.read_bytes() == path.read_bytes()


def test_the_safetensors_package_reads_it(tmp_path, seed):
    safetensors = pytest.importorskip("safetensors")
    path = tmp_path / "x.safetensors"
    # By the size of their items in the file, else the last one would begin at an odd place.
    tensors = {
        "b": torch.randn(3).to(torch.float16),
        "a": torch.randn(2, 2),
        "c": torch.randn(2).double(),
    }
    prepare(path, checkpoint([slot(name, t, t + 1) for name, t in tensors.items()], steps=3))()
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {
            "format": "pt",
            "sgdm.convention": "keras3",
            "sgdm.hyperparameters": json.dumps(KNOWN),
            "sgdm.steps": "3",
        }
        assert len(file.keys()) == 6
        for name, t in tensors.items():
            assert torch.equal(file.get_tensor(name), t)
            assert torch.equal(file.get_tensor(f"optimizer/{name}/momentum_buffer"), t + 1)
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + length])
    assert length % 8 == 0
    for name, t in tensors.items():
        assert header[name]["data_offsets"][0] % t.dtype.itemsize == 0


def test_weights_that_the_safetensors_package_wrote(tmp_path, seed):
    torch_files = pytest.importorskip("safetensors.torch")
    path = tmp_path / "x.safetensors"
    tensors = {
        "conv.weight": torch.randn(2, 1, 3, 3),
        "bn.weight": torch.randn(2).to(torch.bfloat16),
        "bn.running_mean": torch.zeros(2),
        "bn.num_batches_tracked": torch.tensor(3),
    }
    torch_files.save_file(tensors, path)
    found, values = read_all(path)
    assert (found.convention, found.hyperparameters, found.steps) == (None, {}, None)
    assert found.remarks == []
    assert set(values) == set(tensors)
    assert {s.name for s in found.slots if s.stepped} == {"conv.weight", "bn.weight"}
    for name, (parameter, buffer) in values.items():
        assert torch.equal(parameter, tensors[name])
        assert buffer is None


def test_parameters_without_anything_keep_their_name_and_place(tmp_path):
    path = tmp_path / "x.safetensors"
    prepare(path, checkpoint([slot("b"), slot("a", None, torch.ones(2)), slot("c")]))()
    _, values = read_all(path)
    assert list(values) == ["b", "a", "c"]
    assert values["b"] == (None, None)


def test_weights_come_from_a_second_file(tmp_path):
    path, weights = tmp_path / "x.safetensors", tmp_path / "w.safetensors"
    prepare(path, checkpoint([slot("b"), slot("a", None, torch.ones(2))]))()
    prepare(weights, checkpoint([slot(name, torch.zeros(2)) for name in "abz"], convention=None))()
    found, values = read_all(path, weights)
    assert found.convention == "keras3"
    assert list(values) == ["b", "a", "z"]
    assert torch.equal(values["a"][0], torch.zeros(2))
    assert torch.equal(values["a"][1], torch.ones(2))
    prepare(weights, checkpoint([slot("a", torch.zeros(2))]))()
    assert refused(path, weights) == (
        "tensors: the weights of b are missing; give the weights that were stepped"
    )


def test_groups_and_what_is_not_stepped_come_back(tmp_path, seed):
    path, ones = tmp_path / "x.safetensors", torch.ones(2)
    slots = [
        slot("a", ones, ones),
        replace(slot("b", ones), own={"lr": 0.25, "nu": None}, group=1),
        replace(slot("c", ones), stepped=False),
        replace(slot("d.running_mean", ones), stepped=False),
        replace(slot("d.num_batches_tracked", torch.tensor(3)), stepped=False),
    ]
    prepare(path, checkpoint(slots))()
    found, values = read_all(path)
    for given, read_back in zip(slots, found.slots, strict=True):
        assert (given.name, given.own, given.group) == (
            read_back.name,
            read_back.own,
            read_back.group,
        )
        assert given.stepped is read_back.stepped
    assert values["d.num_batches_tracked"][0].item() == 3


def test_hyperparameters_that_we_do_not_know_are_named(tmp_path):
    text = '{"lr": 0.5, "betas": 3}'
    path = raw(
        tmp_path / "x", {"__metadata__": {"sgdm.hyperparameters": text}, "a": entry(2)}, bytes(8)
    )
    found, _ = read_all(path)
    assert found.hyperparameters == {"lr": 0.5}
    assert found.remarks == ["left out: betas"]


def test_twenty_thousand_parameters_with_long_names(tmp_path):
    """More than 6 MB of header, which the limit is to grow with, in linear time."""
    path = tmp_path / "x.safetensors"
    names = [f"encoder.layers.{i}.self_attention.projection.weight" for i in range(20_000)]
    two = torch.ones(2)
    prepare(path, checkpoint([slot(name, two, two) for name in names]))()
    found, _ = read_all(path)
    assert [s.name for s in found.slots] == names


# ---- what is refused ----


def test_what_cannot_be_written_is_refused(tmp_path):
    path, ones = tmp_path / "x.safetensors", torch.ones(2)
    taken = "cannot be the name of this tensor, which is taken; give the parameter another name"
    for message, slots in {
        f"a: {taken}": [slot("a", ones), slot("a", ones)],
        f"__metadata__: {taken}": [slot("__metadata__", ones)],
        f"optimizer/a/momentum_buffer: {taken}": [
            slot("optimizer/a/momentum_buffer", ones),
            slot("a", ones, ones),
        ],
        "a: is of torch.complex128, which this format does not have; convert it to one of BOOL, "
        "U8, I8, I16, I32, I64, F16, BF16, F32, F64, C64": [slot("a", ones.to(torch.complex128))],
        "b: has no weights where others have; give all or none": [
            slot("a", ones),
            slot("b", None, ones),
        ],
    }.items():
        with pytest.raises(FileError) as caught:
            prepare(path, checkpoint(slots))()
        assert str(caught.value) == f"{path}: {message}"
    assert list(tmp_path.iterdir()) == []


def test_headers_that_lie(tmp_path):
    path = tmp_path / "x.safetensors"
    intact = "take an intact copy"
    overlapping = {"a": entry(2), "b": entry(2)}
    for message, header, data in [
        ("a: has 8 bytes, which are not those of F32[3]; " + intact, {"a": entry(3)}, 8),
        (
            "a: has 8 bytes, which are not those of F32[10000000000]; " + intact,
            {"a": entry(10**10)},
            8,
        ),
        ("header: its tensors take 8 bytes, and there are 9; " + intact, {"a": entry(2)}, 9),
        ("header: its tensors take 8 bytes, and there are 4; " + intact, {"a": entry(2)}, 4),
        ("header: its tensors overlap, or leave holes; " + intact, overlapping, 8),
        ("header: its tensors overlap, or leave holes; " + intact, {"a": entry(2, at=(4, 12))}, 12),
        ("a: has no dtype, shape or data_offsets; " + intact, {"a": entry(-2)}, 8),
        ("a: has no dtype, shape or data_offsets; " + intact, {"a": entry(2**63)}, 8),
        ("a: has no dtype, shape or data_offsets; " + intact, {"a": entry(2.0)}, 8),
        ("a: has no dtype, shape or data_offsets; " + intact, {"a": 3}, 8),
        ("a: has too many axes, or not two data_offsets; " + intact, {"a": entry(*[1] * 65)}, 8),
        ("header: is no JSON object; " + intact, [], 0),
        ("__metadata__: holds what is no text; " + intact, {"__metadata__": {"a": 1}}, 0),
        ("__metadata__: holds what is no text; " + intact, {"__metadata__": []}, 0),
    ]:
        assert refused(raw(path, header, bytes(data))) == message
    for text in (b"{", b"\xff", b'{"a":1,"a":1}', b'{"\\ud800":1}', b"[" * 100_000, b"1" * 5000):
        assert refused(raw(path, text)).startswith("header: is no JSON of this kind")


def test_sizes_that_claim_terabytes(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    assert refused(path) == (
        "header: is 1099511627776 bytes long, in a file of 10 (at most 6291456); give an intact "
        "file of safetensors"
    )
    path.write_bytes(b"{}")
    assert refused(path).startswith("header: is 32123 bytes long, in a file of 2 ")
    path.write_bytes(b"")
    assert "header" in refused(path)
    assert refused(raw(path, {"a": entry(2**38, at=(0, 2**40))}, bytes(8))).startswith(
        "header: its tensors take 1099511627776 bytes, and there are 8"
    )
    assert refused(tmp_path / "none").startswith("file: cannot be opened (No such file")


def test_metadata_that_is_not_ours(tmp_path):
    path = tmp_path / "x.safetensors"
    buffer = {"optimizer/a/momentum_buffer": entry(2)}
    for place, metadata in {
        "sgdm.names: is no JSON": {"sgdm.names": "["},
        "sgdm.names: is no list of names": {"sgdm.names": "[1]"},
        "sgdm.names: does not list every parameter once": {"sgdm.names": '["a", "a"]'},
        "sgdm.names: does not list every": {"sgdm.names": "[]"},
        "sgdm.steps: is no count": {"sgdm.steps": "-1"},
        "sgdm.hyperparameters: 'lr' is no finite number": {"sgdm.hyperparameters": '{"lr": NaN}'},
        "sgdm.hyperparameters: 'lr' is": {"sgdm.hyperparameters": '{"lr": 1' + "0" * 400 + "}"},
        "sgdm.hyperparameters: is no JSON object": {"sgdm.hyperparameters": "[]"},
        "sgdm.groups: has a group without a number": {"sgdm.groups": "[3]"},
        "sgdm.groups: 'lr' is no finite number": {
            "sgdm.groups": '[{"number": 0, "hyperparameters": {"lr": [[]]}, "names": []}]'
        },
        "sgdm.groups: names what is no parameter": {
            "sgdm.groups": '[{"number": 0, "hyperparameters": {}, "names": ["z"]}]'
        },
        "sgdm.frozen: is no list of names": {"sgdm.frozen": "[1]"},
    }.items():
        assert refused(raw(path, {"__metadata__": metadata, **buffer}, bytes(8))).startswith(place)
    lone = {"b": entry(2), "optimizer/a/momentum_buffer": entry(2, at=(8, 16))}
    assert refused(raw(path, lone, bytes(16))).startswith("tensors: the weights of a are missing")
    unfit = {"a": entry(2), "optimizer/a/momentum_buffer": entry(1, at=(8, 12))}
    assert refused(raw(path, unfit, bytes(12))).startswith(
        "optimizer/a/momentum_buffer: is of shape (1,), its parameter of (2,)"
    )


def test_a_file_that_is_cut_off_while_it_is_open(tmp_path):
    path, target = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    target.write_bytes(b"old")
    prepare(path, checkpoint([slot("a", torch.ones(99_999))]))()
    with read(path) as found:
        with path.open("r+b") as file:
            file.truncate(9999)
        with pytest.raises(FileError, match="a: is cut off; take an intact copy"):
            prepare(target, found)()
    assert target.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2


@mutations(10_000)
def test_mutations(tmp_path, seed, count):
    path = tmp_path / "x.safetensors"
    prepare(
        path,
        checkpoint(
            [slot("a", torch.ones(2, 3), torch.ones(2, 3)), slot("b", torch.ones(1))], steps=3
        ),
    )()
    refused = check_reader(read_all, path.read_bytes(), path, seed=seed, count=count)
    print(refused, "refused")
    assert refused > count // 2


@measures_memory
def test_one_tensor_at_a_time_is_in_memory(tmp_path):
    """Four of 100 MB: writing, reading and writing again stay within 2.2 of one, and 200 MB."""
    grown = peak_growth(
        """
        from sgdm.convert.checkpoint import Checkpoint, Slot, Stored
        from sgdm.convert.files.safetensors_file import prepare, read
        n = 25_000_000
        new = Stored((n,), torch.float32, lambda: torch.ones(n))
        slots = [Slot(name=name, parameter=new, buffer=new) for name in "ab"]
        """,
        """
        first, second = paths
        prepare(first, Checkpoint(convention="torch", slots=slots))()
        with read(first) as checkpoint:
            prepare(second, checkpoint)()
        """,
        tmp_path / "x",
        tmp_path / "y",
    )
    assert grown < (2.2 * 100 + 200) * 1e6
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
