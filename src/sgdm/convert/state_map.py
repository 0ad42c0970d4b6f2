"""The map from the state of one convention to that of another, before a step.

Both rules are seen in (Θ, b), Θ being the point where the gradient is taken. Where they are one
rule in two coordinates, T = [[1, 0], [u, s]] brings the first into the second:

    Θ = p + ahead * b
    b_to = u * Θ + s * b          u = (a11 - a11_to)/a12_to,  s = a12/a12_to
    p_to = Θ - back * b_to

with the coefficients of the coming step, in exact arithmetic. Source: a change of coordinates that
keeps Θ; the first row of T A = A_to T.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, get_args

from torch import Tensor

from sgdm.convention import Convention, WeightDecayMode
from sgdm.convert.elementwise import in_chunks
from sgdm.convert.setting import Setting
from sgdm.errors import InvalidUseError
from sgdm.identity import Identical, identity
from sgdm.porting import NoEqualError, Ported, port
from sgdm.recurrence import uses_nesterov

__all__ = ["StateMap", "one_rule", "state_map"]

_BY_LR0 = ("lr/lr0", "lr^2/lr0")


@dataclass(frozen=True, kw_only=True, slots=True)
class StateMap:
    """What becomes of a parameter and its buffer; see the module.

    Attributes:
        u: Weight of Θ in the new buffer.
        s: Weight of the old buffer.
        ahead: Θ is this times the old buffer ahead of the old parameter.
        back: And this times the new one ahead of the new parameter.
        to: The target's hyperparameters.
        ported: Whether they are other ones than the source's.
        identical: When the two rules make the same trajectory from here on.
        from_start: The same of parameters that have no buffer yet.
    """

    u: float
    s: float
    ahead: float
    back: float
    to: Setting
    ported: bool
    identical: Identical
    from_start: Identical

    @property
    def changes_nothing(self) -> bool:
        """Whether the state stays as it is, to the bit."""
        return (self.u, self.s, self.ahead, self.back) == (0, 1, 0, 0)

    @property
    def needs_parameter(self) -> bool:
        """Whether the buffer alone is not enough."""
        return self.u != 0 or self.moves_parameter

    @property
    def moves_parameter(self) -> bool:
        """Whether the stored parameter becomes another point."""
        return (self.ahead, self.back) != (0, 0)

    def settings(self) -> dict[str, Any]:
        """Return all hyperparameters to go on with, by name; None where there is none."""
        to = self.to
        last = to.momentum if to.last_momentum is None else to.last_momentum
        lr0 = to.lr if to.lr0 is None and to.decays_by in _BY_LR0 else to.lr0
        return {
            **{name: float(getattr(to, name)) for name in _NUMBERS},
            "nesterov": to.nesterov,
            "nu": None if to.nu is None else float(to.nu),
            "weight_decay_mode": to.weight_decay_mode,
            "lr0": None if lr0 is None else float(lr0),
            "last_momentum": float(last) if to.convention.momentum == "previous" else None,
        }

    def check_first_step(self, name: object) -> None:
        """Refuse a parameter whose first step is to come, and would be another.

        Raises:
            InvalidUseError: If it would.
        """
        if self.from_start == "never":
            raise InvalidUseError(
                f"state cannot be converted to {self.to.convention.name!r} before every parameter "
                f"has made its first step, which is another there: {name!r} has not; step once "
                "with all gradients, then convert"
            )

    def buffer(self, b: Tensor, p: Tensor | None = None, *, out: Tensor | None = None) -> Tensor:
        """Return the new buffer: computed in float64, rounded once.

        Args:
            b: The old one.
            p: The old parameter, if that is needed.
            out: Where to put it, which may be `b`; None for a new tensor.
        """
        return in_chunks(self._buffer, b, p, out)

    def parameter(self, p: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Return the new parameter, of the old one and the old buffer."""
        return in_chunks(self._parameter, p, b, out)

    def _parameter(self, p: Tensor, b: Tensor) -> Tensor:
        return self._theta(p, b) - self.back * self._buffer(b, p)

    def _theta(self, p: Tensor, b: Tensor) -> Tensor:
        return p + self.ahead * b if self.ahead else p

    def _buffer(self, b: Tensor, p: Tensor | None) -> Tensor:
        if self.u == 0:
            return self.s * b
        assert p is not None
        return self.u * self._theta(p, b) + self.s * b


def state_map(
    source: Setting, to: Convention, *, port_values: bool = False, own_decay: bool = False
) -> StateMap:
    """Return the map from a source's state to a target's.

    Args:
        source: The convention and hyperparameters of the state.
        to: The target's convention.
        port_values: Take the hyperparameters that make the source's trajectory, where the source's
            own do not.
        own_decay: Whether the target can decay in its own way alone, as other optimizers than sgdm
            do that bear its name.

    Raises:
        InvalidTypeError: If a hyperparameter is no number.
        InvalidValueError: If one is out of range, or the convention has no place for it.
        InvalidUseError: If the two are not the same rule with these hyperparameters, or the map
            would divide by zero or empty the buffer. The text says what would work.
    """
    source.check()
    if one_rule(source.convention, to) and (source.decays_in_its_own_way or not own_decay):
        return _unchanged(source, to)
    names = f"{source.convention.name!r} to {to.name!r}"
    target = _same_values(source, to)
    from_start: Identical = "never"
    identical = identity(source.side(), target.side())
    ported = identical == "never" or (own_decay and not target.decays_in_its_own_way)
    if ported:
        if source.last_momentum not in (None, source.momentum):
            raise InvalidUseError(
                f"state cannot be converted from {names} right after momentum has changed, which "
                "the buffer has yet to see; step once, then convert"
            )
        target, alike = _ported(source, to, names, own_decay=own_decay)
        if not port_values:
            raise InvalidUseError(
                f"state cannot be converted from {names} with the same hyperparameters, which make "
                f"another trajectory; port=True takes {_listed(target)}, which make this one"
            )
        identical = "while lr and momentum are constant"
        from_start = identical if alike else "never"
    else:
        from_start = identity(source.side(), target.side(), from_start=True)
    run, new = source.run(), target.run()
    x, y = run.step(0), new.step(0)
    if y.a12 == 0 or x.a12 == 0:
        zero = "momentum" if source.momentum == 0 or target.momentum == 0 else "lr"
        raise InvalidUseError(
            f"state cannot be converted from {names} before a step with {zero} = 0, which would "
            "divide by it or empty the buffer; give the lr and momentum of the step from which on "
            "they are not 0, or convert then"
        )
    try:
        u, s, ahead, back = map(float, (*x.buffer_in(y), run.look_ahead(0), new.look_ahead(0)))
    except OverflowError as error:
        raise InvalidUseError(
            f"state cannot be converted from {names} with numbers beyond every float: give an lr "
            "and momentum of ordinary size"
        ) from error
    return StateMap(
        u=u,
        s=s,
        ahead=ahead,
        back=back,
        to=target,
        ported=ported,
        identical=identical,
        from_start=from_start,
    )


@lru_cache
def one_rule(one: Convention, other: Convention) -> bool:
    """Whether two conventions are names of one."""
    return replace(other, name=one.name) == one


def _unchanged(source: Setting, to: Convention) -> StateMap:
    """Return the map between two names of one rule."""
    return StateMap(
        u=0.0,
        s=1.0,
        ahead=0.0,
        back=0.0,
        to=replace(source, convention=to),
        ported=False,
        identical="always",
        from_start="always",
    )


def _same_values(source: Setting, to: Convention) -> Setting:
    """Return the target with the source's hyperparameters, and its kind of decay."""
    h = source.run().hyperparameters(0)
    mode = source.decays_by
    return replace(
        source,
        convention=to,
        last_momentum=None,
        dampening=source.dampening if to.gain == "1-dampening" else 0,
        nesterov=uses_nesterov(source.convention, h) and to.nesterov == "optional",
        nu=source.nu if to.look_ahead == "nu" else None,
        weight_decay_mode=None if mode == to.weight_decay else _public(mode),
    )


def _public(mode: str) -> WeightDecayMode | None:
    """Return the mode if an optimizer can be asked for it."""
    return next((known for known in get_args(WeightDecayMode) if known == mode), None)


def _ported(
    source: Setting, to: Convention, names: str, *, own_decay: bool
) -> tuple[Setting, bool]:
    """Return the target's own hyperparameters, and whether first steps are the same too."""
    like_its = _same_values(source, to).weight_decay_mode
    mode = None if own_decay or source.weight_decay == 0 else like_its
    part = ""
    for kind in dict.fromkeys((mode, None)):
        try:
            found: Ported = port(source.run(), to, kind)
        except NoEqualError as error:
            part = error.part
            continue
        values = {name: getattr(found, name) for name in _PORTED}
        target = replace(
            source,
            convention=to,
            last_momentum=None,
            lr0=source.lr if source.lr0 is None else source.lr0,  # which port takes
            weight_decay_mode=kind,
            **values,
        )
        return target, found.from_start
    raise InvalidUseError(
        f"state cannot be converted from {names}: the target has no equal for {part}; "
        "take another convention, such as 'qhm'"
    )


_NUMBERS = ("lr", "momentum", "dampening", "weight_decay")
_PORTED = (*_NUMBERS, "nesterov", "nu")


def _listed(setting: Setting) -> str:
    values = {name: getattr(setting, name) for name in _PORTED}
    return ", ".join(
        f"{name}={value if isinstance(value, bool) else float(value):g}"
        for name, value in values.items()
        if value
    )
