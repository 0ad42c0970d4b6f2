"""A step as the kernels make it: tensors are looked at on the host, all else is on the device."""

import math
from array import array
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from sgdm.engines import _native
from sgdm.engines.check import numbers_of
from sgdm.engines.plan import (
    DecidingStep,
    GradientNorm,
    Options,
    Outcome,
    OverRanks,
    Part,
    StepPlan,
)
from sgdm.engines.triton import kernels, layout
from sgdm.engines.triton.fit import fit
from sgdm.engines.triton.table import Key, Table, Tables, is_capturing
from sgdm.errors import InvalidUseError

__all__ = ["TritonStep", "prepare"]

_STEPPED = ("first", "running")  # buffers that are neither missing nor frozen
_LARGEST = torch.finfo(torch.float32).max
# Four warps, so that a thread has 8 elements. Each fma is written in the kernels: none is made of
# a multiplication and an addition.
_COMPILED: dict[str, Any] = {"num_warps": 4, "enable_fp_fusion": False}


def prepare(plan: StepPlan) -> "TritonStep | str":
    """Return the plan ready to be run, or the reason why the kernels cannot run it."""
    reason = _unfit(plan)
    if reason is not None:
        return reason
    made = [_new_buffers(part) for part in plan.parts]
    buffers = [_stepped(part, fresh) for part, fresh in zip(plan.parts, made, strict=True)]
    averages = [part.averages for part in plan.parts]
    written = [param for part in plan.parts for param in part.params]
    for column in (buffers, averages):
        written += [x for tensors in column if tensors is not None for x in tensors]
    gradients = [gradient for part in plan.parts for gradient in part.gradients]
    looked = _native.look(written, gradients, plan.memory)
    if isinstance(looked, str):
        return looked
    addresses, of_gradients, rest = looked
    held = tuple(
        (len(part.params), b is not None, a is not None)
        for part, b, a in zip(plan.parts, buffers, averages, strict=True)
    )
    table = _table(plan, (rest, held), buffers)
    if isinstance(table, str):
        return table
    copies = {i: _laid_out_as(written[i], gradients[i]) for i in table.copied}
    if copies:
        where = array("q", of_gradients)
        for i, copy in copies.items():
            where[i] = copy.data_ptr()
        of_gradients = where.tobytes()
    if table.captured and not table.is_at(addresses, of_gradients):
        table = table.anew()
        _tables(plan).add(table)
    return TritonStep(plan, table, written, made, (addresses, of_gradients), list(copies.values()))


def _unfit(plan: StepPlan) -> str | None:
    """Return what of a plan is known to be wrong before its tensors are looked at."""
    if plan.differentiable:
        return "autograd does not record what it writes (differentiable=True)"
    for part in plan.parts:
        c = part.rule.coefficients
        numbers = numbers_of(c)
        if any(isinstance(number, Tensor) for number in numbers):
            return "autograd goes through a hyperparameter"
        is_large = any(abs(number) > _LARGEST for number in numbers)
        if is_large and any(p.dtype != torch.float64 for p in part.params):
            return "a coefficient is too large for float32"
        if c.buffer == "running" and part.buffers is None:
            return "a buffer is missing"
        if c.buffer == "first" and any(p.layout is not torch.strided for p in part.params):
            return "a parameter is not strided"
    return None


def _new_buffers(part: Part) -> list[Tensor] | None:
    """Return room for the buffers that the rule makes."""
    if part.rule.coefficients.buffer != "first":
        return None
    dtype = part.rule.buffer_dtype
    return [
        torch.empty_strided(p.shape, p.stride(), dtype=dtype or p.dtype, device=p.device)
        for p in part.params
    ]


def _stepped(part: Part, fresh: list[Tensor] | None) -> list[Tensor] | None:
    if part.rule.coefficients.buffer not in _STEPPED:
        return None
    return part.buffers if fresh is None else fresh


def _tables(plan: StepPlan) -> Tables:
    tables: Tables = plan.memory.on_device.setdefault("triton", Tables())
    return tables


def _table(plan: StepPlan, key: Key, buffers: list[list[Tensor] | None]) -> Table | str:
    """Return the table of a plan's tensors, or the reason why they cannot be stepped."""
    tables = _tables(plan)
    known = tables.of(key)
    if known is not None:
        return known
    found = fit(plan.parts, buffers)
    if isinstance(found, str):
        return found
    table = Table(key, found, plan.parts[0].params[0].device)
    tables.add(table)
    return table


@torch.no_grad()
def _laid_out_as(param: Tensor, gradient: Tensor) -> Tensor:
    """Return a copy of a gradient in the order in which its parameter lies in memory."""
    room = torch.empty_strided(
        param.shape, param.stride(), dtype=gradient.dtype, device=gradient.device
    )
    return room.copy_(gradient)


def _read(results: Tensor) -> list[float]:
    return cast("list[float]", results.tolist())


class TritonStep(DecidingStep):
    """A plan that has been looked at. It holds on to the tensors until it has been run."""

    __slots__ = (
        "_copies",
        "_made",
        "_params",
        "_parts",
        "_places",
        "_table",
        "_tables",
        "_written",
    )

    def __init__(
        self,
        plan: StepPlan,
        table: Table,
        written: list[Tensor],
        made: list[list[Tensor] | None],
        places: tuple[bytes, bytes],
        copies: list[Tensor],
    ) -> None:
        self._parts = plan.parts
        self._tables = _tables(plan)
        self._table = table
        self._written = written
        self._made = made
        self._places = places
        self._copies = copies

    def gradient_norm(self) -> GradientNorm:
        """Read the gradients, and wait for what they are."""
        self._ask(1.0, Options(max_grad_norm=math.inf, checks_finite=True))
        results = self._results()
        with self._on_device():
            self._launch_norm(results, None, None)
        _, _, _, finite, nonfinite, square, *_ = _read(results)
        return GradientNorm(square, None if finite else self._written[int(nonfinite)])

    def step(self, scale: float) -> None:
        """Update everything, with the gradients multiplied by `scale`."""
        self._ask(scale, Options())
        with self._on_device():
            self._launch_step(None, None, None, is_decided=False)
        self._finish()

    def run(self, options: Options, over_ranks: OverRanks | None = None) -> Outcome:
        """Make the step, or skip it; unless it must be known which, nobody waits for the device."""
        if options.grad_scale is options.found_inf is None and not options.measures:
            self.step(1.0)
            return Outcome()
        self._ask(1.0, options)
        grad_scale, found_inf = map(self._here, (options.grad_scale, options.found_inf))
        if over_ranks is not None and found_inf is not None and not options.measures:
            found_inf = self._found_by_any(found_inf, over_ranks)
        is_decided = options.measures or self._table.total == 0
        results = self._results()
        with self._on_device():
            if is_decided:
                self._launch_norm(results, grad_scale, found_inf)
            if over_ranks is not None and options.measures:
                over_ranks(results[layout.SUMS :])
                launch = cast("Any", kernels.decide_kernel)[(1,)]
                launch(self._table.numbers, results, grad_scale, **_COMPILED)
            self._launch_step(results, grad_scale, found_inf, is_decided=is_decided)
        waits = options.waits or any(fresh is not None for fresh in self._made)
        outcome = self._outcome(results, options, waits=waits)
        if outcome.skipped is not True:
            self._finish()
        return outcome

    def refresh(self, options: Options) -> None:
        """Write what is asked of the next replay of a captured step."""
        if not self._table.captured:
            raise InvalidUseError(
                "refresh_hyperparameters() must find the tensors of a step that was captured into "
                "a CUDA graph, got others; keep the gradients (zero_grad(set_to_none=False)), and "
                "capture the step again where tensors have changed"
            )
        self._ask(1.0, options)

    def _ask(self, scale: float, options: Options) -> None:
        """Bring what the kernels read up to date."""
        max_norm = math.inf if options.max_grad_norm is None else options.max_grad_norm
        self._table.move(*self._places)
        head = (scale, float(max_norm), float(options.checks_finite))
        self._table.ask(head, [part.rule for part in self._parts])
        if is_capturing(self._table.device):
            self._tables.keep(self._table)

    def _results(self) -> Tensor:
        size = layout.RESULTS
        return torch.empty(size, dtype=torch.float64, device=self._table.device)

    def _here(self, asked: Tensor | None) -> Tensor | None:
        return None if asked is None else asked.to(self._table.device, non_blocking=True)

    def _found_by_any(self, found_inf: Tensor, over_ranks: OverRanks) -> Tensor:
        """Return whether an overflow was found on any process."""
        found = torch.nn.functional.pad(found_inf.reshape(1).ne(0).double(), (2, 0))
        over_ranks(found)
        return found[2:]

    def _on_device(self) -> AbstractContextManager[Any]:
        device = self._table.device
        return torch.cuda.device(device) if device.type == "cuda" else nullcontext()

    def _launch_norm(
        self, results: Tensor, grad_scale: Tensor | None, found_inf: Tensor | None
    ) -> None:
        t = self._table
        programs = max(1, min(t.total, layout.PROGRAMS_OF_NORM))
        launch = cast("Any", kernels.norm_kernel)[(programs,)]
        launch(
            t.gradients,
            t.facts,
            t.blocks,
            t.numbers,
            results,
            grad_scale,
            found_inf,
            t.tensors,
            t.total,
            t.squares,
            t.nonfinite,
            t.ticket,
            kinds=t.kinds,
            **_COMPILED,
        )

    def _launch_step(
        self,
        results: Tensor | None,
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
        *,
        is_decided: bool,
    ) -> None:
        t = self._table
        if t.total == 0:
            return
        launch = cast("Any", kernels.step_kernel)[(t.total,)]
        launch(
            t.addresses,
            t.gradients,
            t.facts,
            t.blocks,
            t.numbers,
            results,
            grad_scale,
            found_inf,
            t.tensors,
            kinds=t.kinds,
            is_decided=is_decided,
            **_COMPILED,
        )

    def _outcome(self, results: Tensor, options: Options, *, waits: bool) -> Outcome:
        if not (waits and options.may_skip):
            norm, _, skipped, finite = results[:4].unbind()
            return Outcome(
                norm if options.measures else None,
                skipped if options.may_skip else False,
                finite if options.checks_finite else True,
            )
        if is_capturing(self._table.device):
            raise InvalidUseError(
                "a step that is captured into a CUDA graph must not be waited for, got one that "
                "makes buffers, counts steps or has to raise; take steps of the same kind before "
                "the capture, and use nonfinite='skip'"
            )
        norm, _, skipped, finite, nonfinite, *_ = _read(results)
        overflow = options.measures and norm < 0
        is_bad = options.checks_finite and not finite and not overflow
        is_here = nonfinite < self._table.tensors
        return Outcome(
            norm if options.measures and not overflow else None,
            skipped=bool(skipped),
            finite=not is_bad,
            nonfinite=self._written[int(nonfinite)] if is_bad and is_here else None,
        )

    def _finish(self) -> None:
        """Tell autograd what was written, and hand the new buffers over."""
        increment_version(self._written)
        for part, fresh in zip(self._parts, self._made, strict=True):
            if fresh is not None:
                part.buffers = fresh
