"""What the processes of a run decide together: a norm, an overflow, and that they are one run.

Each question is answered on the meshes of the DTensors that are stepped, with one message where a
mesh has one dimension or all processes. Parameters that are no DTensors are the same on every
process, as under DistributedDataParallel, and so are the answers about them.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from sgdm.engines.choose import prepare
from sgdm.engines.plan import (
    GradientNorm,
    Options,
    OverRanks,
    Part,
    PreparedStep,
    Rule,
    StepPlan,
    TensorUpdate,
)
from sgdm.errors import InvalidUseError, InvalidValueError
from sgdm.recurrence import Coefficients
from sgdm.shards import is_whole

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor.placement_types import Placement

__all__ = ["any_rank", "ask", "check_meshes", "check_ranks", "sum_over_ranks"]

_Groups = list[dist.ProcessGroup | None]  # None for all processes


class _Layout(NamedTuple):
    """Where a tensor is, and whether this process is the one that answers for its shard."""

    mesh: "DeviceMesh | None"
    counts: bool


_PLAIN = _Layout(None, counts=True)
_NOWHERE = _Layout(None, counts=False)  # on other processes only


class Asked(NamedTuple):
    """What there is to know before a step; on all processes the same, but for which parameter.

    Attributes:
        found: Whether GradScaler has found an overflow.
        finite: Whether all gradients are.
        norm: Of all gradients, each counted once, with a parameter of this process that is not
            finite; None where it was not asked for.
    """

    found: bool
    finite: bool = True
    norm: GradientNorm | None = None


def ask(plan: StepPlan, prepared: PreparedStep, engine: str, options: Options) -> Asked:
    """Ask what the options want to know.

    Args:
        plan: The step.
        prepared: The same, prepared.
        engine: What prepared it.
        options: What is asked.
    """
    found = options.found_inf is not None and bool(options.found_inf)
    if not plan.wholes:
        if found or not options.measures:
            return Asked(found)
        norm = prepared.gradient_norm()
        return Asked(found, norm.nonfinite is None, norm)
    if not options.measures:
        return Asked(any_rank(found, plan.wholes) if options.found_inf is not None else found)
    norms = _norms(plan, prepared, engine)
    bad_ones = [norm.nonfinite for norm in norms.values() if norm.nonfinite is not None]
    nonfinite = bad_ones[0] if bad_ones else None
    squares: list[float] = []
    # A process that has no gradient on a mesh answers too.
    own = dict.fromkeys(_meshes(plan.wholes), 0.0)
    for (mesh, counts), norm in norms.items():
        square = norm.square if counts else 0.0
        if mesh is None:
            squares.append(square)
        else:
            own[mesh] += square
    flags = float(nonfinite is not None), float(found)
    for mesh, mine in own.items():
        square, *flags = _summed((mine, *flags), mesh)  # found on one, they go on to the next
        squares.append(square)
    bad, found = map(bool, flags)
    return Asked(found, not bad, GradientNorm.of_squares(squares, nonfinite))


def sum_over_ranks(plan: StepPlan) -> OverRanks | None:
    """Return how what the device of each process knows is added up, so that none waits for it.

    It is None for a process where not all of it is laid out alike. That one asks the same of the
    others as they do.
    """
    layouts = set(_layouts_of(plan))
    meshes = _meshes(plan.wholes)
    if len(layouts) != 1 or [layout.mesh for layout in layouts] != meshes:
        return None
    layout = layouts.pop()

    def add_up(sums: Tensor) -> None:
        if not layout.counts:
            sums[0] = 0.0
        _sum(sums, meshes[0])

    return add_up


def any_rank(value: bool, wholes: Iterable[Tensor]) -> bool:
    """Whether it is so on any process of the meshes of these DTensors."""
    for mesh in _meshes(wholes):
        value = _summed((0.0, 0.0, float(value)), mesh)[2] != 0
    return value


def check_ranks(optimizer: Optimizer, group: dist.ProcessGroup | None = None) -> None:
    """Check that an optimizer is the same on all processes: hyperparameters and parameters.

    Under DistributedDataParallel nothing else notices where they differ, and the copies of the
    model drift apart. `sgdm.SGD` looks by itself, at its first step, where its parameters are
    DTensors.

    Args:
        optimizer: Any `torch.optim.Optimizer`.
        group: The processes; None for all.

    Raises:
        InvalidValueError: On all of them, with what differs first.
        InvalidUseError: Without `torch.distributed.init_process_group`.

    Example:
        >>> import torch, sgdm, torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> sgdm.check_ranks(sgdm.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1))
        >>> dist.destroy_process_group()
    """
    if not dist.is_initialized():
        raise InvalidUseError(
            "check_ranks() must be called in a run of several processes, got none; call "
            "torch.distributed.init_process_group first"
        )
    device = "cuda" if "nccl" in dist.get_backend(group) else "cpu"
    _check(_description(optimizer, None), [group], device)


def check_meshes(optimizer: Optimizer, wholes: Iterable[Tensor]) -> None:
    """Check that an optimizer is the same wherever the shards of its DTensors are.

    Raises:
        InvalidValueError: On all processes, with what differs first.
    """
    for mesh in _meshes(wholes):
        _check(_description(optimizer, mesh), _groups(mesh), mesh.device_type)


def _norms(plan: StepPlan, prepared: PreparedStep, engine: str) -> dict[_Layout, GradientNorm]:
    """Return the norms of the gradients of this process, by where they are."""
    layouts = list(_layouts_of(plan))
    if layouts and layouts.count(layouts[0]) == len(layouts):
        return {layouts[0]: prepared.gradient_norm()}
    updates = [update for part in plan.parts for update in part.updates()]
    return {
        layout: prepare(StepPlan(parts=[part]), engine).gradient_norm()
        for layout, part in _by_layout(updates, layouts).items()
    }


def _layouts_of(plan: StepPlan) -> Iterator[_Layout]:
    return _layouts(whole for part in plan.parts for whole in part.wholes or part.params)


def _by_layout(updates: Iterable[TensorUpdate], layouts: Iterable[_Layout]) -> dict[_Layout, Part]:
    """Return the gradients, by where they are."""
    parts: dict[_Layout, Part] = {}
    for update, layout in zip(updates, layouts, strict=True):
        part = parts.setdefault(layout, Part(_MEASURED))
        part.params.append(update.param)
        part.gradients.append(update.gradient)
    return parts


# No rule is applied where gradients are only measured.
_MEASURED = Rule(Coefficients(0, 0, 0, 0, 1, 1, 0, "none"))


def _layouts(wholes: Iterable[Tensor]) -> Iterator[_Layout]:
    """Yield where each is. Neighbours are mostly laid out alike, so the last answer is kept."""
    mesh, placements, layout = None, None, _NOWHERE
    for whole in wholes:
        if not is_whole(whole):
            yield _PLAIN
            continue
        # The attributes of a DTensor take four times as long.
        spec = whole._spec  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        if spec.mesh is not mesh or spec.placements != placements:
            mesh, placements = spec.mesh, spec.placements
            layout = _layout(mesh, placements)
        yield layout


def _layout(mesh: "DeviceMesh", placements: Iterable["Placement"]) -> _Layout:
    place = mesh.get_coordinate()
    if place is None:
        return _NOWHERE
    # A replica is counted where it is the first.
    counts = all(
        i == 0 for i, placed in zip(place, placements, strict=True) if placed.is_replicate()
    )
    return _Layout(mesh, counts)


def _meshes(wholes: Iterable[Tensor]) -> list["DeviceMesh"]:
    """Return the meshes, in the order of the parameters, which is the same on all processes."""
    meshes = dict.fromkeys(layout.mesh for layout in _layouts(wholes))
    return [mesh for mesh in meshes if mesh is not None]


def _groups(mesh: "DeviceMesh") -> _Groups:
    """Return groups such that what is reduced over one after the other is reduced over the mesh."""
    if mesh.size() == dist.get_world_size():
        return [None]
    return list(mesh.get_all_groups())


def _summed(numbers: Iterable[float], mesh: "DeviceMesh") -> list[float]:
    sums = torch.tensor(list(numbers), dtype=torch.float64, device=mesh.device_type)
    _sum(sums, mesh)
    return cast("list[float]", sums.tolist())


def _sum(sums: Tensor, mesh: "DeviceMesh") -> None:
    for group in _groups(mesh):
        dist.all_reduce(sums, group=group)


def _description(optimizer: Optimizer, mesh: "DeviceMesh | None") -> list[str]:
    """Say what an optimizer is, as far as a mesh is concerned: a line for each thing."""
    lines = [
        f"{name}={getattr(optimizer, name)!r}"
        for name in ("max_grad_norm", "nonfinite")
        if hasattr(optimizer, name)
    ]
    for i, group in enumerate(optimizer.param_groups):
        params: list[Tensor] = group["params"]
        names = group.get("param_names") or range(len(params))
        layouts = list(_layouts(params))
        if mesh is not None and not any(x.mesh == mesh or x == _PLAIN for x in layouts):
            continue  # it is of other processes, which these may know nothing of
        held = [
            f"group {i}, parameter {name}: {_described(param)}"
            for name, param, layout in zip(names, params, layouts, strict=True)
            if mesh is None or layout.mesh == mesh
        ]
        settings = {key: group[key] for key in optimizer.defaults if key in group}
        lines += [f"group {i}: {key}={_plain(value)!r}" for key, value in settings.items()]
        lines += [*held, f"group {i}: {len(held)} parameters"]
    return lines


def _described(param: Tensor) -> str:
    placed = f", {param.placements}" if is_whole(param) else ""
    return f"{tuple(param.shape)}, {param.dtype}{placed}"


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 else value


def _check(lines: list[str], groups: _Groups, device: str) -> None:
    digest = hashlib.sha256("\n".join(lines).encode()).digest()
    number = int.from_bytes(digest[:8], "big") >> 2
    extremes = torch.tensor([number, -number], dtype=torch.int64, device=device)
    for group in groups:
        dist.all_reduce(extremes, op=dist.ReduceOp.MAX, group=group)
    largest, negated_smallest = cast("list[int]", extremes.tolist())
    if largest != -negated_smallest:
        raise _difference(_gathered(lines, groups))


def _gathered(lines: list[str], groups: _Groups) -> dict[int, list[str]]:
    """Return everybody's lines, by rank."""
    found = {dist.get_rank(): lines}
    for group in groups:
        each: list[Any] = [None] * dist.get_world_size(group)
        dist.all_gather_object(each, found, group=group)
        found = {rank: own for one in each for rank, own in one.items()}
    return dict(sorted(found.items()))


def _difference(found: Mapping[int, list[str]]) -> InvalidValueError:
    first, *others = found
    other = next(rank for rank in others if found[rank] != found[first])
    longest = max(len(found[first]), len(found[other]))
    here, there = (found[r] + ["nothing"] * (longest - len(found[r])) for r in (first, other))
    i = next(i for i in range(longest) if here[i] != there[i])
    return InvalidValueError.of(
        "the optimizer",
        f"the same on all processes, as on rank {first}: {here[i]}",
        f"on rank {other}: {there[i]}",
        "build it from the same arguments everywhere",
    )
