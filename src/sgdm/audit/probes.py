"""The experiments: hyperparameters and gradients to which every rule answers in its own way.

Gradients are drawn once and do not depend on the parameter, so what is seen is the rule alone. Each
probe moves one thing; the rules of the table differ by a thousandth of their movement or more in
one of them, or in none.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from sgdm.audit.subject import USUAL, Subject

__all__ = ["DROP", "Probe", "Vector", "known_hyperparameters", "probes_for"]

Vector = tuple[float, ...]

DROP = 0.25  # what lr or momentum is multiplied by where it drops

_SIZE = 3
_STEPS = 9
_START = (0.7, -1.1, 1.6)
_LR_FACTORS = (1.0, 1.0, 0.5, 0.5, 0.2, 0.8, 0.8, 0.4, 1.0)
_MOMENTUM_FACTORS = (1.0, 1.0, 0.7, 0.7, 0.9, 0.5, 1.0, 1.0, 0.8)


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """One run of an optimizer.

    Attributes:
        name: What moves in it.
        settings: Before the subject's own: given to the constructor, or written into the group
            where it takes no such argument.
        lr: For each step, written into the group; empty to leave it as constructed.
        momentum: The same.
        gradients: For each step, one number an element.
        start: The parameter.
        trait: Whether it measures a trait by itself, in place of telling rules apart.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    lr: Vector = ()
    momentum: Vector = ()
    gradients: tuple[Vector, ...]
    start: Vector
    trait: bool = False


def known_hyperparameters(subject: Subject, group: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a subject is examined around, by name; what is not there cannot be changed.

    Args:
        subject: Whose settings come first.
        group: Of an optimizer that it made; what it says comes next, then what is usual.
    """
    known: dict[str, Any] = {}
    for name, usual in (*USUAL.items(), ("nu", None)):
        found = subject.settings.get(name, group.get(name))
        if isinstance(found, (int, float)):
            known[name] = found
        elif subject.takes(name) and usual is not None:
            known[name] = usual
    return known


def probes_for(known: Mapping[str, Any], group: Mapping[str, Any]) -> list[Probe]:
    """Return the probes that a subject allows.

    Args:
        known: Its hyperparameters.
        group: Of an optimizer that it made: what stands there can be changed between steps.
    """
    plan = _Plan(known, moves_lr="lr" in group, moves_momentum="momentum" in group)
    probes = list(plan.traits())
    for nesterov in (False, True) if "nesterov" in known else (None,):
        probes += plan.rules(nesterov)
    return probes


class _Plan:
    def __init__(self, known: Mapping[str, Any], *, moves_lr: bool, moves_momentum: bool) -> None:
        self.known = known
        random = Random(0)  # noqa: S311 - the same for every subject
        self._gradients = tuple(
            tuple(random.uniform(-2, 2) for _ in range(_SIZE)) for _ in range(_STEPS)
        )
        lr, momentum = self.known.get("lr") or 0.1, self.known.get("momentum") or 0.9
        self._lrs = _scaled(lr, _LR_FACTORS) if moves_lr else ()
        self._momenta = _scaled(momentum, _MOMENTUM_FACTORS) if moves_momentum else ()
        self._decay = self.known.get("weight_decay") or 0.05
        self._plain = self._of_known(weight_decay=0.0, dampening=0.0, momentum=momentum)
        # Numbers of which no simple formula is another: with lr 0.1 and momentum 0.9, ε is 1 - μ.
        self._odd = (0.83 * lr, 0.97 * momentum)

    def _of_known(self, **settings: Any) -> dict[str, Any]:
        return {name: value for name, value in settings.items() if name in self.known}

    def rules(self, nesterov: bool | None) -> Iterator[Probe]:
        """Yield what tells rules apart, with Nesterov's method, without, or as the subject is."""
        face: dict[str, Any] = {} if nesterov is None else {"nesterov": nesterov}
        suffix = ", with nesterov" if nesterov else ""

        def probe(name: str, lrs: Vector = (), momenta: Vector = (), **settings: Any) -> Probe:
            return Probe(
                name=name + suffix,
                settings={**self._plain, **face, **settings},
                lr=lrs,
                momentum=momenta,
                gradients=self._gradients,
                start=_START,
            )

        yield probe("constant hyperparameters")
        if self._lrs:
            yield probe("a moving lr", self._lrs)
            yield probe("a step with lr 0", _zero_at(4, self._lrs))
        if self._momenta:
            yield probe("a moving momentum", momenta=self._momenta)
            yield probe("a step with momentum 0", momenta=_zero_at(4, self._momenta))
        if self._lrs and self._momenta:
            yield probe("a moving lr and momentum", self._lrs, self._momenta)
        if "momentum" in self.known and not nesterov:
            yield probe("no momentum", self._lrs, momentum=0.0)
        if "weight_decay" in self.known:
            decay = self._decay
            yield probe("weight decay", weight_decay=decay)
            if self._lrs:
                yield probe("weight decay and a moving lr", self._lrs, weight_decay=decay)
            if self._momenta:
                name = "weight decay and a moving momentum"
                yield probe(name, momenta=self._momenta, weight_decay=decay)
        if "dampening" in self.known and not nesterov:
            dampening = self.known["dampening"] or 0.3
            yield probe("dampening", self._lrs, self._momenta, dampening=dampening)

    def traits(self) -> Iterator[Probe]:
        """Yield what measures one thing: two runs each, which differ in that."""
        lr, momentum = self._odd
        dampening = self.known.get("dampening", 0.0)
        settings = self._of_known(lr=lr, momentum=momentum, weight_decay=0.0, dampening=dampening)

        def probe(name: str, gradients: tuple[Vector, ...], **given: Any) -> Probe:
            usual = Probe(
                name=name, settings=settings, gradients=gradients, start=_START, trait=True
            )
            return replace(usual, **given)

        g = self._gradients
        rest = tuple((0.0,) * _SIZE for _ in g)
        impulse = ((1.0,) * _SIZE,)
        late = rest[:3] + impulse + rest[4:]
        yield probe("the gradients", g)
        yield probe("the gradients again", g)
        yield probe("no gradients", rest)
        yield probe("other gradients", g[::-1])
        both = tuple(
            tuple(x + y for x, y in zip(*rows, strict=True))
            for rows in zip(g, g[::-1], strict=True)
        )
        yield probe("both gradients", both)
        yield probe("a thousand times the gradients", tuple(_scaled(1000.0, row) for row in g))
        yield probe("one element's gradient changed", tuple((10 * x, y, z) for x, y, z in g))
        yield probe("another start", g, start=tuple(10 + x for x in _START))
        yield probe("an impulse", impulse + rest[1:])
        yield probe("a late impulse", late)
        yield probe("a later impulse", rest[:5] + impulse + rest[6:])
        if self._lrs:
            yield probe("an impulse before a drop of lr", late, lr=_drop(lr))
        if self._momenta:
            yield probe("an impulse before a drop of momentum", late, momentum=_drop(momentum))
        if "dampening" in self.known:
            dampened = {**settings, "dampening": dampening or 0.3}
            yield probe("an impulse, dampened", impulse + rest[1:], settings=dampened)
            yield probe("a late impulse, dampened", late, settings=dampened)
            undamped = {**settings, "dampening": 0.0}
            yield probe("a late impulse, undamped", late, settings=undamped)
        if "weight_decay" in self.known:
            decayed = {**settings, "weight_decay": self._decay}
            yield probe("weight decay alone", rest, settings=decayed)
            yield probe("the gradients, with decay", g, settings=decayed)
            changed = tuple((10 * x, y, z) for x, y, z in g)
            yield probe("one element's gradient changed, with decay", changed, settings=decayed)


def _scaled(value: float, factors: Vector) -> Vector:
    return tuple(value * factor for factor in factors)


def _drop(value: float) -> Vector:
    return _scaled(value, (1.0,) * 4 + (DROP,) * (_STEPS - 4))


def _zero_at(t: int, values: Vector) -> Vector:
    return (*values[:t], 0.0, *values[t + 1 :])
