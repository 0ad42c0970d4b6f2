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
from fractions import Fraction
from typing import Any, get_args

import torch
from torch import Tensor

from sgdm.convention import Convention, WeightDecayMode
from sgdm.errors import InvalidUseError
from sgdm.identity import Identical, Side, identity
from sgdm.porting import NoEqualError, Ported, port
from sgdm.recurrence import uses_nesterov
from sgdm.system import Run

__all__ = ["Setting", "StateMap", "state_map"]

_CHUNK = 1 << 20  # elements that are converted at once, in float64


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """A convention with the hyperparameters of the coming step.

    Attributes:
        convention: The rule, corrected if it is.
        lr: ε_t.
        momentum: μ_t; it is taken to be the next one too.
        last_momentum: μ_{t-1}.
        dampening: τ.
        weight_decay: λ.
        nesterov: Whether Nesterov's method is asked for.
        nu: ν; None where the rule has none.
        lr0: ε_0.
        weight_decay_mode: How λ acts; None for the rule's own way.
    """

    convention: Convention
    lr: float | Fraction
    momentum: float | Fraction = 0.0
    last_momentum: float | Fraction | None = None
    dampening: float | Fraction = 0.0
    weight_decay: float | Fraction = 0.0
    nesterov: bool = False
    nu: float | Fraction | None = None
    lr0: float | Fraction | None = None
    weight_decay_mode: WeightDecayMode | None = None

    @property
    def decays_by(self) -> str:
        """How λ acts."""
        return self.weight_decay_mode or self.convention.weight_decay

    def side(self) -> Side:
        """Return what is compared."""
        return Side(
            convention=self.convention,
            nesterov=self.nesterov,
            dampening=self.dampening != 0,
            weight_decay=self.weight_decay != 0,
            weight_decay_mode=self.weight_decay_mode,
        )

    def run(self) -> Run:
        """Return the coming steps, exactly."""
        lr, momentum = _exact(self.lr), _exact(self.momentum)
        last = momentum if self.last_momentum is None else _exact(self.last_momentum)
        return Run(
            convention=self.convention,
            lr=lambda _: lr,
            momentum=lambda t: last if t < 0 else momentum,
            dampening=_exact(self.dampening),
            weight_decay=_exact(self.weight_decay),
            nesterov=self.nesterov,
            nu=None if self.nu is None else _exact(self.nu),
            lr0=_exact(self.lr if self.lr0 is None else self.lr0),
            weight_decay_mode=self.weight_decay_mode,
        )


def _exact(value: float | Fraction) -> Fraction:
    return Fraction(value)


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
    def needs_parameter(self) -> bool:
        """Whether the buffer alone is not enough."""
        return self.u != 0 or self.moves_parameter

    @property
    def moves_parameter(self) -> bool:
        """Whether the stored parameter becomes another point."""
        return (self.ahead, self.back) != (0, 0)

    def buffer(self, b: Tensor, p: Tensor | None = None) -> Tensor:
        """Return the new buffer: computed in float64, rounded once."""
        return _in_chunks(self._buffer, b, p)

    def parameter(self, p: Tensor, b: Tensor) -> Tensor:
        """Return the new parameter, of the old one and the old buffer."""
        return _in_chunks(self._parameter, p, b)

    def _parameter(self, p: Tensor, b: Tensor) -> Tensor:
        return self._theta(p, b) - self.back * self._buffer(b, p)

    def _theta(self, p: Tensor, b: Tensor) -> Tensor:
        return p + self.ahead * b if self.ahead else p

    def _buffer(self, b: Tensor, p: Tensor | None) -> Tensor:
        if self.u == 0:
            return self.s * b
        assert p is not None
        return self.u * self._theta(p, b) + self.s * b


def _in_chunks(f: Any, first: Tensor, second: Tensor | None) -> Tensor:
    """Return f of two tensors, elementwise, without a float64 copy of the whole."""
    out = torch.empty_like(first, memory_format=torch.contiguous_format)
    flat, one = out.view(-1), first.reshape(-1)
    other = None if second is None else second.reshape(-1)
    for start in range(0, flat.numel(), _CHUNK):
        part = slice(start, start + _CHUNK)
        wide = (x if x is None else _widened(x[part]) for x in (one, other))
        flat[part] = f(*wide).to(flat.dtype)
    return out.view(first.shape)


def _widened(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float64))


def state_map(source: Setting, to: Convention, *, port_values: bool = False) -> StateMap:
    """Return the map from a source's state to a target's.

    Args:
        source: The convention and hyperparameters of the state.
        to: The target's convention.
        port_values: Take the hyperparameters that make the source's trajectory, where the source's
            own do not.

    Raises:
        InvalidUseError: If the two are not the same rule with these hyperparameters, or the map
            would divide by zero or empty the buffer. The text says what would work.
    """
    names = f"{source.convention.name!r} to {to.name!r}"
    target = _same_values(source, to)
    from_start: Identical = "never"
    identical = identity(source.side(), target.side())
    ported = identical == "never"
    if ported:
        target, alike = _ported(source, to, names)
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
    u, s = x.buffer_in(y)
    return StateMap(
        u=float(u),
        s=float(s),
        ahead=float(run.look_ahead(0)),
        back=float(new.look_ahead(0)),
        to=target,
        ported=ported,
        identical=identical,
        from_start=from_start,
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


def _ported(source: Setting, to: Convention, names: str) -> tuple[Setting, bool]:
    """Return the target's own hyperparameters, and whether first steps are the same too."""
    mode = None if source.weight_decay == 0 else _same_values(source, to).weight_decay_mode
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
            weight_decay_mode=kind,
            **values,
        )
        return target, found.from_start
    raise InvalidUseError(
        f"state cannot be converted from {names}: the target has no equal for {part}; "
        "take another convention, such as 'qhm'"
    )


_PORTED = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "nu")


def _listed(setting: Setting) -> str:
    values = {name: getattr(setting, name) for name in _PORTED}
    return ", ".join(
        f"{name}={value if isinstance(value, bool) else float(value):g}"
        for name, value in values.items()
        if value
    )
