"""Conventions side by side: where they part, and that the predicted gap is the algebra's."""

import csv
from dataclasses import replace

import pytest
import torch

from sgdm.errors import DivergedError, FileError, InvalidValueError
from sgdm.training.comparison import Comparison, Trace, compare, parse_conventions
from sgdm.training.data import load_data
from sgdm.training.learner import Learner
from sgdm.training.observer import Observer
from sgdm.training.run import resume
from sgdm.training.settings import Settings

SETTINGS = Settings(
    model="linear", epochs=4, batch_size=64, lr_schedule="steps", lr=0.05, weight_decay=0.0
)
DROP, TOTAL = 46, 92


@pytest.fixture(scope="module")
def four(tmp_path_factory) -> tuple[Comparison, "object"]:
    path = tmp_path_factory.mktemp("compare") / "run"
    return compare(SETTINGS, ["torch", "negated", "caffe", "nag"], path), path


def test_where_each_parts_from_the_first(four):
    comparison, _ = four
    assert comparison.drops == [DROP]
    assert len(comparison.lrs) == TOTAL
    parted = {trace.name: trace.parted for trace in comparison.traces}
    assert parted == {"torch": None, "negated": None, "caffe": DROP + 1, "nag": 1}
    assert set(comparison.traces[1].distances) == {0.0}, "(1) and (2) are the same to the bit"


def test_the_first_convention_is_the_measure(four):
    comparison, _ = four
    assert set(comparison.traces[0].distances) == set(comparison.traces[0].predicted) == {0.0}


def test_the_predicted_gap_is_the_closed_form(four):
    """After n steps at ε_2: μ(1-μⁿ)/(1-μ)·(ε_1-ε_2)·|v|, relative to |θ|."""
    comparison, _ = four
    learner = Learner(SETTINGS, load_data("digits", seed=0), dtype=torch.float64)
    mu, sizes = SETTINGS.momentum, []
    v = torch.zeros(())
    for t in range(TOTAL):
        if t == DROP:
            state = learner.optimizer.state
            v = torch.cat([state[p]["momentum_buffer"].reshape(-1) for p in state])
        learner.step(t)
        sizes.append(torch.cat([p.detach().reshape(-1) for p in learner.model.parameters()]).norm())
    caffe = comparison.traces[2]
    for n in (1, 2, 10, TOTAL - DROP):
        gap = mu * (1 - mu**n) / (1 - mu) * (SETTINGS.lr - 0.1 * SETTINGS.lr) * v.norm()
        expected = (gap / sizes[DROP + n - 1]).item()
        assert caffe.predicted[DROP + n - 1] == pytest.approx(expected, rel=1e-9)
    assert caffe.distances[DROP] == pytest.approx(caffe.predicted[DROP], rel=1e-9)


def test_the_measured_gap_answers_to_the_gradients(four):
    comparison, _ = four
    caffe = comparison.traces[2]
    assert caffe.distances[-1] != pytest.approx(caffe.predicted[-1], rel=1e-3)
    assert caffe.distances[-1] < caffe.predicted[-1], "on a convex loss they pull together"


def test_the_numbers_are_in_the_file(four):
    comparison, path = four
    with (path / "compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == TOTAL * 4
    for trace in comparison.traces:
        own = [row for row in rows if row["convention"] == trace.name]
        assert [float(row["loss"]) for row in own] == trace.losses
        assert [float(row["distance"]) for row in own] == trace.distances
        assert [float(row["predicted"]) for row in own] == trace.predicted
        assert [float(row["lr"]) for row in own] == comparison.lrs
        assert [int(row["step"]) for row in own] == list(range(1, TOTAL + 1))


def test_equal_methods_stay_together_under_schedules(tmp_path):
    """(4)(5), (8) and, in θ, (6)(7): with lr and momentum moving at every step."""
    settings = replace(
        SETTINGS,
        lr_schedule="cosine",
        momentum_schedule="su-boyd-candes",
        evaluate_at="iterate",
        weight_decay=1e-3,
    )
    names = ["nag", "bengio", "sutskever:nesterov", "bengio-lr-outside"]
    comparison = compare(settings, names, tmp_path / "run")
    parted = [trace.parted for trace in comparison.traces]
    assert parted[:3] == [None, None, None]
    assert parted[3] is not None


def test_a_name_may_ask_for_nesterov(tmp_path):
    comparison = compare(SETTINGS, ["torch", "torch:nesterov"], tmp_path / "run")
    assert comparison.traces[1].parted == 1


def test_a_diverging_convention_is_named_and_the_numbers_are_kept(tmp_path):
    settings = replace(SETTINGS, model="mlp", lr=1e9, lr_schedule="constant")
    with pytest.raises(DivergedError, match=r"^torch: the loss is "):
        compare(settings, ["torch", "caffe"], tmp_path / "run")
    lines = (tmp_path / "run/compare.csv").read_text().splitlines()
    assert len(lines) > 1


def test_an_interrupted_comparison_keeps_its_numbers(tmp_path):
    class Stop(Observer):
        def started(self, step, total):
            assert (tmp_path / "run/config.json").exists(), "the place is taken before the work"

        def compared_epoch(self, epochs, compared):
            self.seen = epochs, compared
            raise KeyboardInterrupt

    observer = Stop()
    with pytest.raises(KeyboardInterrupt):
        compare(SETTINGS, ["torch", "nag"], tmp_path / "run", observer=observer)
    with (tmp_path / "run/compare.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * TOTAL // 4
    epochs, (first, other) = observer.seen
    assert (epochs, first.name, other.name) == (4, "torch", "nag")
    assert (first.distance, first.metrics.epoch, other.metrics.step) == (0.0, 1, TOTAL // 4)
    assert (other.distance, other.predicted) == (
        float(rows[-1]["distance"]),
        float(rows[-1]["predicted"]),
    )


@pytest.mark.parametrize("text", ["torch", "", "torch,torch", ","])
def test_two_different_names_are_needed(text):
    with pytest.raises(InvalidValueError, match="conventions must be two different ones or more"):
        parse_conventions(text)


def test_a_distance_that_is_not_a_number_has_parted():
    assert Trace("x", distances=[0.0, float("nan")]).parted == 2


def test_the_same_twice_under_two_names_is_refused(tmp_path):
    settings = replace(SETTINGS, nesterov=True)
    with pytest.raises(InvalidValueError, match="conventions must be different from each other"):
        compare(settings, ["torch", "torch:nesterov"], tmp_path / "run")


def test_names_are_split():
    assert parse_conventions("torch, caffe:nesterov,") == ["torch", "caffe:nesterov"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["torch", "cafe"], "did you mean 'caffe'"),
        (["torch", "torch:fast"], "conventions must be a name, or a name with ':nesterov'"),
        (["torch", "torch:"], "conventions must be a name, or a name with ':nesterov'"),
        (["torch", "negated:nesterov"], "nesterov must be False for convention 'negated'"),
    ],
)
def test_a_bad_name_writes_nothing(tmp_path, names, message):
    with pytest.raises(InvalidValueError, match=message):
        compare(SETTINGS, names, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_comparison_is_not_overwritten_unasked_and_not_resumed(four):
    _, path = four
    with pytest.raises(FileError, match="holds something already"):
        compare(SETTINGS, ["torch", "caffe"], path)
    with pytest.raises(FileError, match="holds a comparison, which keeps no checkpoint"):
        resume(path)
