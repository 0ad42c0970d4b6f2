"""torch's operations as a step needs them: on one tensor, or on many of one kind together.

Many are stepped by torch's `_foreach_*`, which it has kernels for on some devices, and which it
takes apart elsewhere.
"""

from typing import Any, Protocol, TypeVar, cast

import torch
from torch import (
    Tensor,
    _foreach_add,  # pyright: ignore[reportPrivateUsage]
    _foreach_add_,  # pyright: ignore[reportPrivateUsage]
    _foreach_copy_,  # pyright: ignore[reportPrivateUsage]
    _foreach_lerp_,  # pyright: ignore[reportPrivateUsage]
    _foreach_mul,  # pyright: ignore[reportPrivateUsage]
    _foreach_mul_,  # pyright: ignore[reportPrivateUsage]
    _foreach_neg,  # pyright: ignore[reportPrivateUsage]
    _foreach_norm,  # pyright: ignore[reportPrivateUsage]
)

__all__ = ["MANY", "ONE", "Operations", "X", "norms_of"]

X = TypeVar("X")  # a tensor, or a list of tensors


class Operations(Protocol[X]):
    """What a step does to tensors."""

    def dtype(self, x: X) -> torch.dtype:
        """Return what they are stored as."""
        ...

    def clone(self, x: X) -> X:
        """Return a copy."""
        ...

    def negated(self, x: X) -> X:
        """Return -x."""
        ...

    def to(self, x: X, dtype: torch.dtype) -> X:
        """Return x in a dtype; x itself where it is of that."""
        ...

    def copy_(self, to: X, x: X) -> X:
        """Write x, in the dtype of what it is written to."""
        ...

    def scaled(self, x: X, by: Any, *, in_place: bool = False) -> X:
        """Return by*x."""
        ...

    def added(self, x: X, y: X, by: Any, *, in_place: bool = False) -> X:
        """Return x + by*y, evaluated also where by is 0: there 0 * inf is NaN, as in torch."""
        ...

    def move_towards_(self, x: X, y: X, weight: float) -> None:
        """Set x to x + weight*(y - x)."""
        ...


class _One(Operations[Tensor]):
    """On one tensor. What is not in place is recorded by autograd, coefficients too."""

    def dtype(self, x: Tensor) -> torch.dtype:
        return x.dtype

    def clone(self, x: Tensor) -> Tensor:
        return x.clone()

    def negated(self, x: Tensor) -> Tensor:
        return -x

    def to(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return x.to(dtype)

    def copy_(self, to: Tensor, x: Tensor) -> Tensor:
        return to.copy_(x)

    def scaled(self, x: Tensor, by: Any, *, in_place: bool = False) -> Tensor:
        return x.mul_(by) if in_place else x * by

    def added(self, x: Tensor, y: Tensor, by: Any, *, in_place: bool = False) -> Tensor:
        if isinstance(by, Tensor):
            return x.addcmul_(y, by) if in_place else torch.addcmul(x, y, by)
        return x.add_(y, alpha=by) if in_place else torch.add(x, y, alpha=by)

    def move_towards_(self, x: Tensor, y: Tensor, weight: float) -> None:
        x.lerp_(y, weight)


_Tensors = list[Tensor]


class _Many(Operations[_Tensors]):
    """On tensors of the same dtype and device."""

    def dtype(self, x: _Tensors) -> torch.dtype:
        return x[0].dtype

    def clone(self, x: _Tensors) -> _Tensors:
        return [one.clone() for one in x]

    def negated(self, x: _Tensors) -> _Tensors:
        return [*_foreach_neg(x)]

    def to(self, x: _Tensors, dtype: torch.dtype) -> _Tensors:
        return [one.to(dtype) for one in x]

    def copy_(self, to: _Tensors, x: _Tensors) -> _Tensors:
        _foreach_copy_(to, x)
        return to

    def scaled(self, x: _Tensors, by: Any, *, in_place: bool = False) -> _Tensors:
        if in_place:
            _foreach_mul_(x, by)
            return x
        return [*_foreach_mul(x, by)]

    def added(self, x: _Tensors, y: _Tensors, by: Any, *, in_place: bool = False) -> _Tensors:
        if in_place:
            _foreach_add_(x, y, alpha=by)
            return x
        return [*_foreach_add(x, y, alpha=by)]

    def move_towards_(self, x: _Tensors, y: _Tensors, weight: float) -> None:
        _foreach_lerp_(x, y, weight)


ONE, MANY = _One(), _Many()


def norms_of(tensors: list[Tensor]) -> list[float]:
    """Return the Euclidean norm of each, added up in float64. All are of one dtype and device."""
    first, *others = tensors
    wide = torch.complex128 if first.is_complex() else torch.float64
    if not others:
        return [cast("float", torch.linalg.vector_norm(first, dtype=wide).item())]
    return cast("list[float]", torch.stack(_foreach_norm(tensors, 2, dtype=wide)).tolist())
