"""The gradient is the caller's: it may be missing, zero, late or reused, and is never written."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from sgdm.audit.case import Case

__all__ = ["CASES"]


def the_gradient_is_kept(make: Callable[..., Any], more: Mapping[str, Any]) -> None:
    p = torch.nn.Parameter(torch.ones(8, 8))
    optimizer = make([p], **more)
    for _ in range(3):
        g = p.grad = torch.randn(8, 8)
        before = g.clone()
        optimizer.step()
        assert torch.equal(g, before), f"p.grad[0, 0] was {before[0, 0]:g}, and is {g[0, 0]:g}"


def memory_of_gradients_is_reused(make: Callable[..., Any], more: Mapping[str, Any]) -> None:
    """As backward does after zero_grad(set_to_none=False)."""
    p, q = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    reusing, fresh = make([p], **more), make([q], **more)
    memory = torch.empty(4, 4)
    for g in torch.randn(3, 4, 4):
        p.grad, q.grad = memory.copy_(g), g.clone()
        reusing.step()
        fresh.step()
    same = torch.dist(p, q) <= 0.01 * torch.dist(q, torch.ones(4, 4))
    assert same, "gradients written into the old p.grad make other steps than new tensors do"


def a_first_gradient_may_be_late(make: Callable[..., Any], more: Mapping[str, Any]) -> None:
    """As after unfreezing. A group's common step count may make the late step somewhat other."""
    p, q = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    optimizer = make([p, q], **more)
    p.grad = torch.ones_like(p)
    optimizer.step()
    first = torch.dist(p, torch.ones(4, 4)).item()
    q.grad = torch.ones_like(q)
    optimizer.step()
    late = torch.dist(q, torch.ones(4, 4)).item()
    same = not first or first / 100 <= late <= first * 100
    assert same, f"the first step moves by {first:g}, and by {late:g} if it comes late"


def an_early_gradient_waits_for_none(make: Callable[..., Any], more: Mapping[str, Any]) -> None:
    p, other, q = (torch.nn.Parameter(torch.full((4, 4), 1e-3)) for _ in range(3))
    beside, alone = make([p, other], **more), make([q], **more)
    for _ in range(3):
        p.grad, q.grad = (torch.full((4, 4), 0.1) for _ in range(2))
        beside.step()
        alone.step()
    a, b = (x[0, 0].item() for x in (p, q))
    assert torch.allclose(p, q), f"beside one without gradient it goes to {a:g}, alone to {b:g}"


def a_late_first_step_is_a_first_step(make: Callable[..., Any]) -> None:
    """With dampening the first step of many rules is not like the others."""
    p, q = (torch.nn.Parameter(torch.ones(4, 4)) for _ in range(2))
    optimizer = make([p, q], momentum=0.9, dampening=0.5)
    for x in (p, q):
        x.grad = torch.ones_like(x)
        optimizer.step()
        x.grad = None
    a, b = p[0, 0].item(), q[0, 0].item()
    assert abs(a - b) <= 0.01 * abs(1 - a), f"the first step takes 1 to {a:g}, a late one to {b:g}"


def zero_gradients_are_harmless(make: Callable[..., Any], more: Mapping[str, Any]) -> None:
    p = torch.nn.Parameter(torch.ones(4, 4))
    p.grad = torch.zeros_like(p)
    optimizer = make([p], **more)
    for _ in range(2):
        optimizer.step()
    assert p.isfinite().all(), f"on a zero gradient 1 becomes {p[0, 0]:g}"


def no_gradient_no_step(make: Callable[..., Any], more: Mapping[str, Any]) -> None:
    p, q = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    optimizer = make([p, q], **more)
    q.grad = torch.ones_like(q)
    for _ in range(2):
        optimizer.step()
    assert (p == 1).all(), f"a parameter that never had a gradient went from 1 to {p[0, 0]:g}"


def a_parameter_rests_without_gradient(make: Callable[..., Any], more: Mapping[str, Any]) -> None:
    p, q = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    optimizer = make([p, q], **more)
    p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
    optimizer.step()
    p.grad, before = None, p[0, 0].item()
    optimizer.step()
    assert p[0, 0] == before, f"while its grad is None, a parameter goes from {before} to {p[0, 0]}"


def others_go_on_while_grad_is_none(make: Callable[..., Any], more: Mapping[str, Any]) -> None:
    """Where one's gradient shows in the other's step at all, the two are not compared."""
    ends: list[torch.Tensor] = []
    for gap in (torch.zeros(2, 2), torch.ones(2, 2), None):
        p, q = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2))
        optimizer = make([q, p], **more)
        for g in (torch.ones(2, 2), gap, gap, torch.ones(2, 2)):
            p.grad, q.grad = -3 * torch.ones(2, 2), g
            optimizer.step()
        ends.append(p)
    same = torch.allclose(ends[0], ends[2]) or not torch.allclose(ends[0], ends[1])
    assert same, "a parameter takes other steps while the grad of the one before it is None"


def a_zero_gradient_is_a_gradient(make: Callable[..., Any]) -> None:
    """What rests where single elements are zero does so by design, and is left alone."""
    moved: list[float] = []
    for x in (1.0, 0.0):
        p = torch.nn.Parameter(torch.zeros(1, 4))
        optimizer = make([p], momentum=0.9)
        for g in ([1.0, -1.0, 1.0, -1.0], [x, -x, 0.0, 0.0]):
            before = p.detach().clone()
            p.grad = torch.tensor([g])
            optimizer.step()
        moved.append((p - before)[0, 3].abs().item())
    assert moved[1] or not moved[0], "momentum does not go on when the whole gradient is zero"


_USUAL: tuple[Mapping[str, Any], ...] = (
    {"more": {}},
    {"more": {"momentum": 0.9}},
    {"more": {"weight_decay": 0.1}},
)

CASES = (
    Case(
        defect="gradients are overwritten",
        body=the_gradient_is_kept,
        settings=(
            *_USUAL,
            {"more": {"maximize": True}},
            {"more": {"momentum": 0.9, "nesterov": True}},
            {"more": {"momentum": 0.9, "weight_decay": 0.1}},
        ),
        may_refuse=True,
    ),
    Case(
        defect="a gradient's memory is kept as the buffer",
        body=memory_of_gradients_is_reused,
        settings=_USUAL,
    ),
    Case(
        defect="a late first gradient is mishandled",
        body=a_first_gradient_may_be_late,
        settings=(
            {"more": {}},
            {"more": {"momentum": 0.9}},
        ),
        torch_only=True,
    ),
    Case(
        defect="a parameter steps otherwise until the others have a gradient",
        body=an_early_gradient_waits_for_none,
        settings=(
            {"more": {}},
            {"more": {"momentum": 0.9}},
        ),
        torch_only=True,
    ),
    Case(
        defect="a late first step is no first step",
        body=a_late_first_step_is_a_first_step,
        needs=("momentum", "dampening"),
        torch_only=True,
    ),
    Case(
        defect="a parameter without gradient is changed",
        body=no_gradient_no_step,
        settings=_USUAL,
        torch_only=True,
    ),
    Case(
        defect="a parameter goes on while its grad is None",
        body=a_parameter_rests_without_gradient,
        settings=_USUAL,
        torch_only=True,
    ),
    Case(
        defect="grad is None for a while disturbs other parameters",
        body=others_go_on_while_grad_is_none,
        settings=_USUAL,
        torch_only=True,
    ),
    Case(defect="a zero gradient does harm", body=zero_gradients_are_harmless, settings=_USUAL),
    Case(
        defect="a zero gradient is taken for none",
        body=a_zero_gradient_is_a_gradient,
        needs=("momentum",),
    ),
)
