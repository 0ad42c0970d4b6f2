"""Hyperparameters of one convention that make the trajectory of another.

While hyperparameters are constant, what a rule does to the parameter is four numbers: trace T and
determinant D of its step, and what a gradient does after one step and after two, h1 and h2. Where
the target can have the same four, they give its hyperparameters.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from math import isqrt, sqrt
from typing import Any

from sgdm.convention import Convention, WeightDecayMode
from sgdm.errors import InvalidValueError
from sgdm.frameworks import get_convention
from sgdm.hyperparameters import (
    check_combination,
    check_nesterov,
    check_range,
    check_weight_decay_mode,
)
from sgdm.recurrence import coefficients
from sgdm.system import Behaviour, Run

__all__ = ["NoEqualError", "Ported", "port", "port_hyperparameters"]


class NoEqualError(InvalidValueError):
    """A part of a step that the target has no equal for.

    Attributes:
        part: Which.
    """

    part: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ported:
    """Hyperparameters that reproduce a trajectory.

    Attributes:
        convention: The target's name.
        lr: ε.
        momentum: μ.
        dampening: τ; 0 where the target has none.
        weight_decay: λ, in the target's mode.
        nesterov: Whether to ask for it.
        nu: ν; None where the target has none.
        from_start: Whether the first step is the same too. If not, the trajectories are the same
            from a converted state on, and from the start up to what the first step did.
    """

    convention: str
    lr: Any
    momentum: Any
    dampening: Any
    weight_decay: Any
    nesterov: bool
    nu: Any
    from_start: bool


def port_hyperparameters(
    *,
    source: str,
    to: str,
    lr: float,
    momentum: float = 0,
    dampening: float = 0,
    weight_decay: float = 0,
    nesterov: bool = False,
    nu: float | None = None,
    weight_decay_mode: WeightDecayMode | None = None,
    to_weight_decay_mode: WeightDecayMode | None = None,
) -> Ported:
    """Return the hyperparameters with which one convention moves as another does with these.

    They are worked out for constant hyperparameters, in exact arithmetic on the decimal numbers
    given. What becomes of them under a schedule, `compare_conventions` tells. Modes that divide by
    ε_0 take `lr` for it.

    Args:
        source: The convention whose trajectory is wanted.
        to: The convention to run it with.
        lr: ε > 0 of the source.
        momentum: μ >= 0 of the source.
        dampening: τ of the source.
        weight_decay: λ >= 0 of the source, in its own mode or `weight_decay_mode`.
        nesterov: Whether the source's is asked for.
        nu: ν of the source, where it has one.
        weight_decay_mode: How λ acts in the source; None for its own way.
        to_weight_decay_mode: How the target's is to act; None for its own way.

    Returns:
        The target's.

    Raises:
        InvalidValueError: If a value is out of range.
        NoEqualError: An `InvalidValueError`, if a part of the source's step has no equal in the
            target; the text says which.

    Example:
        >>> import sgdm
        >>> new = sgdm.port_hyperparameters(
        ...     source="cntk", to="torch", lr=0.8, momentum=0.9, nesterov=True)
        >>> new.lr, new.momentum, new.nesterov
        (0.08, 0.9, True)

    Reference:
        The eigenvalues and the first two responses of a system of two states determine all its
        responses (Ho and Kalman 1966); the closed forms follow by eliminating the buffer.
    """
    row, target = get_convention(source), get_convention(to)
    given = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
    for name, value in given.items():
        check_range(name, value)
    if lr == 0:
        raise InvalidValueError.of("lr", "> 0", lr, "port the peak of the schedule")
    if nu is not None:
        check_range("nu", nu)
    for mode in (weight_decay_mode, to_weight_decay_mode):
        check_weight_decay_mode(mode)
    check_combination(row, dampening=dampening, nesterov=nesterov, nu=nu)
    check_nesterov(row, momentum=momentum, dampening=dampening, nesterov=nesterov)
    exact = {name: _decimal(value) for name, value in given.items()}
    run = Run(
        convention=row,
        lr=lambda _: exact["lr"],
        momentum=lambda _: exact["momentum"],
        dampening=exact["dampening"],
        weight_decay=exact["weight_decay"],
        nesterov=nesterov,
        nu=None if nu is None else _decimal(nu),
        lr0=exact["lr"],
        weight_decay_mode=weight_decay_mode,
    )
    found = port(run, target, to_weight_decay_mode)
    numbers = {
        name: float(getattr(found, name))
        for name in ("lr", "momentum", "dampening", "weight_decay")
    }
    return replace(found, **numbers, nu=None if found.nu is None else float(found.nu))


def port(run: Run, target: Convention, mode: WeightDecayMode | None = None) -> Ported:
    """Port a run with constant hyperparameters: numbers that compare exactly, or symbols.

    Raises:
        NoEqualError: If a part of its step has no equal in the target.
    """
    if target == run.convention and mode == run.weight_decay_mode:
        h = run.hyperparameters(0)
        return Ported(
            convention=target.name,
            lr=h.lr,
            momentum=h.momentum,
            dampening=h.dampening,
            weight_decay=h.weight_decay,
            nesterov=run.nesterov,
            nu=run.nu,
            from_start=True,
        )
    check_combination(
        target,
        dampening=0,
        nesterov=False,
        nu=0 if target.look_ahead == "nu" else None,
    )
    dampenings = dict.fromkeys([run.dampening, 0] if target.gain == "1-dampening" else [0])
    flags = {"never": [False], "optional": [run.nesterov, not run.nesterov], "always": [True]}
    found: list[Ported] = []
    refusal: NoEqualError | None = None
    for dampening in dampenings:
        for nesterov in flags[target.nesterov]:
            try:
                candidate = _Target(target, mode, dampening, nesterov, run.lr0).solve(run)
            except NoEqualError as error:
                refusal = refusal or error
                continue
            if candidate.from_start:
                return candidate
            found.append(candidate)
    if found:
        return found[0]
    assert refusal is not None
    raise refusal


@dataclass(frozen=True, slots=True)
class _Target:
    """A convention whose hyperparameters are looked for."""

    convention: Convention
    mode: WeightDecayMode | None
    dampening: Any
    nesterov: bool
    lr0: Any

    def solve(self, run: Run) -> Ported:
        """Return the hyperparameters that give the four numbers of the run's step."""
        m = run.step(0).behaviour()
        if _same(m.first, 0):
            raise self._missing("a gradient that does not move the parameter", 0)
        momentum, keep, decay = self._poles(m, run)
        one = self._run(lr=1, momentum=momentum, weight_decay=0, nu=0).step(0).behaviour()
        direct: Any = 0
        by_nu = self.convention.look_ahead == "nu"
        if _same(momentum, 1) if by_nu else _same(one.first, 0):
            raise self._missing("a step with a gain of 1 - μ = 0", 0)
        if by_nu:
            direct, through = self._moves(m, momentum, keep, decay)
            lr = _simple(-direct - through / (1 - momentum))
        else:
            lr = _simple(m.first / one.first)
        for name, value in (("learning rate", lr), ("momentum", momentum)):
            if not _is_symbol(value) and (value < 0 or (value == 0 and value is lr)):
                raise self._missing(f"a step that takes a {name} of {_shown(value)}", _shown(value))
        nu = _simple(1 + direct / lr) if by_nu else None
        self._check_nesterov(momentum)
        weight_decay = self._weight_decay(keep, decay, lr, momentum, nu)
        answer = self._run(lr=lr, momentum=momentum, weight_decay=weight_decay, nu=nu)
        self._check(m, answer.step(0).behaviour(), decays=run.weight_decay != 0)
        return Ported(
            convention=self.convention.name,
            lr=lr,
            momentum=momentum,
            dampening=self.dampening,
            weight_decay=weight_decay,
            nesterov=self.nesterov,
            nu=nu,
            from_start=_same_start(run, answer),
        )

    def _run(self, *, lr: Any, momentum: Any, weight_decay: Any, nu: Any) -> Run:
        return Run(
            convention=self.convention,
            lr=lambda _: lr,
            momentum=lambda _: momentum,
            dampening=self.dampening,
            weight_decay=weight_decay,
            nesterov=self.nesterov,
            nu=nu,
            lr0=self.lr0 or lr,
            weight_decay_mode=self.mode,
        )

    def _poles(self, m: Behaviour, run: Run) -> tuple[Any, Any, Any]:
        """Return the target's momentum, what is kept of p, and its coupled λ."""
        if run.weight_decay == 0:
            return _simple(m.determinant), 1, 0
        mode = self.mode or self.convention.weight_decay
        if mode in ("buffer", "late"):
            raise self._missing(f"decay of another kind than its own defect {mode!r}", mode)
        if mode == "coupled":
            ratio = m.second / m.first - m.trace
            momentum = _simple((m.determinant + ratio * (m.trace - 1)) / (1 + ratio))
            return momentum, 1, _simple((m.trace - 1 - momentum) / m.first)
        own = coefficients(run.convention, run.hyperparameters(0), first=False)
        if own.coupled_decay == 0:  # as decoupled as the target
            return _simple(m.trace - own.keep), own.keep, 0
        inside = _simple(m.trace * m.trace - 4 * m.determinant)
        if not _is_symbol(inside) and inside < 0:
            raise self._missing(
                "a decay in the buffer so strong that it oscillates, ε·λ > (1 - √μ)²", float(inside)
            )
        root = _root(inside)
        return _simple((m.trace - root) / 2), _simple((m.trace + root) / 2), 0

    def _check_nesterov(self, momentum: Any) -> None:
        if _is_symbol(momentum) or _is_symbol(self.dampening):
            return
        try:
            check_nesterov(
                self.convention,
                momentum=momentum,
                dampening=self.dampening,
                nesterov=self.nesterov,
            )
        except InvalidValueError as error:
            raise self._missing(
                "Nesterov's method without momentum or with dampening, which it refuses",
                self.dampening,
            ) from error

    def _moves(self, m: Behaviour, momentum: Any, keep: Any, decay: Any) -> tuple[Any, Any]:
        """Return what of the first response is direct, and what goes through the buffer."""
        if _same(momentum, 0):
            return 0, m.first
        # h2 = (keep + h1 λ) h1 + momentum * through
        through = (m.second - (keep + m.first * decay) * m.first) / momentum
        return m.first - through, through

    def _weight_decay(self, keep: Any, decay: Any, lr: Any, momentum: Any, nu: Any) -> Any:
        if _same(keep, 1):
            return decay
        unit = self._run(lr=lr, momentum=momentum, weight_decay=1, nu=nu).step(0)
        # 1 - keep is λ times what a λ of 1 takes away.
        return _simple((1 - keep) / (1 - unit.a11))

    def _check(self, wanted: Behaviour, got: Behaviour, *, decays: bool) -> None:
        """Refuse what does not come out: the target's step has another shape."""
        for what, a, b in zip(Behaviour._fields, wanted, got, strict=True):
            if not _same(a, b):
                part = (
                    "the way of the decay into the step"
                    if decays and what in ("trace", "determinant")
                    else "the look-ahead, the gradient's way into the step beside the buffer"
                )
                raise self._missing(part, f"{what} {_shown(a)}, where it has {_shown(b)}")

    def _missing(self, part: str, value: object) -> NoEqualError:
        asked = " with nesterov=True" if self.nesterov else ""
        error = NoEqualError.of(
            "to",
            f"a convention with an equal for {part}: {self.convention.name!r}{asked} has none",
            value,
            "take another one, such as 'qhm', or another weight_decay_mode",
        )
        error.part = part
        return error


def _same_start(run: Run, answer: Run) -> bool:
    """Whether the first steps from no buffer are the same too."""
    gradients = [Fraction(3), Fraction(-5), Fraction(7)]
    paths = (list(r.path(Fraction(2), gradients)) for r in (run, answer))
    return all(_same(a, b) for a, b in zip(*paths, strict=True))


def _decimal(value: float) -> Fraction:
    """Return the number that was written down: 1/10 for 0.1."""
    return Fraction(repr(float(value)))


# Numbers are fractions, but for roots, which are floats; symbols are sympy's.


def _is_symbol(x: Any) -> bool:
    return bool(getattr(x, "free_symbols", ()))


def _shown(x: Any) -> str:
    return str(x) if _is_symbol(x) else f"{float(x):.6g}"


def _simple(x: Any) -> Any:
    return x.factor() if _is_symbol(x) else x


def _same(a: Any, b: Any) -> bool:
    difference = a - b
    if _is_symbol(difference):
        return bool(difference.factor() == 0)
    if isinstance(difference, float):
        return abs(difference) <= 1e-12 * max(1.0, abs(float(a)))
    return bool(difference == 0)


def _root(x: Any) -> Any:
    """Return the square root: a fraction where there is one, else a float."""
    if _is_symbol(x):
        return x ** Fraction(1, 2)
    fraction = Fraction(x)
    top, bottom = isqrt(fraction.numerator), isqrt(fraction.denominator)
    if top * top == fraction.numerator and bottom * bottom == fraction.denominator:
        return Fraction(top, bottom)
    return sqrt(fraction)
