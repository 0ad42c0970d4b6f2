"""Caffe's snapshots, made by the protobuf library from the published definition, and by h5py."""

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from caffe_definition import BlobProto, NetParameter, SolverState
from in_memory import slot
from mutations import check_reader, mutations
from peak_memory import measures_memory, peak_growth
from sgdm.convert.checkpoint import Checkpoint, Slot, Stored, Times
from sgdm.convert.files import caffe
from sgdm.convert.files.caffe import prepare
from sgdm.convert.job import Job, convert_file
from sgdm.errors import FileError

read: Any = caffe.read

NOT_HELD = (
    "not in a snapshot, but in solver.prototxt: base_lr, momentum, type, weight_decay, "
    "regularization_type, lr_policy, clip_gradients"
)

SHAPES = {"conv1/0": (4, 3, 2, 2), "conv1/1": (4,), "fc/0": (2, 5), "fc/1": (2,)}
TYPES = {"conv1": "Convolution", "fc": "InnerProduct", "bn": "BatchNorm"}
OLD_TYPES = {"conv1": 4, "fc": 14}


def tensors(seed=0, dtype=torch.float32, shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in shapes.items()
    }


def fill(blob, x, *, legacy=False):
    (blob.double_data if x.dtype == torch.float64 else blob.data).extend(x.flatten().tolist())
    if legacy:
        shape = (1,) * (4 - x.dim()) + tuple(x.shape)
        blob.num, blob.channels, blob.height, blob.width = shape
    else:
        blob.shape.dim.extend(x.shape)


def net(held, *, old=False, legacy=False):
    """A net of these parameters, with layers around that have none."""
    message = NetParameter(name="net", force_backward=True)
    layers = {}
    add = message.layers.add if old else message.layer.add
    add(name="data", top=["data", "label"])
    for name, x in held.items():
        layer, _, _ = name.rpartition("/")
        if layer not in layers:
            kind = (OLD_TYPES if old else TYPES)[layer]
            layers[layer] = add(name=layer, type=kind, bottom=["data"], top=[layer])
        fill(layers[layer].blobs.add(), x, legacy=legacy)
    add(name="loss", bottom=["fc", "label"])
    return message


def state(held, *, legacy=False, **options):
    message = SolverState(**{"iter": 70, "learned_net": "snap_iter_70.caffemodel", **options})
    for x in held.values():
        fill(message.history.add(), x, legacy=legacy)
    return message


def saved(path, message):
    path.write_bytes(message.SerializeToString())
    return path


def saved_h5(path, held, steps=70):
    """A `.solverstate.h5` as Caffe's hdf5_save_* write it."""
    with h5py.File(path, "w") as file:
        file.create_dataset("iter", data=[steps], dtype="<i4")
        file.create_dataset("learned_net", data=b"snap.caffemodel.h5", dtype="S19")
        file.create_dataset("current_step", data=[3], dtype="<i4")
        for number, x in enumerate(held.values()):
            file.create_dataset(f"history/{number}", data=x.numpy())
    return path


def saved_weights_h5(path, held):
    with h5py.File(path, "w") as file:
        file.create_group("data/label")  # a layer without blobs has a group too
        for name, x in held.items():
            file.create_dataset(f"data/{name}", data=x.numpy())
    return path


def opened_h5(path) -> Any:
    return h5py.File(path)


def read_all(path, weights=None) -> Any:
    """Parameter and buffer by name."""
    with read(path, weights) as checkpoint:
        return {
            slot.name: tuple(
                None if stored is None else stored.read()
                for stored in (slot.parameter, slot.buffer)
            )
            for slot in checkpoint.slots
        }


def of_tensors(parameters, buffers, **options) -> Any:
    names = dict.fromkeys([*parameters, *buffers])
    return Checkpoint(
        convention="caffe",
        slots=[slot(name, parameters.get(name), buffers.get(name)) for name in names],
        **options,
    )


def same(found, expected):
    assert list(found) == list(expected)
    for name, x in found.items():
        assert x.dtype == expected[name].dtype
        assert torch.equal(x, expected[name]), name


def values_of(blob):
    data = np.array(blob.double_data or blob.data, "f8" if blob.double_data else "f4")
    return torch.from_numpy(data).reshape(tuple(blob.shape.dim))


# Reading


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_history_and_weights_are_paired_in_the_nets_order(dtype, tmp_path):
    p, b = tensors(1, dtype), tensors(2, dtype)
    solver = saved(tmp_path / "snap_iter_70.solverstate", state(b))
    model = saved(tmp_path / "snap_iter_70.caffemodel", net(p))
    with read(solver, model) as checkpoint:
        assert checkpoint.convention == "caffe"
        assert checkpoint.steps == 70
        assert checkpoint.hyperparameters == {}
        assert checkpoint.remarks == [NOT_HELD, "learned_net='snap_iter_70.caffemodel'"]
        assert [slot.layout for slot in checkpoint.slots] == [""] * 4
        assert [slot.buffer.shape for slot in checkpoint.slots] == list(SHAPES.values())
    found = read_all(solver, model)
    same({name: pair[0] for name, pair in found.items()}, p)
    same({name: pair[1] for name, pair in found.items()}, b)


def test_a_solver_state_alone_has_numbers_for_names(tmp_path):
    b = tensors()
    found = read_all(saved(tmp_path / "a.solverstate", state(b)))
    assert all(parameter is None for parameter, _ in found.values())
    same(
        {n: buffer for n, (_, buffer) in found.items()}, dict(zip("0123", b.values(), strict=True))
    )


def test_weights_alone(tmp_path):
    p = tensors()
    for path in (
        saved(tmp_path / "a.caffemodel", net(p)),
        saved_weights_h5(tmp_path / "a.caffemodel.h5", p),
    ):
        found = read_all(path)
        assert all(buffer is None for _, buffer in found.values())
        same({name: parameter for name, (parameter, _) in found.items()}, p)


@pytest.mark.parametrize("old", [False, True])
def test_shapes_of_four_axes_lose_their_leading_ones(old, tmp_path):
    shapes = {**SHAPES, "fc/0": (1, 5), "fc/1": (1,), "conv1/0": (1, 1, 2, 3), "conv1/1": (1,)}
    p, b = tensors(1, shapes=shapes), tensors(2, shapes=shapes)
    solver = saved(tmp_path / "a.solverstate", state(b, legacy=True))
    model = saved(tmp_path / "a.caffemodel", net(p, old=old, legacy=True))
    found = read_all(solver, model)
    same({name: pair[0] for name, pair in found.items()}, p)
    same({name: pair[1] for name, pair in found.items()}, b)
    with read(solver, model) as checkpoint:
        assert [slot.layout for slot in checkpoint.slots] == [
            "",
            "(1, 1, 1, 1) -> (1,)",
            "(1, 1, 1, 5) -> (1, 5)",
            "(1, 1, 1, 1) -> (1,)",
        ]
    with read(solver) as checkpoint:  # nothing says that the first is a kernel
        assert checkpoint.slots[0].buffer.shape == (2, 3)
        assert checkpoint.slots[0].layout == "(1, 1, 2, 3) -> (2, 3)"


def test_hdf5_is_as_protobuf(tmp_path):
    p, b = tensors(1), tensors(2)
    solver = saved_h5(tmp_path / "a.solverstate.h5", b)
    model = saved(tmp_path / "a.caffemodel", net(p))
    found = read_all(solver, model)
    same({name: pair[0] for name, pair in found.items()}, p)
    same({name: pair[1] for name, pair in found.items()}, b)
    with read(solver, model) as checkpoint:
        assert checkpoint.steps == 70
        assert checkpoint.remarks == [NOT_HELD, "current_step=3, of the lr_policy 'multistep'"]


def test_weights_of_hdf5_are_paired_where_the_shapes_leave_one_order(tmp_path):
    shapes = {"z/0": (4, 3), "z/1": (4,), "a/0": (2, 4), "a/1": (2,)}
    p, b = tensors(1, shapes=shapes), tensors(2, shapes=shapes)
    solver = saved_h5(tmp_path / "a.solverstate.h5", b)
    found = read_all(solver, saved_weights_h5(tmp_path / "a.caffemodel.h5", p))
    same({name: pair[1] for name, pair in found.items()}, b)
    alike = tensors(1, shapes={**shapes, "b/0": (2, 4), "b/1": (2,)})
    solver = saved_h5(tmp_path / "b.solverstate.h5", alike)
    with pytest.raises(FileError) as refused:
        read_all(solver, saved_weights_h5(tmp_path / "b.caffemodel.h5", alike))
    assert str(refused.value) == (
        f"{tmp_path / 'b.caffemodel.h5'}: data: history 2 fits a, b; give the .caffemodel of "
        "protobuf, which keeps the order of the layers"
    )


def test_many_layers_of_hdf5_are_paired_in_time(tmp_path):
    shapes = {f"l{5000 - i}/0": (1 + i // 70, 1 + i % 70) for i in range(5000)}
    held = {name: torch.zeros(shape) for name, shape in shapes.items()}
    solver = saved_h5(tmp_path / "a.solverstate.h5", held)
    model = saved_weights_h5(tmp_path / "a.caffemodel.h5", held)
    started = time.monotonic()
    with read(solver, model) as checkpoint:
        assert [slot.name for slot in checkpoint.slots] == list(held)
    assert time.monotonic() - started < 10  # by comparing each with each it was 100


@pytest.mark.parametrize("old", [False, True])
def test_a_parameter_that_layers_share_is_one(old, tmp_path):
    shapes = {"conv1/0": (2, 2), "fc/0": (2, 2), "fc/1": (2,)}
    p = tensors(shapes=shapes)
    message = net(p, old=old)
    for layer in message.layers if old else message.layer:
        if layer.blobs and old:
            layer.param.append("shared")
        elif layer.blobs:
            layer.param.add(name="shared")
    model = saved(tmp_path / "a.caffemodel", message)
    assert list(read_all(model)) == ["conv1/0", "fc/1"]
    b = tensors(2, shapes={"conv1/0": (2, 2), "fc/1": (2,)})
    assert list(read_all(saved(tmp_path / "a.solverstate", state(b)), model)) == list(b)
    new = tensors(3, shapes={"conv1/0": (2, 2), "fc/1": (2,)})
    prepare(tmp_path / "b.caffemodel", of_tensors(new, {}), model)()
    written = NetParameter.FromString((tmp_path / "b.caffemodel").read_bytes())
    layers = {layer.name: layer for layer in (written.layers if old else written.layer)}
    for name in ("conv1", "fc"):
        assert torch.equal(values_of(layers[name].blobs[0]), new["conv1/0"])


@pytest.mark.parametrize("old", [False, True])
def test_multipliers_are_each_slots_own(old, tmp_path):
    message = net(tensors(), old=old)
    for layer in message.layers if old else message.layer:
        if layer.blobs and old:
            layer.blobs_lr.extend([1, 2])
            layer.weight_decay.extend([1, 0])
        elif layer.blobs:
            layer.param.add()
            layer.param.add(lr_mult=2, decay_mult=0)
    with read(saved(tmp_path / "a.caffemodel", message)) as checkpoint:
        assert [slot.own for slot in checkpoint.slots] == [
            {},
            {"lr": Times(2), "weight_decay": Times(0)},
        ] * 2
        assert all(slot.stepped for slot in checkpoint.slots)


def test_statistics_and_frozen_blobs_are_not_stepped(tmp_path):
    shapes = {**SHAPES, "bn/0": (4,), "bn/1": (4,), "bn/2": (1,)}
    message = net(tensors(shapes=shapes))
    message.layer[2].param.add(lr_mult=0)
    model = saved(tmp_path / "a.caffemodel", message)
    with read(saved(tmp_path / "a.solverstate", state(tensors(2, shapes=shapes))), model) as found:
        assert [slot.name for slot in found.slots if slot.buffer] == ["conv1/0", "conv1/1", "fc/1"]
        assert [slot.stepped for slot in found.slots] == [True, True, False, True] + [False] * 3
        assert found.remarks[2:] == [
            "statistics of BatchNorm (bn/0, bn/1, bn/2): mean and variance are to be divided by "
            "the third blob of their layer",
            "frozen by lr_mult=0, with their history: fc/0",
        ]


@pytest.mark.parametrize("old", [False, True])
def test_an_inner_product_that_is_transposed_is_turned_there_and_back(old, tmp_path):
    p, b = tensors(1), tensors(2)
    message = net(p, old=old)
    layer = (message.layers if old else message.layer)[2]
    # transpose, field 6 of inner_product_param, which the definition here does not have
    data = layer.SerializeToString() + (b"\x8a\x01" if old else b"\xaa\x07") + b"\x02\x30\x01"
    del (message.layers if old else message.layer)[2]
    model = tmp_path / "a.caffemodel"
    head = b"\x12" if old else b"\xa2\x06"
    model.write_bytes(message.SerializeToString() + head + bytes([len(data)]) + data)
    solver = saved(tmp_path / "a.solverstate", state(b, learned_net=str(tmp_path / "c.caffemodel")))
    with read(solver, model) as checkpoint:
        turned = checkpoint.slots[2]
        assert (turned.name, turned.layout, turned.parameter.shape) == ("fc/0", "IO -> OI", (5, 2))
        assert torch.equal(turned.parameter.read(), p["fc/0"].T)
        assert torch.equal(turned.buffer.read(), b["fc/0"].T)
        prepare(tmp_path / "c.solverstate", checkpoint, model)()
    assert (tmp_path / "c.caffemodel").read_bytes() == model.read_bytes()
    assert (tmp_path / "c.solverstate").read_bytes() == solver.read_bytes() + b"\x20\x00"


def test_what_the_solver_is_to_be_set_to_is_told(tmp_path):
    numbers = {"lr": 0.1, "momentum": 0.9}
    given = of_tensors({}, tensors(), hyperparameters=numbers, steps=3)
    prepare(tmp_path / "a.solverstate", given)
    assert given.remarks == [
        "not in a snapshot, to be set in solver.prototxt: base_lr=0.1, momentum=0.9"
    ]
    more = {"lr": 0.1, "nesterov": True, "weight_decay": 0.01}
    given = of_tensors({}, tensors(), hyperparameters=more)
    prepare(tmp_path / "a.solverstate", given)
    assert given.remarks == [
        "not in a snapshot, to be set in solver.prototxt: type 'Nesterov', base_lr=0.1, "
        "weight_decay=0.01",
        "iter is 0: the updates are not known",
    ]


def test_a_blob_with_a_learning_rate_of_its_own_is_converted_by_it(tmp_path):
    """Caffe's history is ε·lr_mult times torch's buffer, blob by blob; and back."""
    held, history = tensors(1), tensors(2)
    message = net(held)
    for layer in message.layer:
        if layer.blobs:
            layer.param.add()
            layer.param.add(lr_mult=2)
    model = saved(tmp_path / "a.caffemodel", message)
    solver = saved(tmp_path / "a.solverstate", state(history))
    there, back = tmp_path / "b.pt", tmp_path / "c.solverstate"
    given: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "nesterov": False}
    made = convert_file(
        Job(
            source=solver,
            target=there,
            source_format="caffe",
            target_format="torch",
            weights=model,
            hyperparameters=given,
        )
    )
    assert [row.target for row in made.rows] == list(held)
    optimizer = torch.load(there, weights_only=True)["optimizer"]
    by_lr = {group["lr"]: group for group in optimizer["param_groups"]}
    assert sorted(by_lr) == [0.1, 0.2]
    for name, b in history.items():
        group = by_lr[0.2 if name.endswith("1") else 0.1]
        index = group["params"][group["param_names"].index(name)]
        found = optimizer["state"][index]["momentum_buffer"]
        assert torch.allclose(found, (b.double() / group["lr"]).float(), rtol=1e-6)
    convert_file(
        Job(
            source=there,
            target=back,
            source_format="torch",
            target_format="caffe",
            template=model,
        )
    )
    again = SolverState.FromString(back.read_bytes())
    for blob, b in zip(again.history, history.values(), strict=True):
        assert torch.allclose(values_of(blob), b, rtol=1e-6)


def test_unknown_fields_are_named(tmp_path):
    path = saved(tmp_path / "a.solverstate", state(tensors()))
    path.write_bytes(path.read_bytes() + b"\x50\x01")
    with read(path) as checkpoint:
        assert checkpoint.remarks[-1] == "field 10, which Caffe's SolverState does not have"


def test_data_in_pieces_and_a_diff_are_read(tmp_path):
    first, second = BlobProto(data=[1, 2], diff=[9] * 3), BlobProto(data=[3])
    first.shape.dim.append(3)
    blob = first.SerializeToString() + second.SerializeToString()
    (tmp_path / "a.solverstate").write_bytes(b"\x08\x01\x1a" + bytes([len(blob)]) + blob)
    assert read_all(tmp_path / "a.solverstate")["0"][1].tolist() == [1, 2, 3]


# Writing


@pytest.mark.parametrize("suffix", ["", ".h5"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_history_alone_is_written_in_the_checkpoints_order(dtype, suffix, tmp_path):
    b = tensors(dtype=dtype)
    path = tmp_path / f"a.solverstate{suffix}"
    prepare(path, of_tensors({}, b, steps=12))()
    with read(path) as checkpoint:
        assert checkpoint.steps == 12
        assert checkpoint.remarks == [NOT_HELD]
    same({n: x for n, (_, x) in read_all(path).items()}, dict(zip("0123", b.values(), strict=True)))
    if not suffix:
        message = SolverState.FromString(path.read_bytes())
        assert message.iter == 12
        assert not message.HasField("learned_net")
        for blob, x in zip(message.history, b.values(), strict=True):
            assert torch.equal(values_of(blob), x)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", ["", ".h5"])
@pytest.mark.parametrize(("old", "legacy"), [(False, False), (True, True)])
def test_parameters_are_written_beside_the_history(old, legacy, suffix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    template = saved(tmp_path / "template.caffemodel", net(tensors(9), old=old, legacy=legacy))
    p, b = tensors(1, torch.float64), tensors(2)
    path = Path(f"out.solverstate{suffix}")
    prepare(path, of_tensors(p, b), template)()
    found = read_all(path, Path("out.caffemodel"))
    same({name: pair[0] for name, pair in found.items()}, p)
    same({name: pair[1] for name, pair in found.items()}, b)
    original, copy = (
        NetParameter.FromString(Path(name).read_bytes())
        for name in ("template.caffemodel", "out.caffemodel")
    )
    for message in (original, copy):
        for layer in message.layers if old else message.layer:
            for blob in layer.blobs:
                blob.ClearField("data")
                blob.ClearField("double_data")
    assert copy == original
    if suffix:
        with opened_h5(path) as file:
            assert file["learned_net"][()] == b"out.caffemodel"
            assert file["learned_net"].dtype.itemsize == len("out.caffemodel") + 1
            assert file["iter"][:].tolist() == [0]
            assert file["current_step"][:].tolist() == [0]
    else:
        assert SolverState.FromString(path.read_bytes()).learned_net == "out.caffemodel"


def test_unknown_fields_of_a_template_are_kept(tmp_path):
    p = tensors()
    message = net(p)
    message.layer[1].blobs[0].diff.extend([1.0] * 48)
    template = saved(tmp_path / "template.caffemodel", message)
    template.write_bytes(template.read_bytes() + b"\xf2\x3f\x03abc")
    prepare(tmp_path / "copy.caffemodel", of_tensors(p, {}), template)()
    data = (tmp_path / "copy.caffemodel").read_bytes()
    assert data.endswith(b"\xf2\x3f\x03abc")
    message.layer[1].blobs[0].ClearField("diff")  # of the parameters that were there
    assert data[:-6] == message.SerializeToString()


def test_weights_of_hdf5_are_written(tmp_path):
    p = tensors()
    prepare(tmp_path / "a.caffemodel.h5", of_tensors(p, {}))()
    same({n: x for n, (x, _) in read_all(tmp_path / "a.caffemodel.h5").items()}, p)
    with opened_h5(tmp_path / "a.caffemodel.h5") as file:
        assert np.array_equal(file["data/conv1/0"][()], p["conv1/0"].numpy())


def test_an_absent_buffer_becomes_the_zeros_that_caffe_starts_with(tmp_path):
    template = saved(tmp_path / "template.caffemodel", net(tensors()))
    prepare(tmp_path / "a.solverstate", of_tensors(tensors(), {}), template)()
    for blob in SolverState.FromString((tmp_path / "a.solverstate").read_bytes()).history:
        assert len(blob.data) > 0
        assert not any(blob.data)


def test_of_a_history_alone_no_weights_are_written(tmp_path):
    """Though what no optimizer steps comes from the template, with its parameters."""
    shapes = {**SHAPES, "bn/0": (4,), "bn/1": (4,), "bn/2": (1,)}
    template = saved(tmp_path / "template.caffemodel", net(tensors(shapes=shapes)))
    with read(template) as checkpoint:
        own = [slot for slot in checkpoint.slots if not slot.stepped]
        alone = of_tensors({}, tensors(2))
        alone.slots += own
        prepare(tmp_path / "b.solverstate", alone, template)()
        whole = of_tensors(tensors(1), tensors(2))
        whole.slots += own
        prepare(tmp_path / "a.solverstate", whole, template)()
    assert not (tmp_path / "b.caffemodel").exists()
    assert len(read_all(tmp_path / "b.solverstate")) == 7
    found = read_all(tmp_path / "a.solverstate", tmp_path / "a.caffemodel")
    assert torch.equal(found["bn/0"][0], tensors(shapes=shapes)["bn/0"])
    assert not read_all(tmp_path / "a.solverstate")["4"][1].any()


def test_a_round_trip_gives_the_same_bytes(tmp_path):
    p, b = tensors(1), tensors(2)
    solver = saved(tmp_path / "a.solverstate", state(b, learned_net=str(tmp_path / "c.caffemodel")))
    model = saved(tmp_path / "a.caffemodel", net(p))
    with read(solver, model) as checkpoint:
        prepare(tmp_path / "c.solverstate", checkpoint, model)()
    assert (tmp_path / "c.caffemodel").read_bytes() == model.read_bytes()
    written = (tmp_path / "c.solverstate").read_bytes()
    assert written.removesuffix(b"\x20\x00") == solver.read_bytes()  # current_step, 0


# Refusals


def refused(tmp_path, path, checkpoint, template=None):
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(FileError) as error:
        prepare(path, checkpoint, template)()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    return str(error.value)


def test_what_does_not_fit_the_net_is_refused(tmp_path):
    p, b = tensors(1), tensors(2)
    model = saved(tmp_path / "a.caffemodel", net(p))
    cases = {
        "fewer": (
            state(dict(list(b.items())[:3])),
            "history: it has 3 blobs, the net 4 parameters; give the .caffemodel of the same "
            "snapshot; a solver other than SGD and Nesterov keeps more",
        ),
        "other": (
            state({**b, "fc/0": torch.zeros(5, 2)}),
            "history 2: it has the shape (5, 2), fc/0 (2, 5); give the .caffemodel of the same "
            "snapshot",
        ),
    }
    for name, (message, text) in cases.items():
        path = saved(tmp_path / f"{name}.solverstate", message)
        with pytest.raises(FileError) as error:
            read_all(path, model)
        assert str(error.value) == f"{path}: {text}"


def test_what_cannot_be_written_is_refused(tmp_path):
    p, b = tensors(1), tensors(2)
    model = saved(tmp_path / "a.caffemodel", net(p))
    model_h5 = saved_weights_h5(tmp_path / "a.caffemodel.h5", p)
    out = tmp_path / "out.solverstate"
    both = of_tensors(p, b)
    some = {name: x for name, x in b.items() if name != "fc/1"}
    cases = [
        (
            (out, both),
            f"{out}: template: there is none, and a .caffemodel holds the net, which a checkpoint "
            "does not know; give a .caffemodel of protobuf of the same net",
        ),
        ((tmp_path / "b.caffemodel", of_tensors(p, {})), "template: there is none"),
        (
            (out, both, model_h5),
            f"{model_h5}: template: HDF5 does not keep the order of the layers, which the history "
            "is in; give the .caffemodel of protobuf",
        ),
        (
            (out, of_tensors({n: p[n] for n in some}, b), model),
            f"{out}: fc/1: the checkpoint has its history alone; give its parameter too, or none "
            "at all",
        ),
        (
            (tmp_path / "b.caffemodel", both, model),
            "name: a file of weights holds no history; name a .solverstate: its weights are "
            "written beside",
        ),
        (
            (tmp_path / "a.solverstate", both, model),
            "name: the weights beside it, a.caffemodel, would replace the template; choose another",
        ),
        (
            (out, of_tensors({}, {"a": torch.zeros(2, dtype=torch.bfloat16)})),
            f"{out}: a: it is torch.bfloat16, and Caffe has float32 and float64; convert the "
            "checkpoint's dtype first",
        ),
        (
            (out, replace(both, convention="torch"), model),
            f"{out}: checkpoint: the checkpoint's buffers are those of 'torch'; convert them to "
            "'caffe' first",
        ),
        (
            (out, replace(both, hyperparameters={"dampening": 0.1}), model),
            f"{out}: checkpoint: the checkpoint has dampening=0.1, which 'caffe' has not; "
            "convert it to another convention first",
        ),
        (
            (tmp_path / "b.caffemodel.h5", of_tensors({"weight": p["fc/0"]}, {})),
            "weight: a blob is called by its layer and its number; map it to such as conv1/0",
        ),
        ((out, of_tensors({}, {})), f"{out}: checkpoint: it has no parameter; give another"),
        (
            (out, Checkpoint(convention="caffe", slots=[Slot(name="a")])),
            f"{out}: a: neither its history nor its parameter is there; give the .caffemodel as "
            "template",
        ),
        ((out, replace(both, steps=2**31), model), f"{out}: iter: 2147483648 updates are more"),
    ]
    for arguments, text in cases:
        assert text in refused(tmp_path, *arguments)


def test_more_than_protobuf_reads_is_refused(tmp_path):
    huge = Stored((2**29,), torch.float32, lambda: torch.empty(0))
    checkpoint = Checkpoint(convention="caffe", slots=[Slot(name="a", buffer=huge)])
    text = refused(tmp_path, tmp_path / "a.solverstate", checkpoint)
    assert "file: it would have 2147483673 bytes, and protobuf reads 2147483647; name a .h5" in text


@pytest.mark.parametrize("suffix", ["", ".h5"])
def test_a_tensor_that_fails_leaves_no_file(suffix, tmp_path):
    def fail():
        raise FileError("broken there")

    template = saved(tmp_path / "template.caffemodel", net(tensors()))
    checkpoint = of_tensors(tensors(), tensors())
    last = checkpoint.slots[-1]
    for changed in (
        replace(last, buffer=replace(last.buffer, read=fail)),
        replace(last, parameter=replace(last.parameter, read=fail)),
    ):
        checkpoint.slots[-1] = changed
        out = tmp_path / f"out.solverstate{suffix}"
        assert refused(tmp_path, out, checkpoint, template) == "broken there"


def test_weights_beside_a_state_that_has_no_place_are_not_written(tmp_path):
    template = saved(tmp_path / "template.caffemodel", net(tensors()))
    out = tmp_path / "out.solverstate"
    out.mkdir()
    beside = saved(tmp_path / "out.caffemodel", net(tensors(5)))
    before = beside.read_bytes()
    with pytest.raises(FileError, match=r"cannot be written .it is no regular file"):
        prepare(out, of_tensors(tensors(1), tensors(2)), template)()
    assert beside.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [beside.name, out.name, template.name]


def test_a_template_that_shrinks_meanwhile_is_refused(tmp_path):
    held = tensors(shapes={**SHAPES, "fc/0": (64, 640)})
    template = saved(tmp_path / "template.caffemodel", net(held))
    x = held["conv1/0"]

    def cut():
        os.truncate(template, 100)
        return x

    checkpoint = of_tensors(held, {})
    cutting = Stored(tuple(x.shape), x.dtype, cut)
    checkpoint.slots[0] = replace(checkpoint.slots[0], parameter=cutting)
    write = prepare(tmp_path / "out.caffemodel", checkpoint, template)
    with pytest.raises(FileError, match="it has become shorter"):
        write()
    assert [p.name for p in tmp_path.iterdir()] == [template.name]


# Broken files


def made_up():
    def message(number, content):
        return bytes([number << 3 | 2, len(content)]) + content

    shape = message(7, message(1, b"\x02"))
    two = shape + message(5, b"\0" * 8)
    return {
        "empty": (b"", "byte 0: it has no history; give a .solverstate"),
        "text": (b"hello", "byte 2: no field begins with 108"),
        "zip": (b"PK\x03\x04" + b"\0" * 20, "byte 2: no field begins with 3"),
        "pickle": (b"\x80\x04N.", "byte 3: no field begins with 46"),
        "terabytes": (b"\x1a\xff\xff\xff\xff\xff\x7f", "field 3 is to end at 4398046511110"),
        "a shape of terabytes": (
            message(3, message(7, message(1, b"\xff\xff\xff\xff\x07" * 2)) + message(5, b"\0" * 8)),
            "byte 0: a blob of shape (2147483647, 2147483647) has 8 bytes",
        ),
        "a negative axis": (
            message(3, message(7, message(1, b"\xff" * 9 + b"\x01"))),
            "byte 0: a blob has a shape that Caffe cannot have",
        ),
        "many axes": (
            message(3, message(7, message(1, b"\x01" * 33))),
            "byte 2: a shape has too many axes",
        ),
        "unpacked": (
            message(3, shape + b"\x2d\0\0\0\0" * 2),
            "byte 7: its data is not packed; have Caffe save it again",
        ),
        "no data": (message(3, shape), "byte 0: a blob of shape (2,) has 0 bytes"),
        "a group": (b"\x1b\x1c", "byte 0: no field begins with 27"),
        "field 0": (b"\x02\x00", "byte 0: no field begins with 2"),
        "an endless number": (b"\x08" + b"\xff" * 11, "byte 1: a number without an end"),
        "a negative count": (
            b"\x08" + b"\xff" * 9 + b"\x01" + message(3, two),
            "byte 0: a count should be here",
        ),
        "no text": (message(2, b"\xff\xfe") + message(3, two), "byte 2: field 2 is no text"),
        "foreign": (b"\x50\x01" * 20, "it has many fields that Caffe's SolverState does not have"),
    }


def made_up_nets():
    """Of which a few megabytes would take hundreds."""
    head = b"\x22\x02fc\x28\x0e\x32\x0a" + bytes([58, 2, 10, 0]) + b"\x2a\x04\0\0\x80\x3f"
    multiplier = b"\x3a\x04\0\0\x80\x3f"
    return {
        "many multipliers": (head + multiplier * 101, "a layer has more than 100 blobs"),
        "a long multiplier": (
            head + b"\x3a\x84\x20" + b"\0" * 4100,
            "field 7 should be of a few floats",
        ),
    }


@pytest.mark.parametrize("name", [*made_up_nets()])
def test_a_made_up_net_is_refused(name, tmp_path):
    layer, text = made_up_nets()[name]
    path = tmp_path / "a.caffemodel"
    length = bytes([len(layer) & 127 | 128, len(layer) >> 7])
    path.write_bytes(b"\x12" + length + layer)
    with pytest.raises(FileError, match=text):
        read_all(path)


def test_many_small_blobs_are_refused(tmp_path):
    path = tmp_path / "a.solverstate"
    path.write_bytes(b"\x1a\x06\x2a\x04\0\0\0\0" * 50_001)
    with pytest.raises(FileError, match="there are more than 50000 blobs"):
        read_all(path)


@pytest.mark.parametrize("name", [*made_up()])
def test_a_made_up_solver_state_is_refused(name, tmp_path):
    data, text = made_up()[name]
    path = tmp_path / "a.solverstate"
    path.write_bytes(data)
    with pytest.raises(FileError) as error:
        read_all(path)
    assert str(error.value).startswith(f"{path}: ")
    assert text in str(error.value)


def test_a_million_fields_are_refused(tmp_path):
    path = tmp_path / "a.caffemodel"
    path.write_bytes(b"\x08\x01" * 1_000_001)
    with pytest.raises(FileError, match="it has more than 1000000 fields"):
        read_all(path)


def test_nets_without_a_name_or_too_old_are_refused(tmp_path):
    p = tensors()
    path = tmp_path / "a.caffemodel"
    twice = net(p)
    twice.layer[1].name = "fc"
    oldest = NetParameter()
    oldest.layers.add().layer.blobs.add()
    for message, text in (
        (twice, "byte 0: two layers have one name, or one has none"),
        (oldest, "the net is in the oldest form; run Caffe's upgrade_net_proto_binary on it"),
        (NetParameter(name="net"), "byte 0: no layer has parameters; give a .caffemodel"),
    ):
        with pytest.raises(FileError) as error:
            read_all(saved(path, message))
        assert text in str(error.value)


def test_hdf5_of_something_else_is_refused(tmp_path):
    b = tensors()
    path = tmp_path / "a.solverstate.h5"
    with h5py.File(path, "w") as file:
        file["history/1"] = np.zeros(3, "f4")
    with pytest.raises(FileError, match=r"history: it should hold 0, 1, ... and holds 1; give a"):
        read_all(path)
    with h5py.File(path, "w") as file:
        file["history/0"] = np.zeros(3, "i4")
    with pytest.raises(FileError, match=r"history/0: its numbers are torch.int32, not Caffe's fl"):
        read_all(path)
    with h5py.File(path, "w") as file:
        file["history/0"] = np.zeros(3, "f4")
    with pytest.raises(FileError, match=r"iter: there should be one integer; give a .solverstate"):
        read_all(path)
    with pytest.raises(FileError, match=r"iter: it is -1; take an intact copy"):
        read_all(saved_h5(path, b, steps=-1))
    path = tmp_path / "a.caffemodel.h5"
    with h5py.File(path, "w") as file:
        file["layers/dense"] = np.zeros(3, "f4")
    with pytest.raises(FileError, match=r"layers/dense: it is no blob of a layer, such as data/co"):
        read_all(path)
    with h5py.File(path, "w") as file:
        file["diff/a/0"] = np.zeros(3, "f4")
    with pytest.raises(FileError, match=r"data: no layer has parameters; give a .caffemodel.h5"):
        read_all(path)


def test_a_missing_file_and_needless_weights_are_named(tmp_path):
    with pytest.raises(FileError, match=r"none: file: cannot be opened .No such .*; give a .solv"):
        read_all(tmp_path / "none")
    model = saved(tmp_path / "a.caffemodel", net(tensors()))
    with pytest.raises(FileError, match=r"name: it is one of weights itself; give a .solverstat"):
        read_all(model, model)


SMALL = {"conv1/0": (2, 1, 1, 2), "conv1/1": (2,), "fc/0": (1, 2), "fc/1": (1,)}


@pytest.mark.parametrize("which", ["solverstate", "caffemodel", "old"])
@mutations(5_000)
def test_mutations(which, tmp_path, seed, count):
    held = tensors(shapes=SMALL)
    solver = saved(tmp_path / "a.solverstate", state(held, current_step=1))
    message = net(held)
    message.layer[1].param.add(name="shared", lr_mult=2)
    model = saved(tmp_path / "a.caffemodel", message)
    if which == "solverstate":
        broken = check_reader(
            lambda path: read_all(path, model), solver.read_bytes(), solver, seed=seed, count=count
        )
    elif which == "caffemodel":
        broken = check_reader(read_all, model.read_bytes(), model, seed=seed, count=count)
    else:
        data = net(held, old=True, legacy=True).SerializeToString()
        broken = check_reader(read_all, data, model, seed=seed, count=count)
    assert broken > count // 5


@pytest.mark.parametrize("which", ["solverstate", "caffemodel"])
@mutations(5_000)
def test_mutations_of_hdf5(which, tmp_path, seed, count):
    held = tensors(shapes=SMALL)
    path = tmp_path / f"a.{which}.h5"
    (saved_h5 if which == "solverstate" else saved_weights_h5)(path, held)
    assert check_reader(read_all, path.read_bytes(), path, seed=seed, count=count) > count // 50


@measures_memory
@pytest.mark.parametrize("suffix", ["", ".h5"])
def test_one_tensor_at_a_time_is_in_memory(suffix, tmp_path):
    ones = torch.ones(5000, 4000)
    first, second = (Stored((5000, 4000), torch.float32, lambda: ones) for _ in range(2))
    # Not by protobuf's Python, which takes a float object for each number.
    from sgdm.convert.files.caffe.blob import as_blob, length_of, write_pieces
    from sgdm.convert.files.caffe.wire import head_of

    with (tmp_path / "a.caffemodel").open("wb") as file:
        for name, stored in (("a", first), ("b", second)):
            blob = as_blob(stored)
            layer = [head_of(1, 1) + name.encode(), head_of(7, length_of(blob)), *blob]
            write_pieces([head_of(100, length_of(layer)), *layer], file)
    slots = [Slot(name="0", buffer=first), Slot(name="1", buffer=second)]
    source = tmp_path / f"a.solverstate{suffix}"
    prepare(source, Checkpoint(convention="caffe", slots=slots))()
    target = tmp_path / f"b.solverstate{suffix}"
    grown = peak_growth(
        """
        from sgdm.convert.files.caffe import prepare, read
        import h5py
        """,
        """
        source, weights, target = paths
        with read(source, weights) as checkpoint:
            prepare(target, checkpoint, weights)()
        """,
        source,
        tmp_path / "a.caffemodel",
        target,
    )
    bound = 2.2 * 80e6 + 200e6 if suffix else 2.5 * source.stat().st_size
    assert grown < bound
    assert target.stat().st_size >= 160e6
