"""Every convention against the framework it is named after: recorded trajectories, and live ones.

The files in tests/conformance were written by tools/record_trajectories.py, which stepped the real
optimizers; nothing of sgdm went into them.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import records
from records import case_of, distance, recorded, recorded_rows, replay
from sgdm import get_convention, list_conventions

PEERS = Path(__file__).parents[1] / "tools" / "peers"
TOLERANCE = {"float64": 1e-12, "float32": 2e-6}
# Where a framework does another thing in a case, which the row's quirks say.
ANOTHER = {
    ("mxnet-nag-1.5", "plain"): "with momentum = 0 at construction it is plain SGD",
}


@pytest.mark.parametrize("row", [row for row in recorded_rows() if get_convention(row).runs])
@pytest.mark.parametrize("engine", ["native", "eager"])
def test_sgdm_moves_as_the_framework_did(row, engine):
    convention = get_convention(row)
    for record in recorded(row).records:
        p, b = replay(convention, record, engine=engine)
        limit = TOLERANCE[record.dtype]
        apart = max(distance(p, record.p), distance(b, record.b))
        if (row, record.name) in ANOTHER:
            assert apart > 1e-3, f"{record.name}: it does not differ any more"
            assert any(ANOTHER[row, record.name] in quirk for quirk in convention.quirks)
            continue
        assert apart <= limit, f"{record.name}, {record.dtype}: {apart:.2g} apart"


@pytest.mark.parametrize("row", recorded_rows())
def test_a_record_says_what_it_was_made_by(row):
    told = recorded(row)
    assert told.versions
    assert all(told.versions.values())
    assert all(told.refused.values())
    assert told.records
    for record in told.records:
        assert record.p.shape == record.b.shape == (60, 2)
        assert np.isfinite(record.p).all()


def test_the_table_says_which_rows_are_recorded():
    claimed = {row.name for row in list_conventions() if row.proof == "recorded"}
    assert claimed == set(recorded_rows())


def test_another_rule_is_told_apart():
    """The comparison fails where it should: every wrong neighbour is far off."""
    keras = recorded("keras3").records
    (dropped,) = (r for r in keras if r.name == "drop" and r.dtype == "float32")
    assert distance(replay(get_convention("torch"), dropped)[0], dropped.p) > 0.1
    (constant,) = (r for r in keras if r.name == "constant" and r.dtype == "float32")
    assert distance(replay(get_convention("torch"), constant)[0], constant.p) < 2e-6
    (nag,) = (
        r
        for r in recorded("mxnet-nag-1.6").records
        if (r.name, r.dtype) == ("decay-nesterov", "float64")
    )
    assert distance(replay(get_convention("mxnet-nag-2"), nag)[0], nag.p) > 1e-3


# ---- live: the driver is run with this interpreter, where it has the framework ----

# What has a version of its own in a row's name is left to the recorder, and what needs a PATH.
LIVE = {
    "torch": ("main/torch_sgd.py", "torch"),
    "sklearn": ("main/sklearn_mlp.py", "sklearn"),
    "keras3": ("main/keras3_sgd.py", "keras"),
    "optax": ("main/optax_sgd.py", "optax"),
    "ema": ("main/optax_sgd.py", "optax"),
    "jax-example": ("main/jax_example.py", "jax"),
    "mlx": ("main/mlx_sgd.py", "mlx"),
    "paddle": ("main/paddle_momentum.py", "paddle"),
    "onnx": ("main/onnx_momentum.py", "onnx"),
    "tinygrad": ("main/tinygrad_sgd.py", "tinygrad"),
    "tinygrad-classic": ("main/tinygrad_sgd.py", "tinygrad"),
    "autograd": ("main/autograd_sgd.py", "autograd"),
    "tf1": ("tensorflow/tf1_momentum.py", "tensorflow"),
    "tf-keras": ("tensorflow/tf_keras_sgd.py", "tf_keras"),
    "chainer": ("legacy/chainer_sgd.py", "chainer"),
    "chainer-corrected": ("legacy/chainer_sgd.py", "chainer"),
    "chainer-nag": ("legacy/chainer_sgd.py", "chainer"),
    "timm": ("pytorch/timm_sgdw.py", "timm"),
    "timm-corrected": ("pytorch/timm_sgdw.py", "timm"),
    "optimi": ("pytorch/optimi_sgd.py", "optimi"),
    "kozistr-sgdw": ("pytorch/pytorch_optimizer_sgd.py", "pytorch_optimizer"),
    "qhm": ("pytorch/qhoptim_qhm.py", "qhoptim"),
}


@pytest.mark.parametrize("row", LIVE)
def test_the_framework_that_is_installed_moves_so_too(row):
    driver, module = LIVE[row]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    cases = []
    for dtype in ("float64", "float32"):
        for case in records.inputs()["cases"]:
            gradients = None if "curvature" in case else records.inputs()["gradients"]
            point = records.inputs()["p"]
            cases.append({**case, "dtype": dtype, "p": point, "gradients": gradients})
    path = PEERS / driver
    answer = subprocess.run(
        [sys.executable, path.name, row],
        cwd=path.parent,
        input=json.dumps(cases),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "KERAS_BACKEND": "torch"},
    )
    answers = json.loads(answer.stdout)["cases"]
    ran = [told for told in answers if "refused" not in told]
    assert len(ran) == len(recorded(row).records)
    for told in ran:
        record = case_of(told["name"], told["dtype"], told["rounded"])
        p, b = replay(get_convention(row), record)
        theirs = np.array([[np.nan] * 2 if held is None else held for held in told["b"]])
        apart = max(distance(p, np.array(told["p"])), distance(b, theirs))
        assert apart <= TOLERANCE[told["dtype"]], told["name"]
