"""Every element of every tensor is stepped, and by its own gradient."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from sgdm.audit.case import Case
from sgdm.audit.cases.changes import LRS

__all__ = ["CASES"]


def every_element_moves(
    make: Callable[..., Any], n: int, dtype: torch.dtype, more: Mapping[str, Any]
) -> None:
    """Sizes around the widths of vector registers; three of float32 show how far one goes."""
    sizes = ((3, torch.float32), (n, dtype))
    few, p = (torch.nn.Parameter(torch.full((k,), 1e-4, dtype=t)) for k, t in sizes)
    start = p.detach().clone()
    for x in (few, p):
        optimizer = make([x], **more)
        x.grad = torch.ones_like(x)
        for _ in range(3):
            optimizer.step()
    moved = int((p != start).sum())
    assert moved == n or (few - 1e-4).abs().max() < 1e-4, f"{moved} of {n} elements moved"


def equal_elements_stay_equal(
    make: Callable[..., Any], n: int, dtype: torch.dtype, more: Mapping[str, Any]
) -> None:
    """But for rounding, which differs between a vector register and the tail."""
    p = torch.nn.Parameter(torch.full((n,), 1e-4, dtype=dtype))
    optimizer = make([p], **more)
    for g in (1.0, 0.7, 0.4):
        p.grad = torch.full_like(p, g)
        optimizer.step()
    low, high = p.min().item(), p.max().item()
    differ = high - low > 0.1 * max(high, -low)
    assert not differ, f"{n} equal elements became {low:.3g} to {high:.3g}"


def sixteen_bits_step_alike(
    make: Callable[..., Any], dtype: torch.dtype, start: float, more: Mapping[str, Any]
) -> None:
    """But for rounding, and for what is too large for them."""
    dtypes = (torch.float32, dtype)
    p, q = (torch.nn.Parameter(torch.full((8, 8), start, dtype=t)) for t in dtypes)
    for x in (p, q):
        optimizer = make([x], **more)
        for g in (1.0, 0.5):
            x.grad = torch.full_like(x, g)
            optimizer.step()
    off, far = (p - q).abs().max().item(), (p - start).abs().max().item()
    fine = off <= max(far / 4, start / 50, 1e-4) or far > 1e4
    assert fine, f"what goes {far:.3g} in float32 is {off:.3g} off in {dtype}"


def gradient_strides_are_heeded(make: Callable[..., Any], shape: tuple[int, ...]) -> None:
    p, q = (torch.nn.Parameter(torch.ones(shape)) for _ in range(2))
    p.grad = torch.randn(shape)
    q.grad = p.grad.mT.contiguous().mT
    for x in (p, q):
        optimizer = make([x])
        for _ in range(2):
            optimizer.step()
    same = torch.dist(p, q) <= 0.1 * torch.dist(p, torch.ones(shape))
    assert same, "a transposed gradient of the same values makes another step"


def parameter_strides_are_heeded(make: Callable[..., Any], shape: tuple[int, ...]) -> None:
    g = torch.randn(shape)
    p, q = (torch.nn.Parameter(torch.ones_like(x)) for x in (g, g.mT.contiguous().mT))
    for x in (p, q):
        optimizer = make([x])
        for _ in range(2):
            x.grad = torch.empty_like(x).copy_(g)
            optimizer.step()
    same = torch.dist(p, q) <= 0.1 * torch.dist(p, torch.ones(shape))
    assert same, "a transposed parameter with its gradient takes another step"


def memory_formats_are_heeded(
    make: Callable[..., Any], own: torch.memory_format, other: torch.memory_format
) -> None:
    g, start = torch.randn(2, 3, 4, 5), torch.ones(2, 3, 4, 5)
    p, q = (torch.nn.Parameter(x) for x in (start.clone(), start.clone(memory_format=own)))
    p.grad, q.grad = g.clone(), g.clone(memory_format=other)
    for x in (p, q):
        optimizer = make([x])
        for _ in range(2):
            optimizer.step()
    same = torch.dist(p, q) <= 0.1 * torch.dist(p, start)
    assert same, "a parameter and its gradient in different memory formats make another step"


def gaps_are_heeded(make: Callable[..., Any], n: int) -> None:
    g = torch.randn(n, n)
    p, q = (torch.nn.Parameter(x) for x in (torch.ones(n, n), torch.ones(n, 2 * n)[:, ::2]))
    for x in (p, q):
        optimizer = make([x])
        for _ in range(2):
            x.grad = g.clone()
            optimizer.step()
    same = torch.dist(p, q) <= 0.1 * torch.dist(p, torch.ones(n, n))
    assert same, "every second column of a matrix takes another step than a matrix of its own"


def memory_beside_is_left_alone(make: Callable[..., Any], n: int) -> None:
    whole = torch.ones(n, 2 * n)
    p = torch.nn.Parameter(whole[:, ::2])
    p.grad = torch.ones(n, n)
    optimizer = make([p])
    for _ in range(2):
        optimizer.step()
    wrong = int((whole[:, 1::2] != 1).sum())
    assert not wrong, f"{wrong} elements beside the parameter were changed"


def a_view_is_written_through(make: Callable[..., Any]) -> None:
    """Flat buffers and tied weights hold the parameter's memory, not the parameter."""
    whole = torch.ones(6, 4)
    p = torch.nn.Parameter(whole[2:4])
    p.grad = torch.ones(2, 4)
    make([p]).step()
    assert torch.equal(whole[2:4], p), "the parameter was given other memory"


def empty_tensors_are_no_trouble(make: Callable[..., Any], shape: tuple[int, ...]) -> None:
    p, q = (torch.nn.Parameter(torch.ones(3, 3)) for _ in range(2))
    empty = torch.nn.Parameter(torch.ones(shape))
    for x in (p, q, empty):
        x.grad = torch.ones_like(x)
    for params in ([p], [empty, q], [empty]):
        optimizer = make(params)
        for _ in range(2):
            optimizer.step()
    a, b = p[0, 0].item(), q[0, 0].item()
    assert torch.allclose(p, q), f"1 becomes {a:g} alone, and {b:g} behind an empty tensor"


def scalars_move(make: Callable[..., Any]) -> None:
    p, q = (torch.nn.Parameter(torch.ones(k, dtype=torch.float64)) for k in ((), 1))
    for x in (p, q):
        optimizer = make([x])
        x.grad = torch.ones_like(x)
        for _ in range(3):
            optimizer.step()
    assert p != 1 or q == 1, "a tensor without dimensions does not move, one of one element does"


_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_MANY = 100_003  # for what works in chunks


def _settings(*sizes: int) -> tuple[dict[str, Any], ...]:
    kinds = [(n, dtype) for n in sizes for dtype in _DTYPES] + [(_MANY, torch.float32)]
    return tuple({"n": n, "dtype": dtype, "more": lr} for lr in LRS for n, dtype in kinds)


CASES = (
    Case(
        defect="elements are not updated",
        body=every_element_moves,
        settings=_settings(1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 64, 1000, 4099),
        may_refuse=True,
    ),
    Case(
        defect="elements of one tensor take different steps",
        body=equal_elements_stay_equal,
        settings=_settings(5, 9, 17, 33, 67, 1001),
        may_refuse=True,
    ),
    Case(
        defect="16-bit tensors take other steps",
        body=sixteen_bits_step_alike,
        settings=tuple(
            {"dtype": dtype, "start": start, "more": lr | more}
            for start, more in ((1e-4, {}), (1.0, {"weight_decay": 1.0}))
            for lr in LRS
            for dtype in (torch.bfloat16, torch.float16)
        ),
        may_refuse=True,
    ),
    Case(
        defect="the gradient's strides are ignored",
        body=gradient_strides_are_heeded,
        settings=({"shape": (2, 2)}, {"shape": (5, 3)}, {"shape": (2, 3, 4, 5)}),
    ),
    Case(
        defect="the parameter's strides are ignored",
        body=parameter_strides_are_heeded,
        settings=({"shape": (2, 2)}, {"shape": (5, 3)}, {"shape": (2, 3, 4, 5)}),
    ),
    Case(
        defect="memory formats are mixed up",
        body=memory_formats_are_heeded,
        settings=(
            {"own": torch.channels_last, "other": torch.contiguous_format},
            {"own": torch.contiguous_format, "other": torch.channels_last},
        ),
    ),
    Case(
        defect="gaps in the parameter's memory are ignored",
        body=gaps_are_heeded,
        settings=({"n": 2}, {"n": 33}),
        may_refuse=True,
    ),
    Case(
        defect="memory beside the parameter is written",
        body=memory_beside_is_left_alone,
        settings=({"n": 2}, {"n": 33}),
        may_refuse=True,
    ),
    Case(
        defect="a parameter that is a view is cut off from its base", body=a_view_is_written_through
    ),
    Case(
        defect="tensors without elements are not handled",
        body=empty_tensors_are_no_trouble,
        settings=({"shape": (0,)}, {"shape": (3, 0)}),
    ),
    Case(defect="tensors without dimensions are not updated", body=scalars_move, may_refuse=True),
)
