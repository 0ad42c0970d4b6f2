"""What the real frameworks did, read from tests/conformance, and sgdm driven the same way."""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import sgdm
from sgdm import Convention, Hyperparameters
from sgdm.recurrence import buffer_scale

FOLDER = Path(__file__).parent / "conformance"


class Record(NamedTuple):
    """One trajectory, and what it was made with.

    p, b: The parameter and the framework's own buffer after every step; b is NaN where there was
        none.
    lr, momentum, weight_decay, dampening: As the framework rounded them.
    """

    name: str
    dtype: str
    p: Any
    b: Any
    lr: list[float]
    momentum: list[float]
    weight_decay: float
    dampening: float
    nesterov: bool
    curvature: Any
    center: Any

    @property
    def start(self):
        return np.array(inputs()["p"], self.dtype)

    def gradient(self, t: int, p):
        if self.curvature is None:
            return np.array(inputs()["gradients"][t], self.dtype)
        return np.array(self.curvature, self.dtype) * (p - np.array(self.center, self.dtype))


class Recorded(NamedTuple):
    """All that a framework did."""

    versions: dict[str, str]
    records: tuple[Record, ...]
    refused: dict[str, str]


@cache
def inputs() -> dict[str, Any]:
    return json.loads((FOLDER / "inputs.json").read_text("utf-8"))


def recorded_rows() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.npz"))


@cache
def recorded(row: str) -> Recorded:
    with np.load(FOLDER / f"{row}.npz", allow_pickle=False) as file:
        about = json.loads(str(file["about"]))
        cases = {case["name"]: case for case in inputs()["cases"]}
        records, refused = [], {}
        for key, told in about["cases"].items():
            if "refused" in told:
                refused[key] = told["refused"]
                continue
            name, dtype = key.split("/")
            values = _rounded(cases[name], told["rounded"])
            records.append(Record(dtype=dtype, p=file[f"{key}/p"], b=file[f"{key}/b"], **values))
    return Recorded(about["versions"], tuple(records), refused)


def case_of(name: str, dtype: str = "float64", rounded: dict[str, str] | None = None) -> Record:
    """Return a case without a framework's answer."""
    (case,) = (case for case in inputs()["cases"] if case["name"] == name)
    return Record(dtype=dtype, p=None, b=None, **_rounded(case, rounded or {}))


def _rounded(case: dict[str, Any], rounded: dict[str, str]) -> dict[str, Any]:
    values = {
        "weight_decay": 0.0,
        "dampening": 0.0,
        "nesterov": False,
        "curvature": None,
        "center": None,
        **case,
    }
    for name, dtype in rounded.items():
        given = np.array(values[name], dtype).astype(float)
        values[name] = given.tolist()
    return values


def arguments_of(row: Convention, record: Record, **more: Any) -> dict[str, Any]:
    """What `sgdm.SGD` is given: what the rule has no place for, its framework ignores."""
    return {
        "lr": record.lr[0] or max(record.lr),
        "momentum": record.momentum[0],
        "weight_decay": record.weight_decay,
        "dampening": record.dampening if row.gain == "1-dampening" else 0,
        "nesterov": record.nesterov and row.nesterov != "never",
        "nu": 0.7 if row.look_ahead == "nu" else None,
        **more,
    }


def replay(row: Convention, record: Record, **options: Any):
    """Drive sgdm through a record; return its p and b, in the scale of the framework's own."""
    p = torch.nn.Parameter(torch.from_numpy(record.start))
    optimizer = sgdm.SGD([p], convention=row.name, **arguments_of(row, record, **options))
    parameters, buffers = [], []
    for t, (lr, momentum) in enumerate(zip(record.lr, record.momentum, strict=True)):
        optimizer.param_groups[0].update(lr=lr, momentum=momentum)
        p.grad = torch.from_numpy(record.gradient(t, p.detach().numpy()))
        optimizer.step()
        parameters.append(p.detach().numpy().copy())
        b = optimizer.state.get(p, {}).get("momentum_buffer")
        scale = buffer_scale(row, Hyperparameters(lr=lr, momentum=momentum))
        buffers.append(np.zeros_like(record.start) if b is None else scale * b.numpy())
    return np.stack(parameters), np.stack(buffers)


def distance(ours, theirs) -> float:
    """The largest difference, in parts of the trajectory's size; NaN in theirs is no buffer."""
    there = ~np.isnan(theirs)
    if not there.any():
        return 0.0
    assert np.isfinite(ours).all()
    size = np.abs(theirs[there]).max()
    return float(np.abs(ours.astype(float) - theirs.astype(float))[there].max() / (size or 1.0))
