"""Runs the probes on a subject and writes down where its parameter goes."""

from inspect import signature
from typing import Any, NamedTuple

import torch

from sgdm.audit.probes import Probe, Vector, probes_for
from sgdm.audit.subject import Refused, Subject

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
        digits: How exact the numbers are: what a rounding of the subject's arithmetic amounts to.
    """

    paths: tuple[Path, ...]
    refused: dict[str, str]
    digits: float


def observe(subject: Subject) -> Observations:
    """Run all probes.

    Raises:
        Refused: If the subject does not take its own settings.
    """
    dtype = _dtype(subject)
    group = _group(subject.make([torch.zeros(3, dtype=dtype, requires_grad=True)]))
    moves_lr, moves_momentum = "lr" in group, "momentum" in group
    paths: list[Path] = []
    refused: dict[str, str] = {}
    for probe in probes_for(subject, moves_lr=moves_lr, moves_momentum=moves_momentum):
        try:
            paths.append(_run(subject, probe, dtype))
        except Refused as error:
            refused[probe.name] = str(error)
    return Observations(tuple(paths), refused, torch.finfo(dtype).eps)


def _dtype(subject: Subject) -> torch.dtype:
    """Return float64 where the subject steps in it."""
    p = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = subject.make([p])
    p.grad = torch.full_like(p, 1 / 3)
    try:
        _step(optimizer, p, p.grad)
    except Exception:  # noqa: BLE001 - whatever it raises, it does not take the type
        return torch.float32
    return torch.float64


def _group(optimizer: Any) -> dict[str, Any]:
    groups: list[dict[str, Any]] = getattr(optimizer, "param_groups", None) or [{}]
    return groups[0]


def _run(subject: Subject, probe: Probe, dtype: torch.dtype) -> Path:
    p = torch.nn.Parameter(torch.tensor(probe.start, dtype=dtype))
    optimizer = subject.make([p], **probe.settings)
    points: list[Vector] = []
    try:
        for t, gradient in enumerate(probe.gradients):
            group = _group(optimizer)
            if probe.lr:
                group["lr"] = probe.lr[t]
            if probe.momentum:
                group["momentum"] = probe.momentum[t]
            _step(optimizer, p, torch.tensor(gradient, dtype=dtype))
            points.append(tuple(x.item() for x in p.detach().double()))
    except Exception as error:  # noqa: BLE001 - what a subject raises is an observation
        return Path(probe, tuple(points), f"{type(error).__name__}: {error}")
    return Path(probe, tuple(points))


def _step(optimizer: Any, p: torch.nn.Parameter, gradient: torch.Tensor) -> None:
    """Step with this gradient, wherever the rule takes it; some move p first, by a closure."""

    def closure() -> torch.Tensor:
        p.grad = gradient.clone()
        return torch.zeros(())

    closure()
    takes_closure = bool(signature(optimizer.step).parameters)
    optimizer.step(*([closure] if takes_closure else []))
