"""The map of each parameter of a file, made from its own numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sgdm.convention import Convention
from sgdm.convert.checkpoint import Slot, Times, listed
from sgdm.convert.setting import Setting
from sgdm.convert.state_map import StateMap, one_rule, state_map
from sgdm.errors import InvalidValueError

__all__ = ["SlotMaps"]

_Values = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class SlotMaps:
    """The maps of a file's parameters.

    Attributes:
        source: The convention of its buffers.
        target: Of those to be.
        known: Hyperparameters by name: what was given, before what the file says.
        port: Take those that make the source's trajectory in the target.
        own_decay: Whether the target can decay in its own way alone.
    """

    source: Convention
    target: Convention
    known: Mapping[str, Any]
    port: bool = False
    own_decay: bool = False
    _made: dict[tuple[Any, ...], StateMap] = field(default_factory=dict[Any, StateMap])

    @property
    def one_rule(self) -> bool:
        """Whether the two are names of one rule, so that numbers do not matter."""
        return one_rule(self.source, self.target)

    def check_known(self, slots: Sequence[Slot], given: Mapping[str, Any]) -> None:
        """Refuse buffers that cannot be converted for want of a number, or with two for one.

        Args:
            slots: The source's.
            given: What was given, and not read.

        Raises:
            InvalidValueError: If it is so; the text says what to give.
        """
        for name in given:
            if own := [slot.name for slot in slots if _has_own(slot, name)]:
                raise InvalidValueError.of(
                    name,
                    f"left out where parameters have their own: {listed(own)}",
                    given[name],
                    "change it in the source",
                )
        if self.one_rule or all(slot.buffer is None for slot in slots):
            return
        needed = {"lr": "pass --lr", "momentum": "pass --momentum"}
        if self.source.nesterov == "optional":
            needed["nesterov"] = "pass --nesterov or --no-nesterov"
        for name, remedy in needed.items():
            if name not in self.known:
                requirement = f"given to convert from {self.source.name!r} to {self.target.name!r}"
                raise InvalidValueError.of(name, requirement, None, remedy)

    def values(self, slot: Slot, like: Slot | None = None) -> _Values:
        """Return the numbers of a parameter's coming step.

        Args:
            slot: The source's.
            like: The template's, whose multiples hold in the target whatever the source had.
        """
        values = {**self.known, **_resolved(slot.own, self.known)}
        if like is not None:
            multiples = {n: value for n, value in like.own.items() if isinstance(value, Times)}
            values |= _resolved(multiples, self.known)
        return {name: value for name, value in values.items() if value is not None}

    def of(self, values: _Values) -> StateMap | None:
        """Return the map of a parameter with these numbers; None where they are not known.

        Raises:
            InvalidTypeError: If one is no number.
            InvalidValueError: If one is out of range.
            InvalidUseError: If the state cannot be converted; the text says what would work.
        """
        if not self.one_rule and not {"lr", "momentum"} <= values.keys():
            return None
        key = tuple(sorted(values.items()))
        if key not in self._made:
            nesterov = bool(values.get("nesterov")) and self.source.nesterov != "always"
            numbers: _Values = {"lr": 0.0, "momentum": 0.0, **values, "nesterov": nesterov}
            setting = Setting(convention=self.source, **numbers)
            self._made[key] = state_map(
                setting, self.target, port_values=self.port, own_decay=self.own_decay
            )
        return self._made[key]

    def settings(self, values: _Values) -> _Values:
        """Return the numbers to go on with, as far as they are known; None says "none"."""
        found = self.of(values)
        if found is None:
            return values
        made = found.settings()
        return {n: value for n, value in made.items() if value or value is None or n in values}


def _has_own(slot: Slot, name: str) -> bool:
    return name in slot.own and not isinstance(slot.own[name], Times)


def _resolved(own: Mapping[str, Any], known: Mapping[str, Any]) -> _Values:
    """Return a parameter's own numbers, multiples of what is known among them."""
    values: _Values = {}
    for name, value in own.items():
        if not isinstance(value, Times):
            values[name] = value
        elif known.get(name) is not None:
            values[name] = known[name] * value.factor
    return values
