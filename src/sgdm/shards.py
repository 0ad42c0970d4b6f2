"""DTensors as an engine steps them: the shard of each that this process holds.

A step is elementwise, so the shards of a parameter, its gradient and its state can be stepped by
themselves where all of them are laid out alike. That is checked here, and what is not is mended or
refused. Nothing is dispatched through DTensor, which takes 50 us an operation.
"""

import gc
import sys
from collections.abc import Container, Iterable
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import torch
from torch import Tensor, nn

from sgdm.engines.native import know_sharded
from sgdm.errors import InvalidUseError, InvalidValueError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = [
    "as_whole",
    "check_layout",
    "gradient_shard",
    "is_whole",
    "laid_out_as",
    "refuse_replaced",
    "shard_of",
]

_PLAIN = (Tensor, nn.Parameter)
_known: list[type] = []  # DTensor, once one may exist


def is_whole(x: Tensor) -> "TypeGuard[DTensor]":
    """Whether it is a DTensor. Its module takes a second to load, and is left alone until then."""
    if type(x) in _PLAIN:
        return False
    if not _known:
        module = sys.modules.get("torch.distributed.tensor")
        if module is None:
            return False
        know_sharded(module.DTensor, torch._C.DisableTorchFunctionSubclass)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        _known.append(module.DTensor)
    return isinstance(x, _known[0])


def shard_of(x: Tensor) -> Tensor:
    """Return the part of a DTensor that this process holds; any other tensor as it is."""
    if not is_whole(x):
        return x
    # x.to_local() returns a view of a parameter, made anew at each call.
    local: Any = x._local_tensor  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return local.wait() if hasattr(local, "wait") else local  # it may be on its way


def gradient_shard(param: Tensor, gradient: Tensor) -> Tensor:
    """Return the shard of a gradient that belongs to the shard of its parameter.

    If neither is a DTensor, it is the gradient. One that is laid out otherwise on the same
    processes, such as one that each of them has a part of the sum of, is brought into the layout of
    its parameter: they communicate.

    Raises:
        InvalidValueError: If only one of the two is a DTensor, or they are of different processes
            or shapes.
    """
    if not (is_whole(param) or is_whole(gradient)):
        return gradient
    if is_whole(param) and is_whole(gradient):
        if param._spec is gradient._spec:  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
            return shard_of(gradient)  # as fully_shard makes them; to compare takes microseconds
        alike = param.shape == gradient.shape and param.device_mesh == gradient.device_mesh
        if alike and not any(placement.is_partial() for placement in param.placements):
            return shard_of(_redistributed(param, gradient))
    raise _misplaced("gradient", param, gradient, "let autograd compute it for this parameter")


def as_whole(shard: Tensor, like: Tensor) -> Tensor:
    """Return the DTensor of shards laid out as those of another."""
    if not is_whole(like):
        return shard
    return type(like).from_local(
        shard,
        like.device_mesh,
        like.placements,
        run_check=False,
        shape=like.shape,
        stride=like.stride(),
    )


def check_layout(name: str, param: Tensor, state: Tensor) -> None:
    """Refuse a parameter's state that cannot be brought into its layout.

    Raises:
        InvalidValueError: If it is a DTensor and the parameter is not, or is on other processes.
    """
    if is_whole(state) and not (is_whole(param) and param.device_mesh == state.device_mesh):
        remedy = "load it by torch.distributed.checkpoint.state_dict.set_optimizer_state_dict"
        raise _misplaced(name, param, state, remedy)


def laid_out_as(param: Tensor, state: Tensor) -> Tensor:
    """Return a parameter's state in its layout, or as it is, if it is laid out so.

    Every process keeps its shard of a plain tensor, which all of them hold.
    """
    if not is_whole(param):
        return state
    if is_whole(state):
        return _redistributed(param, state)
    from torch.distributed.tensor import distribute_tensor  # noqa: PLC0415 - it is loaded already

    return distribute_tensor(state, param.device_mesh, param.placements, src_data_rank=None)


def refuse_replaced(params: Iterable[Tensor]) -> None:
    """Refuse to step parameters that have been replaced by DTensors in their module.

    `fully_shard` and `parallelize_module` put new parameters into the module. An optimizer that
    was built before holds the old ones, which never get a gradient again.

    Args:
        params: The optimizer's.

    Raises:
        InvalidUseError: If one that has no gradient belongs to no module any more, and a module
            has a DTensor of its shape that is none of the optimizer's.
    """
    own = {id(p): p for p in params}
    plain = [p for p in own.values() if p.grad is None and p.requires_grad and type(p) in _PLAIN]
    if not plain or "torch.distributed.tensor" not in sys.modules:
        return
    replaced = _replaced(plain, own)
    if replaced:
        gc.collect()  # models of before hold DTensors until then; it takes longer than the look
        replaced = _replaced(plain, own)
    if replaced:
        raise InvalidUseError(
            f"params must be those of the model as it is trained, got {len(replaced)} that are in "
            f"no module any more, the first of shape {tuple(replaced[0].shape)}: the model was "
            "sharded after this optimizer was built, and now has DTensors in their place; build "
            "the optimizer after fully_shard or parallelize_module"
        )


def _replaced(params: Iterable[Tensor], own: Container[int]) -> list[Tensor]:
    """Return those of plain tensors that no module has, where one has a DTensor of their shape.

    Args:
        params: The plain tensors.
        own: The ids of tensors that replace none of them.
    """
    # Every module there is. Each kind of object is asked once, and none itself: some raise.
    objects = gc.get_objects()
    kinds = {kind for kind in set(map(type, objects)) if issubclass(kind, nn.Module)}
    modules: list[Any] = [x for x in objects if type(x) in kinds]
    # One that was made without Module.__init__ has no parameters.
    tables: Any = [getattr(m, "_parameters", {}) for m in modules]
    held: list[Tensor] = [p for table in tables for p in table.values() if p is not None]
    shapes = {tuple(p.shape) for p in held if is_whole(p) and id(p) not in own}
    known = set(map(id, held))
    return [p for p in params if id(p) not in known and tuple(p.shape) in shapes]


def _redistributed(param: "DTensor", x: "DTensor") -> "DTensor":
    if param.placements == x.placements:
        return x
    with torch.no_grad():
        return x.redistribute(placements=param.placements)


def _misplaced(name: str, param: Tensor, received: Tensor, remedy: str) -> InvalidValueError:
    return InvalidValueError.of(
        name, f"laid out as its parameter is: {_layout(param)}", _layout(received), remedy
    )


def _layout(x: Tensor) -> str:
    if not is_whole(x):
        return f"a plain tensor of shape {tuple(x.shape)}"
    ranks = cast("list[int]", x.device_mesh.mesh.tolist())  # as text, meshes look alike
    return f"a DTensor of shape {tuple(x.shape)}, {x.placements} on the processes {ranks}"
