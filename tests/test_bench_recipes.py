"""The benchmark's cases with a float32 buffer beside bfloat16, and with clipping and averaging."""

import pytest
import torch

from sgdm.bench.cases import pick_cases
from sgdm.bench.machine import this_machine
from sgdm.bench.rivals import build, names_of
from sgdm.bench.run import Effort, measure_case
from sgdm.cli import main


@pytest.mark.parametrize("rule", ["recipe", "momentum-bfloat16", "nesterov-bfloat16"])
def test_the_contestants_take_the_same_steps(seed, rule):
    (case,) = pick_cases([f"tiny:{rule}"])
    dtype = getattr(torch, case.dtype)
    start, gradients = (
        [torch.randn(shape).to(dtype) for shape in case.network.shapes] for _ in range(2)
    )
    before = [g.clone() for g in gradients]
    contestants = [build(name, case, start, gradients) for name in names_of(case, compiled=False)]
    ours, *others = contestants
    assert ours.buffer_dtype == "float32"
    for contestant in others:
        torch.testing.assert_close(
            [p.detach() for p in contestant.params], [p.detach() for p in ours.params]
        )
    assert all(map(torch.equal, gradients, before))


@pytest.mark.parametrize("rule", ["recipe", "nesterov-bfloat16"])
def test_the_rows_know_their_bytes(rule):
    (case,) = pick_cases([f"tiny:{rule}"])
    effort = Effort(rounds=3, seconds=0.01)
    rows = measure_case(case, this_machine(), effort).rows
    moved = [row.bytes_per_step // row.elements for row in rows]
    assert moved == ([32, 32] if rule == "recipe" else [14, 10, 10])


@pytest.mark.long
def test_quick_measures_every_rule(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["sgdm", "bench", "--quick", "--rounds", "3"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert "[10/10] 1000x256:recipe" in capsys.readouterr().out
