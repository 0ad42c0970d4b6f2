"""Files of torch.save: read by name, refused when broken, written so that torch loads them."""

import argparse
import contextlib
import io
import os
import pickle
import re
import subprocess
import sys
import textwrap
import zipfile
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import sgdm
from in_memory import stored
from mutations import check_reader, mutations
from peak_memory import measures_memory, peak_growth
from sgdm.convert.checkpoint import Checkpoint, Slot, Stored
from sgdm.convert.files.torch_zip import prepare, read
from sgdm.errors import FileError

DTYPES = [
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.complex64, torch.complex128),
]


def network():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def stepped(model, optimizer, steps=2):
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 1, 4, 4)).square().sum().backward()
        optimizer.step()
    return optimizer


def read_all(path, weights=None) -> Any:
    """Return the checkpoint with its tensors read: {name: (parameter, buffer)}."""
    with read(path, weights) as checkpoint:
        values = {
            slot.name: tuple(t and t.read() for t in (slot.parameter, slot.buffer))
            for slot in checkpoint.slots
        }
    return checkpoint, values


def save(path, content):
    torch.save(content, path)
    return path


def plain(names=("a", "b"), **settings) -> Any:
    """A small checkpoint: two parameters, the buffer of the second absent."""
    a, b = (nn.Parameter(torch.arange(6.0).reshape(2, 3)), nn.Parameter(torch.ones(2)))
    optimizer = sgdm.SGD(list(zip(names, (a, b), strict=True)), lr=0.1, momentum=0.9, **settings)
    a.grad = torch.ones(2, 3)
    optimizer.step()
    return {
        "model": {names[0]: a.detach(), names[1]: b.detach()},
        "optimizer": optimizer.state_dict(),
    }


def refused(path, weights=None):
    with pytest.raises(FileError) as caught:
        read_all(path, weights)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


# ---- what is read ----


@pytest.mark.parametrize("form", ["positional", "named", "sgdm"])
def test_a_training_checkpoint_is_read(form, tmp_path, seed):
    model = network()
    params = model.parameters() if form == "positional" else model.named_parameters()
    kind, own = (sgdm.SGD, {"convention": "keras3"}) if form == "sgdm" else (torch.optim.SGD, {})
    settings: dict[str, Any] = {
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 1e-4,
        **own,
    }
    optimizer = stepped(model, kind(params, **settings))
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}
    checkpoint, values = read_all(save(tmp_path / "x.pt", content))
    assert checkpoint.convention == own.get("convention", "torch")
    assert checkpoint.hyperparameters == {
        "lr": 0.1,
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 1e-4,
        "dampening": 0,
        **({"lr0": 0.1} if form == "sgdm" else {}),
    }
    guess = [
        "the optimizer names no parameters: taken to be in the model's order "
        "(SGD(model.named_parameters(), ...) names them)"
    ]
    assert checkpoint.remarks == ["left out: epoch"]
    assert checkpoint.assumed == (guess if form == "positional" else [])
    parameters = [name for name, _ in model.named_parameters()]
    assert [slot.name for slot in checkpoint.slots if slot.stepped] == parameters
    assert list(values) == [*parameters, *(name for name, _ in model.named_buffers())]
    for name, b in model.named_buffers():
        assert torch.equal(values[name][0], b)
    for name, p in model.named_parameters():
        parameter, buffer = values[name]
        assert torch.equal(parameter, p)
        assert torch.equal(buffer, optimizer.state[p]["momentum_buffer"])


@pytest.mark.parametrize("optimizer_key", ["optimizer", "optimizer_state_dict", "optim"])
@pytest.mark.parametrize("model_key", ["model", "model_state_dict", "state_dict"])
def test_usual_keys(optimizer_key, model_key, tmp_path):
    content = plain()
    path = save(
        tmp_path / "x.pt", {optimizer_key: content["optimizer"], model_key: content["model"]}
    )
    _, values = read_all(path)
    assert torch.equal(values["a"][0], content["model"]["a"])
    assert values["a"][1] is not None
    assert values["b"][1] is None


def test_lightning_keeps_a_list(tmp_path):
    content = plain()
    path = save(
        tmp_path / "x.pt",
        {"optimizer_states": [content["optimizer"]], "state_dict": content["model"]},
    )
    assert list(read_all(path)[1]) == ["a", "b"]


def test_names_come_from_numbers_names_keys_or_weights(tmp_path):
    content = plain()
    unnamed = plain()["optimizer"]
    del unnamed["param_groups"][0]["param_names"]
    alone = save(tmp_path / "alone.pt", unnamed)
    model = save(tmp_path / "model.pt", content["model"])
    assert list(read_all(alone)[1]) == ["0", "1"]
    assert list(read_all(alone, model)[1]) == ["a", "b"]
    assert list(read_all(save(tmp_path / "named.pt", content["optimizer"]))[1]) == ["a", "b"]
    group = {**unnamed["param_groups"][0], "params": ["p", "q"]}
    keyed = {"state": {"p": unnamed["state"][0]}, "param_groups": [group]}
    assert list(read_all(save(tmp_path / "keyed.pt", keyed))[1]) == ["p", "q"]


def test_names_follow_the_groups_of_a_named_optimizer(tmp_path, seed):
    model = network()
    named = dict(model.named_parameters())
    groups = [
        {"params": [(n, p) for n, p in named.items() if p.ndim > 1], "weight_decay": 1e-3},
        {"params": [(n, p) for n, p in named.items() if p.ndim == 1]},
    ]
    optimizer = stepped(model, torch.optim.SGD(groups, lr=0.1, momentum=0.9))
    path = save(
        tmp_path / "x.pt", {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    )
    checkpoint, values = read_all(path)
    order = ["0.weight", "3.weight", "0.bias", "1.weight", "1.bias", "3.bias"]
    assert list(values)[:6] == order
    assert [slot.own for slot in checkpoint.slots] == [{}] * 2 + [{"weight_decay": 0}] * 4 + [
        {}
    ] * 3
    assert [slot.group for slot in checkpoint.slots] == [0] * 2 + [1] * 4 + [0] * 3
    for name in order:
        assert torch.equal(values[name][1], optimizer.state[named[name]]["momentum_buffer"])


def test_a_model_alone_and_tied_or_frozen_parameters(tmp_path):
    tied = torch.ones(3)
    content = plain()
    checkpoint, values = read_all(save(tmp_path / "x.pt", {"e": tied, "head": tied}))
    assert checkpoint.convention is None
    assert list(values) == ["e"]
    content["model"]["frozen"] = torch.zeros(1)
    checkpoint, values = read_all(save(tmp_path / "y.pt", content))
    assert list(values) == ["a", "b", "frozen"]
    assert checkpoint.remarks == ["not in the optimizer: frozen"]


def test_none_is_absent_and_so_are_zeros_before_the_first_step(tmp_path):
    content = plain()["optimizer"]
    content["state"][1] = {"momentum_buffer": None}
    assert read_all(save(tmp_path / "x.pt", content))[1]["b"] == (None, None)
    p = nn.Parameter(torch.ones(2))
    optimizer = sgdm.SGD([p], lr=0.0, momentum=0.9, dampening=0.5)
    p.grad = torch.zeros(2)
    optimizer.step()
    assert optimizer.state_dict()["state"][0]["steps"] == 0
    path = save(tmp_path / "y.pt", optimizer.state_dict())
    assert read_all(path)[1]["0"] == (None, None)
    state = optimizer.state_dict()
    state["state"][0]["momentum_buffer"] = torch.ones(2)  # torch went on
    assert read_all(save(path, state))[1]["0"][1] is not None


def test_strided_views_and_tensor_hyperparameters(tmp_path, seed):
    flat = torch.randn(40)
    model = {"a": flat[3:15].view(3, 4).t(), "b": flat[20:].as_strided((3, 2), (4, 2))}
    p = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([p], lr=torch.tensor(0.25), momentum=0.5)
    _, values = read_all(save(tmp_path / "x.pt", model))
    for name, tensor in model.items():
        assert torch.equal(values[name][0], tensor)
        assert values[name][0].is_contiguous()
    checkpoint, _ = read_all(save(tmp_path / "y.pt", optimizer.state_dict()))
    assert checkpoint.hyperparameters["lr"] == 0.25


def test_what_torch_would_refuse_beside_the_state_is_left_alone(tmp_path):
    content = {**plain(), "args": argparse.Namespace(lr=1), "seen": {(1, 2), "x"}}
    path = save(tmp_path / "x.pt", content)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    checkpoint, values = read_all(path)
    assert list(values) == ["a", "b"]
    assert checkpoint.remarks == ["left out: args, seen"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol(protocol, tmp_path):
    path = tmp_path / "x.pt"
    torch.save(plain(), path, pickle_protocol=protocol)
    assert list(read_all(path)[1]) == ["a", "b"]


# ---- what is written ----


@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip_to_the_bit(dtype, tmp_path, seed):
    tensors = [torch.randn(shape).to(dtype) for shape in ((2, 3), (), (0, 4), (5,))]
    tensors[3] = torch.randn(5, 2).to(dtype)[:, 1]  # strided
    slots = [
        Slot(name=f"p{i}", parameter=stored(t), buffer=stored(t * 2) if i != 1 else None)
        for i, t in enumerate(tensors)
    ]
    known = {"lr": 0.5, "momentum": 0.9, "nesterov": True, "weight_decay": 0.25, "dampening": 0.0}
    checkpoint = Checkpoint(convention="caffe", slots=slots, hyperparameters=known, steps=7)
    path = tmp_path / "x.pt"
    prepare(path, checkpoint)()
    back, values = read_all(path)
    assert (back.convention, back.hyperparameters, back.steps) == ("caffe", known, 7)
    for i, t in enumerate(tensors):
        parameter, buffer = values[f"p{i}"]
        assert (parameter.dtype, parameter.shape) == (dtype, t.shape)
        assert torch.equal(parameter, t)
        assert buffer is None if i == 1 else torch.equal(buffer, t * 2)
    loaded = torch.load(path, weights_only=True, mmap=True)
    assert all(torch.equal(loaded["model"][f"p{i}"], t) for i, t in enumerate(tensors))
    again = tmp_path / "again.pt"
    with read(path) as checkpoint:
        prepare(again, checkpoint)()
    assert again.read_bytes() == path.read_bytes()


def test_every_tensor_begins_at_a_multiple_of_64_and_checksums_are_right(tmp_path):
    path = tmp_path / "x.pt"
    with read(save(tmp_path / "source.pt", plain())) as checkpoint:
        prepare(path, checkpoint)()
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        for info in archive.infolist():
            start = data.index(archive.read(info), info.header_offset + 30)
            assert start % 64 == 0, info.filename


def test_large_entries_are_zip64(tmp_path, monkeypatch):
    path = tmp_path / "x.pt"
    large = stored(torch.arange(1000.0))
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 2000)
    prepare(
        path, Checkpoint(convention=None, slots=[Slot(name=n, parameter=large) for n in "ab"])
    )()
    monkeypatch.undo()
    data = path.read_bytes()
    assert b"\1\0\x10\0" in data  # the field of 64-bit sizes
    assert data.index(torch.arange(1000.0).numpy().tobytes()) % 64 == 0
    assert torch.equal(read_all(path)[1]["b"][0], torch.arange(1000.0))
    loaded = torch.load(path, weights_only=True, mmap=True)
    assert torch.equal(loaded["model"]["b"], torch.arange(1000.0))


def test_torch_goes_on_from_what_is_written(tmp_path, seed):
    model, other = network(), network()
    optimizer = stepped(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    source, path = tmp_path / "source.pt", tmp_path / "x.pt"
    save(source, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    with read(source) as checkpoint:
        prepare(path, checkpoint)()
    loaded = torch.load(path, weights_only=True)
    assert set(optimizer.state_dict()["param_groups"][0]) <= set(
        loaded["optimizer"]["param_groups"][0]
    )
    other.load_state_dict(model.state_dict())
    other.load_state_dict(loaded["model"], strict=False)
    resumed = torch.optim.SGD(other.parameters(), lr=1.0)
    resumed.load_state_dict(loaded["optimizer"])
    for each, its in ((model, optimizer), (other, resumed)):
        torch.manual_seed(seed)
        stepped(each, its)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_sgdm_takes_its_convention_and_torch_sees_none(tmp_path):
    source, path = tmp_path / "source.pt", tmp_path / "x.pt"
    for convention in ("torch", "keras3"):
        content = plain(convention=convention)
        with read(save(source, content)) as checkpoint:
            prepare(path, checkpoint)()
        loaded = torch.load(path, weights_only=True)["optimizer"]
        assert loaded["param_groups"][0].get("convention") == (
            None if convention == "torch" else "keras3"
        )
        params = [("a", nn.Parameter(torch.ones(2, 3))), ("b", nn.Parameter(torch.ones(2)))]
        optimizer = sgdm.SGD(params, convention=convention)
        optimizer.load_state_dict(loaded)
        assert optimizer.param_groups[0]["lr"] == 0.1
        assert list(optimizer.state_dict()["state"]) == [0]


def test_without_parameters_the_state_dict_alone_is_written(tmp_path):
    source, path = tmp_path / "source.pt", tmp_path / "x.pt"
    with read(save(source, plain()["optimizer"])) as checkpoint:
        checkpoint.steps = 4
        prepare(path, checkpoint)()
    loaded = torch.load(path, weights_only=True)
    assert set(loaded) == {"state", "param_groups", "steps"}
    p = [("a", nn.Parameter(torch.ones(2, 3))), ("b", nn.Parameter(torch.ones(2)))]
    torch.optim.SGD(p).load_state_dict(loaded)
    back, values = read_all(path)
    assert (back.steps, list(values)) == (4, ["a", "b"])


def test_a_template_gives_groups_and_what_is_not_known(tmp_path):
    b, a = (nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2, 3)))
    groups = [{"params": [("b", b)], "initial_lr": 0.5}, {"params": [("a", a)], "foreach": True}]
    optimizer = torch.optim.SGD(groups, lr=0.2, momentum=0.7, nesterov=True)
    template = save(tmp_path / "t.pt", optimizer.state_dict())
    slots = [
        Slot(name="b", parameter=stored(torch.ones(2))),
        Slot(
            name="a", parameter=stored(torch.ones(2, 3)), buffer=stored(torch.ones(2, 3)), group=1
        ),
    ]
    slots[1] = replace(slots[1], own={"weight_decay": 0.1})
    known = {"lr": 0.5, "momentum": 0.9, "nesterov": False}
    checkpoint = Checkpoint(convention="torch", slots=slots, hyperparameters=known)
    prepare(tmp_path / "x.pt", checkpoint, template)()
    loaded = torch.load(tmp_path / "x.pt", weights_only=True)
    assert list(loaded["model"]) == ["b", "a"]
    assert list(loaded["optimizer"]["state"]) == [1]
    first, second = loaded["optimizer"]["param_groups"]
    assert (first["params"], first["param_names"], first["initial_lr"]) == ([0], ["b"], 0.5)
    assert (second["params"], second["foreach"], second["weight_decay"]) == ([1], True, 0.1)
    assert {(g["lr"], g["momentum"], g["nesterov"]) for g in (first, second)} == {(0.5, 0.9, False)}
    optimizer.load_state_dict(loaded["optimizer"])
    assert torch.equal(optimizer.state[a]["momentum_buffer"], torch.ones(2, 3))


def test_what_has_numbers_of_its_own_is_a_group(tmp_path):
    ones = stored(torch.ones(2))
    slots = [Slot(name=name, parameter=ones, buffer=ones) for name in "abcd"]
    slots[1] = replace(slots[1], own={"lr": 0.2})
    slots[3] = replace(slots[3], own={"lr": 0.2})
    known = {"lr": 0.1, "momentum": 0.9}
    checkpoint = Checkpoint(convention="torch", slots=slots, hyperparameters=known)
    prepare(tmp_path / "x.pt", checkpoint)()
    saved = torch.load(tmp_path / "x.pt", weights_only=True)
    groups = saved["optimizer"]["param_groups"]
    assert [(g["lr"], g["params"], g["param_names"]) for g in groups] == [
        (0.1, [0, 1], ["a", "c"]),
        (0.2, [2, 3], ["b", "d"]),
    ]
    back, values = read_all(tmp_path / "x.pt")
    assert list(values) == ["a", "c", "b", "d"]
    assert [slot.own for slot in back.slots] == [{}, {}, {"lr": 0.2}, {"lr": 0.2}]


def test_what_is_not_stepped_is_in_the_model_alone(tmp_path, seed):
    model = network()
    model[0].bias.requires_grad_(False)
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    optimizer = stepped(model, torch.optim.SGD(trained, lr=0.1, momentum=0.9))
    source, path = tmp_path / "source.pt", tmp_path / "x.pt"
    save(source, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    with read(source) as checkpoint:
        assert checkpoint.remarks == ["not in the optimizer: 0.bias"]
        prepare(path, checkpoint)()
    loaded = torch.load(path, weights_only=True)
    other = network()
    other.load_state_dict(loaded["model"])  # strictly
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in other.state_dict().items())
    assert loaded["optimizer"]["param_groups"][0]["param_names"] == [name for name, _ in trained]


def test_weights_alone_make_no_optimizer(tmp_path):
    """Of which nothing is known, a learning rate least of all."""
    with read(save(tmp_path / "m.pt", {"a": torch.ones(2)})) as checkpoint:
        prepare(tmp_path / "x.pt", checkpoint)()
    assert set(torch.load(tmp_path / "x.pt", weights_only=True)) == {"model"}


def test_a_model_under_a_key_of_its_own(tmp_path):
    content = plain()
    odd = {"net": content["model"], "optimizer": content["optimizer"], "epoch": 3}
    checkpoint, values = read_all(save(tmp_path / "x.pt", odd))
    assert torch.equal(values["a"][0], content["model"]["a"])
    assert checkpoint.remarks == ["left out: epoch"]
    assert checkpoint.assumed == ["taken for the model: net"]
    message = refused(save(tmp_path / "y.pt", {**odd, "ema": content["model"]}))
    assert message == "pickle: each of net, ema could be the model; save it under 'model'"
    weights = save(tmp_path / "w.pt", content["model"])
    assert list(read_all(tmp_path / "y.pt", weights)[1]) == ["a", "b"]


def test_names_are_not_guessed_where_nothing_tells_them(tmp_path, seed):
    """Groups without names are in an order of their own, which equal shapes do not give away."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    ways = [[p for p in model.parameters() if p.ndim == n] for n in (2, 1)]
    optimizer = torch.optim.SGD([{"params": its} for its in ways], lr=0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    message = refused(save(tmp_path / "x.pt", content))
    assert "build the optimizer with SGD(model.named_parameters()" in message
    same = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    groups = [{"params": [same[1].weight]}, {"params": [same[0].weight]}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    same(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {"model": same.state_dict(), "optimizer": optimizer.state_dict()}
    message = refused(save(tmp_path / "y.pt", content))
    assert message.startswith("param_groups: are several and name no parameters")


def test_settings_that_are_no_settings_are_not_shown(tmp_path):
    """A tuple of tuples of ..., a hundredfold, in 400 bytes: shown, it is 2**100 characters."""
    nested: Any = (1, 1)
    for _ in range(100):
        nested = (nested, nested)
    for name in ("convention", "ema_decay", "maximize", "lr", "weight_decay_mode"):
        content = plain()["optimizer"]
        content["param_groups"][0][name] = nested
        message = refused(save(tmp_path / "x.pt", content))
        assert "is a tuple, no finite number or setting" in message, name
        content["param_groups"][0][name] = "x" * 1000
        assert len(refused(save(tmp_path / "x.pt", content))) < 200, name
    content = plain()["optimizer"]
    content["param_groups"][0]["mine"] = nested
    path = save(tmp_path / "x.pt", content)
    checkpoint, _ = read_all(path)
    assert checkpoint.remarks == ["settings of the groups: mine"]
    with pytest.raises(FileError, match=r"\['mine'\]: is a tuple, no finite number or setting"):
        prepare(tmp_path / "y.pt", checkpoint, path)


@pytest.mark.long
def test_many_parameters_take_linear_time_and_fit(tmp_path):
    """More than two million opcodes, which the limit is to grow with."""
    one = stored(torch.ones(1))
    slots = [Slot(name=f"l{i}", parameter=one, buffer=one) for i in range(45_000)]
    known = {"lr": 0.1, "momentum": 0.9}
    path = tmp_path / "x.pt"
    prepare(path, Checkpoint(convention="torch", slots=slots, hyperparameters=known))()
    with read(path) as checkpoint:
        assert [slot.name for slot in checkpoint.slots] == [slot.name for slot in slots]


def test_templates_that_do_not_fit_are_refused_and_nothing_is_written(tmp_path):
    source, template = save(tmp_path / "source.pt", plain()), tmp_path / "t.pt"
    save(template, plain(convention="caffe", correct_momentum=True)["optimizer"] | {"state": {}})
    with read(source) as checkpoint, pytest.raises(FileError) as caught:
        prepare(tmp_path / "x.pt", checkpoint, template)
    assert str(caught.value) == (
        f"{template}: param_groups: the template's correct_momentum is True, whose buffers have "
        "another scale; give a template without it"
    )
    save(template, plain())
    with read(source) as checkpoint:
        checkpoint.slots[1] = replace(checkpoint.slots[1], own={"lr": 0.5})
        with pytest.raises(FileError) as caught:
            prepare(tmp_path / "x.pt", checkpoint, template)
    assert str(caught.value) == (
        f"{template}: param_groups[0]: holds what the source steps in different ways (lr): a, b; "
        "give a template whose groups are as the source's"
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == ["source.pt", "t.pt"]


def test_what_cannot_be_written_is_refused(tmp_path):
    path, ones = tmp_path / "x.pt", stored(torch.ones(2))
    cases = {
        "param_groups: lr and momentum of the buffers are not known; give them, or a template "
        "with them": ([Slot(name="a", buffer=ones)], {}),
        "b: has no weights where others have; give all or none": (
            [Slot(name="a", parameter=ones), Slot(name="b")],
            {},
        ),
        "a: is of torch.float8_e5m2; convert it to a floating-point one of 16 bits or more": (
            [Slot(name="a", parameter=stored(torch.ones(2).to(torch.float8_e5m2)))],
            {},
        ),
    }
    for message, (slots, known) in cases.items():
        with pytest.raises(FileError) as caught:
            prepare(path, Checkpoint(convention="torch", slots=slots, hyperparameters=known))()
        assert str(caught.value) == f"{path}: {message}"
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_breaks_while_it_is_written_leaves_the_target(tmp_path):
    source, path = save(tmp_path / "source.pt", {"a": torch.ones(99_999)}), tmp_path / "x.pt"
    path.write_bytes(b"old")
    with read(source) as checkpoint:
        with source.open("r+b") as file:
            file.truncate(99_999)
        with pytest.raises(FileError, match="data/0: is cut off") as caught:
            prepare(path, checkpoint)()
    assert str(source) in str(caught.value)
    lying = Stored((3,), torch.float32, lambda: torch.ones(2))
    with pytest.raises(ValueError, match=r"must be torch.float32 of shape \(3,\), as announced"):
        prepare(path, Checkpoint(convention=None, slots=[Slot(name="a", parameter=lying)]))()
    assert path.read_bytes() == b"old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["source.pt", "x.pt"]


def test_a_full_disk_is_one_error(tmp_path):
    script = """
        import resource, signal, sys, torch
        from pathlib import Path
        from sgdm.convert.checkpoint import Checkpoint, Slot, Stored
        from sgdm.convert.files.torch_zip import prepare
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
        slots = [Slot(name="a", parameter=Stored((9999,), torch.float32, lambda: torch.ones(9999)))]
        try:
            prepare(Path(sys.argv[1]), Checkpoint(convention=None, slots=slots))()
        except Exception as error:
            print(type(error).__name__, error)
    """
    program = [sys.executable, "-W", "error", "-c", textwrap.dedent(script), tmp_path / "x.pt"]
    done = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert done == (
        f"FileError {tmp_path / 'x.pt'} cannot be written (File too large); make room or choose "
        "another place\n"
    )
    assert list(tmp_path.iterdir()) == []


# ---- what is refused ----


def test_messages_of_files_that_are_something_else(tmp_path):
    path = tmp_path / "x.pt"
    model = nn.Linear(2, 2)
    adam = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    adam.step()
    unnamed = plain()
    del unnamed["optimizer"]["param_groups"][0]["param_names"]
    del unnamed["model"]["b"]
    swapped = plain()
    swapped["model"]["a"] = torch.ones(3, 2)
    missing = plain()
    del missing["model"]["b"]
    mixed = plain()
    mixed["optimizer"]["param_groups"].append(
        {**mixed["optimizer"]["param_groups"][0], "params": [], "param_names": []}
    )
    mixed["optimizer"]["param_groups"][1]["convention"] = "caffe"
    for message, content in {
        "pickle: holds a pickled torch.nn.modules.linear.Linear, no state_dict; give {'model': "
        "model.state_dict(), 'optimizer': optimizer.state_dict()}": model,
        "pickle: holds a list, no state_dict; give {'model': model.state_dict(), 'optimizer': "
        "optimizer.state_dict()}": [1],
        "pickle: holds neither weights nor a state of SGD, but a, b; give {'model': "
        "model.state_dict(), 'optimizer': optimizer.state_dict()}": {"a": 1, "b": None},
        "model: is a pickled torch.nn.modules.linear.Linear; save the model's state_dict()": {
            "model": model
        },
        "optimizer: is the state of another optimizer, with exp_avg, exp_avg_sq, step; give a "
        "state of SGD with momentum": adam.state_dict(),
        "param_groups: the optimizer has 2 parameters, the model 1 (floating-point ones, "
        "BatchNorm's statistics apart), and the optimizer does not name its own; build it with "
        "SGD(model.named_parameters(), ...) before it is saved, or give the weights it was "
        "stepping": unnamed,
        "state[0]: its buffer is of shape (2, 3), its parameter 'a' of (3, 2); build the optimizer "
        "with SGD(model.named_parameters(), ...) before it is saved, so that it names its "
        "parameters": swapped,
        "param_groups: its parameter 'b' is not in the model, which has a; give the weights it "
        "was stepping": missing,
        "param_groups: correct_momentum is True, whose buffers have another scale than the "
        "convention's; take the state of an optimizer without it": plain(
            convention="caffe", correct_momentum=True
        ),
        "param_groups: have several conventions, caffe, torch; save groups of one convention "
        "apart": mixed,
        "optimizer: is the state of another optimizer, with amsgrad, betas, capturable, "
        "decoupled_weight_decay, differentiable and 6 more; give a state of SGD with "
        "momentum": torch.optim.Adam(model.parameters()).state_dict(),
    }.items():
        assert refused(save(path, content)) == message


def test_state_that_is_not_as_torch_has_it(tmp_path):
    path = tmp_path / "x.pt"

    def changed(change):
        content = plain()["optimizer"]
        change(content, content["param_groups"][0])
        return save(path, content)

    for place, change in {
        "param_groups[0]['lr']: is nan, no finite": lambda c, g: g.update(lr=float("nan")),
        "param_groups[0]['lr']: is a str, no number": lambda c, g: g.update(lr="x"),
        "param_groups[0]['momentum']: is a tensor": lambda c, g: g.update(momentum=torch.ones(2)),
        "param_groups[0]: has no list of params": lambda c, g: g.update(params=3),
        "param_groups: holds a parameter twice": lambda c, g: g.update(params=[0, 0]),
        "param_groups: its params are neither": lambda c, g: g.update(params=[0, 1.5]),
        "param_groups: param_names does not name": lambda c, g: g.update(param_names=["a"]),
        "param_groups: two parameters have one": lambda c, g: g.update(param_names=["a", "a"]),
        "state[7]: belongs to no parameter": lambda c, g: c["state"].update({7: {}}),
        "optimizer: its state is no dict": lambda c, g: c.update(state=[]),
        "state[0]: its momentum_buffer is no": lambda c, g: c["state"][0].update(
            momentum_buffer=torch.ones(2, 3).to_sparse()
        ),
    }.items():
        assert refused(changed(change)).startswith(place)


def test_other_formats_are_named_with_the_way_out(tmp_path):
    path = tmp_path / "x.pt"
    again = "load it with torch.load(weights_only=True) and torch.save it again"
    torch.save(plain(), path, _use_new_zipfile_serialization=False)
    assert refused(path) == f"archive: is in the format that torch wrote before 1.6; {again}"
    path.write_bytes(b"hello")
    assert refused(path) == "archive: is no zip archive; give a file of torch.save"
    torch.serialization.set_crc32_options(False)
    try:
        save(path, plain())
    finally:
        torch.serialization.set_crc32_options(True)
    assert "set_crc32_options(False) left without checksums has to be saved again" in refused(path)
    assert refused(tmp_path / "none.pt") == (
        "file: cannot be opened (No such file or directory); give a file of torch.save"
    )
    assert "Is a directory" in refused(tmp_path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/constants.pkl", b"")
        archive.writestr("x/data.pkl", b"")
    assert refused(path) == (
        "archive: is a TorchScript program; save the model's state_dict() instead"
    )


def repacked(path, pickled=None, compress=zipfile.ZIP_STORED, **entries):
    """Write the entries of a torch file anew, some of them replaced, with right checksums."""
    with zipfile.ZipFile(path) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    root = next(name for name in content if name.endswith("/data.pkl")).removesuffix("data.pkl")
    content |= {root + name.replace("__", "/"): data for name, data in entries.items()}
    content[f"{root}data.pkl"] = pickled or content[f"{root}data.pkl"]
    with zipfile.ZipFile(path, "w", compress) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def test_a_flipped_bit_in_a_tensor_is_refused(tmp_path):
    path = save(tmp_path / "x.pt", plain())
    data = bytearray(path.read_bytes())
    place = data.index(torch.arange(6.0).sub(0.1).numpy().tobytes())
    data[place] ^= 1
    path.write_bytes(data)
    assert torch.load(path, weights_only=True)["model"]["a"] is not None  # torch does not see it
    assert re.match(r"x/data/\d: has a wrong checksum; take an intact copy; ", refused(path))


def test_a_storage_is_checked_once_and_wholly(tmp_path):
    """Also the bytes of it that no tensor shows."""
    flat = torch.arange(100.0)
    path = save(tmp_path / "x.pt", {"a": flat[2:4], "b": flat[50:52]})
    assert torch.equal(read_all(path)[1]["b"][0], flat[50:52])
    data = path.read_bytes()
    place = data.index(torch.tensor([98.0]).numpy().tobytes())
    path.write_bytes(data[:place] + b"\1" + data[place + 1 :])
    assert "has a wrong checksum" in refused(path)


def test_bombs_and_claims_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    save(path, {"a": torch.zeros(4_000_000)})
    compressed = repacked(path, compress=zipfile.ZIP_DEFLATED)
    assert compressed.stat().st_size < 100_000
    assert "is compressed or encrypted, which torch does not write" in refused(compressed)
    # A tensor that repeats its few elements 10**15 times, and one larger than its storage.
    save(path, {"a": torch.zeros(1).expand(10**15)})
    assert "a: reaches beyond its storage, or overlaps itself" in refused(path)
    save(path, {"a": torch.zeros(2)})
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read("x/data.pkl")
    assert pickled.count(b"K\x02") == 2  # of the storage and of the tensor
    larger = pickled.replace(b"K\x02", b"\x8a\x06\0\0\0\0\0\x7f")
    assert refused(repacked(path, larger)).startswith(
        "a: its storage has 8 bytes where 558551906910208 are announced; "
    )
    save(path, {"a": torch.zeros(2)})
    assert "'x/data/9', is not in the archive" in refused(
        repacked(path, pickled.replace(b"X\x01\0\0\x000", b"X\x01\0\0\x009"))
    )
    # Names of the same data, over and over.
    shared = torch.zeros(100_000)
    save(path, {str(i): shared[: 100_000 - i] for i in range(100)})
    assert "the tensors claim 64 times the file's size" in refused(path)


def test_sizes_in_the_directory_that_are_not_the_files(tmp_path):
    path = save(tmp_path / "x.pt", plain())
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\1\2")
    data[entry + 20 : entry + 28] = b"\xf0\xff\xff\x7f" * 2
    path.write_bytes(data)
    assert "archive: its entries are larger than the file" in refused(path)
    save(path, plain())
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x/version", b"3")
    assert "archive: has several entries of one name" in refused(path)
    save(path, plain())
    assert "byteorder: does not say that the file is little-endian" in refused(
        repacked(path, byteorder=b"big")
    )
    assert "data.pkl: has 67108864 bytes, more than 377" in refused(
        repacked(save(path, plain()), b"N" * 2**26)
    )


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_hostile_pickles_do_not_run(tmp_path):
    path, harm = tmp_path / "x.pt", tmp_path / "harm"
    for content in (
        Hostile(harm),
        {**plain(), "extra": Hostile(harm)},
        {"model": Hostile(harm)},
        {"model": {"a": Hostile(harm)}},
        OrderedDict(a=torch.ones(1), b=Hostile(harm)),
    ):
        save(path, content)
        with contextlib.suppress(FileError):
            read_all(path)
        assert not harm.exists()
    assert "holds a pickled posix.mkdir" in refused(save(path, Hostile(harm)))
    pickle.loads(pickle.dumps(Hostile(harm)))
    assert harm.exists()  # it would have


def test_pickles_that_would_take_for_ever_or_all_memory(tmp_path):
    path = tmp_path / "x.pt"
    nested = b"\x80\x02}(" + b")" + b"q\0h\0\x86q\0" * 200 + b"K\1u."
    for pickled, message in {
        nested: "holds neither weights nor",  # as a key: hashed, 2**200 steps
        b"\x80\x02}r\xff\xff\xff\xff.": "holds neither weights nor",  # a memo of 2**32 places
        b"\x80\x02" + b"(" * 1_000_000 + b".": "cannot be read",
        b"\x80\x02" + b"N" * 2_600_000 + b".": "more than 258",
        b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f.": "cannot be read",
        b"\x80\x05\x8d" + b"\xff" * 7 + b"\x7f.": "cannot be read",
        b"\x80\x02\x82\1.": "opcode EXT1, which is not read",
        b"\x80\x02}X\3\0\0\0\xed\xa0\x80K\1s.": "but none",  # half a character
        b"\x80\x02" + b"]q\0(h\0h\0e.": "holds a list",  # that holds itself
    }.items():
        save(path, plain())
        assert message in refused(repacked(path, pickled)), pickled[:20]


@pytest.mark.filterwarnings("error")
@mutations(10_000)
def test_mutations(tmp_path, seed, count):
    content: dict[str, Any] = {"model": {"a": torch.ones(2)}, "optimizer": plain()["optimizer"]}
    content["optimizer"]["param_groups"][0] |= {"params": [0], "param_names": ["a"]}
    content["optimizer"]["state"] = {0: {"momentum_buffer": torch.ones(2)}}
    data = io.BytesIO()
    torch.save(content, data)
    broken = check_reader(read_all, data.getvalue(), tmp_path / "x.pt", seed=seed, count=count)
    print(broken, "refused")
    assert broken > count // 2


@mutations(3_000)
def test_mutated_pickles_with_right_checksums(tmp_path, seed, count):
    """What the checksums keep from the pickle's reader otherwise."""
    path = save(tmp_path / "x.pt", {**plain(), "args": argparse.Namespace(lr=1)})
    with zipfile.ZipFile(path) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    pickled = tmp_path / "pickle"

    def read_pickled(place):
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in {**content, "x/data.pkl": place.read_bytes()}.items():
                archive.writestr(name, data)
        try:
            read_all(path)
        except FileError as error:
            raise FileError(f"{place}: {error}") from error

    broken = check_reader(read_pickled, content["x/data.pkl"], pickled, seed=seed, count=count)
    print(broken, "refused")
    assert broken > count // 2


@measures_memory
def test_one_tensor_at_a_time_is_in_memory(tmp_path):
    """Four of 100 MB: writing, reading and writing again stay within 2.2 of one, and 200 MB."""
    grown = peak_growth(
        """
        from sgdm.convert.checkpoint import Checkpoint, Slot, Stored
        from sgdm.convert.files.torch_zip import prepare, read
        n = 25_000_000
        new = Stored((n,), torch.float32, lambda: torch.ones(n))
        slots = [Slot(name=name, parameter=new, buffer=new) for name in "ab"]
        known = {"lr": 0.1, "momentum": 0.9}
        """,
        """
        first, second = paths
        prepare(first, Checkpoint(convention="torch", slots=slots, hyperparameters=known))()
        with read(first) as checkpoint:
            prepare(second, checkpoint)()
        """,
        tmp_path / "x",
        tmp_path / "y",
    )
    assert grown < (2.2 * 100 + 200) * 1e6
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
