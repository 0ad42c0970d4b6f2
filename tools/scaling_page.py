"""Put into docs/scaling.md what the cost model says, and what was measured to check it.

python tools/scaling_page.py

It reads benchmarks/steps.csv and benchmarks/processes.csv (`benchmarks/processes.py`). A test
makes the page again and compares.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

from sgdm.bench.cases import pick_cases
from sgdm.bench.collectives import ALL_REDUCE, ELEMENTS
from sgdm.bench.results import ProcessRow, Row, read_latest, read_process_rows
from sgdm.bench.rivals import SGDM
from sgdm.bench.scaling import (
    GPU,
    GPU_FABRIC,
    GPU_MEMORY,
    GPUS_PER_NODE,
    MODELS,
    Device,
    Group,
    Hops,
    Layout,
    Model,
    checkpoint_bytes,
    communication_seconds,
    examples_for_share,
    norm_seconds,
    ring_seconds,
    sent_bytes,
    state_bytes,
    step_seconds,
)
from sgdm.bench.sharded import (
    CASES,
    CLIPPED_SHARDS,
    CLIPPED_WHOLE,
    SHARDS,
    TORCH_SHARDS,
    TORCH_WHOLE,
    WHOLE,
)
from sgdm.bench.table import duration

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "scaling.md"
STEPS = ROOT / "benchmarks" / "steps.csv"
PROCESSES = ROOT / "benchmarks" / "processes.csv"
MARKED = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- -->)", re.DOTALL)

ONE = Group()
MOVED = pick_cases(["gpt2:momentum"])[0].bytes_per_element()
SMALL, LARGE = CASES[0], CASES[-1]


SHARDS_OF_HSDP = 40


def layouts() -> list[Layout]:
    """Return where the parameters of the tables are."""
    found = [Layout("1 GPU", ONE, ONE)]
    for count in (8, 1_000, 10_000):
        everywhere = Group(count, GPUS_PER_NODE)
        found.append(Layout(f"{count:,} GPUs, DDP", ONE, everywhere))
        found.append(Layout(f"{count:,} GPUs, FSDP2", everywhere, ONE))
        if count > SHARDS_OF_HSDP:
            shards = Group(SHARDS_OF_HSDP, GPUS_PER_NODE)
            found.append(Layout(f"{count:,} GPUs, HSDP", shards, Group(count // SHARDS_OF_HSDP, 1)))
    return found


# ---- what was measured ----


class Runs:
    """What processes did, in all runs that were recorded."""

    def __init__(self, rows: Iterable[ProcessRow]) -> None:
        self._rows: dict[tuple[str, int, tuple[int, int]], list[ProcessRow]] = {}
        for row in rows:
            key = (row.contestant, row.processes, (row.tensors, row.elements))
            self._rows.setdefault(key, []).append(row)
        self.count = len({row.date for rows in self._rows.values() for row in rows})

    def seconds(self, contestant: str, processes: int, case: tuple[int, int]) -> float:
        """Return what the fastest sample of all runs took."""
        return min(row.least for row in self._rows[contestant, processes, case])

    def ratios(self, ours: str, to: str, processes: int, case: tuple[int, int]) -> list[float]:
        """Return how many times as long one took as another, for each run, by the medians."""
        pairs = zip(self._rows[ours, processes, case], self._rows[to, processes, case], strict=True)
        return sorted(one.median / other.median for one, other in pairs)


def two_cores(steps: list[Row]) -> Device:
    """Return this machine with both cores, from three cases of `sgdm bench`."""
    first, many, large = (_step(steps, name) for name in ("1x256", "100x256", "1x50m"))
    per_tensor = (many.median - first.median) / (many.tensors - first.tensors)
    bandwidth = large.bytes_per_step / large.median
    return Device(bandwidth, MOVED, first.median - per_tensor, per_tensor)


def one_core(runs: Runs, contestant: str = WHOLE) -> Device:
    """Return a core of this machine, from two cases of one process."""
    tensors, elements = LARGE
    moved = MOVED * tensors * elements
    per_tensor = runs.seconds(contestant, 1, SMALL) / SMALL[0]
    return Device(moved / runs.seconds(contestant, 1, LARGE), MOVED, 0.0, per_tensor)


def _step(steps: list[Row], case: str, rule: str = "momentum") -> Row:
    return next(
        row
        for row in steps
        if (row.case, row.rule, row.dtype, row.contestant) == (case, rule, "float32", SGDM)
    )


# ---- the tables ----


def models() -> str:
    """Return what the columns of the tables are."""
    cells = [
        [model.name, f"{model.elements:,}", f"{model.tensors}", f"{model.modules}"]
        for model in MODELS
    ]
    return _table(["", "P", "n", "L"], cells)


def steps(cores: dict[str, Device]) -> str:
    """Return what a step takes, and how much of it goes by tensors and not by bytes."""

    def cell(device: Device, shards: int, model: Model) -> str:
        seconds = step_seconds(device, model, shards)
        fixed = device.per_step + device.per_tensor * model.tensors
        return f"{duration(seconds)} ({100 * fixed / seconds:.0f} %)"

    rows = [[name, *(cell(core, 1, model) for model in MODELS)] for name, core in cores.items()]
    return _by_model([*rows, *_rows(_by_shards(), lambda a, m: cell(GPU, a.shards.size, m))])


def communication() -> str:
    """Return what a process sends in a step of training, and how long that takes."""

    def cell(layout: Layout, model: Model) -> str:
        seconds = communication_seconds(GPU_FABRIC, layout, model)
        return f"{_bytes(sent_bytes(layout, model))}, {duration(seconds)}"

    return _by_model(_rows(layouts()[1:], cell))


def norms() -> str:
    """Return what clipping waits for."""
    cells = [
        [f"{count:,}", duration(norm_seconds(GPU_FABRIC, group)), duration(_around(group))]
        for count in (8, 1_000, 10_000)
        for group in [Group(count, GPUS_PER_NODE)]
    ]
    return _table(["GPUs", "tree", "ring"], cells)


def memory() -> str:
    """Return what a GPU holds, and its part of a checkpoint."""

    def cell(layout: Layout, model: Model) -> str:
        return f"{_bytes(state_bytes(layout, model))}, {_bytes(checkpoint_bytes(layout, model))}"

    rows = [[layout.name, *(cell(layout, model) for model in MODELS)] for layout in layouts()]
    return _by_model(rows)


def shares() -> str:
    """Return how many examples make a step 1 % of the work."""

    def cell(layout: Layout, model: Model) -> str:
        return f"{examples_for_share(GPU, model, layout.shards.size, 0.01):,.0f}"

    return _by_model(_rows(_by_shards(), cell))


class Check(NamedTuple):
    """What the model says of something, and what it took."""

    what: str
    predicted: float
    measured: float

    def cells(self) -> list[str]:
        """Return the row."""
        off = 100 * (self.predicted / self.measured - 1)
        return [self.what, duration(self.predicted), duration(self.measured), f"{off:+.0f} %"]


def constants(cores: dict[str, Device], runs: Runs) -> str:
    """Return what of this machine the predictions are made of."""
    cells = [[f"M, {name}", f"{core.bandwidth / 1e9:.1f} GB/s"] for name, core in cores.items()]
    shards = one_core(runs, SHARDS)
    hops, bandwidth = _gloo(runs)
    cells += [
        ["c", duration(one_core(runs).per_tensor)],
        ["c of a shard", duration(shards.per_tensor)],
        ["α between 2 processes", duration(hops.inner)],
        ["β between 2 processes", f"{bandwidth / 1e9:.2f} GB/s"],
    ]
    return _table(["", "here"], cells)


def checked(steps: list[Row], runs: Runs) -> str:
    """Return predictions beside what was measured."""
    found = [*_checked_steps(steps), *_checked_sums(runs), *_checked_shards(steps, runs)]
    return _table(["", "computed", "measured", "off by"], [check.cells() for check in found])


def _checked_steps(steps: list[Row]) -> list[Check]:
    device = two_cores(steps)
    found: list[Check] = []
    for case in ("10x256", "1000x256", "1x10000000", "resnet50", "gpt2"):
        row = _step(steps, case)
        said = step_seconds(device, _model(row.tensors, row.elements))
        found.append(Check(f"step of `{case}:momentum`, 2 threads", said, row.median))
    row = _step(steps, "gpt2", "recipe")
    recipe = replace(device, bytes_per_element=row.bytes_per_step // row.elements)
    said = step_seconds(recipe, _model(row.tensors, row.elements))
    return [*found, Check("step of `gpt2:recipe`, 2 threads", said, row.median)]


def _checked_sums(runs: Runs) -> list[Check]:
    hops, bandwidth = _gloo(runs)
    found: list[Check] = []
    chosen = ((2, ELEMENTS[3]), (2, ELEMENTS[6]), (2, ELEMENTS[8]), (2, ELEMENTS[10]))
    # Four processes take turns on two cores.
    for processes, elements in (*chosen, (4, ELEMENTS[0]), (4, ELEMENTS[8]), (4, ELEMENTS[-1])):
        group = Group(processes, processes)
        said = ring_seconds(hops, bandwidth, group, 4 * elements, passes=2) * processes / 2
        took = runs.seconds(ALL_REDUCE, processes, (1, elements))
        title = f"all-reduce of {_bytes(4 * elements)}, {processes} processes"
        found.append(Check(title, said, took))
    return found


def _checked_shards(steps: list[Row], runs: Runs) -> list[Check]:
    found: list[Check] = []
    shards = one_core(runs, SHARDS)
    # The smallest and the largest case of one process are where c and M come from.
    for processes, cases in ((1, CASES[1:-1]), (2, CASES)):
        for case in cases:
            said = step_seconds(shards, _model(case[0], case[0] * case[1]), processes)
            took = runs.seconds(SHARDS, processes, case)
            found.append(Check(f"{_case(case)}, {_on(processes)}", said, took))
    together = runs.seconds(ALL_REDUCE, 2, (1, ELEMENTS[0]))
    alone = runs.seconds(CLIPPED_SHARDS, 1, SMALL)
    took = runs.seconds(CLIPPED_SHARDS, 2, SMALL)
    found.append(Check(f"{_case(SMALL)}, {_on(2)}, clipped", alone + together, took))
    return [*found, _checked_copies(steps, runs)]


def _checked_copies(steps: list[Row], runs: Runs) -> Check:
    """Compare two processes that each step a copy: they share what memory there is."""
    core, both = one_core(runs), two_cores(steps)
    half = min(core.bandwidth, both.bandwidth / 2)
    said = step_seconds(replace(core, bandwidth=half), _model(LARGE[0], LARGE[0] * LARGE[1]))
    took = runs.seconds(WHOLE, 2, LARGE)
    return Check(f"{_case(LARGE)}, a copy in each of 2 processes", said, took)


def sharded(runs: Runs) -> str:
    """Return how many times as long shards take as whole tensors."""
    pairs = (
        ("step", SHARDS, WHOLE),
        ("clipped", CLIPPED_SHARDS, CLIPPED_WHOLE),
        ("the same, `foreach`", TORCH_SHARDS, TORCH_WHOLE),
        ("`foreach` beside sgdm, shards", TORCH_SHARDS, SHARDS),
    )
    cells: list[list[str]] = []
    for processes in (1, 2):
        for case in CASES:
            ranges = [runs.ratios(ours, to, processes, case) for _, ours, to in pairs]
            took = duration(runs.seconds(SHARDS, processes, case))
            told = [f"{median(r):.2f} ({r[0]:.2f} to {r[-1]:.2f})" for r in ranges]
            cells.append([f"{processes}", _case(case), took, *told])
    heads = ["processes", "tensors", "`sgdm.SGD` on shards", *(name for name, _, _ in pairs)]
    return f"Runs: {runs.count}.\n\n{_table(heads, cells)}"


def _gloo(runs: Runs) -> tuple[Hops, float]:
    """Return α and β of two processes, from the shortest and the longest tensor."""
    least, most = (runs.seconds(ALL_REDUCE, 2, (1, n)) for n in (ELEMENTS[0], ELEMENTS[-1]))
    return Hops(0.0, least / 2, least / 2), 4 * ELEMENTS[-1] / (most - least)


def _around(group: Group) -> float:
    bandwidth = group.bandwidth(GPU_FABRIC)
    return ring_seconds(GPU_FABRIC.small, bandwidth, group, 16, passes=2)


def _model(tensors: int, elements: int) -> Model:
    return Model("", elements, tensors, modules=1, flops=0.0)


def _case(case: tuple[int, int]) -> str:
    return f"{case[0]} × {case[1]:,}"


def _on(processes: int) -> str:
    return "a shard in 1 process" if processes == 1 else f"shards in {processes} processes"


def _bytes(size: float) -> str:
    unit, by = next(
        (pair for pair in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if size >= pair[1]),
        ("B", 1.0),
    )
    value = size / by
    return f"{value:.{0 if value >= 100 or unit == 'B' else 1}f} {unit}"


def _by_shards() -> list[Layout]:
    """Return a layout for each number of shards."""
    found = {layout.shards.size: layout.shards for layout in layouts()}
    names = {1: "1 GPU, or DDP on any number", SHARDS_OF_HSDP: f"{SHARDS_OF_HSDP} shards (HSDP)"}
    return [Layout(names.get(size, f"{size:,} shards"), found[size], ONE) for size in sorted(found)]


def _rows(layouts: list[Layout], cell: Callable[[Layout, Model], str]) -> list[list[str]]:
    def shown(layout: Layout, model: Model) -> str:
        fits = state_bytes(layout, model) <= GPU_MEMORY
        return cell(layout, model) if fits else "too large"

    return [[layout.name, *(shown(layout, model) for model in MODELS)] for layout in layouts]


def _by_model(rows: list[list[str]]) -> str:
    return _table(["", *(model.name for model in MODELS)], rows)


def _table(heads: list[str], lines: list[list[str]]) -> str:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in (heads, rule, *lines))


def with_tables() -> str:
    """Return the page with each table between its marks."""
    rows, runs = read_latest(STEPS), Runs(read_process_rows(PROCESSES))
    cores = {"1 core": one_core(runs), "2 cores": two_cores(rows)}
    tables: dict[str, Callable[[], str]] = {
        "models": models,
        "steps": partial(steps, cores),
        "communication": communication,
        "norms": norms,
        "memory": memory,
        "shares": shares,
        "constants": partial(constants, cores, runs),
        "checked": partial(checked, rows, runs),
        "sharded": partial(sharded, runs),
    }
    page = PAGE.read_text("utf-8")
    return MARKED.sub(lambda found: found[1] + tables[found[2]]() + found[3], page)


if __name__ == "__main__":
    PAGE.write_text(with_tables(), "utf-8")
