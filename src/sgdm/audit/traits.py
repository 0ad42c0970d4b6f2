"""What the steps are like, measured one thing at a time and without the table.

A rule of the family answers gradients linearly, each element by itself and wherever the parameter
stands, and what a gradient does fades by one factor:

    Δ_{t+1} = m*Δ_t - c1*d_t + c0*d_{t-1}          Δ_t = θ_t - θ_{t-1}

An impulse shows m, c1 and c0; runs that differ in one thing show the rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isfinite, log10
from types import MappingProxyType
from typing import Any, NamedTuple

from sgdm.audit.observe import Observations, Path
from sgdm.audit.probes import DROP

__all__ = ["Impulse", "Traits", "traits_of"]

_ALIKE = {True: 1e-6, False: 1e-3}


class Impulse(NamedTuple):
    """What a gradient of one does, with constant hyperparameters.

    Attributes:
        memory: m.
        now: c1.
        before: c0.
        residual: How far the later movements are from this, as a part of the first.
    """

    memory: float
    now: float
    before: float
    residual: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Traits:
    """What the steps are like.

    Attributes:
        stranger: Why they are not of the family; "" where they are.
        steps: Whether it took the steps.
        impulse: What a gradient does; None outside the family.
        sentences: The findings.
        equations: The step recovered; empty outside the family.
    """

    stranger: str
    steps: bool = True
    impulse: Impulse | None = None
    sentences: tuple[str, ...] = ()
    equations: tuple[str, ...] = ()


def traits_of(seen: Observations) -> Traits:
    """Measure the traits.

    Args:
        seen: What the probes showed.
    """
    runs = _Runs(seen)
    missing = [name for name in _NEEDED if name not in runs.paths]
    if missing:
        failed = {path.probe.name: path.error for path in seen.paths if path.error}
        why = failed.get(missing[0]) or seen.refused.get(missing[0], "not run")
        return Traits(stranger=f"it does not step: {why}", steps=False)
    stranger = _stranger(runs)
    if stranger:
        return Traits(stranger=stranger)
    impulse = _impulse(runs)
    if impulse.residual > runs.alike:
        text = (
            "what a gradient does does not fade by one factor, as one buffer makes it "
            f"({impulse.residual:.1e} off)"
        )
        return Traits(stranger=text)
    known = runs.settings("a late impulse")
    return Traits(
        stranger="",
        impulse=impulse,
        sentences=tuple(_sentences(runs, impulse)),
        equations=tuple(_equations(impulse, known)),
    )


_NEEDED = (
    "the gradients",
    "the gradients again",
    "no gradients",
    "other gradients",
    "both gradients",
    "a thousand times the gradients",
    "one element's gradient changed",
    "another start",
    "an impulse",
    "a late impulse",
    "a later impulse",
)


class _Runs:
    """The runs by name, as movements from their starts."""

    def __init__(self, seen: Observations) -> None:
        self.alike = _ALIKE[seen.digits < 1e-10]
        self.paths: dict[str, Path] = {
            path.probe.name: path
            for path in seen.paths
            if path.probe.trait and not path.error and _finite(path)
        }

    def settings(self, name: str) -> Mapping[str, Any]:
        return self.paths[name].probe.settings

    def moved(self, name: str) -> list[list[float]]:
        """Return the movement, for each step and element."""
        path = self.paths[name]
        return [[x - x0 for x, x0 in zip(p, path.probe.start, strict=True)] for p in path.points]

    def caused(self, name: str) -> list[list[float]]:
        """Return the movement that the gradients made: what is there without them is taken off."""
        rest = self.moved("no gradients")
        return [
            [x - y for x, y in zip(one, other, strict=True)]
            for one, other in zip(self.moved(name), rest, strict=True)
        ]

    def gap(self, one: str, other: str, *, times: float = 1.0) -> float:
        """Return how far one movement is from a multiple of another, as a part of it."""
        a, b = self.caused(one), self.caused(other)
        apart = max(
            abs(x - times * y) for r, s in zip(a, b, strict=True) for x, y in zip(r, s, strict=True)
        )
        size = max(abs(times * y) for s in b for y in s)
        return apart / size if size else apart

    def apart_from_the_sum(self) -> float:
        """Return how far two gradients together are from the sum of what each does."""
        runs = [self.caused(f"{name} gradients") for name in ("the", "other", "both")]
        apart = size = 0.0
        for rows in zip(*runs, strict=True):
            for x, y, together in zip(*rows, strict=True):
                apart, size = max(apart, abs(x + y - together)), max(size, abs(together))
        return apart / size if size else apart

    def drifts(self) -> float:
        """Return how far a later impulse is from a late one, as a part of what that does."""
        late, later = (self.caused(f"a {name} impulse") for name in ("late", "later"))
        pairs = [(x[0], y[0]) for x, y in zip(late[3:], later[5:], strict=False)]
        size = max(abs(x) for x, _ in pairs)
        return max(abs(x - y) for x, y in pairs) / size if size else 0.0

    def elements_moved(self, one: str, other: str) -> set[int]:
        """Return the elements that move otherwise in one run than in another."""
        a, b = self.moved(one), self.moved(other)
        size = max(abs(y) for s in b for y in s) or 1.0
        return {
            i
            for r, s in zip(a, b, strict=True)
            for i, (x, y) in enumerate(zip(r, s, strict=True))
            if abs(x - y) > self.alike * size
        }


def _coupled_by_decay(runs: _Runs) -> bool:
    names = ("one element's gradient changed, with decay", "the gradients, with decay")
    return all(name in runs.paths for name in names) and runs.elements_moved(*names) > {0}


def _finite(path: Path) -> bool:
    return all(isfinite(x) for point in path.points for x in point)


def _stranger(runs: _Runs) -> str:
    """Return why the steps are not those of a linear rule of each element; "" where they are."""
    usual = "the gradients"
    first_steps = {round(abs(x), 9) for x in runs.caused(usual)[0]}
    thousand = "a thousand times the gradients"
    found = {
        "the same run twice goes two ways: its steps are random": (
            runs.gap("the gradients again", usual) > runs.alike
        ),
        "gradients do not move it": not any(x for row in runs.caused(usual) for x in row),
        "an element's step depends on the gradients of the others: there is a norm in it, as in "
        "LARS, LAMB, Muon or clipping": (
            runs.elements_moved("one element's gradient changed", usual) > {0}
        ),
        "with weight decay an element's step depends on the others: there is a norm in it, as in "
        "LARS": _coupled_by_decay(runs),
        "its first step is as long for every gradient: a sign method, or Adam and its kin": (
            len(first_steps) == 1 and first_steps != {0.0}
        ),
        "a thousand times the gradients move it as far: it is adaptive": (
            runs.gap(thousand, usual) < 1e-3
        ),
        "a thousand times the gradients do not move it a thousand times as far: it clips, or is "
        "not linear": runs.gap(thousand, usual, times=1000.0) > runs.alike,
        "two gradients together do not do what each does: it is not linear": (
            runs.apart_from_the_sum() > runs.alike
        ),
        "a gradient does something else in a later step: its steps depend on their number": (
            runs.drifts() > runs.alike
        ),
        "gradients move it otherwise where the parameter is larger: a trust ratio, or decay": (
            runs.gap("another start", usual) > runs.alike
        ),
    }
    return next((why for why, is_so in found.items() if is_so), "")


def _impulse(runs: _Runs) -> Impulse:
    """Fit m, c1 and c0 to what a late impulse does; the rest of the run says how well."""
    path = runs.caused("a late impulse")
    at = next(t for t, row in enumerate(runs.paths["a late impulse"].probe.gradients) if any(row))
    reached = [-row[0] for row in path[at:]]
    steps = [b - a for a, b in zip([0.0, *reached], reached, strict=False)]
    now, second, third = steps[:3]
    size = max(map(abs, steps)) or 1.0
    memory = third / second if abs(second) > 1e-9 * size else 0.0
    rest = [second * memory**k for k in range(len(steps) - 1)]
    residual = max(abs(x - y) for x, y in zip(steps[1:], rest, strict=True)) / size
    return Impulse(memory, now, memory * now - second, residual)


def _sentences(runs: _Runs, impulse: Impulse) -> list[str]:
    known = runs.settings("a late impulse")
    total = (impulse.now - impulse.before) / (1 - impulse.memory) if impulse.memory < 1 else None
    told = [
        f"A gradient moves the parameter by {_read(impulse.now, known)} in its step"
        + ("" if total is None else f" and by {_read(total, known)} in all")
        + f"; what it does fades by {_read(impulse.memory, known)} a step."
    ]
    told.append(_look(impulse, known))
    told.append(_first(runs))
    told += [_dampening(runs)] if "a late impulse, dampened" in runs.paths else []
    told += [_lr(runs)] if "an impulse before a drop of lr" in runs.paths else []
    told += [_momentum(runs)] if "an impulse before a drop of momentum" in runs.paths else []
    told += [_decay(runs, impulse)] if "weight decay alone" in runs.paths else []
    return [text for text in told if text]


def _look(impulse: Impulse, known: Mapping[str, Any]) -> str:
    """Say how the step is made of the gradient itself and of the buffer that has it."""
    if impulse.memory == 0:
        return "There is no momentum."
    own = impulse.before / impulse.memory
    buffered = impulse.now - own
    if abs(own) < 1e-6 * abs(impulse.now):
        return "It does not look ahead."
    times = buffered / own
    for steps, words in ((1, "one step: Nesterov's method"), (2, "two steps")):
        ahead = sum(impulse.memory**k for k in range(steps))
        if abs(own * impulse.memory**steps - buffered * ahead) < 1e-6 * abs(impulse.now):
            return f"It looks ahead by {words}."
    return (
        f"Of its step {_read(own, known)} is the gradient's own, and {times:.4g} times that comes "
        "through the buffer."
    )


def _dampening(runs: _Runs) -> str:
    tau = runs.settings("a late impulse, dampened")["dampening"]
    last = [runs.caused(f"a late impulse, {way}")[-1][0] for way in ("dampened", "undamped")]
    times = last[0] / last[1] if last[1] else 1.0
    text = f"Dampening multiplies what a gradient does by {_read(times, {}, {'1 - τ': 1 - tau})}"
    if abs(times - 1) < runs.alike:
        return "Dampening does nothing."
    early = [row[0] for row in runs.caused("an impulse, dampened")]
    late = [row[0] for row in runs.caused("a late impulse, dampened")][3:]
    same = max(abs(x - y) for x, y in zip(early, late, strict=False)) < runs.alike * abs(late[-1])
    return f"{text}, the first one's too." if same else f"{text}, but not what the first does."


def _first(runs: _Runs) -> str:
    early = [row[0] for row in runs.caused("an impulse")]
    late = [row[0] for row in runs.caused("a late impulse")][3:]
    size = abs(late[-1]) or 1.0
    if max(abs(x - y) for x, y in zip(early, late, strict=False)) < runs.alike * size:
        return "The first gradient does what later ones do."
    ratio = early[len(late) - 1] / size
    return f"The first gradient does {abs(ratio):.4g} times what a later one does."


def _coasting(runs: _Runs, name: str) -> list[float]:
    """Return how far it goes in the steps after a drop, as a part of how far it would."""
    start = 3
    dropped = [row[0] for row in runs.caused(name)][start:]
    usual = [row[0] for row in runs.caused("a late impulse")][start:]
    return [
        (b - a) / (d - c) if abs(d - c) > 1e-12 else 0.0
        for (a, b), (c, d) in zip(pairwise(dropped), pairwise(usual), strict=True)
    ]


def _lr(runs: _Runs) -> str:
    ratio = _coasting(runs, "an impulse before a drop of lr")[0]
    if ratio == 0:
        return ""
    if abs(ratio - 1) < 1e-3:
        return "A changed lr acts on new gradients only: it is inside the buffer."
    if abs(ratio - DROP) < 1e-3:
        return "A changed lr acts on the whole history at once: it is outside the buffer."
    return (
        f"After a drop of lr to {DROP:g} of what it was, the history moves {ratio:.4g} times as "
        "far: neither 1, as with lr inside the buffer, nor that, as outside."
    )


def _momentum(runs: _Runs) -> str:
    first, second = _coasting(runs, "an impulse before a drop of momentum")[:2]
    if first == 0:  # there is no history
        return ""
    power = log10(abs(first)) / log10(DROP)
    if abs(power) < 1e-3:
        return "A changed momentum acts from the next step on."
    if abs(power - round(power)) < 1e-3:
        times = {1: "once", 2: "twice, as with a look-ahead"}.get(
            round(power), f"{power:.0f} times"
        )
        return f"A changed momentum multiplies the step in which it is set {times}."
    return (
        f"After a drop of momentum to {DROP:g} of what it was, the history moves {first:.4g}, then "
        f"{second:.4g} times as far."
    )


def _decay(runs: _Runs, impulse: Impulse) -> str:
    path = runs.paths["weight decay alone"]
    known = path.probe.settings
    kept = [point[0] / path.probe.start[0] for point in path.points]
    first = 1 - kept[0]
    if abs(first) < 1e-12:
        return "Weight decay does nothing."
    steady = max(abs(b / a - kept[0]) for a, b in pairwise(kept)) < runs.alike
    way = (
        "by the same factor in every step: it is decoupled"
        if steady
        else "and builds up in the buffer"
    )
    e, decay = known.get("lr", 0.0), known["weight_decay"]
    formulas = {"ε·λ": e * decay, "λ": decay, "λ times what a gradient takes": impulse.now * decay}
    taken = _read(first, {}, formulas)
    return f"Weight decay takes {taken} of the parameter in its first step, {way}."


def _read(
    value: float, known: Mapping[str, Any], more: Mapping[str, float] = MappingProxyType({})
) -> str:
    """Return the formula that a number is, of the usual ones; else the number."""
    e, m = known.get("lr"), known.get("momentum")
    usual: dict[str, float] = {"0": 0.0, "1": 1.0}
    if m is not None:
        usual |= {"μ": m, "μ²": m * m, "1 - μ": 1 - m}
    if e is not None:
        usual["ε"] = e
    if e is not None and m is not None:
        usual |= {
            "ε·μ": e * m,
            "ε·μ²": e * m * m,
            "ε·(1 + μ)": e * (1 + m),
            "ε·(μ + μ²)": e * (m + m * m),
            "ε·(1 + μ + μ²)": e * (1 + m + m * m),
            "ε·(1 - μ)": e * (1 - m),
            "ε·(1 - μ²)": e * (1 - m * m),
            "ε·μ·(1 - μ)": e * m * (1 - m),
            "ε/(1 - μ)": e / (1 - m) if m < 1 else inf,
        }
    if e is not None and m is not None and known.get("dampening"):
        damped = e * (1 - known["dampening"])
        usual |= {"ε·(1 - τ)": damped, "ε·(1 - τ)/(1 - μ)": damped / (1 - m) if m < 1 else inf}
    usual |= more
    for text, formula in usual.items():
        if abs(formula - value) < 1e-6 * max(abs(value), abs(formula)) + 1e-12:
            return text
    return f"{value:.6g}"


def _equations(impulse: Impulse, known: Mapping[str, Any]) -> list[str]:
    """Write the step as a recurrence of the parameter alone."""
    now, before = (_read(value, known) for value in (impulse.now, impulse.before))
    text = f"Δ_(t+1) = -{_factor(now)}d_t"
    if impulse.memory:
        text = f"Δ_(t+1) = {_factor(_read(impulse.memory, known))}Δ_t - {_factor(now)}d_t"
    if before != "0":
        text += f" + {_factor(before)}d_(t-1)"
    return [text, "θ_(t+1) = θ_t + Δ_(t+1)"]


def _factor(text: str) -> str:
    if text == "1":
        return ""
    return f"({text})·" if " " in text and not text.endswith(")") else f"{text}·"
