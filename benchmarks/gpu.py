"""What a step costs on a GPU, beside torch's own ways to step: writes gpu.csv.

Run on a machine with a GPU that does nothing else: python benchmarks/gpu.py
"""

import sys
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from csv_table import write_table
from torch import Tensor

import sgdm
from sgdm.bench.networks import NETWORKS

Step = Callable[[], Any]

SHAPES: dict[str, Sequence[tuple[int, ...]]] = {
    "resnet50": next(network.shapes for network in NETWORKS if network.name == "resnet50"),
    "1000x1024": ((1024,),) * 1000,
    "100x65536": ((65536,),) * 100,
    "1x1b": ((1_000_000_000,),),
}
RULES: dict[str, dict[str, Any]] = {
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4},
}
BYTES = 20  # an element: parameter, gradient and buffer are read, parameter and buffer written
ROUNDS = 30
WARM_UP = 3
SAMPLE_MS = 5.0
COMPILED_UP_TO = 200  # tensors; above, it takes minutes


def contestants(shapes: Sequence[tuple[int, ...]], rule: dict[str, Any]) -> dict[str, Step]:
    """Return the ways to step, each with parameters of its own and gradients that all share."""
    gradients = [torch.randn(shape, device="cuda") for shape in shapes]

    def parameters() -> list[Tensor]:
        params: list[Tensor] = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
        for p, g in zip(params, gradients, strict=True):
            p.grad = g
        return params

    steps: dict[str, Step] = {
        "sgdm triton": sgdm.SGD(parameters(), lr=1e-3, engine="triton", **rule).step,
        "torch foreach": torch.optim.SGD(parameters(), lr=1e-3, foreach=True, **rule).step,
        "torch fused": torch.optim.SGD(parameters(), lr=1e-3, fused=True, **rule).step,
    }
    if len(shapes) <= COMPILED_UP_TO:
        optimizer: Any = torch.optim.SGD(parameters(), lr=1e-3, foreach=True, **rule)
        steps["torch compiled"] = torch.compile(optimizer.step)
    return steps


def copy_bandwidth(elements: int) -> float:
    """Return the bytes a second that a copy of large tensors moves, read and written."""
    size = max(elements, 1 << 28)
    source = torch.zeros(size, device="cuda")
    target = torch.empty_like(source)
    (times,) = take_turns([lambda: target.copy_(source)])
    return 8 * size / (1e-3 * median(times))


def take_turns(steps: Sequence[Step]) -> list[list[float]]:
    """Return milliseconds a step, sample by sample, with a new one first in every round.

    Where Python takes longer than the device, the device waits between the two events: that counts.
    """
    counts: list[int] = []
    for step in steps:
        for _ in range(WARM_UP):
            step()
        taken = time_of(step, 3)
        counts.append(max(1, round(SAMPLE_MS / taken)))
    samples: list[list[float]] = [[] for _ in steps]
    for i in range(ROUNDS):
        for turn in range(len(steps)):
            k = (turn + i) % len(steps)
            samples[k].append(time_of(steps[k], counts[k]))
    return samples


def time_of(step: Step, count: int) -> float:
    """Return milliseconds a step, by the device's clock."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(count):
        step()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / count


def main() -> None:
    """Measure every case, and write the table."""
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py must be run on a machine with a GPU, and there is none here")
    rows: list[dict[str, Any]] = []
    for case, shapes in SHAPES.items():
        elements = sum(torch.Size(shape).numel() for shape in shapes)
        bandwidth = copy_bandwidth(elements)
        for name, rule in RULES.items():
            steps = contestants(shapes, rule)
            times = dict(zip(steps, map(median, take_turns(list(steps.values()))), strict=True))
            for contestant, taken in times.items():
                rows.append(
                    {
                        "gpu": torch.cuda.get_device_name(),
                        "torch": str(torch.__version__),
                        "sgdm": sgdm.__version__,
                        "case": case,
                        "rule": name,
                        "contestant": contestant,
                        "microseconds": f"{1e3 * taken:.1f}",
                        "times_sgdm": f"{taken / times['sgdm triton']:.2f}",
                        "of_copy": f"{BYTES * elements / (1e-3 * taken) / bandwidth:.2f}",
                    }
                )
                print(rows[-1])
            del steps
            torch.cuda.empty_cache()
    write_table(__file__, rows)


if __name__ == "__main__":
    main()
