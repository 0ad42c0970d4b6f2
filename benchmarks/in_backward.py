"""What steps inside backward save and cost, beside the ordinary loop: writes in_backward.csv.

Run on a machine that does nothing else: python benchmarks/in_backward.py
"""

import multiprocessing as mp
import resource
from collections.abc import Callable
from typing import Any

import torch
from csv_table import write_table
from torch import nn

import sgdm
from sgdm.bench.measure import take_turns

LAYERS = 24
WIDTHS = (128, 512, 2048)
BATCH = 16
ROUNDS = 15


def network(width: int) -> nn.Module:
    """Build equal layers: the memory is that of their parameters."""
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(LAYERS)))


def loop(width: int, *, inside: bool) -> Callable[[], Any]:
    """Return one step of a training loop."""
    model, x = network(width), torch.randn(BATCH, width)
    optimizer = sgdm.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    if inside:
        sgdm.step_in_backward(optimizer)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return step


def peak(width: int, inside: bool) -> int:
    """Return by how many bytes the process grew."""
    loop(8, inside=inside)()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = loop(width, inside=inside)
    for _ in range(3):
        step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def main() -> None:
    """Measure every width, and write the table."""
    rows: list[dict[str, Any]] = []
    with mp.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for width in WIDTHS:
            parameters = 4 * LAYERS * width * (width + 1)
            ordinary, inside = (pool.apply(peak, (width, where)) for where in (False, True))
            steps = [loop(width, inside=where) for where in (False, True)]
            times = [t.median for t in take_turns(steps, rounds=ROUNDS, seconds=30)]
            rows.append(
                {
                    "width": width,
                    "parameters_MB": f"{parameters / 1e6:.1f}",
                    "ordinary_MB": f"{ordinary / 1e6:.1f}",
                    "in_backward_MB": f"{inside / 1e6:.1f}",
                    "time_ratio": f"{times[1] / times[0]:.2f}",
                }
            )
            print(rows[-1])
    write_table(__file__, rows)


if __name__ == "__main__":
    main()
