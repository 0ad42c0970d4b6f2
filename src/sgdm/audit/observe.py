"""Runs the probes on a subject and writes down where its parameter goes."""

from inspect import signature
from typing import Any, NamedTuple

import torch

from sgdm.audit.probes import Probe, Vector, known_hyperparameters, probes_for
from sgdm.audit.subject import Refused, Subject, group_of

__all__ = ["Observations", "Path", "observe"]


class Path(NamedTuple):
    """What a probe showed.

    Attributes:
        probe: Which.
        points: The parameter after each step.
        error: What the subject raised in place of stepping; "" for nothing.
    """

    probe: Probe
    points: tuple[Vector, ...]
    error: str = ""


class Observations(NamedTuple):
    """Everything that was seen.

    Attributes:
        paths: A probe each; without those that the constructor refused.
        refused: The names of those, each with what was said.
        known: The subject's hyperparameters, by name.
        digits: How exact the numbers are: what a rounding of the subject's arithmetic amounts to.
    """

    paths: tuple[Path, ...]
    refused: dict[str, str]
    known: dict[str, Any]
    digits: float


def observe(subject: Subject) -> Observations:
    """Run all probes.

    Raises:
        Refused: If the subject does not take its own settings.
    """
    dtype = _dtype(subject)
    group = group_of(subject.make([torch.nn.Parameter(torch.ones(1, 3, dtype=dtype))]))
    known = known_hyperparameters(subject, group)
    taken = {name for name in known if subject.takes(name)}
    paths: list[Path] = []
    refused: dict[str, str] = {}
    for probe in probes_for(known, group):
        try:
            paths.append(_run(subject, probe, taken, dtype))
        except Refused as error:
            refused[probe.name] = str(error)
    return Observations(tuple(paths), refused, known, torch.finfo(dtype).eps)


def _dtype(subject: Subject) -> torch.dtype:
    """Return float64 where the subject steps in it."""
    p = torch.nn.Parameter(torch.ones(1, 3, dtype=torch.float64))
    optimizer = subject.make([p])
    p.grad = torch.full_like(p, 1 / 3)
    try:
        _step(optimizer, p, p.grad)
    except Exception:  # noqa: BLE001 - whatever it raises, it does not take the type
        return torch.float32
    return torch.float64


def _run(subject: Subject, probe: Probe, taken: set[str], dtype: torch.dtype) -> Path:
    p = torch.nn.Parameter(_row(probe.start, dtype))
    given = {name: value for name, value in probe.settings.items() if name in taken}
    optimizer = subject.make([p], **given)
    group_of(optimizer).update({n: x for n, x in probe.settings.items() if n not in taken})
    points: list[Vector] = []
    try:
        for t, gradient in enumerate(probe.gradients):
            group = group_of(optimizer)
            if probe.lr:
                group["lr"] = probe.lr[t]
            if probe.momentum:
                group["momentum"] = probe.momentum[t]
            _step(optimizer, p, _row(gradient, dtype))
            points.append(tuple(x.item() for x in p.detach().double().flatten()))
    except Exception as error:  # noqa: BLE001 - what a subject raises is an observation
        return Path(probe, tuple(points), f"{type(error).__name__}: {error}")
    return Path(probe, tuple(points))


def _row(values: Vector, dtype: torch.dtype) -> torch.Tensor:
    """Return a matrix of one row: some optimizers take nothing else."""
    return torch.tensor([values], dtype=dtype)


def _step(optimizer: Any, p: torch.nn.Parameter, gradient: torch.Tensor) -> None:
    """Step with this gradient, wherever the rule takes it; some move p first, by a closure."""

    def closure() -> torch.Tensor:
        p.grad = gradient.clone()
        return torch.zeros(())

    closure()
    takes_closure = bool(signature(optimizer.step).parameters)
    optimizer.step(*([closure] if takes_closure else []))
