"""A step over several devices, each with its own engine.

This machine may have one device alone: then some of its tensors are said to be on another.
"""

import math
from typing import Any

import pytest
import torch

import sgdm
from cases import EVERY_RULE
from device_twins import NEEDS_GPU, Twins, assert_bits, drawn
from driving import buffer_of, make
from sgdm.engines import choose, devices, eager, native
from sgdm.errors import InvalidUseError, InvalidValueError

SHAPES = ((3,), (4, 2), (5,), (6,), ())
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"weight_decay": 0.1, "ema_decay": 0.9},
    {"max_grad_norm": 1.5, "buffer_dtype": torch.bfloat16},
    {"nonfinite": "skip", "maximize": True},
)


def said_device(param):
    return "one" if param.numel() % 2 else "other"


class OneDevice:
    """The native engine, as if it served tensors of one device."""

    def __init__(self) -> None:
        self.served: list[str] = []

    def prepare(self, plan):
        found = {said_device(param) for part in plan.parts for param in part.params}
        if len(found) > 1:
            return "a parameter is on another device"
        self.served += found
        return native.prepare(plan)


@pytest.fixture
def two(monkeypatch) -> OneDevice:
    engine = OneDevice()
    monkeypatch.setattr(devices, "_device_of", said_device)
    monkeypatch.setitem(choose._ENGINES, "auto", (engine,))
    return engine


@pytest.mark.parametrize(
    ("case", "arguments"), [(c, SETTINGS[i % 4]) for i, c in enumerate(EVERY_RULE)], ids=str
)
def test_every_rule_has_the_bits_of_one_device(case, arguments, two, seed):
    """With a parameter that comes late, so that first steps are beside later ones."""
    starts = drawn(shapes=SHAPES)
    pair = Twins(
        starts, lambda params, engine: make(case, params, engine=engine, **arguments), "auto"
    )
    for t in range(3):
        gradients = drawn(shapes=SHAPES)
        two.served.clear()
        pair.step([*gradients[:4], gradients[4] if t else None])
        assert set(two.served) == {"one", "other"}
        if arguments.keys() & {"max_grad_norm", "nonfinite"}:
            assert pair.mine.last_grad_norm == pytest.approx(pair.rival.last_grad_norm, rel=1e-14)
    pair.assert_equal()


def test_an_overflow_on_one_device_skips_the_step_of_all(two):
    params = [torch.nn.Parameter(torch.ones(n)) for n in (2, 3, 4)]
    optimizer = sgdm.SGD(params, nonfinite="skip", momentum=0.9)
    for p in params:
        p.grad = torch.full_like(p, math.inf if len(p) == 3 else 1.0)
    optimizer.step()
    assert optimizer.last_step_skipped
    assert all(torch.equal(p.detach(), torch.ones_like(p)) for p in params)
    assert not optimizer.state
    assert two.served


def test_a_gradient_that_is_not_finite_is_named(two):
    """The first in the order of the parameters, whatever its device."""
    params = [torch.nn.Parameter(torch.ones(n)) for n in (2, 3, 4)]
    optimizer = sgdm.SGD(params, nonfinite="raise")
    for p in params:
        p.grad = torch.full_like(p, math.nan if len(p) > 2 else 1.0)
    with pytest.raises(InvalidValueError, match="gradient of parameter 1 of group 0"):
        optimizer.step()
    assert set(two.served) == {"one", "other"}


def meta_and_cpu():
    return [
        torch.nn.Parameter(torch.empty(2, device="meta") if i % 2 else torch.randn(2))
        for i in range(5)
    ]


def test_each_device_has_the_engine_that_serves_it(monkeypatch, seed):
    on_eager: list[str] = []
    prepare = eager.prepare

    def noting(plan):
        on_eager.extend(p.device.type for part in plan.parts for p in part.params)
        return prepare(plan)

    params = meta_and_cpu()
    alone = [torch.nn.Parameter(p.detach().clone()) for p in params if p.device.type == "cpu"]
    mine, rival = (sgdm.SGD(x, lr=0.1, momentum=0.9, weight_decay=0.1) for x in (params, alone))
    monkeypatch.setattr(eager, "prepare", noting)
    for _ in range(3):
        on_eager.clear()
        for p in (*params, *alone):
            p.grad = torch.ones_like(p)
        mine.step()
        rival.step()
        assert on_eager == ["meta", "meta"]
    for p, q in zip(params[::2], alone, strict=True):
        assert_bits(p, q)
        assert_bits(buffer_of(mine, p), buffer_of(rival, q))
    assert all(buffer_of(mine, p).device.type == "meta" for p in params[1::2])


def test_a_buffer_on_another_device_is_refused_before_the_first_write(seed):
    params = meta_and_cpu()
    optimizer = sgdm.SGD(params, momentum=0.9)
    kept = params[0].detach().clone()
    for p in params:
        p.grad = torch.ones_like(p)
        optimizer.state[p]["momentum_buffer"] = torch.zeros(2, device=p.device)
    optimizer.state[params[4]]["momentum_buffer"] = torch.zeros(2, device="meta")
    with pytest.raises(InvalidValueError, match=r"on cpu, as its parameter is, got .*on meta"):
        optimizer.step()
    assert torch.equal(params[0].detach(), kept)


def test_a_named_engine_is_refused_where_it_does_not_serve_one_of_them(seed):
    params = meta_and_cpu()
    optimizer = sgdm.SGD(params, engine="native")
    kept = params[0].detach().clone()
    for p in params:
        p.grad = torch.ones_like(p)
    with pytest.raises(InvalidUseError, match="engine='native' cannot run this step"):
        optimizer.step()
    assert torch.equal(params[0].detach(), kept)


@NEEDS_GPU
@pytest.mark.parametrize("arguments", SETTINGS, ids=str)
def test_parameters_on_the_cpu_and_on_a_gpu(arguments, seed):
    starts = drawn(shapes=SHAPES)
    params = [torch.nn.Parameter(x.to("cuda" if i % 2 else "cpu")) for i, x in enumerate(starts)]
    alone = [torch.nn.Parameter(x) for x in starts]
    mine, rival = (sgdm.SGD(x, lr=0.1, momentum=0.9, **arguments) for x in (params, alone))
    for _ in range(3):
        for p, q in zip(params, alone, strict=True):
            q.grad = torch.randn_like(q)
            p.grad = q.grad.to(p.device)
        mine.step()
        rival.step()
    for p, q in zip(params, alone, strict=True):
        assert_bits(p.cpu(), q)
        assert_bits(buffer_of(mine, p).cpu(), buffer_of(rival, q))
