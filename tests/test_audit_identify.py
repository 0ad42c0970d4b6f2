"""Rules are recovered from outside, and never given a name that is not theirs."""

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import sgdm
from black_box import Bent, BlackBox, arguments_of, of_row
from sgdm import list_conventions
from sgdm.audit.identify import Candidate, Match, gap, identify, predicted
from sgdm.audit.observe import Path, observe
from sgdm.audit.probes import known_hyperparameters, probes_for
from sgdm.audit.subject import Subject
from sgdm.audit.traits import traits_of

RUNNING = [row for row in list_conventions() if row.runs]
EVERY = pytest.mark.long


def drawn(rng: random.Random, row) -> tuple[dict, tuple[str, ...]]:
    """Hyperparameters, and which of them the user may set."""
    knobs = arguments_of(row)
    settings = {
        "lr": 10 ** rng.uniform(-3, 0),
        "momentum": rng.uniform(0.3, 0.99),
        "weight_decay": rng.choice([0.0, 10 ** rng.uniform(-3, -1)]),
    }
    if "nu" in knobs:
        settings["nu"] = rng.uniform(0.2, 0.9)
    names = tuple(name for name in knobs if rng.random() < 0.8 or name == "nu")
    return settings, names


def subject_of(factory: BlackBox, settings: dict) -> Subject:
    return Subject(factory, {n: v for n, v in settings.items() if n == "lr" or n in factory.open})


def identified(subject: Subject, hidden: dict) -> Match:
    """Which rules it is, to one who knows what is fixed behind the wall."""
    seen = observe(subject)
    seen = seen._replace(known={**hidden, **seen.known})
    return identify(seen, traits_of(seen))


def path_of(candidate, settings: dict, names, rng: random.Random) -> list[list[float]]:
    """A run of sgdm.SGD with drawn schedules of what can be set; None where a rule refuses."""
    row = candidate.convention
    given = {n: v for n, v in settings.items() if n in {"lr", "momentum", "weight_decay"}}
    given["nesterov"] = candidate.nesterov
    given["nu"] = settings.get("nu") if row.look_ahead == "nu" else None
    asked = "nesterov" in names and rng.random() < 0.5
    if asked and row.nesterov == "optional":
        given["nesterov"] = True
    if "dampening" in names and not asked:
        dampening = rng.uniform(0.1, 0.5)
        if row.gain == "1-dampening":
            given["dampening"] = dampening
    p = torch.nn.Parameter(torch.tensor([0.7, -1.3], dtype=torch.float64))
    optimizer = sgdm.SGD([p], convention=row.name, engine="eager", **given)
    points = []
    for t in range(14):
        lr = rng.uniform(0.3, 1) * settings["lr"]
        momentum = rng.uniform(0.3, 1) * settings["momentum"]
        optimizer.param_groups[0]["lr"] = 0.0 if t == 6 else lr
        if "momentum" in names:
            optimizer.param_groups[0]["momentum"] = 0.0 if t == 9 else momentum
        gradient = torch.tensor([rng.gauss(0, 1), rng.gauss(0, 1)], dtype=torch.float64)

        def closure(gradient=gradient):
            p.grad = gradient.clone()
            return torch.zeros(())

        optimizer.step(closure)
        points.append(p.tolist())
    return points


@pytest.mark.parametrize("row", RUNNING, ids=lambda row: row.name)
@pytest.mark.parametrize("rounds", [2, pytest.param(16, marks=EVERY)])  # or a thousand in all
def test_every_rule_that_runs_is_recovered_and_no_other_is_named(row, rounds, seed):
    """What is named beside it makes the same path with other gradients and schedules."""
    rng = random.Random(seed)
    for _ in range(rounds):
        settings, names = drawn(rng, row)
        subject = subject_of(of_row(row, names, settings), settings)
        found = identified(subject, settings).rules
        assert row in [fit.candidate.convention for fit in found]
        draw = rng.random()
        own = torch.tensor(path_of(Candidate(row), settings, names, random.Random(draw)))
        for fit in found:
            assert fit.candidate.weight_decay_mode is None
            assert fit.worst < 1e-9
            other = path_of(fit.candidate, settings, names, random.Random(draw))
            assert torch.allclose(own, torch.tensor(other), rtol=1e-9, atol=1e-12), fit


@pytest.mark.parametrize("name", ["retain", "gain", "step"])
@pytest.mark.parametrize("place", [0, *(pytest.param(i, marks=EVERY) for i in range(1, 10))])
def test_a_rule_that_is_a_little_off_is_not_named(name, place, seed):
    rng = random.Random(seed)
    rows = [row for row in RUNNING[place::10] if row.stores == "look-ahead"]
    for row in rows * 2:
        settings, _ = drawn(rng, row)
        factor = 1 + rng.choice([-1, 1]) * rng.uniform(0.003, 0.1)

        def make(params, row=row, factor=factor, **given):
            return Bent(params, row, name, factor, **given)

        subject = subject_of(BlackBox(make, settings, tuple(arguments_of(row))), settings)
        found = identified(subject, settings)
        assert not found.rules, (row.name, factor)


def test_every_pair_is_told_apart_by_a_wide_margin_or_not_at_all():
    """So that the limit between them, one in a million, is nowhere near either."""
    knobs = {"momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False}
    factory = BlackBox(torch.optim.SGD, {}, tuple(knobs))
    subject = Subject(factory, {"lr": 0.1, **knobs})
    group = {"lr": 0.1, "momentum": 0.9}
    known = {**known_hyperparameters(subject, group), "nu": 0.6}
    probes = [probe for probe in probes_for(known, group) if not probe.trait]
    seen: dict[str, list] = {}
    for row in RUNNING:
        seen[row.name] = [predicted(Candidate(row), probe, known) for probe in probes]
    for a in RUNNING:
        for b in RUNNING:
            gaps = [
                gap(Candidate(b), Path(probe, tuple(points)), known)
                for probe, points in zip(probes, seen[a.name], strict=True)
            ]
            assert max(gaps) < 1e-12 or max(gaps) > 1e-3, (a.name, b.name, max(gaps))


def match_of(factory, **settings) -> Match:
    seen = observe(Subject(factory, settings))
    return identify(seen, traits_of(seen))


def named(factory, **settings) -> list[str]:
    return [fit.candidate.name for fit in match_of(factory, **settings).rules]


@pytest.mark.parametrize("how", [{}, {"foreach": True}, {"fused": True}, {"nesterov": True}])
def test_torch(how):
    expected = ["torch", "torch7", "apex", "mindspore-sgd"]
    assert named(torch.optim.SGD, lr=0.1, momentum=0.9, **how) == expected


def test_maximize_is_taken_for_what_it_is():
    assert "torch" in named(torch.optim.SGD, lr=0.1, momentum=0.9, maximize=True)


def test_another_decay_is_named_with_the_rule():
    given = {"convention": "chainer-nag", "weight_decay_mode": "lr"}
    assert named(sgdm.SGD, lr=0.1, momentum=0.9, **given) == ["chainer-nag with lr decay"]


def test_a_subject_in_float32_is_recovered():
    class Single(torch.optim.SGD):
        def __init__(self, params, lr=0.1, momentum=0.0, weight_decay=0.0):
            super().__init__(params, lr, momentum, weight_decay=weight_decay)

        def step(self, closure=None):
            if any(p.dtype == torch.float64 for g in self.param_groups for p in g["params"]):
                raise TypeError("float32 only")
            return super().step(closure)

    assert "torch" in named(Single, lr=0.003, momentum=0.9)
    assert "caffe" not in named(Single, lr=0.003, momentum=0.9)


def test_two_faces_are_told_one_by_one():
    """One rule without Nesterov's method, and another one's form of it."""

    class Mixed(torch.optim.Optimizer):
        def __init__(self, params, lr=0.1, momentum=0.9, nesterov=False):
            values = {"lr": lr, "momentum": momentum}
            super().__init__(params, values)
            convention = "caffe" if nesterov else "torch"
            self._own = sgdm.SGD(self.param_groups, convention=convention, nesterov=nesterov)
            self._own.param_groups = self.param_groups
            self.param_groups[0] |= self._own.defaults | values

        def step(self, closure=None) -> Any:
            return self._own.step(closure)

    found = match_of(Mixed, lr=0.1, momentum=0.9)
    assert not found.rules
    assert "torch" in [fit.candidate.name for fit in found.without_nesterov]
    assert "caffe" in [fit.candidate.name for fit in found.with_nesterov]
    assert found.nearest is not None


def test_the_nearest_says_where_it_differs():
    """Detectron's correction on a buffer that has no lr in it, as its ports do."""

    class Corrected(torch.optim.SGD):
        def __init__(self, params, lr=0.1, momentum=0.9):
            super().__init__(params, lr, momentum)
            self._last = lr

        def step(self, closure=None):
            group = self.param_groups[0]
            for state in self.state.values():
                if group["lr"]:
                    state["momentum_buffer"].mul_(group["lr"] / self._last)
            self._last = group["lr"] or self._last
            return super().step(closure)

    found = match_of(Corrected, lr=0.1, momentum=0.9)
    assert not found.rules
    assert found.nearest is not None
    assert found.nearest.candidate.name == "torch"
    assert "a moving lr" in found.nearest.other
    assert "constant hyperparameters" in found.nearest.alike


HIDING = {
    "all": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "nesterov": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
    "decay": lambda params, lr=0.1, momentum=0.9: torch.optim.SGD(
        params, lr, momentum, weight_decay=1e-2
    ),
    "lr": lambda params, learning_rate=0.1, beta=0.8: torch.optim.SGD(params, learning_rate, beta),
    "dampening": lambda params, lr=0.1: torch.optim.SGD(params, lr, 0.9, dampening=0.3),
    "keywords": lambda params, lr=0.1, **more: torch.optim.SGD(params, lr, **more),
}


@pytest.mark.parametrize("factory", HIDING.values(), ids=HIDING)
def test_what_is_no_argument_is_read_from_the_group(factory):
    expected = ["torch", "torch7", "apex", "mindspore-sgd"]
    assert named(factory) == expected


@pytest.mark.parametrize("nesterov", [False, True])
def test_what_is_to_be_seen_nowhere_is_measured(nesterov):
    def factory(params):
        optimizer = torch.optim.SGD(params, lr=0.07, momentum=0.8, nesterov=nesterov)
        return SimpleNamespace(step=optimizer.step)

    found = named(factory)
    assert ("torch with Nesterov's method" if nesterov else "torch") in found
