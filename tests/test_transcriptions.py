"""Every convention that could not be recorded, against its published update."""

import numpy as np
import pytest

import transcriptions
from records import case_of, distance, inputs, recorded, recorded_rows, replay
from sgdm import get_convention, list_conventions
from transcriptions import NAMED, RULES, Settings

CASES = [case["name"] for case in inputs()["cases"]]
# The seed's, by its numbered equations: tests/reference.py.
IN_REFERENCE = {"sutskever", "nag", "bengio", "bengio-lr-outside"}


def expressible(row, record) -> bool:
    """Whether a framework with this rule can be asked for the case."""
    if record.dampening and row.gain != "1-dampening":
        return False
    if record.nesterov and row.nesterov == "never":
        return False
    if row.name == "libtorch-old" and record.name == "plain":
        return False  # what it does with μ = 0 was not read
    return record.nesterov or row.nesterov != "always"


def transcribe(rule, record):
    p, b = record.start, None
    points, buffers = [], []
    for t, (lr, mu) in enumerate(zip(record.lr, record.momentum, strict=True)):
        s = Settings(t, lr, mu, record.weight_decay, record.dampening, record.nesterov)
        p, b = rule(p, b, record.gradient(t, p), s)
        points.append(p)
        buffers.append(np.zeros_like(p) if b is None else b)
    return np.stack(points), np.stack(buffers)


@pytest.mark.parametrize("row", RULES)
def test_a_row_is_its_transcription(row):
    convention = get_convention(row)
    compared = 0
    for name in CASES:
        record = case_of(name)
        if expressible(convention, record):
            points, buffers = transcribe(RULES[row], record)
            p, b = replay(convention, record)
            assert distance(p, points) <= 1e-12, name
            assert distance(b, buffers) <= 1e-12, name
            compared += 1
    assert compared >= 6


def test_every_row_has_the_proof_that_it_says():
    for row in list_conventions():
        written = row.name in {*RULES, *IN_REFERENCE, *NAMED}
        proof = "transcribed" if written else "none"
        assert row.proof == ("recorded" if row.name in recorded_rows() else proof), row.name
        assert row.proof != "none" or not row.runs


def test_the_transcriptions_are_not_recorded_rows():
    """What is recorded is compared with the real thing alone."""
    assert not set(RULES) & set(recorded_rows())


@pytest.mark.parametrize("name", NAMED)
def test_a_method_with_letters_of_its_own_is_the_qhm_that_its_row_names(name):
    method = NAMED[name]()
    record = case_of("quadratic")
    lr, momentum = method.qhm["lr"], method.qhm["momentum"]
    record = record._replace(lr=[lr] * 60, momentum=[momentum] * 60)
    state = method.start(record.start)
    points = []
    for t in range(60):
        state = method.step(state, record.gradient(t, state[0]))
        points.append(state[0])
    p, _ = replay(get_convention("qhm"), record, nu=method.qhm["nu"])
    assert distance(p, np.stack(points)) < 1e-12
    assert "'qhm' with" in get_convention(name).obstacle


def test_accsgd_is_as_recorded_and_the_qhm_that_its_row_names():
    """pytorch_optimizer's, driven with kappa = 10, xi = 2, constant = 0.7."""
    kappa, xi, constant = 10.0, 2.0, 0.7
    beta = xi * constant**2 / kappa
    for record in recorded("accsgd").records:
        if (record.name, record.dtype) == ("constant", "float64"):
            (lr,) = set(record.lr)
            letters = {"a": 1 - beta, "e": lr, "k": lr * kappa / constant}
            method = transcriptions.accsgd(**letters, z=constant / (constant + beta))
            state = method.start(record.start)
            for t in range(60):
                state = method.step(state, record.gradient(t, state[0]))
                assert np.allclose(state[0], record.p[t], rtol=1e-12, atol=1e-12)
                assert np.allclose(state[1], record.b[t], rtol=1e-12, atol=1e-12)
            schedule = {name: [method.qhm[name]] * 60 for name in ("lr", "momentum")}
            p, _ = replay(get_convention("qhm"), record._replace(**schedule), nu=method.qhm["nu"])
            assert distance(p, record.p) < 1e-12
            return
    raise AssertionError


def test_thinc_is_torch_without_momentum():
    (record,) = (r for r in recorded("thinc").records if r.dtype == "float64")
    p, _ = replay(get_convention("torch"), record)
    assert set(record.momentum) == {0.0}
    assert distance(p, record.p) < 1e-12


def test_what_is_recorded_and_not_run_is_tested_here():
    not_run = {row for row in recorded_rows() if not get_convention(row).runs}
    assert not_run == {"accsgd", "optax-ema", "schedulefree", "thinc"}


def test_optax_ema_divides_by_what_fades():
    """Recorded, and not run: the debiased average is 'ema' divided by 1 - μ^t."""
    for record in recorded("optax-ema").records:
        if record.dtype == "float64":
            p, b = record.start, np.zeros(2)
            for t, (lr, mu) in enumerate(zip(record.lr, record.momentum, strict=True)):
                d = record.gradient(t, p) + record.weight_decay * p
                b = mu * b + (1 - mu) * d
                p = p - lr * b / (1 - mu ** (t + 1))
                assert np.allclose(p, record.p[t], rtol=1e-12, atol=1e-13)
                assert np.allclose(b, record.b[t], rtol=1e-12, atol=1e-13)


def test_schedule_free_is_as_recorded():
    for record in recorded("schedulefree").records:
        if record.dtype == "float64":
            p = z = record.start
            weights = largest = 0.0
            for t, (lr, beta) in enumerate(zip(record.lr, record.momentum, strict=True)):
                largest = max(largest, lr)
                weights += largest**2
                c = largest**2 / weights if weights else 0.0
                d = record.gradient(t, p) + record.weight_decay * p
                p = (1 - c) * p + c * z - lr * (1 - beta * (1 - c)) * d
                z = z - lr * d
                assert np.allclose(p, record.p[t], rtol=1e-12, atol=1e-13)
                assert np.allclose(z, record.b[t], rtol=1e-12, atol=1e-13)
