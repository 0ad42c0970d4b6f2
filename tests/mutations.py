"""Files broken in many ways, and what reading them may do: answer, or say what is wrong."""

import random
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sgdm.errors import FileError


def mutations(count: int) -> pytest.MarkDecorator:
    """Give a test this `count` of mutations, and a tenth of it where time is short."""
    every = pytest.param(count, marks=pytest.mark.long)
    return pytest.mark.parametrize("count", [count // 10, every])


def mutated(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield broken copies: bits flipped, bytes overwritten, cut off, repeated, zeroed, put in."""
    rng = random.Random(seed)
    extremes = [b"\0" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\x80" + b"\0" * 7]
    for _ in range(count):
        broken = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            place = rng.randrange(len(broken)) if broken else 0
            kind = rng.randrange(7)
            if kind == 0 and broken:
                broken[place] ^= 1 << rng.randrange(8)
            elif kind == 1:
                broken[place : place + 1] = rng.randbytes(1)
            elif kind == 2:
                del broken[place:]
            elif kind == 3:
                width = rng.choice((1, 2, 4, 8))
                broken[place : place + width] = rng.choice(extremes)[:width]
            elif kind == 4:
                end = place + rng.randrange(1, 64)
                broken[place:end] = bytes(len(broken[place:end]))
            elif kind == 5:
                end = place + rng.randrange(1, 64)
                broken[place:place] = broken[place:end]
            else:
                del broken[place : place + rng.randrange(1, 16)]
        yield bytes(broken)


def check_reader(
    read_all: Callable[[Path], object],
    data: bytes,
    path: Path,
    *,
    seed: int,
    count: int = 10_000,
    seconds_each: float = 2.0,
    megabytes: int = 200,
) -> int:
    """Read broken copies of a file; return how many were refused.

    Whatever is wrong, `FileError` says so, with the file's name, in bounded time and memory.

    Args:
        read_all: Reads the file and every tensor in it.
        data: Of a valid file.
        path: Where to put the copies.
        seed: Of the mutations.
        count: Of the mutations.
        seconds_each: What one may take.
        megabytes: By how much the largest memory of this process may grow.
    """
    refused = 0
    read_all(_written(path, data))  # it is valid, and what is loaded once is loaded
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number, broken in enumerate(mutated(data, count, seed)):
        started = time.monotonic()
        try:
            read_all(_written(path, broken))
        except FileError as error:
            refused += 1
            if str(path) not in str(error):
                raise AssertionError(f"mutation {number} of seed {seed}: {error}") from error
        took = time.monotonic() - started
        assert took < seconds_each, f"mutation {number} of seed {seed} took {took:.1f} s"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < megabytes, f"memory grew by {grown:.0f} MB, seed {seed}"
    return refused


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
