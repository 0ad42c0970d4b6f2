"""Timing: contestants take turns, so that what else the machine does falls on all of them alike."""

import gc
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import quantiles

from sgdm.bench.rivals import Step

__all__ = ["LEAST_ROUNDS", "Timing", "take_turns"]

LEAST_ROUNDS = 3
_WARM_UP = 2  # rounds that are not counted
_SAMPLE = 0.01  # seconds; the clock is read in well under a thousandth of that


@dataclass(frozen=True, slots=True)
class Timing:
    """What a step of one contestant cost.

    Attributes:
        rounds: How many samples were taken.
        steps_per_sample: How many steps were timed at once.
        least: Seconds a step, in the fastest sample.
        q20: Seconds a step, that a fifth of the samples stayed under.
        median: Seconds a step, in the middle.
        q80: Seconds a step, that a fifth of the samples went over.
    """

    rounds: int
    steps_per_sample: int
    least: float
    q20: float
    median: float
    q80: float


def take_turns(
    steps: Sequence[Step],
    *,
    rounds: int,
    seconds: float,
    sample: float = _SAMPLE,
    longest: Callable[[float], float] = float,
) -> list[Timing]:
    """Time several ways to step, sample by sample in turn, with a new one first in every round.

    Args:
        steps: What to time.
        rounds: How many samples to take of each.
        seconds: After how much time of samples to stop all the same, but not before three rounds.
        sample: Seconds that a sample should take at least.
        longest: Returns the longest time of all processes that take the steps together, given
            that of this one. They then agree on how many steps to take.
    """
    counts = [_calibrated(step, sample, longest) for step in steps]
    samples: list[list[float]] = [[] for _ in steps]
    with _no_garbage_collection():
        left = seconds
        for i in range(-_WARM_UP, rounds):
            if i >= LEAST_ROUNDS and left < 0:
                break
            for turn in range(len(steps)):
                k = (turn + i) % len(steps)
                taken = longest(_time(steps[k], counts[k]))
                if i >= 0:
                    samples[k].append(taken / counts[k])
                    left -= taken
    return [_summary(*pair) for pair in zip(samples, counts, strict=True)]


def _calibrated(step: Step, sample: float, longest: Callable[[float], float]) -> int:
    """Return how many steps make a sample: one, or as many as take long enough to be timed."""
    step()  # the first one finds cold caches
    count = 1
    while (taken := longest(_time(step, count))) < sample / 2:
        count = max(2 * count, min(16 * count, round(count * sample / taken)))
    return count


def _time(step: Step, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        step()
    return time.perf_counter() - start


@contextmanager
def _no_garbage_collection() -> Generator[None]:
    """Keep one contestant from cleaning up behind another."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _summary(samples: Sequence[float], count: int) -> Timing:
    tenths = quantiles(samples, n=10, method="inclusive")
    return Timing(
        rounds=len(samples),
        steps_per_sample=count,
        least=min(samples),
        q20=tenths[1],
        median=tenths[4],
        q80=tenths[7],
    )
