"""What is accepted has its effect, once; what makes no sense is refused."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from sgdm.audit.case import Case
from sgdm.audit.cases.changes import LRS

__all__ = ["CASES"]


def keywords_have_an_effect(
    make: Callable[..., Any], keyword: str, values: tuple[float, float], more: Mapping[str, Any]
) -> None:
    """Where steps are so small that decay is lost in rounding, nothing is said."""
    start, gradients = torch.logspace(-6, 0, 50).view(5, 10), torch.randn(4, 5, 10)
    p, q = (torch.nn.Parameter(start.clone()) for _ in range(2))
    for x, value in zip((p, q), values, strict=True):
        optimizer = make([x], **{keyword: value}, **more)
        for g in gradients:
            x.grad = g.clone()
            optimizer.step()
    same = torch.equal(p, q) and (p - start).abs().max() > 1e-6
    assert not same, f"{keyword} {values[0]} and {values[1]} make the same four steps"


def nesterov_has_an_effect(make: Callable[..., Any]) -> None:
    """What is always Nesterov's may ignore False; plain momentum goes on by 0.9 of its step."""
    moved: list[float] = []
    for nesterov in (False, True):
        p = torch.nn.Parameter(torch.zeros(2, 2))
        optimizer = make([p], momentum=0.9, nesterov=nesterov)
        for g in (1.0, 0.0):
            before, p.grad = p.detach().clone(), torch.full_like(p, g)
            optimizer.step()
            moved.append(torch.dist(p, before).item())
    plain = abs(moved[1] - 0.9 * moved[0]) < 0.05 * moved[0]
    assert moved[:2] != moved[2:] or not plain, "nesterov=True makes the steps of plain momentum"


def maximize_has_an_effect(make: Callable[..., Any]) -> None:
    p, q = (torch.nn.Parameter(torch.zeros(4, 4)) for _ in range(2))
    g = torch.randn(4, 4)
    p.grad, q.grad = g, -g
    make([p], maximize=True).step()
    make([q], maximize=False).step()
    same = torch.dist(p, q) <= 0.1 * torch.dist(q, torch.zeros(4, 4))
    assert same, "maximize=True makes other steps than the gradient turned round"


def unknown_keywords_are_refused(make: Callable[..., Any]) -> None:
    from contextlib import suppress

    accepted = False
    with suppress(Exception):
        make([torch.nn.Parameter(torch.ones(2, 2))], no_such_keyword=0.9)
        accepted = True
    assert not accepted, "no_such_keyword=0.9 is accepted"


def nan_and_infinity_are_refused(make: Callable[..., Any], keyword: str, value: str) -> None:
    """By the constructor, or at the latest by the first step."""
    from contextlib import suppress

    p = torch.nn.Parameter(torch.ones(2, 2))
    p.grad, accepted = torch.ones_like(p), False
    with suppress(Exception):
        make([p], **{keyword: float(value)}).step()
        accepted = True
    assert not accepted, f"{keyword}={value} is accepted"


def negative_numbers_are_refused(make: Callable[..., Any], keyword: str) -> None:
    """By the constructor, or at the latest by the first step."""
    from contextlib import suppress

    p = torch.nn.Parameter(torch.ones(2, 2))
    p.grad, accepted = torch.ones_like(p), False
    with suppress(Exception):
        make([p], **{keyword: -0.5}).step()
        accepted = True
    assert not accepted, f"{keyword}=-0.5 is accepted"


def a_change_of_lr_is_heeded(make: Callable[..., Any]) -> None:
    p, q = (torch.nn.Parameter(torch.full((4, 4), 1e-4)) for _ in range(2))
    for x, lr in ((p, 0.1), (q, 0.01)):
        optimizer = make([x], lr=0.1)
        for now in (0.1, lr, lr):
            optimizer.param_groups[0]["lr"] = now
            x.grad = torch.arange(16.0).sin().view(4, 4)
            optimizer.step()
    assert not torch.equal(p, q), "after a step, 0.01 in place of 0.1 as lr changes nothing"


def a_tensor_lr_is_heeded(make: Callable[..., Any]) -> None:
    """What takes a tensor and stores a number need not see it change."""
    p, q = (torch.nn.Parameter(torch.full((4, 4), 1e-4)) for _ in range(2))
    for x, factor in ((p, 1.0), (q, 0.1)):
        optimizer = make([x], lr=torch.tensor(0.1))
        kept = torch.is_tensor(optimizer.param_groups[0]["lr"])
        for change in (1.0, factor):
            torch.as_tensor(optimizer.param_groups[0]["lr"]).mul_(change)
            x.grad = torch.arange(16.0).sin().view(4, 4)
            optimizer.step()
    assert not (kept and torch.equal(p, q)), "a tensor lr, changed in place, is not heeded"


def a_change_of_lr_acts_once(make: Callable[..., Any]) -> None:
    """Momentum goes on without gradients: as before, or scaled once, by the convention."""
    moved: list[float] = []
    for lr in (0.1, 0.01):
        p = torch.nn.Parameter(torch.zeros(2, 2))
        optimizer = make([p], lr=0.1, momentum=0.9)
        for g, now in ((1.0, 0.1), (0.0, lr), (0.0, lr)):
            optimizer.param_groups[0]["lr"] = now
            p.grad, before = torch.full_like(p, g), p.detach().clone()
            optimizer.step()
        moved.append(torch.dist(p, before).item())
    twice = any(abs(moved[1] - moved[0] * k) < 0.05 * moved[0] * k for k in (0.01, 10, 100))
    assert not twice, f"after lr/10 momentum moves by {moved[1]:.3g}, before by {moved[0]:.3g}"


def momentum_may_change(make: Callable[..., Any], momenta: tuple[float, ...]) -> None:
    """Compared with 0.9 all the time."""
    p, q = (torch.nn.Parameter(torch.zeros(4, 4)) for _ in range(2))
    for x, path in ((p, (0.9,) * 6), (q, momenta)):
        optimizer = make([x], momentum=path[0])
        known = "momentum" in optimizer.param_groups[0]
        for step, momentum in enumerate(path):
            optimizer.param_groups[0]["momentum"] = momentum
            x.grad = torch.arange(16.0).add(step).sin().view(4, 4)
            optimizer.step()
    a, b = (torch.dist(x, torch.zeros(4, 4)).item() for x in (p, q))
    assert not (known and a) or (a != b and b <= 10 * a), f"0.9 moves {a:g}, {momenta} {b:g} far"


_KEYWORDS: tuple[tuple[str, tuple[float, float], dict[str, float]], ...] = (
    ("momentum", (0.5, 0.9), {}),
    ("weight_decay", (0.0, 0.5), {}),
    ("weight_decay", (0.0, 0.5), {"momentum": 0.0}),
    ("weight_decay", (0.0, 0.5), {"momentum": 0.9}),
    ("dampening", (0.0, 0.5), {"momentum": 0.9}),
)

CASES = (
    Case(
        defect="a keyword is accepted and ignored",
        body=keywords_have_an_effect,
        settings=tuple(
            {"keyword": keyword, "values": values, "more": lr | more}
            for lr in LRS
            for keyword, values, more in _KEYWORDS
        ),
    ),
    Case(
        defect="nesterov is accepted and ignored",
        body=nesterov_has_an_effect,
        needs=("momentum", "nesterov"),
        may_refuse=True,
    ),
    Case(
        defect="maximize is accepted and ignored",
        body=maximize_has_an_effect,
        needs=("maximize",),
    ),
    Case(defect="an unknown keyword is swallowed", body=unknown_keywords_are_refused),
    Case(
        defect="NaN or infinity is accepted as a hyperparameter",
        body=nan_and_infinity_are_refused,
        settings=tuple(
            {"keyword": keyword, "value": value}
            for keyword in ("lr", "momentum", "weight_decay", "dampening")
            for value in ("nan", "inf")
        ),
    ),
    Case(
        defect="a negative hyperparameter is accepted",
        body=negative_numbers_are_refused,
        settings=tuple({"keyword": keyword} for keyword in ("lr", "momentum", "weight_decay")),
        note=True,
    ),
    Case(
        defect="a change of lr is not heeded",
        body=a_change_of_lr_is_heeded,
        needs=("lr", "momentum"),  # what adapts each element's step may ask only for the first
        torch_only=True,
    ),
    Case(
        defect="a change of a tensor lr is not heeded",
        body=a_tensor_lr_is_heeded,
        needs=("lr", "momentum"),
        torch_only=True,
        may_refuse=True,
    ),
    Case(
        defect="a change of lr acts twice",
        body=a_change_of_lr_acts_once,
        needs=("lr", "momentum"),
        torch_only=True,
    ),
    Case(
        defect="a change of momentum is mishandled",
        body=momentum_may_change,
        settings=(
            {"momenta": (0.9, 0.9, 0.0, 0.0, 0.9, 0.9)},
            {"momenta": (0.0, 0.0, 0.0, 0.0, 0.9, 0.9)},
        ),
        needs=("momentum",),
        torch_only=True,
    ),
)
