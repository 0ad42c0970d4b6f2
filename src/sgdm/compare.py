"""How two conventions differ, and what makes them the same."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import sympy

from sgdm.convention import Convention, with_momentum_correction
from sgdm.equations import as_text, step_equations, weighted_sum
from sgdm.errors import InvalidValueError
from sgdm.frameworks import get_convention
from sgdm.identity import Identical, Side, Values, identity, same_over_zero
from sgdm.porting import NoEqualError, port
from sgdm.reasons import name_of, reasons_of
from sgdm.recurrence import buffer_scale
from sgdm.system import Run, Schedule

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Comparison", "compare_conventions", "sides"]

_algebra: Any = sympy  # which is typed in part


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What `compare_conventions` found. Symbols are the seed's.

    Attributes:
        a: The first convention's name.
        b: The second's.
        equations_a: The first one's step.
        equations_b: The second's.
        identical: When both make the same trajectory with the same hyperparameters, the second
            going on from the first one's state, converted by `point_map` and `buffer_map`.
        from_start: The same from the first step on, without a buffer.
        over_zero_momentum: Whether that holds across steps with μ = 0 too, which some rules make
            by other equations.
        over_zero_lr: The same of steps with ε = 0.
        reasons: Why they are not always the same.
        point_map: The second's parameter in terms of the first's parameter θ and buffer b, before
            a step with ε and μ; "" where no map makes them the same.
        buffer_map: The same of its buffer. Buffers are those of `sgdm.SGD`.
        own_a: How many times b the first framework's own buffer is, after a step with ε and μ; ""
            where it is b.
        own_b: The same of the second.
        correction_a: What to multiply the first's buffer by after step t so that it goes on as the
            second under any schedule; "" where nothing does.
        correction_b: What to multiply the second's by so that it goes on as the first.
        correct_momentum: The side that `correct_momentum=True` makes the same as the other always;
            "" where it does not.
        changes: The second's hyperparameters that make the first's trajectory, by name; only those
            that are to be changed.
        changed: When the two are the same with these changes.
        no_equal: The part of the first's step that the second has no equal for; "" where it has
            one for all.
    """

    a: str
    b: str
    equations_a: tuple[str, ...]
    equations_b: tuple[str, ...]
    identical: Identical
    from_start: Identical
    over_zero_momentum: bool
    over_zero_lr: bool
    reasons: tuple[str, ...]
    point_map: str
    buffer_map: str
    own_a: str
    own_b: str
    correction_a: str
    correction_b: str
    correct_momentum: str
    changes: dict[str, str]
    changed: Identical
    no_equal: str

    def lines(self) -> list[str]:
        """Return the findings as sentences, a line each."""
        told = [f"The same trajectory, with the same hyperparameters: {self.identical}."]
        if self.from_start != self.identical:
            told.append(f"From the first step on, without a buffer: {self.from_start}.")
        if not self.over_zero_momentum:
            told.append("Not across a step with μ = 0, which one of them makes in its own way.")
        if not self.over_zero_lr:
            told.append("Not across a step with ε = 0, which one of them makes in its own way.")
        told += [f"Because {reason}." for reason in self.reasons]
        if self.buffer_map:
            told.append(
                f"State: {self.b} goes on from {self.a} with parameter {self.point_map} and buffer "
                f"{self.buffer_map}, at the ε and μ of the coming step."
            )
            told += [
                f"The buffer that {name} itself keeps is {scale} times that, at the ε and μ of the "
                "last step."
                for name, scale in ((self.a, self.own_a), (self.b, self.own_b))
                if scale
            ]
        if self.identical not in ("always", "never"):
            told += self._corrections()
        if self.no_equal:
            told.append(
                f"No hyperparameters of {self.b} make {self.a}'s trajectory: it has no "
                f"equal for {self.no_equal}."
            )
        elif self.changes:
            given = ", ".join(f"{name} = {text}" for name, text in self.changes.items())
            told.append(f"{self.b} with {given} makes {self.a}'s trajectory: {self.changed}.")
        return told

    def _corrections(self) -> list[str]:
        told: list[str] = []
        if self.correct_momentum:
            told.append(f"With correct_momentum=True {self.correct_momentum} is the same always.")
        pairs = ((self.b, self.a, self.correction_b), (self.a, self.b, self.correction_a))
        for follower, leader, times in pairs:
            if times:
                told.append(
                    f"{follower} follows {leader} under any schedule if its buffer is multiplied "
                    f"by {times} after step t."
                )
            else:
                told.append(
                    f"No factor of its buffer makes {follower} follow {leader} under any schedule: "
                    "the step itself is another."
                )
        return told


def compare_conventions(
    a: str | Convention,
    b: str | Convention,
    *,
    nesterov: bool = False,
    dampening: bool = False,
    weight_decay: bool = False,
    correct_momentum: bool = False,
) -> Comparison:
    """Say when two conventions make the same trajectory, and what makes them.

    Args:
        a: The first one, by name or as a record.
        b: The second.
        nesterov: Ask Nesterov's method of those that have it as an option.
        dampening: Give the same τ to those that have it.
        weight_decay: Give the same λ to both, each in its own way.
        correct_momentum: Correct the momentum of those that can.

    Raises:
        InvalidValueError: If a name is unknown, or neither convention has what is asked for.
        InvalidUseError: If a convention has no coefficients.

    Example:
        >>> import sgdm
        >>> found = sgdm.compare_conventions("torch", "keras", nesterov=True)
        >>> found.identical, found.buffer_map, found.correct_momentum
        ('while lr is constant', '-ε·b', 'keras3')

    Reference:
        Responses (Markov parameters) determine a linear system up to its coordinates (Kalman
        1963); drawn points decide identities of rational functions (Schwartz 1980, Zippel 1979).
    """
    one, other = sides(
        *(get_convention(x) if isinstance(x, str) else x for x in (a, b)),
        nesterov=nesterov,
        dampening=dampening,
        weight_decay=weight_decay,
        correct_momentum=correct_momentum,
    )
    identical, from_start = identity(one, other), identity(one, other, from_start=True)
    runs = one.run(_Symbols()), other.run(_Symbols())
    held = _Symbols(
        lr_moves="lr" not in identical.split("unless")[0],
        momentum_moves="momentum" not in identical.split("unless")[0],
    )
    held_runs = one.run(held), other.run(held)
    same = identical != "never"
    changes, changed, no_equal = _changes(one, other, runs)
    return Comparison(
        a=name_of(one),
        b=name_of(other),
        equations_a=_equations(one),
        equations_b=_equations(other),
        identical=identical,
        from_start=from_start,
        over_zero_momentum=identical not in ("always", "while lr is constant")
        or same_over_zero(one, other, "momentum"),
        over_zero_lr=identical not in ("always", "while momentum is constant")
        or same_over_zero(one, other, "lr"),
        reasons=reasons_of(one, other, identical, from_start),
        point_map=_point_map(*held_runs) if same else "",
        buffer_map=_buffer_map(*held_runs) if same else "",
        own_a=_own_scale(one, held_runs[0]),
        own_b=_own_scale(other, held_runs[1]),
        correction_a=_correction(runs[1], runs[0]) if same else "",
        correction_b=_correction(*runs) if same else "",
        correct_momentum=_helped_by_correction(one, other) if same else "",
        changes=changes,
        changed=changed,
        no_equal=no_equal,
    )


def sides(
    a: Convention,
    b: Convention,
    *,
    nesterov: bool = False,
    dampening: bool = False,
    weight_decay: bool = False,
    correct_momentum: bool = False,
) -> tuple[Side, Side]:
    """Return two conventions with what is asked of both, where they have it.

    Raises:
        InvalidValueError: If neither has it.
    """
    rows = (a, b)
    names = f"{a.name!r} and {b.name!r}"
    if nesterov and all(row.nesterov == "never" for row in rows):
        raise InvalidValueError.of(
            "nesterov", f"False for {names}, which have no Nesterov form", True, "leave it out"
        )
    if dampening and all(row.gain != "1-dampening" for row in rows):
        raise InvalidValueError.of(
            "dampening", f"False for {names}, which have no dampening", True, "leave it out"
        )
    if correct_momentum and not any(row.correctable for row in rows):
        with_momentum_correction(a)  # which says why not
    one, other = (
        Side(
            convention=with_momentum_correction(row) if corrected else row,
            corrected=corrected,
            nesterov=nesterov and row.nesterov == "optional",
            dampening=dampening and row.gain == "1-dampening",
            weight_decay=weight_decay,
        )
        for row, corrected in ((row, correct_momentum and row.correctable) for row in rows)
    )
    return one, other


def _equations(side: Side) -> tuple[str, ...]:
    return step_equations(
        side.convention,
        nesterov=side.nesterov,
        dampening=side.dampening,
        weight_decay=side.weight_decay,
    )


# ---- maps and corrections, with symbols ----


class _Symbols:
    """Symbols for hyperparameters, those of a schedule that moves by their step."""

    def __init__(self, *, lr_moves: bool = True, momentum_moves: bool = True) -> None:
        self._lr_moves, self._momentum_moves = lr_moves, momentum_moves
        letters = {"dampening": "τ", "weight_decay": "λ", "nu": "ν", "lr0": "ε_0"}
        self.constants = {name: _symbol(letter) for name, letter in letters.items()}

    def lr(self, t: int) -> Any:
        """Return ε_t."""
        return _symbol("ε", t * self._lr_moves)

    def momentum(self, t: int) -> Any:
        """Return μ_t."""
        return _symbol("μ", t * self._momentum_moves)


def _symbol(letter: str, t: int = 0) -> Any:
    return _algebra.Symbol(letter if t == 0 else f"{letter}_{{t{t:+}}}", positive=True)


def _coordinates(a: Run, b: Run, t: int) -> tuple[Any, Any] | None:
    """Return (u, s) such that b's buffer is u*Θ + s times a's before step t."""
    x, y = a.step(t), b.step(t)
    if y.a12 == 0:
        return None
    u, s = x.buffer_in(y)
    return _algebra.cancel(u), _algebra.cancel(s)


def _buffer_map(a: Run, b: Run) -> str:
    found = _coordinates(a, b, 0)
    if found is None:
        return ""
    (u, s), ahead = found, a.look_ahead(0)  # Θ = θ + ahead * b
    return weighted_sum((u, "θ"), (_algebra.cancel(s + u * ahead), "b")) or "0"


def _point_map(a: Run, b: Run) -> str:
    found = _coordinates(a, b, 0)
    if found is None:
        return ""
    (u, s), ahead, back = found, a.look_ahead(0), b.look_ahead(0)  # the second's is Θ - back * b
    weight = _algebra.sympify(ahead - back * (s + u * ahead))
    return weighted_sum(
        (_algebra.cancel(_algebra.sympify(1 - back * u)), "θ"), (_algebra.cancel(weight), "b")
    )


def _own_scale(side: Side, run: Run) -> str:
    scale = buffer_scale(run.convention, run.hyperparameters(0))
    return "" if scale == 1 or side.corrected else as_text(scale)


def _correction(a: Run, b: Run) -> str:
    """Return what b's buffer is multiplied by after its step t so that it goes on as a."""
    now, then = _coordinates(a, b, 0), _coordinates(a, b, 1)
    if now is None or then is None:
        return ""
    (u, s), (u_next, s_next) = now, then
    x, y = a.step(0), b.step(0)
    if _algebra.cancel(_algebra.sympify(x.b1 - y.b1)) != 0 or u != 0 or u_next != 0:
        return ""
    wanted = [_algebra.sympify(s_next * weight) for weight in (x.a21, x.a22, x.b2)]
    own = [_algebra.sympify(weight) for weight in (y.a21, y.a22 * s, y.b2)]
    factors = {_algebra.cancel(w / o) for w, o in zip(wanted, own, strict=True) if o != 0}
    if len(factors) != 1 or any(w != 0 for w, o in zip(wanted, own, strict=True) if o == 0):
        return ""
    return as_text(_algebra.factor(factors.pop()))


def _helped_by_correction(a: Side, b: Side) -> str:
    if identity(a, b) == "always":
        return ""
    for side, other in ((b, a), (a, b)):
        row = side.convention
        if row.correctable:
            corrected = replace(side, convention=with_momentum_correction(row))
            if identity(corrected, other) == "always" and same_over_zero(corrected, other, "lr"):
                return row.name
    return ""


# ---- changed hyperparameters ----


def _changes(a: Side, b: Side, runs: tuple[Run, Run]) -> tuple[dict[str, str], Identical, str]:
    """Return the second's hyperparameters for the first's trajectory, and when they do."""
    run, own = runs
    lr, momentum = run.lr(0), run.momentum(0)
    held = replace(run, lr=_constant(lr), momentum=_constant(momentum))
    try:
        found = port(held, b.convention)
    except NoEqualError as error:
        return {}, "never", error.part
    values = {
        "lr": (found.lr, own.lr(0)),
        "momentum": (found.momentum, own.momentum(0)),
        "dampening": (found.dampening, own.dampening),
        "weight_decay": (found.weight_decay, own.weight_decay),
        "nu": (found.nu, own.nu),
    }
    changes = {
        name: _algebra.sympify(new)
        for name, (new, old) in values.items()
        if new is not None and new != old
    }
    texts = {name: as_text(value) for name, value in changes.items()}
    nesterov = found.nesterov and b.convention.nesterov == "optional"
    if nesterov != b.nesterov:
        texts["nesterov"] = str(nesterov)
    if not all(value.is_rational_function() for value in changes.values()):  # a root is no fraction
        return texts, "while lr and momentum are constant", ""
    changed = replace(b, nesterov=nesterov, change=_Substitution(changes))
    return texts, identity(a, changed), ""


def _constant(value: Any) -> Schedule:
    return lambda _: value


class _Substitution:
    """Hyperparameters as expressions in the other side's.

    What has no schedule of its own is worked out once, with the first step's.
    """

    def __init__(self, changes: dict[str, Any]) -> None:
        letters = [_symbol(letter) for letter in ("ε", "μ", "τ", "λ", "ν", "ε_0")]
        self._made: dict[str, Callable[..., Any]] = {
            name: _algebra.lambdify(letters, value, "math") for name, value in changes.items()
        }

    def __call__(self, run: Run, values: Values) -> Run:
        """Return the run with the expressions put in."""
        constants = [values.constants[k] for k in ("dampening", "weight_decay", "nu", "lr0")]

        def schedule(name: str) -> Schedule:
            made: Callable[..., Any] = self._made[name]
            return lambda t: made(values.lr(t), values.momentum(t), *constants)

        moving: dict[str, Any] = {
            name: schedule(name) for name in ("lr", "momentum") if name in self._made
        }
        fixed = {name: schedule(name)(0) for name in self._made if name not in moving}
        return replace(run, **moving, **fixed)
