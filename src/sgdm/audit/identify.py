"""Which rules of the table do what was seen, in every probe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from math import inf, isfinite
from typing import Any, NamedTuple, get_args

from sgdm.audit.observe import Observations, Path
from sgdm.audit.probes import Probe, Vector
from sgdm.audit.traits import Traits
from sgdm.convention import DESCRIPTION, Convention, WeightDecayMode
from sgdm.errors import SgdmError
from sgdm.frameworks import list_conventions
from sgdm.hyperparameters import Hyperparameters
from sgdm.recurrence import coefficients, look_ahead_weight

__all__ = ["Candidate", "Fit", "Match", "gap", "identify", "predicted"]

# Rules that differ do so by a thousandth; frameworks that keep lr as float32 come within 1e-7.
_ALIKE = {True: 1e-6, False: 2e-5}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A rule that a subject may have.

    Attributes:
        convention: Of the table.
        weight_decay_mode: How its λ acts; None for its own way.
        nesterov: Whether Nesterov's method is asked for, where the subject does not say.
    """

    convention: Convention
    weight_decay_mode: WeightDecayMode | None = None
    nesterov: bool = False

    @property
    def name(self) -> str:
        """The convention's, with what is not its own way or is not to be seen."""
        told = [f"{self.weight_decay_mode} decay"] if self.weight_decay_mode else []
        told += ["Nesterov's method"] if self.nesterov else []
        return self.convention.name + (f" with {' and '.join(told)}" if told else "")


class Fit(NamedTuple):
    """How near a candidate comes.

    Attributes:
        candidate: The rule.
        worst: The largest gap, as a part of the movement.
        alike: The names of the probes in which it does what was seen.
        other: Of those in which it does not.
    """

    candidate: Candidate
    worst: float
    alike: tuple[str, ...]
    other: tuple[str, ...]


class Match(NamedTuple):
    """Which rules a subject's steps are.

    Attributes:
        rules: Those that do what was seen in all probes, which cannot tell them apart.
        without_nesterov: Where there are none, those that do so in the probes without Nesterov's
            method.
        with_nesterov: And in those with it.
        nearest: The one that does so in most, the plainest of them first; None where `rules` has
            some, or none does so there.
    """

    rules: tuple[Fit, ...]
    without_nesterov: tuple[Fit, ...] = ()
    with_nesterov: tuple[Fit, ...] = ()
    nearest: Fit | None = None


def identify(seen: Observations, traits: Traits) -> Match:
    """Compare what was seen with every rule of the table that runs.

    Args:
        seen: What the probes showed.
        traits: What was measured: an lr or momentum of another name, or none, is taken from it.

    Example:
        >>> import torch
        >>> from sgdm.audit.observe import observe
        >>> from sgdm.audit.subject import Subject
        >>> from sgdm.audit.traits import traits_of
        >>> seen = observe(Subject(torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}))
        >>> [fit.candidate.name for fit in identify(seen, traits_of(seen)).rules]
        ['torch', 'torch7', 'apex', 'mindspore-sgd']
    """
    paths = [path for path in seen.paths if not path.probe.trait and not path.error]
    look = _Look(paths, _with_measured(seen.known, traits), seen.digits)
    found = look.alike(paths)
    if found or not paths:
        return Match(found)
    asked = [path for path in paths if path.probe.settings.get("nesterov")]
    others = [path for path in paths if path not in asked]
    return Match((), look.alike(others), look.alike(asked), look.nearest())


class _Look:
    """The search among the candidates."""

    def __init__(self, paths: Sequence[Path], known: Mapping[str, Any], eps: float) -> None:
        self._paths = paths
        self._known = known
        self._limits = {
            path.probe.name: _ALIKE[eps < 1e-10] + _rounding(path, eps) for path in paths
        }
        self._gaps: dict[tuple[object, ...], float] = {}

    def alike(self, paths: Sequence[Path]) -> tuple[Fit, ...]:
        """Return the candidates that do what these paths show, with another decay if need be."""
        if not paths:
            return ()
        found: tuple[Fit, ...] = ()
        for mode in (None, *get_args(WeightDecayMode)):
            candidates = _candidates(self._known, mode)
            fits = [
                self._fit(candidate, paths)
                for candidate in candidates
                if all(self._gap(candidate, path) < self._limits[path.probe.name] for path in paths)
            ]
            found += tuple(fits)
            if found and mode is None:
                break
        # A hidden λ of a millionth may tell two apart that are both within the limit.
        best = min((fit.worst for fit in found), default=0.0)
        return tuple(fit for fit in found if fit.worst <= 1000 * best + 1e-12)

    def nearest(self) -> Fit | None:
        """Return the candidate that does what was seen in most probes, and in the plainest."""
        fits = [self._fit(each, self._paths) for each in _candidates(self._known, None)]
        usual = [fit for fit in fits if self._paths[0].probe.name in fit.alike]
        return min(usual, key=lambda fit: (len(fit.other), fit.worst), default=None)

    def _fit(self, candidate: Candidate, paths: Sequence[Path]) -> Fit:
        gaps = {path.probe.name: self._gap(candidate, path) for path in paths}
        alike = tuple(name for name, gap in gaps.items() if gap < self._limits[name])
        other = tuple(name for name in gaps if name not in alike)
        return Fit(candidate, max(gaps.values()), alike, other)

    def _gap(self, candidate: Candidate, path: Path) -> float:
        axes = _axes(candidate.convention)
        key = (axes, candidate.weight_decay_mode, candidate.nesterov, path.probe.name)
        if key not in self._gaps:
            self._gaps[key] = gap(candidate, path, self._known)
        return self._gaps[key]


def gap(candidate: Candidate, path: Path, known: Mapping[str, Any]) -> float:
    """Return how far a candidate is from what was seen, as a part of the movement."""
    try:
        points = predicted(candidate, path.probe, known)
    except SgdmError:  # it does not take these hyperparameters
        return inf
    apart = 0.0
    for seen, point in zip(path.points, points, strict=True):
        for x, y in zip(seen, point, strict=True):
            if not isfinite(x):
                return inf
            apart = max(apart, abs(x - y))
    moved = _movement(path)
    return apart / moved if moved > 0 else inf * (apart > 0)


def _movement(path: Path) -> float:
    return max(
        abs(x - x0) for point in path.points for x, x0 in zip(point, path.probe.start, strict=True)
    )


def _rounding(path: Path, eps: float) -> float:
    """Return what a rounding of the parameter in each step amounts to, beside a small movement."""
    size = max(map(abs, path.probe.start))
    return len(path.points) * eps * size / (_movement(path) or 1.0)


def predicted(candidate: Candidate, probe: Probe, known: Mapping[str, Any]) -> list[Vector]:
    """Return where a rule takes the parameter of a probe.

    Raises:
        SgdmError: If the rule does not take the probe's hyperparameters.
    """
    row = candidate.convention
    given = {**known, **probe.settings}
    sign = -1.0 if given.get("maximize") else 1.0
    lr0, last = given.get("lr", 0.0), None
    p, b, begun = list(probe.start), [0.0] * len(probe.start), False
    points: list[Vector] = []
    for t, gradient in enumerate(probe.gradients):
        h = Hyperparameters(
            lr=probe.lr[t] if probe.lr else lr0,
            momentum=probe.momentum[t] if probe.momentum else given.get("momentum", 0.0),
            last_momentum=last,
            dampening=given.get("dampening", 0.0) if row.gain == "1-dampening" else 0.0,
            weight_decay=given.get("weight_decay", 0.0),
            nesterov=bool(given.get("nesterov", candidate.nesterov)),
            nu=given.get("nu"),
            lr0=lr0,
            weight_decay_mode=candidate.weight_decay_mode,
        )
        c = coefficients(row, h, first=not begun)
        ahead = look_ahead_weight(row, h)
        for i, g in enumerate(gradient):
            at = p[i] + ahead * b[i]
            d = sign * g + c.coupled_decay * at
            if c.buffer in {"first", "running"}:
                b[i] = c.retain * b[i] + c.gain * d
            p[i] = c.keep * at + c.step * (c.buffer_weight * b[i] + c.gradient_weight * d)
        begun |= c.buffer == "first"
        last = h.momentum
        points.append(tuple(p))
    return points


def _with_measured(known: Mapping[str, Any], traits: Traits) -> dict[str, Any]:
    """Return the hyperparameters, with lr and momentum as they were measured if need be."""
    impulse = traits.impulse
    if impulse is None:
        return dict(known)
    own = impulse.before / impulse.memory if impulse.memory else 0.0
    lr = own if abs(own) > 1e-6 * abs(impulse.now) else impulse.now
    return {"lr": lr, "momentum": impulse.memory, **known}


def _candidates(known: Mapping[str, Any], mode: WeightDecayMode | None) -> list[Candidate]:
    """Return the rules that run; those with a ν only where it is known."""
    rows = [row for row in list_conventions() if row.runs]
    rows = [row for row in rows if row.look_ahead != "nu" or "nu" in known]
    found = [Candidate(row, mode) for row in rows]
    if "nesterov" not in known:
        found += [Candidate(row, mode, True) for row in rows if row.nesterov == "optional"]
    return found


@cache
def _axes(row: Convention) -> tuple[object, ...]:
    """Return where a rule stands on the axes that steps show; many stand in one place."""
    unseen = {*DESCRIPTION, "nesterov_check", "sparse"}
    return tuple(getattr(row, field.name) for field in fields(row) if field.name not in unseen)
