"""How two conventions differ, against simulation and against what is known of each pair."""

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest

import sgdm
from cases import EVERY_RULE
from sgdm import Hyperparameters, compare_conventions, get_convention, list_conventions
from sgdm.compare import sides
from sgdm.errors import InvalidUseError, InvalidValueError
from sgdm.identity import _REGIMES, Side, fingerprint, verdict
from sgdm.reasons import reasons_of
from sgdm.recurrence import coefficients, look_ahead_weight

RUNNING = [row for row in list_conventions() if row.runs]


def known(a: str, b: str, identical: str, **options: Any):
    return pytest.param(a, b, options, identical, id=f"{a}-{b}-{'-'.join(options)}")


@pytest.mark.parametrize(
    ("a", "b", "options", "identical"),
    [
        known("torch", "negated", "always"),
        known("torch", "tf1", "always", nesterov=True),
        known("caffe", "sutskever", "always"),
        known("caffe", "keras", "always", nesterov=True),
        known("nag", "bengio", "always"),
        known("nag", "sutskever", "always", nesterov=True),
        known("keras", "mxnet-nag-1.6", "always", nesterov=True),
        known("torch", "fairseq", "always", nesterov=True),
        known("torch", "caffe", "while lr is constant"),
        known("torch", "keras", "while lr is constant", nesterov=True),
        known("ema", "cntk", "while lr is constant"),
        known("nag", "bengio-lr-outside", "while lr is constant"),
        known("timm", "keras", "while lr is constant", weight_decay=True),
        known("nag", "keras", "while momentum is constant", nesterov=True),
        known("darknet", "torch", "while momentum is constant"),
        known("kaldi-nnet3", "cntk", "while momentum is constant"),
        known("nag", "torch", "while lr and momentum are constant", nesterov=True),
        known("darknet", "keras", "while lr and momentum are constant"),
        known("torch", "ema", "never"),
        known("torch", "chainer-nag", "never", nesterov=True),
        known("torch", "timm", "never", weight_decay=True),
        known("timm", "composer", "never", weight_decay=True),
        known("timm", "timm-corrected", "never", weight_decay=True),
        known("mxnet-nag-1.4", "mxnet-nag-1.5", "never", weight_decay=True),
        known("mxnet-nag-1.4", "mxnet-nag-1.5", "always"),
        known("keras", "torch", "always", correct_momentum=True),
        known("keras", "torch", "always", correct_momentum=True, nesterov=True),
        known("keras", "timm", "always", correct_momentum=True, weight_decay=True),
    ],
)
def test_what_is_known_of_a_pair(a, b, options, identical):
    assert compare_conventions(a, b, **options).identical == identical
    assert compare_conventions(b, a, **options).identical == identical


def test_the_same_unless_both_change_at_once():
    """No two rows of the table are; a pair of answers is made up for the word."""
    one = dict.fromkeys(_REGIMES, ("same",))
    assert verdict(one, one) == "always"
    both = {**one, _REGIMES[0]: ("other",)}
    assert _REGIMES[0] == (True, True)
    assert verdict(one, both) == "unless lr and momentum change at once"
    prints = [fingerprint(_looking(row)) for row in RUNNING if row.nesterov != "never"]
    seen = {verdict(a, b) for a, b in combinations(prints, 2)}
    assert "unless lr and momentum change at once" not in seen
    assert len(seen) == 5


def _looking(row) -> Side:
    return Side(convention=row, nesterov=row.nesterov == "optional")


# ---- the verdict against simulation, for every pair ----


def simulate(side: Side, lr, mu, gradients, *, start: Any = None) -> np.ndarray:
    """Θ after each step, by the coefficients, from (p, b) = start or from the beginning."""
    row = side.convention
    p, b = start or (1.0, None)
    path = []
    for t, g in enumerate(gradients):
        h = Hyperparameters(
            lr=lr[t],
            momentum=mu[t + 2] if row.momentum == "next" else mu[t + 1],
            last_momentum=mu[t] if row.momentum == "previous" else None,
            nesterov=side.nesterov,
            weight_decay=0.3 if side.weight_decay else 0,
            nu=0.7 if row.look_ahead == "nu" else None,
            lr0=0.4,
        )
        c = coefficients(row, h, first=b is None)
        old = 0.0 if b is None else b
        theta = p + look_ahead_weight(row, h) * old
        if t:
            path.append(theta)
        d = g + c.coupled_decay * theta
        b = (0 if c.buffer == "first" else c.retain * old) + c.gain * d
        p = c.keep * theta + c.step * (c.buffer_weight * b + c.gradient_weight * d)
    return np.array(path)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("weight_decay", [False, True])
def test_the_verdict_is_what_simulation_shows(nesterov, weight_decay, seed):
    """Every pair, from the start, under schedules of each regime, in floating point."""
    rng = np.random.default_rng(seed)
    gradients = rng.standard_normal(12)
    lrs, mus = rng.uniform(0.05, 0.4, 12), rng.uniform(0.3, 0.9, 14)
    still_lr, still_mu = np.full(12, 0.2), np.full(14, 0.8)
    regimes = [(lrs, mus), (still_lr, mus), (lrs, still_mu), (still_lr, still_mu)]
    meaning = {
        "always": (True, True, True, True),
        "while lr is constant": (False, True, False, True),
        "while momentum is constant": (False, False, True, True),
        "while lr and momentum are constant": (False, False, False, True),
        "never": (False, False, False, False),
    }
    rows = [
        r
        for r in RUNNING
        if r.nesterov in (("optional", "always") if nesterov else ("optional", "never"))
    ]
    all_sides = [
        Side(
            convention=row,
            nesterov=nesterov and row.nesterov == "optional",
            weight_decay=weight_decay,
        )
        for row in rows
    ]
    paths = [[simulate(side, *regime, gradients) for regime in regimes] for side in all_sides]
    prints = [fingerprint(side, from_start=True) for side in all_sides]
    everything = zip(all_sides, prints, paths, strict=True)
    for (a, print_a, one), (b, print_b, other) in combinations(everything, 2):
        shown = tuple(np.allclose(x, y, rtol=1e-9) for x, y in zip(one, other, strict=True))
        assert meaning[verdict(print_a, print_b)] == shown, (a.convention.name, b.convention.name)


# ---- maps, corrections, changes ----


def evaluate(text: str, **symbols: float) -> float:
    program = text.replace("·", "*").replace("²", "**2").replace("³", "**3")
    for name, value in symbols.items():
        program = program.replace(name, repr(value))
    return eval(program)  # noqa: S307 - our own text


PAIRS = [
    ("torch", "keras", {"nesterov": True}),
    ("keras", "torch", {"nesterov": True}),
    ("torch", "negated", {}),
    ("caffe", "chainer", {}),
    ("nag", "sutskever", {"nesterov": True}),
    ("sutskever", "nag", {"nesterov": True}),
    ("sutskever", "keras", {"nesterov": True}),
    ("bengio-lr-outside", "nag", {}),
    ("kaldi-nnet3", "cntk", {}),
    ("darknet", "mxnet-sgd", {}),
    ("timm", "keras", {"weight_decay": True}),
]


@pytest.mark.parametrize(("a", "b", "options"), PAIRS, ids=str)
def test_a_converted_state_goes_on_as_the_source(a, b, options, seed):
    """The printed map is applied in mid-run, before a step with another ε than the last one."""
    rng = np.random.default_rng(seed)
    found = compare_conventions(a, b, **options)
    one, other = sides(get_convention(a), get_convention(b), **options)
    before, after = rng.standard_normal(5), rng.standard_normal(6)
    moves = found.identical in ("always", "while lr is constant")
    mu = [0.7 if moves else 0.8] * 20
    p, b_old = state_after(one, 0.3, 0.8, before)
    names: dict[str, Any] = {"θ": p, "b": b_old, "ε": 0.1, "μ": mu[0], "λ": 0.3}
    start = tuple(evaluate(text, **names) for text in (found.point_map, found.buffer_map))
    lr = [0.1] * 6
    expected = simulate(one, lr, mu, after, start=(p, b_old))
    assert np.allclose(simulate(other, lr, mu, after, start=start), expected, rtol=1e-10)


def state_after(side: Side, lr, mu, gradients):
    row = side.convention
    p, b = 1.0, None
    for g in gradients:
        h = Hyperparameters(
            lr=lr,
            momentum=mu,
            nesterov=side.nesterov,
            weight_decay=0.3 if side.weight_decay else 0,
        )
        c = coefficients(row, h, first=b is None)
        old = 0.0 if b is None else b
        theta = p + look_ahead_weight(row, h) * old
        d = g + c.coupled_decay * theta
        b = (0 if c.buffer == "first" else c.retain * old) + c.gain * d
        p = c.keep * theta + c.step * (c.buffer_weight * b + c.gradient_weight * d)
    return p, b


@pytest.mark.parametrize(
    ("a", "b", "options", "factor"),
    [
        ("torch", "keras", {}, "ε_{t+1}/ε"),
        ("keras", "torch", {"nesterov": True}, "ε/ε_{t+1}"),
        ("ema", "cntk", {}, "ε_{t+1}/ε"),
        ("nag", "bengio-lr-outside", {}, "ε/ε_{t+1}"),
        ("torch", "darknet", {}, "μ_{t+1}/μ"),
        ("nag", "keras", {"nesterov": True}, ""),
        ("torch", "nag", {"nesterov": True}, ""),
    ],
    ids=str,
)
def test_the_factor_that_makes_one_follow_the_other(a, b, options, factor):
    found = compare_conventions(a, b, **options)
    assert found.correction_b == factor
    assert compare_conventions(b, a, **options).correction_a == factor


def test_the_factor_works_under_a_schedule(seed):
    """Applied after every step, to the letter."""
    rng = np.random.default_rng(seed)
    lr, gradients = rng.uniform(0.05, 0.4, 13), rng.standard_normal(12)
    for a, b in (("torch", "keras3"), ("keras3", "torch")):
        found = compare_conventions(a, b)
        rows = {name: get_convention(name) for name in (a, b)}
        (p, v), (q, w) = (1.0, 0.0), (1.0, 0.0)
        for t, g in enumerate(gradients):
            h = Hyperparameters(lr=lr[t], momentum=0.9)
            c, k = (coefficients(rows[name], h, first=False) for name in (a, b))
            v = c.retain * v + c.gain * g
            p += c.step * v
            w = k.retain * w + k.gain * g
            q += k.step * w
            assert q == pytest.approx(p, rel=1e-12)
            w *= evaluate(found.correction_b.replace("ε_{t+1}", "η"), η=lr[t + 1], ε=lr[t])


def test_correct_momentum_is_named_where_it_helps():
    assert compare_conventions("torch", "keras").correct_momentum == "keras3"
    assert compare_conventions("caffe", "optax").correct_momentum == "caffe"
    assert compare_conventions("torch", "tf1").correct_momentum == ""
    assert compare_conventions("nag", "keras", nesterov=True).correct_momentum == ""


@pytest.mark.parametrize(
    ("a", "b", "options", "changes", "changed"),
    [
        ("torch", "ema", {}, {"lr": "ε/(1 - μ)"}, "while momentum is constant"),
        ("ema", "torch", {}, {"lr": "ε·(1 - μ)"}, "while momentum is constant"),
        (
            "torch",
            "cntk",
            {"nesterov": True},
            {"lr": "ε/(1 - μ)"},
            "while lr is constant",
        ),
        (
            "torch",
            "qhm",
            {"nesterov": True},
            {"lr": "ε/(1 - μ)", "nu": "μ"},
            "while momentum is constant",
        ),
        (
            "chainer-nag",
            "qhm",
            {},
            {"lr": "ε/(1 - μ)", "nu": "μ²"},
            "while lr and momentum are constant",
        ),
        ("timm", "composer", {"weight_decay": True}, {"weight_decay": "ε_0·λ"}, "always"),
        ("torch", "tf1", {"dampening": True}, {"lr": "ε·(1 - τ)"}, "always"),
        ("torch", "keras", {}, {}, "while lr is constant"),
    ],
    ids=str,
)
def test_what_to_change_for_the_other_ones_trajectory(a, b, options, changes, changed):
    found = compare_conventions(a, b, **options)
    assert found.changes == changes
    assert found.changed == changed
    assert found.no_equal == ""


def test_what_has_no_equal_is_said():
    found = compare_conventions("torch", "chainer-nag", nesterov=True)
    assert (found.changes, found.changed) == ({}, "never")
    assert "look-ahead" in found.no_equal
    assert any("has no equal for the look-ahead" in line for line in found.lines())


def test_dampening_differs_in_the_first_step_alone():
    found = compare_conventions("torch", "mlx", dampening=True)
    assert (found.identical, found.from_start) == ("always", "never")


def test_zero_lr_is_told_apart():
    assert not compare_conventions("keras", "cuda-convnet").over_zero_lr
    assert not compare_conventions("torch", "fairseq", nesterov=True).over_zero_lr
    assert compare_conventions("keras", "chainer").over_zero_lr
    assert compare_conventions("torch", "cuda-convnet").correct_momentum == ""
    assert any("ε = 0" in line for line in compare_conventions("ema", "cntk").lines()) is False
    assert any("ε = 0" in line for line in compare_conventions("caffe", "cuda-convnet").lines())


def test_the_buffer_that_a_framework_keeps_is_told_apart():
    """As recorded: fairseq's is ε times the one here, Darknet's μ times."""
    assert compare_conventions("torch", "fairseq", nesterov=True).own_b == "ε"
    assert compare_conventions("darknet", "torch").own_a == "μ"
    assert compare_conventions("torch", "keras").own_b == ""
    found = compare_conventions("torch", "keras", correct_momentum=True)
    assert (found.b, found.own_b) == ("corrected keras3", "")


def test_zero_momentum_is_told_apart():
    assert not compare_conventions("torch", "jittor", dampening=True).over_zero_momentum
    assert not compare_conventions("torch", "tf1").over_zero_momentum
    assert compare_conventions("torch", "timm").over_zero_momentum
    assert any("μ = 0" in line for line in compare_conventions("torch", "optax").lines())


@pytest.mark.parametrize("options", [{}, {"nesterov": True}, {"weight_decay": True}], ids=str)
def test_every_difference_has_a_reason_that_names_both_sides(options):
    """Of one row for each place on the axes."""
    rows = list({case.convention: case.row for case in EVERY_RULE}.values())
    for a, b in combinations(rows, 2):
        try:
            one, other = sides(a, b, **options)
        except InvalidValueError:
            continue
        identical = verdict(fingerprint(one), fingerprint(other))
        reasons = reasons_of(one, other, identical, identical)
        assert bool(reasons) == (identical != "always"), (a.name, b.name)
        for reason in reasons:
            assert a.name in reason
            assert b.name in reason


def test_a_first_step_that_differs_is_named():
    (reason,) = compare_conventions("torch", "mlx", dampening=True).reasons
    assert reason == (
        "torch makes its first buffer a copy of the gradient, mlx starts from a buffer of zeros"
    )


def test_what_neither_has_is_refused():
    with pytest.raises(InvalidValueError, match="'negated' and 'chainer', which have no Nesterov"):
        compare_conventions("negated", "chainer", nesterov=True)
    with pytest.raises(InvalidValueError, match="'keras3' and 'caffe', which have no dampening"):
        compare_conventions("keras", "caffe", dampening=True)
    with pytest.raises(InvalidValueError, match="correct_momentum must be False for convention"):
        compare_conventions("torch", "timm", correct_momentum=True)
    with pytest.raises(InvalidUseError, match="'schedulefree' has no coefficients"):
        compare_conventions("torch", "schedulefree")


def test_a_record_of_ones_own_is_compared():
    mine = replace(get_convention("caffe"), name="mine", sign="step")
    assert compare_conventions("keras", mine).identical == "always"
    assert sgdm.compare_conventions(mine, "torch").correct_momentum == "mine"
