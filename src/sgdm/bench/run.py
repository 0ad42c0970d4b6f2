"""One case, from the random numbers it starts with to its rows."""

import gc
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context

import torch
from torch import Tensor

from sgdm.bench.bandwidth import bare_loop
from sgdm.bench.cases import Case
from sgdm.bench.machine import using_threads
from sgdm.bench.measure import LEAST_ROUNDS, Timing, take_turns
from sgdm.bench.memory import extra_peak
from sgdm.bench.results import Machine, Row
from sgdm.bench.rivals import COMPILED, DEFAULT, SGDM, Contestant, build, names_of
from sgdm.errors import InvalidValueError, WrongResultError

__all__ = ["COMPILED_UP_TO", "Effort", "Measured", "measure_alone", "measure_case"]

COMPILED_UP_TO = 200  # tensors; torch's compiler takes 20 s for ResNet-50's 161
_CHECKED_STEPS = 3
# A little over the norm that gradients are clipped to: clipping scales them, and hardly.
_NORM = 1.001


@dataclass(frozen=True, kw_only=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        rounds: Samples of each contestant, 3 or more.
        seconds: After how long a case ends all the same, once it has 3 rounds.
        compile_up_to: The number of tensors up to which torch's compiler takes part.
        memory: Whether to measure what a step allocates, where that shows.

    Raises:
        InvalidValueError: If there are fewer than 3 rounds, or no time.
    """

    rounds: int = 25
    seconds: float = 20.0
    compile_up_to: int = COMPILED_UP_TO
    memory: bool = True

    def __post_init__(self) -> None:
        if self.rounds < LEAST_ROUNDS:
            raise InvalidValueError.of(
                "rounds", f"at least {LEAST_ROUNDS}", self.rounds, "fewer have no middle"
            )
        if not self.seconds > 0:
            raise InvalidValueError.of("seconds", "more than 0", self.seconds, "as in --seconds 20")


@dataclass(frozen=True, slots=True)
class Measured:
    """What became of a case.

    Attributes:
        rows: One a contestant, sgdm's first.
        notes: Who did not take part, and why.
    """

    rows: list[Row]
    notes: list[str]


def measure_case(case: Case, machine: Machine, effort: Effort) -> Measured:
    """Check that the contestants agree, and time them.

    Args:
        case: What is stepped.
        machine: Where it runs, as the rows say it.
        effort: How much is measured.

    Raises:
        WrongResultError: If sgdm is not bit-equal to torch's loop where it has to be, or a
            parameter is not finite at the end.
    """
    try:
        return _measure(case, machine, effort)
    finally:
        gc.collect()  # optimizers are cycles, and the next case may need what they hold


def measure_alone(case: Case, machine: Machine, effort: Effort) -> Measured:
    """Do the same in a process of its own, so that earlier cases do not decide about this one.

    What they have freed, the allocator keeps, and torch's loop then makes its temporaries without
    a page fault: on ResNet-50's tensors it takes 33 ms after other cases, and 46 ms alone.

    Args:
        case: What is stepped.
        machine: Where it runs; its number of threads is used.
        effort: How much is measured.

    Raises:
        WrongResultError: As `measure_case` does.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        return processes.submit(_measure_with_threads, case, machine, effort).result()


def _measure_with_threads(case: Case, machine: Machine, effort: Effort) -> Measured:
    with using_threads(machine.threads):
        return measure_case(case, machine, effort)


def _measure(case: Case, machine: Machine, effort: Effort) -> Measured:
    start, gradients = _random_tensors(case)
    contestants, notes = _build_all(case, start, gradients, effort)
    steps = [contestant.step for contestant in contestants]
    if case.is_large:
        steps.append(bare_loop(case, start, gradients))
    del start
    _check_agreement(case, contestants)
    timings = take_turns(steps, rounds=effort.rounds, seconds=effort.seconds)
    bare = timings[-1] if case.is_large else None
    rows = [
        _row(case, machine, contestant, timing, timings[0], bare, effort)
        for contestant, timing in zip(contestants, timings, strict=False)
    ]
    for contestant in contestants:
        _check_finite(case, contestant)
    return Measured(rows, notes)


def _random_tensors(case: Case) -> tuple[list[Tensor], list[Tensor]]:
    random = torch.Generator().manual_seed(0)
    dtype = getattr(torch, case.dtype)

    def draw(scale: float) -> list[Tensor]:
        drawn = (torch.randn(shape, generator=random) for shape in case.network.shapes)
        return [x.mul_(scale).to(dtype) for x in drawn]

    return draw(0.02), draw(_NORM / case.network.elements**0.5)


def _build_all(
    case: Case, start: Sequence[Tensor], gradients: Sequence[Tensor], effort: Effort
) -> tuple[list[Contestant], list[str]]:
    contestants: list[Contestant] = []
    notes: list[str] = []
    for name in names_of(case, compiled=case.network.tensors <= effort.compile_up_to):
        try:
            contestants.append(build(name, case, start, gradients))
        except RuntimeError as error:
            if name != COMPILED:
                raise
            reason = str(error).strip().partition("\n")[0]
            notes.append(f"{name} did not take part: {reason}")
    return contestants, notes


def _check_agreement(case: Case, contestants: Sequence[Contestant]) -> None:
    """Have sgdm and torch's loop take the same steps, where both compute the same."""
    pair = [contestant for contestant in contestants if contestant.name in (SGDM, DEFAULT)]
    if case.dtype != "float32" or len(pair) < 2:
        return
    for contestant in pair:
        for _ in range(_CHECKED_STEPS):
            contestant.step()
    for i, (ours, theirs) in enumerate(zip(pair[0].params, pair[1].params, strict=True)):
        if not torch.equal(ours, theirs):
            raise WrongResultError(
                f"{case.name}: parameter {i} of {SGDM} must have the bits of {DEFAULT}, and has "
                "not; a wrong result is not timed: report it"
            )


def _check_finite(case: Case, contestant: Contestant) -> None:
    if not all(bool(p.isfinite().all()) for p in contestant.params):
        raise WrongResultError(
            f"{case.name}: the parameters of {contestant.name} must be finite at the end, and are "
            "not; a wrong result is not kept: report it"
        )


def _row(
    case: Case,
    machine: Machine,
    contestant: Contestant,
    timing: Timing,
    ours: Timing,
    bare: Timing | None,
    effort: Effort,
) -> Row:
    network = case.network
    moved = case.bytes_per_element(contestant.buffer_dtype) * network.elements
    fraction = None
    # The bare loop moves what sgdm moves; buffers of another dtype are other bytes.
    if bare is not None and contestant.buffer_dtype == "float32":
        fraction = bare.median / timing.median
    extra = extra_peak(contestant.step) if effort.memory and case.shows_memory else None
    return Row(
        **asdict(machine),
        case=network.name,
        tensors=network.tensors,
        elements=network.elements,
        dtype=case.dtype,
        buffer_dtype=contestant.buffer_dtype,
        rule=case.rule.name,
        contestant=contestant.name,
        rounds=timing.rounds,
        steps_per_sample=timing.steps_per_sample,
        q20=timing.q20,
        median=timing.median,
        q80=timing.q80,
        ratio=timing.median / ours.median,
        bytes_per_step=moved,
        gb_per_s=moved / timing.median / 1e9,
        fraction=fraction,
        extra_memory_bytes=extra,
    )
