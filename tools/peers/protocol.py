"""What a driver of a real framework speaks: cases in on stdin, trajectories out on stdout.

A driver is a program that is run in the framework's own environment, `python DRIVER ROW`. It steps
the real optimizer through every case and reports the parameter and the buffer after every step, as
the framework keeps them. It computes nothing of the rule itself. Drivers in other languages read
and write the same JSON.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import numpy as np

__all__ = ["Case", "Peer", "Refused", "main"]

Array = Any


class Refused(Exception):  # noqa: N818 - an answer, not an error
    """The framework cannot express a case; the text says what it lacks."""


@dataclass
class Case:
    """What an optimizer is to be driven through.

    Attributes:
        name: Of the case.
        dtype: "float32" or "float64", of parameter, gradient and buffer.
        p: The parameter at the start, a vector.
        lr: Of every step.
        momentum: Of every step.
        weight_decay: Of all steps; 0 for none.
        dampening: Of all steps; 0 for none.
        nesterov: Whether Nesterov's method is asked for.
        gradients: Of every step, or None: then they are curvature * (p - center).
        curvature: Of the quadratic, or None.
        center: Of the quadratic, or None.
        options: More that one rule needs, such as QHM's nu.
    """

    name: str
    dtype: str
    p: list[float]
    lr: list[float]
    momentum: list[float]
    weight_decay: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    gradients: list[list[float]] | None = None
    curvature: list[float] | None = None
    center: list[float] | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def start(self) -> Array:
        """Return the parameter at the start."""
        return np.array(self.p, self.dtype)

    def gradient(self, t: int, p: Array) -> Array:
        """Return the gradient of step t at p, computed in the case's dtype."""
        if self.gradients is not None:
            return np.array(self.gradients[t], self.dtype)
        curvature, center = (np.array(x, self.dtype) for x in (self.curvature, self.center))
        return curvature * (np.asarray(p, self.dtype) - center)

    def refuse_unless(self, **constant: Any) -> None:
        """Refuse the case unless each named value is, at all steps, the one given."""
        for name, value in constant.items():
            asked = getattr(self, name)
            asked = set(asked) if isinstance(asked, list) else {asked}
            if asked != {value}:
                raise Refused(f"{name} is always {value} in this framework")

    def refuse_changing(self, name: str) -> float:
        """Refuse the case if the named schedule moves; return its one value."""
        values = getattr(self, name)
        if len(set(values)) > 1:
            raise Refused(f"{name} cannot be changed in mid-run in this framework")
        return values[0]


class Peer(Protocol):
    """A running optimizer of a framework.

    Attributes:
        rounded: What the framework rounds a hyperparameter to before it computes with it, in
            this case: {"lr": "float32"}. Those that are not named are used as Python floats.
    """

    rounded: dict[str, str]

    def step(self, gradient: Array, lr: float, momentum: float) -> None:
        """Take one step."""
        ...

    def parameter(self) -> Array:
        """Return the parameter as it is stored between steps."""
        ...

    def buffer(self) -> Array | None:
        """Return the buffer as it is stored between steps; None where there is none yet."""
        ...


def main(versions: dict[str, str], rules: dict[str, Callable[[Case], Peer]]) -> None:
    """Drive the rule that the command line names through the cases on stdin.

    Args:
        versions: Of the packages that the steps depend on.
        rules: By the name of the row in the table of conventions; each builds a fresh optimizer
            for a case, or raises `Refused`.
    """
    output = sys.stdout
    sys.stdout = sys.stderr  # what a framework prints is not a trajectory
    (row,) = sys.argv[1:]
    start = rules.get(row) or _unknown(row, rules)
    answers = [_drive(Case(**case), start) for case in json.load(sys.stdin)]
    json.dump({"versions": versions, "cases": answers}, output)
    output.write("\n")


def _unknown(row: str, rules: dict[str, Any]) -> NoReturn:
    sys.exit(f"row must be one of {', '.join(rules)}, got {row!r}")


def _drive(case: Case, start: Callable[[Case], Peer]) -> dict[str, Any]:
    named = {"name": case.name, "dtype": case.dtype}
    parameters: list[list[float]] = []
    buffers: list[list[float] | None] = []
    try:
        peer = start(case)
        for t, (lr, momentum) in enumerate(zip(case.lr, case.momentum, strict=True)):
            peer.step(case.gradient(t, peer.parameter()), lr, momentum)
            parameters.append(_listed(peer.parameter(), case))
            buffer = peer.buffer()
            buffers.append(None if buffer is None else _listed(buffer, case))
    except Refused as refusal:
        return {**named, "refused": str(refusal)}
    return {**named, "p": parameters, "b": buffers, "rounded": peer.rounded}


def _listed(values: Array, case: Case) -> list[float]:
    """Return the elements, which must have the case's dtype; a float has them exactly."""
    array = np.asarray(values)
    if array.dtype != np.dtype(case.dtype):
        raise TypeError(f"{case.name}: got {array.dtype}, expected {case.dtype}")
    return [float(x) for x in array.ravel()]
