"""The cost model: its formulas, what it takes for granted of torch, and the page that shows it."""

import sys
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

import sgdm
from sgdm.bench.cases import pick_cases
from sgdm.bench.collectives import time_all_reduce
from sgdm.bench.measure import Timing
from sgdm.bench.networks import NETWORKS
from sgdm.bench.processes import in_processes
from sgdm.bench.results import ProcessRow, append_process_rows, append_rows, read_process_rows
from sgdm.bench.scaling import (
    GPU,
    GPU_FABRIC,
    GPU_FLOPS,
    MODELS,
    Device,
    Fabric,
    Group,
    Hops,
    Layout,
    all_reduce_seconds,
    bucket_count,
    checkpoint_bytes,
    communication_seconds,
    examples_for_share,
    norm_seconds,
    ring_seconds,
    sent_bytes,
    state_bytes,
    step_seconds,
    tree_seconds,
)
from sgdm.bench.sharded import SHARDS, TORCH_SHARDS, WHOLE, time_steps
from sgdm.errors import FileError

ROOT = Path(__file__).parent.parent
ALONE = Group()
RESNET50, GPT2, SMALL_LLAMA, LARGE_LLAMA = MODELS
HOPS = Hops(first=1.0, inner=10.0, outer=100.0)


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        yield import_module("scaling_page")
    finally:
        sys.path.remove(str(ROOT / "tools"))


# ---- the formulas ----


def test_the_models_have_the_sizes_that_were_published():
    assert [(m.elements, m.tensors) for m in MODELS] == [
        (25_557_032, 161),
        (124_439_808, 148),
        (6_738_415_616, 291),
        (68_976_648_192, 723),
    ]


def test_a_step_is_its_start_its_tensors_and_its_bytes():
    device = Device(bandwidth=1e9, bytes_per_element=20, per_step=3.0, per_tensor=0.5)
    model = replace(RESNET50, elements=10**9, tensors=4)
    assert step_seconds(device, model) == 3 + 4 * 0.5 + 20
    assert step_seconds(device, model, shards=10) == 3 + 4 * 0.5 + 2  # bytes are shared, not c·n


def test_a_ring_passes_every_process_and_leaves_each_node_once():
    # 3 messages of a quarter; then two nodes of two: 2 hops within them and 1 between, twice.
    assert ring_seconds(HOPS, 1.0, Group(4, 4), 8.0, passes=1) == 1 + 3 * 10 + 6
    assert ring_seconds(HOPS, 1.0, Group(4, 2), 8.0, passes=2) == 1 + 4 * 10 + 2 * 100 + 12
    assert ring_seconds(HOPS, 1.0, ALONE, 8.0, passes=2) == 0


def test_a_tree_goes_up_and_down_the_logarithm_of_the_nodes():
    assert tree_seconds(HOPS, 1.0, Group(16, 2), 8.0) == 1 + 2 * (10 + 3 * 100) + 16
    assert tree_seconds(HOPS, 1.0, Group(18, 2), 8.0) == 1 + 2 * (10 + 4 * 100) + 16
    assert tree_seconds(HOPS, 1.0, ALONE, 8.0) == 0


def test_the_faster_one_is_taken_and_a_node_has_as_many_ways_out_as_processes():
    fabric = Fabric(large=HOPS, small=Hops(0.0, 1.0, 2.0), inner=8.0, outer=3.0)
    assert [Group(n, k).bandwidth(fabric) for n, k in ((4, 4), (4, 2), (8, 4), (4, 1))] == [
        8, 6, 8, 3
    ]  # fmt: skip
    many = Group(64, 2)
    assert all_reduce_seconds(fabric, many, 1.0) == tree_seconds(HOPS, 6.0, many, 1.0)
    long = 1e7
    ring = ring_seconds(HOPS, 6.0, many, long, passes=2)
    assert all_reduce_seconds(fabric, many, long) == ring < tree_seconds(HOPS, 6.0, many, long)
    assert norm_seconds(fabric, many) == 2 * (1 + 5 * 2) + 2 * 16 / 6


def test_what_layouts_hold_and_send():
    size = 4 * GPT2.elements
    ddp, fsdp = (Layout("", *groups) for groups in ((ALONE, Group(8, 8)), (Group(8, 8), ALONE)))
    hsdp = Layout("", Group(8, 8), Group(4, 1))
    assert hsdp.processes == 32
    assert [state_bytes(a, GPT2) / size for a in (ddp, fsdp, hsdp)] == [3, 3 / 8, 3 / 8]
    assert [checkpoint_bytes(a, GPT2) / size for a in (ddp, fsdp, hsdp)] == [2 / 8, 2 / 8, 2 / 32]
    assert [sent_bytes(a, GPT2) / size for a in (ddp, fsdp, hsdp)] == [
        2 * 7 / 8,
        3 * 7 / 8,
        3 * 7 / 8 + 2 / 8 * 3 / 4,
    ]


def test_alone_nothing_is_sent_and_rings_of_all_cost_more_than_rings_of_few():
    alone = Layout("", ALONE, ALONE)
    assert sent_bytes(alone, GPT2) == communication_seconds(GPU_FABRIC, alone, GPT2) == 0
    few, all_of_them = Group(40, 8), Group(10_000, 8)
    hsdp = communication_seconds(GPU_FABRIC, Layout("", few, Group(250, 1)), LARGE_LLAMA)
    fsdp = communication_seconds(GPU_FABRIC, Layout("", all_of_them, ALONE), LARGE_LLAMA)
    one = 4 * LARGE_LLAMA.elements / LARGE_LLAMA.modules
    assert fsdp == 242 * ring_seconds(GPU_FABRIC.large, 400e9, all_of_them, one, passes=1)
    assert hsdp < fsdp


def test_the_examples_that_make_a_step_one_percent():
    examples = examples_for_share(GPU, SMALL_LLAMA, 1, 0.01)
    work = examples * SMALL_LLAMA.flops / GPU_FLOPS
    assert step_seconds(GPU, SMALL_LLAMA) / work == pytest.approx(0.01)


# ---- what it takes for granted ----


def test_the_bytes_are_those_of_the_benchmark(tool):
    assert tool.MOVED == 20
    assert pick_cases(["gpt2:recipe"])[0].bytes_per_element() == 20 + 8 + 4


@pytest.mark.parametrize("model", [RESNET50, GPT2], ids=["resnet50", "gpt2"])
def test_ddp_has_at_most_so_many_buckets(model):
    network = next(n for n in NETWORKS if n.elements == model.elements)
    reverse = [torch.empty(shape) for shape in reversed(network.shapes)]
    buckets, _ = dist._compute_bucket_assignment_by_size(reverse, [2**20, 25 * 2**20])
    assert len(buckets) <= bucket_count(model) <= 2 * len(buckets)


def test_ddp_cuts_no_tensor_for_a_bucket():
    assert bucket_count(LARGE_LLAMA) == LARGE_LLAMA.tensors
    assert bucket_count(replace(GPT2, elements=100)) == 1


def collectives() -> list[dict[str, int]]:
    """How many of each a training step under FSDP2 has, then steps of the optimizer alone."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.debug import CommDebugMode

    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    for layer in list(model)[:2]:
        fully_shard(layer)
    fully_shard(model)  # L = 3
    plain = sgdm.SGD(model.parameters(), lr=0.1, momentum=0.9)
    clipping = sgdm.SGD(model.parameters(), lr=0.1, max_grad_norm=1.0)
    found: list[dict[str, int]] = []

    def count(action) -> None:
        with CommDebugMode() as mode:
            action()
        found.append({str(op): n for op, n in mode.get_comm_counts().items()})

    def train() -> None:
        model(torch.ones(2, 4)).square().sum().backward()

    train()
    count(train)
    for optimizer in (plain, clipping):
        count(optimizer.step)
        count(optimizer.step)
    return found


def test_the_collectives_of_fsdp2_and_of_the_step(world):
    for training, first, later, first_clipped, later_clipped in world.run(2, collectives):
        assert training == {
            "c10d._allgather_base_": 2 * 3 - 1,
            "c10d._reduce_scatter_base_": 3,
        }
        one = {"c10d.allreduce_": 1}
        assert (first, later) == (one, {})  # that the processes are alike, once
        assert (first_clipped, later_clipped) == ({"c10d.allreduce_": 2}, one)


# ---- measuring ----


def test_processes_time_steps_of_shards():
    timings = in_processes(2, time_steps, 3, 5, 3, 1e-3)
    assert {WHOLE, SHARDS, TORCH_SHARDS} < set(timings)
    assert all(
        t.rounds == 3 and 0 < t.least <= t.q20 <= t.median <= t.q80 for t in timings.values()
    )


def test_processes_time_sums(world):
    mine, other = world.run(2, time_all_reduce, (4, 16), 3, 1e-3)
    assert list(mine) == ["4", "16"]
    assert mine == other  # the slowest process counts


def wrong() -> dict[str, Timing]:
    if dist.get_rank() == 1:
        raise ValueError("not this one")
    time.sleep(60)
    return {}


def test_what_a_process_raises_ends_the_others():
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="not this one"):
        in_processes(2, wrong)


def test_rows_of_processes_come_back_and_are_no_rows_of_the_benchmark(tmp_path, tool):
    rows = read_process_rows(tool.PROCESSES)
    path = tmp_path / "processes.csv"
    append_process_rows(path, rows[:2])
    append_process_rows(path, rows[2:])
    assert read_process_rows(path) == rows
    assert all(isinstance(row, ProcessRow) for row in rows)
    with pytest.raises(FileError, match="a file of results of this version"):
        append_rows(path, [])


# ---- the page ----


def test_the_page_shows_what_the_model_says_and_what_was_measured(tool):
    page = tool.PAGE.read_text("utf-8")
    assert [name for _, name, _ in tool.MARKED.findall(page)] == [
        "models", "norms", "steps", "communication", "memory", "shares", "constants", "checked",
        "sharded",
    ]  # fmt: skip
    assert tool.with_tables() == page, "run tools/scaling_page.py"


def test_the_fastest_sample_counts_and_ratios_are_those_of_one_run(tool):
    first = read_process_rows(tool.PROCESSES)[0]
    case = (first.tensors, first.elements)
    one, other = (replace(first, contestant=name) for name in "ab")
    quiet = [replace(one, median=6.0, least=3.0), replace(other, median=2.0, least=1.0)]
    loud = [replace(row, date="later", median=9.0, least=8.0) for row in quiet]
    runs = tool.Runs([*quiet, *loud])
    assert runs.count == 2
    assert runs.seconds("a", first.processes, case) == 3
    assert runs.ratios("a", "b", first.processes, case) == [1, 3]
