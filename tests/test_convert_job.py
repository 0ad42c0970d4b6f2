"""`sgdm convert`: whole files from one format and convention to another."""

import json
import os
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import sgdm
from in_memory import slot
from peak_memory import measures_memory, peak_growth
from sgdm.cli import app
from sgdm.convert.checkpoint import Checkpoint, Times
from sgdm.convert.formats import FORMATS, Format, get_format
from sgdm.convert.job import Job, convert_file
from sgdm.convert.matching import NameMap
from sgdm.errors import FileError, InvalidUseError, InvalidValueError

KERAS = Path(__file__).parent / "conformance" / "files" / "keras-training.keras"


def model() -> torch.nn.Sequential:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))


def train(network, optimizer, steps=4) -> list[float]:
    losses = []
    generator = torch.Generator().manual_seed(11)
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.randn(5, 3, generator=generator)
        loss = network(x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    network = model()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    train(network, optimizer)
    path = tmp_path / "torch.pt"
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, path)
    return path


def job(source: Path, target: Path, old: str, new: str, **options) -> Job:
    return Job(source=source, target=target, source_format=old, target_format=new, **options)


def test_there_and_back_training_goes_on_as_if_nothing_had_happened(checkpoint, tmp_path):
    middle, end = tmp_path / "keras.safetensors", tmp_path / "end.pt"
    made = convert_file(job(checkpoint, middle, "torch", "safetensors", convention="keras"))
    assert (made.source, made.target) == ("torch", "keras3")
    assert made.map is not None
    assert made.map.identical == "while lr is constant"
    convert_file(job(middle, end, "safetensors", "torch"))
    losses = []
    for path in (checkpoint, end):
        network = model()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.1)
        saved = torch.load(path, weights_only=True)
        network.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        assert optimizer.param_groups[0]["lr"] == 0.1
        assert optimizer.param_groups[0]["nesterov"] is True
        losses.append(train(network, optimizer))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_converted_state_is_loaded_by_its_convention(checkpoint, tmp_path):
    end = tmp_path / "end.pt"
    convert_file(job(checkpoint, end, "torch", "torch", convention="keras"))
    network = model()
    saved = torch.load(end, weights_only=True)
    network.load_state_dict(saved["model"])
    optimizer = sgdm.SGD(network.parameters(), lr=0.1, momentum=0.9, convention="keras")
    optimizer.load_state_dict(saved["optimizer"])
    plain = model()
    other = torch.optim.SGD(plain.parameters(), lr=0.1)
    kept = torch.load(checkpoint, weights_only=True)
    plain.load_state_dict(kept["model"])
    other.load_state_dict(kept["optimizer"])
    assert train(network, optimizer) == pytest.approx(train(plain, other), rel=1e-6)


def test_a_table_of_what_was_done(checkpoint, tmp_path):
    made = convert_file(
        job(checkpoint, tmp_path / "x.safetensors", "torch", "safetensors", convention="caffe")
    )
    assert [row.name for row in made.rows] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    saved = torch.load(checkpoint, weights_only=True)
    for index, row in enumerate(made.rows):
        b = saved["optimizer"]["state"][index]["momentum_buffer"]
        assert row.shape == tuple(b.shape)
        assert row.before == pytest.approx(b.norm().item())
        assert row.after == pytest.approx(0.1 * b.norm().item())


def test_progress_counts_the_buffers(checkpoint, tmp_path):
    seen = []
    target = tmp_path / "x.safetensors"
    convert_file(job(checkpoint, target, "torch", "safetensors"), progress=seen.append)
    assert seen == [4, 4, 4, 4]


def test_a_dry_run_writes_nothing_and_finds_what_is_wrong(checkpoint, tmp_path):
    target = tmp_path / "x.safetensors"
    made = convert_file(job(checkpoint, target, "torch", "safetensors", dry_run=True))
    assert all(row.after is not None for row in made.rows)
    assert not target.exists()
    broken = bytearray(checkpoint.read_bytes())
    place = broken.index(b"data/0") + 200
    broken[place] ^= 1
    checkpoint.write_bytes(bytes(broken))
    with pytest.raises(FileError, match=str(checkpoint)):
        convert_file(job(checkpoint, target, "torch", "safetensors", dry_run=True))


def test_names_are_mapped_and_written_in_the_templates_order(checkpoint, tmp_path):
    names = NameMap({"/(\\d)\\.(weight|bias)/": "layer\\1.\\2"})
    middle = tmp_path / "named.safetensors"
    convert_file(job(checkpoint, middle, "torch", "safetensors", names=names))
    template = tmp_path / "template.pt"
    torch.save(model().state_dict(), template)
    back = NameMap({"layer*.weight": "*.weight", "layer*.bias": "*.bias"})
    end = tmp_path / "end.pt"
    made = convert_file(job(middle, end, "safetensors", "torch", names=back, template=template))
    assert [row.target for row in made.rows] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    kept, saved = (torch.load(p, weights_only=True) for p in (checkpoint, end))
    for index, state in kept["optimizer"]["state"].items():
        written = saved["optimizer"]["state"][index]["momentum_buffer"]
        assert torch.equal(state["momentum_buffer"], written)


def test_what_has_no_counterpart_is_an_error_unless_it_is_allowed(checkpoint, tmp_path):
    target = tmp_path / "x.safetensors"
    template = tmp_path / "template.pt"
    other = model().state_dict()
    other["extra"] = torch.zeros(3)
    del other["0.bias"]
    torch.save(other, template)
    target = tmp_path / "x.pt"
    given = job(checkpoint, target, "torch", "torch", template=template)
    with pytest.raises(FileError) as caught:
        convert_file(given)
    assert str(caught.value) == (
        f"{checkpoint}: without a counterpart in the template: 0.bias (as 0.bias); without a "
        "counterpart in the source: extra; give a mapping file that fits, or allow it"
    )
    assert not target.exists()
    made = convert_file(replace(given, allow_unmatched=True))
    assert (made.matched.unused, made.matched.missing) == (["0.bias (as 0.bias)"], ["extra"])
    saved = torch.load(target, weights_only=True)
    assert list(saved["model"]) == list(other)
    assert torch.equal(saved["model"]["extra"], other["extra"])
    kept = torch.load(checkpoint, weights_only=True)
    assert torch.equal(saved["model"]["0.weight"], kept["model"]["0.weight"])


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_what_is_missing_stays_as_the_template_has_it(checkpoint, tmp_path, suffix):
    """A new head on an old body, with an optimizer of several groups."""
    name = {"pt": "torch", "safetensors": "safetensors"}[suffix]
    network = model().append(torch.nn.Linear(2, 2))
    groups = [
        {"params": list(network[:3].named_parameters())},
        {"params": [(f"3.{n}", p) for n, p in network[3].named_parameters()], "lr": 0.7},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.3, momentum=0.5)
    template, target = tmp_path / "t.pt", tmp_path / f"x.{suffix}"
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, template)
    if suffix == "safetensors":
        convert_file(job(template, tmp_path / "t.safetensors", "torch", name))
        template = tmp_path / "t.safetensors"
    convert_file(job(checkpoint, target, "torch", name, template=template, allow_unmatched=True))
    convert_file(job(target, tmp_path / "end.pt", name, "torch"))
    saved = torch.load(tmp_path / "end.pt", weights_only=True)
    network.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.7]
    assert [group["momentum"] for group in optimizer.param_groups] == [0.9, 0.5]
    assert network[3].weight not in optimizer.state
    kept = torch.load(checkpoint, weights_only=True)["optimizer"]["state"]
    assert torch.equal(
        optimizer.state[network[2].get_parameter("bias")]["momentum_buffer"],
        kept[3]["momentum_buffer"],
    )


def test_a_rule_that_fits_nothing_is_an_error_unless_it_is_allowed(checkpoint, tmp_path):
    given = job(checkpoint, tmp_path / "x.pt", "torch", "torch", names=NameMap({"conv*": "c*"}))
    with pytest.raises(FileError, match=r"rules of the mapping that fit nothing: conv\*; give"):
        convert_file(given)
    convert_file(replace(given, allow_unmatched=True))


def test_a_target_that_is_named_as_another_format_is_refused(checkpoint, tmp_path):
    with pytest.raises(
        InvalidValueError, match=r"target must be named as a file of format 'torch'"
    ):
        convert_file(job(checkpoint, tmp_path / "x.safetensors", "torch", "torch"))


def test_a_convention_that_a_file_makes_up_is_its_error(tmp_path):
    path = tmp_path / "x.pt"
    optimizer = sgdm.SGD(model().parameters(), lr=0.1)
    saved = optimizer.state_dict()
    saved["param_groups"][0]["convention"] = "\x1b[31mmine"
    torch.save(saved, path)
    with pytest.raises(FileError) as caught:
        convert_file(job(path, tmp_path / "y.pt", "torch", "torch"))
    assert str(caught.value) == (
        f"{path}: convention: \\x1b[31mmine is not known; see sgdm conventions"
    )


def test_a_state_that_cannot_be_converted_leaves_the_target_as_it_was(checkpoint, tmp_path):
    target = tmp_path / "x.safetensors"
    target.write_text("as it was")
    with pytest.raises(InvalidUseError, match="state cannot be converted from 'torch' to 'ema'"):
        convert_file(job(checkpoint, target, "torch", "safetensors", convention="ema"))
    assert target.read_text() == "as it was"
    made = convert_file(
        job(checkpoint, target, "torch", "safetensors", convention="qhm", port=True)
    )
    assert made.map is not None
    assert made.map.ported


def test_numbers_that_are_needed_are_asked_for(checkpoint, tmp_path):
    saved = torch.load(checkpoint, weights_only=True)
    with pytest.raises(InvalidValueError, match="lr must be a finite number >= 0"):
        convert_file(
            job(
                checkpoint,
                tmp_path / "x.pt",
                "torch",
                "torch",
                convention="keras",
                hyperparameters={"lr": -1.0},
            )
        )
    bare = tmp_path / "bare.pt"
    torch.save(saved["model"], bare)
    made = convert_file(job(bare, tmp_path / "y.safetensors", "torch", "safetensors"))
    assert made.map is None


@pytest.fixture
def grouped(tmp_path):
    """Half-way through, with groups that differ in what a conversion goes by."""
    network = model()
    groups = [
        {"params": list(network[0].named_parameters(prefix="0"))},
        {
            "params": list(network[2].named_parameters(prefix="2")),
            "lr": 0.01,
            "weight_decay": 0.1,
            "momentum": 0.5,
        },
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    train(network, optimizer)
    path = tmp_path / "grouped.pt"
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, path)
    return network, optimizer, path


@pytest.mark.parametrize("convention", ["torch", "keras", "caffe"])
def test_every_group_is_converted_by_its_own_numbers(grouped, tmp_path, convention):
    network, optimizer, path = grouped
    middle, end = tmp_path / "b.safetensors", tmp_path / "c.pt"
    convert_file(job(path, middle, "torch", "safetensors", convention=convention))
    convert_file(job(middle, end, "safetensors", "torch"))
    again = model()
    saved = torch.load(end, weights_only=True)
    groups = [{"params": again[0].parameters()}, {"params": again[2].parameters()}]
    loaded = torch.optim.SGD(groups)
    again.load_state_dict(saved["model"])
    loaded.load_state_dict(saved["optimizer"])
    numbers = [(g["lr"], g["momentum"], g["weight_decay"]) for g in loaded.param_groups]
    assert numbers == [(0.1, 0.9, 0), (0.01, 0.5, 0.1)]
    assert train(again, loaded) == pytest.approx(train(network, optimizer), rel=1e-6)


def test_one_lr_is_not_given_for_groups_that_have_their_own(grouped, tmp_path):
    given = job(grouped[2], tmp_path / "b.pt", "torch", "torch", hyperparameters={"lr": 0.3})
    with pytest.raises(InvalidValueError, match=r"lr must be left out where .*: 2.weight, 2.bias"):
        convert_file(given)


def test_what_a_format_does_not_hold_of_single_parameters_is_named(grouped, tmp_path):
    """A `.solverstate` has neither; of lr_mult a template would say."""
    alone = tmp_path / "alone.pt"
    torch.save(grouped[1].state_dict(), alone)
    made = convert_file(job(alone, tmp_path / "x.solverstate", "torch", "caffe"))
    assert [remark for remark in made.remarks if "not held by caffe" in remark] == [
        "lr of 2.weight, 2.bias: not held by caffe",
        "momentum of 2.weight, 2.bias: not held by caffe",
        "weight_decay of 2.weight, 2.bias: not held by caffe",
    ]


def test_a_multiple_of_the_file_s_lr_is_a_group(tmp_path, monkeypatch):
    """As Caffe's lr_mult; and a template's multiple holds, whatever the source had."""
    network = model()
    own = {"params": [network[0].bias, network[2].bias], "lr": 0.2}
    groups = [{"params": [network[0].weight, network[2].weight]}, own]
    optimizer = sgdm.SGD(groups, lr=0.1, momentum=0.9, convention="caffe")
    train(network, optimizer)
    written = {}
    fake: Any = ModuleType("sgdm.convert.files.fake")

    @contextmanager
    def read(path, weights=None):
        yield Checkpoint(
            convention="caffe",
            slots=[
                slot(
                    name,
                    p,
                    optimizer.state[p]["momentum_buffer"],
                    own={"lr": Times(2)} if "bias" in name else {},
                )
                for name, p in network.named_parameters()
            ],
        )

    fake.read = read
    fake.prepare = lambda path, checkpoint, template: (
        lambda: written.update((slot.name, slot.buffer.read()) for slot in checkpoint.slots)
    )
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    monkeypatch.setitem(FORMATS, "fake", Format("fake", "caffe"))
    path, given = tmp_path / "x.pt", {"lr": 0.1, "momentum": 0.9, "nesterov": False}
    convert_file(job(tmp_path, path, "fake", "torch", hyperparameters=given))
    again = model()
    saved = torch.load(path, weights_only=True)
    again.load_state_dict(saved["model"])
    named = dict(again.named_parameters())
    names = [group["param_names"] for group in saved["optimizer"]["param_groups"]]
    loaded = torch.optim.SGD([{"params": [named[name] for name in its]} for its in names])
    loaded.load_state_dict(saved["optimizer"])
    assert [group["lr"] for group in loaded.param_groups] == [0.1, 0.2]
    made = convert_file(job(path, tmp_path / "y", "torch", "fake", template=tmp_path))
    assert made.remarks == []
    for name, p in network.named_parameters():
        b = optimizer.state[p]["momentum_buffer"]
        assert torch.allclose(written[name], b, rtol=1e-6), name
    assert train(again, loaded) == pytest.approx(train(network, optimizer), rel=1e-5)
    one = convert_file(
        job(path_of_one_group(tmp_path), tmp_path / "y", "torch", "fake", template=tmp_path)
    )
    assert one.remarks == [
        "lr of 0.bias, 2.bias: in the target it is what the template makes of it"
    ]


def path_of_one_group(folder) -> Path:
    network = model()
    optimizer = torch.optim.SGD(network.named_parameters(), lr=0.1, momentum=0.9)
    train(network, optimizer)
    path = folder / "one.pt"
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, path)
    return path


def test_a_template_does_not_override_the_run(checkpoint, tmp_path):
    """Its lr, momentum, nesterov and decay are those of a run that never was."""
    template, middle, end = tmp_path / "t.pt", tmp_path / "b.safetensors", tmp_path / "c.pt"
    fresh = model()
    other = sgdm.SGD(fresh.named_parameters(), lr=0.02, momentum=0.5, weight_decay_mode="absolute")
    torch.save({"model": fresh.state_dict(), "optimizer": other.state_dict()}, template)
    convert_file(job(checkpoint, middle, "torch", "safetensors", convention="keras"))
    made = job(middle, end, "safetensors", "torch", template=template)
    convert_file(made)
    (group,) = torch.load(end, weights_only=True)["optimizer"]["param_groups"]
    assert (group["lr"], group["momentum"], group["nesterov"]) == (0.1, 0.9, True)
    assert group.get("weight_decay_mode") is None
    convert_file(replace(made, hyperparameters={"lr": 0.3}))
    (group,) = torch.load(end, weights_only=True)["optimizer"]["param_groups"]
    assert group["lr"] == 0.3


def test_a_template_of_another_convention_is_refused(checkpoint, tmp_path):
    template = tmp_path / "t.pt"
    fresh = model()
    other = sgdm.SGD(fresh.named_parameters(), lr=0.02, convention="caffe")
    torch.save({"model": fresh.state_dict(), "optimizer": other.state_dict()}, template)
    with pytest.raises(FileError) as caught:
        convert_file(job(checkpoint, tmp_path / "x.pt", "torch", "torch", template=template))
    assert str(caught.value) == (
        f"{template}: template: its convention is 'caffe', and 'torch' is to be written; give a "
        "template of the convention that is converted to"
    )


@pytest.mark.parametrize("trained", [False, True])
def test_a_first_step_that_would_be_another_is_refused_as_in_memory(tmp_path, trained):
    """torch's first buffer is the whole gradient, whatever the dampening."""
    network, path = model(), tmp_path / "a.pt"
    optimizer = torch.optim.SGD(network.named_parameters(), lr=0.1, momentum=0.8, dampening=0.5)
    if trained:
        network[2].requires_grad_(False)
        train(network, optimizer)
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, path)
    given = job(path, tmp_path / "b.pt", "torch", "torch", convention="keras", port=True)
    with pytest.raises(InvalidUseError, match=r"before every parameter has made its first step"):
        convert_file(given)


def test_without_a_buffer_rules_and_numbers_are_checked_all_the_same(tmp_path):
    network, path = model(), tmp_path / "a.pt"
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, path)
    given = job(path, tmp_path / "b.pt", "torch", "torch", convention="ema")
    with pytest.raises(InvalidUseError, match=r"port=True takes lr=1, momentum=0.9"):
        convert_file(given)
    convert_file(replace(given, port=True))
    (group,) = torch.load(given.target, weights_only=True)["optimizer"]["param_groups"]
    assert (group["convention"], group["lr"]) == ("ema", pytest.approx(1.0))
    for name, value in {"lr": -1.0, "momentum": float("nan"), "weight_decay": -1.0}.items():
        with pytest.raises(InvalidValueError, match=f"{name} must be a finite number >= 0"):
            convert_file(replace(given, convention=None, hyperparameters={name: value}))


def test_what_the_target_s_rule_has_no_place_for_is_not_written(tmp_path):
    """ν of quasi-hyperbolic momentum, which would make torch's file another convention's."""
    network, path, end = model(), tmp_path / "a.pt", tmp_path / "b.pt"
    optimizer = sgdm.SGD(network.parameters(), lr=0.1, momentum=0.9, convention="qhm", nu=0.9)
    train(network, optimizer)
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, path)
    convert_file(job(path, end, "torch", "torch", port=True))
    saved = torch.load(end, weights_only=True)
    (group,) = saved["optimizer"]["param_groups"]
    assert {"nu", "convention"}.isdisjoint(group)
    again = model()
    loaded = torch.optim.SGD(again.parameters())
    again.load_state_dict(saved["model"])
    loaded.load_state_dict(saved["optimizer"])
    assert train(again, loaded) == pytest.approx(train(network, optimizer), rel=1e-5)


@pytest.mark.parametrize("middle", ["b.pt", "b.safetensors"])
def test_the_first_lr_and_the_last_momentum_come_along(tmp_path, middle):
    """Both are of the past, and the coming step depends on them."""
    for convention, change in (("composer", {"lr": 0.01}), ("kaldi-nnet3", {"momentum": 0.6})):
        network, path = model(), tmp_path / "a.pt"
        decay: dict[str, Any] = {"weight_decay": 0.3} if convention == "composer" else {}
        optimizer = sgdm.SGD(
            network.parameters(), lr=0.1, momentum=0.9, convention=convention, **decay
        )
        train(network, optimizer)
        optimizer.param_groups[0].update(change)
        torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, path)
        name = {".pt": "torch"}.get(Path(middle).suffix, "safetensors")
        options = {"convention": convention}
        convert_file(job(path, tmp_path / middle, "torch", name, **options))
        convert_file(job(tmp_path / middle, tmp_path / "c.pt", name, "torch", **options))
        again = model()
        saved = torch.load(tmp_path / "c.pt", weights_only=True)
        loaded = sgdm.SGD(again.parameters(), lr=0.7, convention=convention)
        again.load_state_dict(saved["model"])
        loaded.load_state_dict(saved["optimizer"])
        for key in ("lr0", "last_momentum"):
            assert loaded.param_groups[0].get(key) == optimizer.param_groups[0].get(key)
        assert train(again, loaded) == train(network, optimizer), convention


def test_a_decay_that_torch_does_not_know_is_ported_or_refused(tmp_path):
    network, path, end = model(), tmp_path / "a.pt", tmp_path / "b.pt"
    optimizer = sgdm.SGD(
        network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.2, convention="keras"
    )
    train(network, optimizer)
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, path)
    with pytest.raises(InvalidUseError, match=r"port=True takes lr=0.1, momentum=0.882"):
        convert_file(job(path, end, "torch", "torch"))
    convert_file(job(path, end, "torch", "torch", port=True))
    again = model()
    saved = torch.load(end, weights_only=True)
    loaded = torch.optim.SGD(again.parameters())
    again.load_state_dict(saved["model"])
    loaded.load_state_dict(saved["optimizer"])
    assert train(again, loaded) == pytest.approx(train(network, optimizer), rel=1e-5)


def test_a_decay_that_only_sgdm_knows_stays_in_a_copy_and_is_named(tmp_path):
    network, path, end = model(), tmp_path / "a.pt", tmp_path / "b.pt"
    optimizer = sgdm.SGD(
        network.named_parameters(), lr=0.1, momentum=0.9, weight_decay=0.2, weight_decay_mode="lr"
    )
    train(network, optimizer)
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, path)
    assert convert_file(job(path, end, "torch", "torch")).remarks == [
        "weight_decay_mode='lr': sgdm.SGD decays so, torch.optim.SGD does not"
    ]
    again = model()
    saved = torch.load(end, weights_only=True)
    loaded = sgdm.SGD(again.parameters())
    again.load_state_dict(saved["model"])
    loaded.load_state_dict(saved["optimizer"])
    assert train(again, loaded) == train(network, optimizer)


def test_with_a_learning_rate_of_zero_one_rule_is_copied_to_the_bit(checkpoint, tmp_path):
    """As in the first step of a warm-up."""
    middle, end = tmp_path / "b.safetensors", tmp_path / "c.pt"
    given: dict[str, Any] = {"hyperparameters": {"lr": 0.0}}
    convert_file(job(checkpoint, middle, "torch", "safetensors", **given))
    convert_file(job(middle, end, "safetensors", "torch"))
    old, new = (torch.load(path, weights_only=True) for path in (checkpoint, end))
    assert new["optimizer"]["param_groups"][0]["lr"] == 0.0
    for index, state in old["optimizer"]["state"].items():
        b = new["optimizer"]["state"][index]["momentum_buffer"]
        assert torch.equal(b, state["momentum_buffer"])
    with pytest.raises(InvalidUseError, match="before a step with lr = 0"):
        convert_file(replace(job(middle, end, "safetensors", "torch"), convention="keras"))


def test_weights_alone_as_a_template_tell_nothing_of_groups(grouped, tmp_path):
    network, _, path = grouped
    template, end = tmp_path / "t.pt", tmp_path / "c.pt"
    torch.save(network.state_dict(), template)
    convert_file(job(path, end, "torch", "torch", template=template))
    groups = torch.load(end, weights_only=True)["optimizer"]["param_groups"]
    assert [group["lr"] for group in groups] == [0.1, 0.01]


def test_what_a_template_leaves_open_is_said(checkpoint, tmp_path):
    made = convert_file(job(checkpoint, tmp_path / "x.pt", "torch", "torch", template=checkpoint))
    assert made.remarks == [
        "the optimizer names no parameters: taken to be in the model's order "
        "(SGD(model.named_parameters(), ...) names them)"
    ]


@pytest.mark.parametrize("lr", [5e-324, 1.7e308])
def test_numbers_beyond_every_float_are_refused(checkpoint, tmp_path, lr):
    middle, given = tmp_path / "b.safetensors", {"hyperparameters": {"lr": lr}}
    convert_file(job(checkpoint, middle, "torch", "safetensors", convention="keras", **given))
    if lr < 1:
        with pytest.raises(InvalidUseError, match="numbers beyond every float"):
            convert_file(job(middle, tmp_path / "c.pt", "safetensors", "torch"))


@pytest.mark.parametrize("target", [".", "/", "a\0b"])
def test_what_is_no_place_for_a_file_is_refused_in_a_dry_run_too(checkpoint, target):
    with pytest.raises(FileError, match="cannot be written"):
        convert_file(job(checkpoint, Path(target), "torch", "torch", dry_run=True))


def test_through_a_symlink_its_file_is_written(checkpoint, tmp_path):
    real, link = tmp_path / "real.pt", tmp_path / "link.pt"
    link.symlink_to(real)
    convert_file(job(checkpoint, link, "torch", "torch"))
    assert link.is_symlink()
    assert torch.load(real, weights_only=True)["model"].keys()


@pytest.mark.parametrize("name", ["torch", "safetensors"])
def test_a_pipe_is_no_source(tmp_path, name):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(FileError, match="is no regular file"):
        convert_file(job(pipe, tmp_path / "x", name, "torch"))


def test_what_16_bits_lose_is_named(tmp_path):
    network, path = model().bfloat16(), tmp_path / "a.pt"
    optimizer = torch.optim.SGD(network.named_parameters(), lr=0.1, momentum=0.9)
    for p in network.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, path)
    given = job(path, tmp_path / "b.safetensors", "torch", "safetensors")
    assert convert_file(given).remarks == []
    assert convert_file(replace(given, convention="keras")).remarks == [
        "momentum of 0.weight, 0.bias, 2.weight, 2.bias is rounded to torch.bfloat16 once more"
    ]


def test_statistics_of_batchnorm_come_along(tmp_path, seed):
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.SGD(network.named_parameters(), lr=0.1, momentum=0.9)
    train(network, optimizer)
    path, middle, end = tmp_path / "a.pt", tmp_path / "b.safetensors", tmp_path / "c.pt"
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, path)
    convert_file(job(path, middle, "torch", "safetensors", convention="keras"))
    convert_file(job(middle, end, "safetensors", "torch", template=path))
    again = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    saved = torch.load(end, weights_only=True)
    again.load_state_dict(saved["model"])  # strictly
    for name, tensor in network.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    loaded = torch.optim.SGD(again.parameters())
    loaded.load_state_dict(saved["optimizer"])
    assert train(again, loaded) == pytest.approx(train(network, optimizer), rel=1e-5)


def test_names_are_shown_without_what_a_terminal_would_do(tmp_path):
    path, target = tmp_path / "a.pt", tmp_path / "b.pt"
    torch.save({f"\x1b]0;{i}\x07": torch.ones(1) for i in range(2000)}, path)
    result = invoke("convert", path, target, "--from", "torch", "--to", "torch")
    assert "\x1b" not in result.output
    template = tmp_path / "t.pt"
    torch.save({"a": torch.ones(1)}, template)
    given = ["convert", path, target, "--from", "torch", "--to", "torch", "--template", template]
    with pytest.raises(FileError) as caught:
        invoke(*given)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@measures_memory
@pytest.mark.parametrize(("dtype", "convention"), [("bfloat16", "keras"), ("float32", "sutskever")])
def test_two_of_the_largest_tensor_are_in_memory(tmp_path, dtype, convention):
    """Norms and maps go in pieces, also one that needs the parameter and moves it."""
    n = 200_000_000 // getattr(torch, dtype).itemsize
    p = torch.nn.Parameter(torch.zeros(n, dtype=getattr(torch, dtype)))
    optimizer = torch.optim.SGD([("p", p)], lr=0.1, momentum=0.9, nesterov=True)
    p.grad = torch.ones_like(p)
    optimizer.step()
    path = tmp_path / "a.pt"
    torch.save({"model": {"p": p.detach()}, "optimizer": optimizer.state_dict()}, path)
    grown = peak_growth(
        "from sgdm.convert.job import Job, convert_file",
        f"""
        source, target = paths
        kinds = {{"source_format": "torch", "target_format": "safetensors"}}
        convert_file(Job(source=source, target=target, convention={convention!r}, **kinds))
        """,
        path,
        tmp_path / "b",
    )
    assert grown < (2.2 * 200 + 200) * 1e6


def test_the_kind_of_decay_is_written_where_it_is_not_the_conventions_own(tmp_path):
    network = model()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    train(network, optimizer)
    path, middle, end = tmp_path / "a.pt", tmp_path / "b.safetensors", tmp_path / "c.pt"
    torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict()}, path)
    convert_file(job(path, middle, "torch", "safetensors", convention="keras"))
    convert_file(job(middle, end, "safetensors", "torch", convention="keras"))
    (group,) = torch.load(end, weights_only=True)["optimizer"]["param_groups"]
    assert (group["convention"], group["weight_decay_mode"]) == ("keras3", "coupled")
    again = model()
    loaded = sgdm.SGD(again.parameters(), convention="keras")
    saved = torch.load(end, weights_only=True)
    again.load_state_dict(saved["model"])
    loaded.load_state_dict(saved["optimizer"])
    assert train(again, loaded) == pytest.approx(train(network, optimizer), rel=1e-5)


def test_formats_are_named():
    with pytest.raises(InvalidValueError, match=r"format must be one of torch, .*, got 'onnx'"):
        get_format("onnx")
    for name, found in FORMATS.items():
        module = found.load()
        assert callable(module.read), name
        assert callable(module.prepare), name
        assert found.convention is None or sgdm.get_convention(found.convention).runs


def test_a_format_that_needs_a_template_asks_for_it(checkpoint, tmp_path):
    with pytest.raises(InvalidValueError, match="template must be a file of the same model for"):
        convert_file(job(checkpoint, tmp_path / "x.keras", "torch", "keras"))


def test_a_format_has_the_convention_it_has(checkpoint, tmp_path):
    with pytest.raises(InvalidValueError, match="convention must be 'keras3', which the format"):
        convert_file(
            job(
                checkpoint,
                tmp_path / "x.keras",
                "torch",
                "keras",
                template=KERAS,
                convention="torch",
                allow_unmatched=True,
                names=NameMap({"2.weight": "dense/kernel"}),
            )
        )


# ---- the command ----


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def test_the_command_prints_a_table(tmp_path):
    target = tmp_path / "x.pt"
    result = invoke("convert", KERAS, target, "--from", "keras", "--to", "torch")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert lines[0] == "parameter becomes shape layout norm then"
    assert lines[1].startswith("conv2d/kernel conv2d/kernel 6x1x3x3 HWIO -> OIHW ")
    assert "keras3 to torch: the same trajectory while lr is constant." in lines
    assert lines[-1] == f"{target} written"
    assert target.exists()


def test_the_command_takes_a_mapping_file_and_a_dry_run(checkpoint, tmp_path):
    names = tmp_path / "names.toml"
    names.write_text("[names]\n'*.weight' = 'w*'\n'*.bias' = 'b*'\n")
    target = tmp_path / "x.safetensors"
    given = ["convert", checkpoint, target, "--from", "torch", "--to", "safetensors"]
    result = invoke(*given, "--map", names, "--dry-run")
    assert f"{target} would be written" in result.stdout
    assert not target.exists()
    assert invoke(*given, "--map", names).exit_code == 0
    length = int.from_bytes(target.read_bytes()[:8], "little")
    header = json.loads(target.read_bytes()[8 : 8 + length])
    assert {"w0", "b0", "w2", "b2"} <= set(header)
