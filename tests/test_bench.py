"""The benchmark: what it steps, that contestants do the same work, and how it is timed."""

from dataclasses import replace
from math import prod
from types import SimpleNamespace

import pytest
import torch

from sgdm.bench import cases, memory, rivals
from sgdm.bench.bandwidth import bare_loop
from sgdm.bench.cases import EVERYTHING, QUICK, Case, pick_cases
from sgdm.bench.machine import this_machine, using_threads
from sgdm.bench.measure import take_turns
from sgdm.bench.networks import NETWORKS, SWEEP, Network
from sgdm.bench.rivals import build, names_of, sgdm_arguments, torch_arguments
from sgdm.bench.run import Effort, measure_alone, measure_case
from sgdm.errors import InvalidValueError, WrongResultError

LEAST = Effort(rounds=3, seconds=0.01, compile_up_to=0, memory=False)


def case(name: str) -> Case:
    (only,) = pick_cases([name])
    return only


SIZES = [
    ("tiny", 6, 8_970),
    ("1000x256", 1000, 256_000),
    ("resnet50", 161, 25_557_032),
    ("gpt2", 148, 124_439_808),
    ("1x50m", 1, 50_000_000),
]


@pytest.mark.parametrize(("name", "tensors", "elements"), SIZES)
def test_the_networks_are_those_that_they_are_called_after(name, tensors, elements):
    (network,) = (network for network in NETWORKS if network.name == name)
    assert (network.tensors, network.elements) == (tensors, elements)
    assert network.elements == sum(prod(shape) for shape in network.shapes)


def test_the_sweep_grows_in_tensors_and_in_elements():
    assert [n.tensors for n in SWEEP[:4]] == [1, 10, 100, 1000]
    assert {n.elements // n.tensors for n in SWEEP[:4]} == {256}
    assert [n.elements for n in SWEEP[4::2]] == [10**3, 10**4, 10**5, 10**6, 10**7]
    assert SWEEP[-1].elements == 31_622_777


def test_cases_are_picked_by_network_by_rule_and_once():
    assert [c.name for c in pick_cases(["tiny"])] == [
        "tiny:momentum",
        "tiny:nesterov",
        "tiny:momentum-bfloat16",
        "tiny:nesterov-bfloat16",
        "tiny:recipe",
    ]
    assert [c.name for c in pick_cases(["gpt2:nesterov", "gpt2:nesterov"])] == ["gpt2:nesterov"]
    assert len(pick_cases(EVERYTHING)) == 5 * len(NETWORKS) + len(SWEEP) - 1  # 1000x256 is in both
    assert len(pick_cases(QUICK)) == 10


@pytest.mark.parametrize("name", ["gpt3", "gpt2:adam", "sweep:nesterov", ""])
def test_a_case_that_does_not_exist_is_answered_with_those_that_do(name):
    with pytest.raises(InvalidValueError) as caught:
        pick_cases(["tiny", name])
    for text in (*EVERYTHING, "momentum-bfloat16", "recipe", repr(name)):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("name", "buffer", "expected"),
    [
        ("tiny:momentum", "float32", 20),
        ("tiny:nesterov", "float32", 20),
        ("tiny:momentum-bfloat16", "float32", 14),
        ("tiny:momentum-bfloat16", "bfloat16", 10),
        ("tiny:recipe", "float32", 32),
    ],
)
def test_the_bytes_that_a_step_moves(name, buffer, expected):
    assert case(name).bytes_per_element(buffer) == expected


def test_which_cases_are_large():
    large = {c.network.name for c in pick_cases(EVERYTHING) if c.is_large}
    assert {"resnet50", "gpt2", "1x50m", "1x1000000"} <= large
    assert not {"tiny", "1000x256", "1x316228"} & large
    with_memory = {c.network.name for c in pick_cases(EVERYTHING) if c.shows_memory}
    assert with_memory == {"1x50m", "1x10000000", "1x31622777"}


def test_who_takes_part():
    full = ["sgdm", "torch default", "torch foreach", "torch fused", "torch compiled"]
    assert names_of(case("gpt2:nesterov"), compiled=True) == full
    assert names_of(case("gpt2:nesterov"), compiled=False) == full[:4]
    assert names_of(case("gpt2:momentum-bfloat16"), compiled=True) == full[:3]
    assert names_of(case("gpt2:recipe"), compiled=True) == ["sgdm", "torch composed"]


def test_what_the_optimizers_are_called_with():
    plain = {"lr": 1e-3, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0}
    nesterov = {**plain, "nesterov": True, "weight_decay": 1e-4}
    assert sgdm_arguments(case("tiny:momentum")) == plain
    assert sgdm_arguments(case("tiny:nesterov")) == nesterov
    assert sgdm_arguments(case("tiny:nesterov-bfloat16")) == {
        **nesterov,
        "buffer_dtype": torch.float32,
    }
    assert sgdm_arguments(case("tiny:recipe")) == {
        **plain,
        "max_grad_norm": 1.0,
        "ema_decay": 0.999,
    }
    assert torch_arguments("torch default", case("tiny:nesterov")) == nesterov
    assert torch_arguments("torch foreach", case("tiny:momentum")) == {**plain, "foreach": True}
    assert torch_arguments("torch fused", case("tiny:momentum")) == {**plain, "fused": True}
    assert torch_arguments("torch composed", case("tiny:recipe")) == {**plain, "fused": True}


def tensors(picked: Case) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    drawn = [[torch.randn(shape) for shape in picked.network.shapes] for _ in range(2)]
    return drawn[0], drawn[1]


@pytest.mark.parametrize("rule", ["momentum", "nesterov"])
def test_the_contestants_take_the_same_steps_and_keep_shared_gradients(seed, monkeypatch, rule):
    monkeypatch.setattr(torch, "compile", lambda step: step)
    picked = case(f"tiny:{rule}")
    start, gradients = tensors(picked)
    before = [p.clone() for p in start], [g.clone() for g in gradients]
    results = []
    for name in names_of(picked, compiled=True):
        contestant = build(name, picked, start, gradients)
        taken = 2 if name == "torch compiled" else 1  # compiling takes one
        for _ in range(5 - taken):
            contestant.step()
        results.append(contestant.params)
    for params in results[1:]:
        torch.testing.assert_close(params, results[0], rtol=1e-6, atol=1e-6)
    assert all(map(torch.equal, (*start, *gradients), (*before[0], *before[1])))


def test_a_contestant_that_writes_gradients_has_its_own(seed):
    rule = cases.Rule("pure", nesterov=True)  # foreach=True overwrites them there
    picked = Case(Network("one", ((8,),)), rule)
    start, gradients = tensors(picked)
    before = gradients[0].clone()
    for name in ("torch foreach", "torch default"):
        contestant = build(name, picked, start, gradients)
        contestant.step()
        shares = contestant.params[0].grad is gradients[0]
        assert shares == (name == "torch default")
    assert torch.equal(gradients[0], before)


def test_the_composition_clips_steps_and_averages(seed, monkeypatch):
    averages = []
    lerp = torch._foreach_lerp_
    monkeypatch.setattr(
        torch, "_foreach_lerp_", lambda a, *rest: (averages.append(a), lerp(a, *rest))
    )
    picked = case("tiny:recipe")
    start, gradients = tensors(picked)
    contestant = build("torch composed", picked, start, gradients)
    norm = torch.nn.utils.get_total_norm(gradients)
    for p, p0, g, average in zip(contestant.params, start, gradients, averages[0], strict=True):
        torch.testing.assert_close(p, p0 - 1e-3 * g / norm)
        torch.testing.assert_close(average, p0 + 1e-3 * (p - p0))
        assert p.grad is not g


class Clock:
    """A clock that only steps move, each by its own cost."""

    def __init__(self, monkeypatch):
        self.now, self.order = 0.0, []
        monkeypatch.setattr(
            "sgdm.bench.measure.time", SimpleNamespace(perf_counter=lambda: self.now)
        )

    def step(self, name: str, cost: float):
        def take() -> None:
            self.order.append(name)
            self.now += cost

        return take


def test_contestants_take_turns_and_each_round_begins_with_the_next(monkeypatch):
    clock = Clock(monkeypatch)
    steps = [clock.step(name, 1.0) for name in "ABC"]
    timings = take_turns(steps, rounds=4, seconds=1e9)
    calibration, warm_up = 6, 6
    assert "".join(clock.order[calibration + warm_up :]) == "ABCBCACABABC"
    assert {(t.rounds, t.steps_per_sample, t.median) for t in timings} == {(4, 1, 1.0)}


def test_a_sample_of_short_steps_holds_many(monkeypatch):
    clock = Clock(monkeypatch)
    short, middle, long = take_turns(
        [clock.step("a", 1e-6), clock.step("b", 1e-3), clock.step("c", 1.0)], rounds=3, seconds=1e9
    )
    assert 0.005 <= short.steps_per_sample * 1e-6 <= 0.02
    assert 0.005 <= middle.steps_per_sample * 1e-3 <= 0.02
    assert long.steps_per_sample == 1
    assert (short.median, middle.median) == pytest.approx((1e-6, 1e-3))


def test_a_case_ends_when_its_time_is_over_but_not_before_three_rounds(monkeypatch):
    clock = Clock(monkeypatch)
    assert take_turns([clock.step("a", 1.0)], rounds=99, seconds=5.5)[0].rounds == 6
    assert take_turns([clock.step("a", 1.0)], rounds=99, seconds=0.5)[0].rounds == 3


def test_the_middle_and_the_fifths(monkeypatch):
    clock = Clock(monkeypatch)
    costs = iter([1.0] * 4 + [float(cost) for cost in (5, 1, 4, 2, 3, 6)])

    def step() -> None:
        clock.now += next(costs)

    (timing,) = take_turns([step], rounds=6, seconds=1e9)
    assert (timing.q20, timing.median, timing.q80) == (2.0, 3.5, 5.0)


def test_a_case_of_its_own_process_says_the_same():
    machine = replace(this_machine(), threads=1)
    measured = measure_alone(case("tiny:momentum"), machine, LEAST)
    assert [(row.contestant, row.threads) for row in measured.rows] == [
        (name, 1) for name in names_of(case("tiny:momentum"), compiled=False)
    ]


def test_a_row_says_what_was_measured():
    machine = this_machine()
    picked = case("tiny:nesterov")
    measured = measure_case(picked, machine, LEAST)
    assert measured.notes == []
    assert [row.contestant for row in measured.rows] == names_of(picked, compiled=False)
    for row in measured.rows:
        assert (row.case, row.rule, row.dtype, row.buffer_dtype) == (
            "tiny", "nesterov", "float32", "float32",
        )  # fmt: skip
        assert (row.tensors, row.elements, row.bytes_per_step) == (6, 8970, 20 * 8970)
        assert 0 < row.q20 <= row.median <= row.q80
        assert row.ratio == row.median / measured.rows[0].median
        assert row.gb_per_s == pytest.approx(row.bytes_per_step / row.median / 1e9)
        assert (row.fraction, row.extra_memory_bytes, row.rounds) == (None, None, 3)
        assert (row.threads, row.torch) == (torch.get_num_threads(), torch.__version__)


def test_a_large_case_has_a_bare_loop_and_memory(monkeypatch):
    monkeypatch.setattr(cases, "_LARGE", 0)
    monkeypatch.setattr(cases, "_LARGEST_ON_HEAP", 0)
    monkeypatch.setattr("sgdm.bench.run.extra_peak", lambda step: 12)
    effort = Effort(rounds=3, seconds=0.01, compile_up_to=0)
    for row in measure_case(case("tiny:momentum"), this_machine(), effort).rows:
        assert row.fraction is not None
        assert row.fraction > 0
        assert row.extra_memory_bytes == 12


@pytest.mark.parametrize("name", ["tiny:nesterov", "tiny:recipe", "tiny:momentum-bfloat16"])
def test_the_bare_loop_changes_nothing_of_others(seed, name):
    picked = case(name)
    start, gradients = ([x.to(getattr(torch, picked.dtype)) for x in t] for t in tensors(picked))
    before = [x.clone() for x in (*start, *gradients)]
    step = bare_loop(picked, start, gradients)
    step()
    step()
    assert all(map(torch.equal, (*start, *gradients), before))


def test_a_wrong_result_is_not_timed(monkeypatch):
    wrong = {**sgdm_arguments(case("tiny:momentum")), "momentum": 0.9001}
    monkeypatch.setattr(rivals, "sgdm_arguments", lambda _: wrong)
    with pytest.raises(WrongResultError, match="tiny:momentum: parameter 0 of sgdm must have"):
        measure_case(case("tiny:momentum"), this_machine(), LEAST)


def test_a_result_that_is_not_finite_is_not_kept(monkeypatch):
    monkeypatch.setattr(rivals, "_LR", 1e38)
    with pytest.raises(WrongResultError, match="the parameters of sgdm must be finite at the end"):
        measure_case(case("tiny:momentum"), this_machine(), LEAST)


def test_a_compiler_that_is_missing_is_noted(monkeypatch):
    def missing(step):
        raise RuntimeError("No working C++ compiler found\nand more")

    monkeypatch.setattr(torch, "compile", missing)
    effort = Effort(rounds=3, seconds=0.01, compile_up_to=6)
    measured = measure_case(case("tiny:momentum"), this_machine(), effort)
    assert measured.notes == [
        "torch compiled did not take part: No working C++ compiler found",
    ]
    assert [row.contestant for row in measured.rows][-1] == "torch fused"


def test_another_contestant_that_fails_is_no_note(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torch.optim, "SGD", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        measure_case(case("tiny:momentum"), this_machine(), LEAST)


def test_extra_memory_is_the_peak_within_a_step():
    size = 64 * 2**20
    extra = memory.extra_peak(lambda: torch.ones(size // 4))
    if extra is not None:  # Linux
        assert 0.9 * size < extra < 1.5 * size
        assert memory.extra_peak(lambda: None) < 0.1 * size  # pyright: ignore[reportOptionalOperand]


def test_extra_memory_is_not_known_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_PROCESS", tmp_path / "none")
    assert memory.extra_peak(lambda: None) is None


@pytest.mark.parametrize(("effort", "name"), [({"rounds": 2}, "rounds"), ({"seconds": 0}, "sec")])
def test_too_little_effort_is_refused(effort, name):
    with pytest.raises(InvalidValueError, match=f"{name}.* must be "):
        Effort(**effort)


def test_threads_are_set_for_a_while():
    before = torch.get_num_threads()
    with using_threads(before + 1):
        assert this_machine().threads == before + 1
    assert torch.get_num_threads() == before
    with using_threads(None):
        assert torch.get_num_threads() == before
    with (
        pytest.raises(InvalidValueError, match="threads must be at least 1, got 0"),
        using_threads(0),
    ):
        pass
