"""What a file's parameters become: their names, their numbers, and tensors mapped when read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from sgdm.convert.checkpoint import Slot, Stored, Times, listed, shown
from sgdm.convert.elementwise import norm
from sgdm.convert.matching import Matched, Pair
from sgdm.convert.slot_maps import SlotMaps
from sgdm.convert.state_map import StateMap
from sgdm.errors import FileError

__all__ = ["Converted", "Row", "convert_pairs"]


@dataclass(slots=True)
class Row:
    """What became of a parameter.

    Attributes:
        name: In the source.
        target: In the target.
        shape: In torch's layout.
        layout: What was done to the source's axes, and is to the target's.
        before: The norm of the source's buffer; None without one.
        after: The norm of the target's.
    """

    name: str
    target: str
    shape: tuple[int, ...]
    layout: str
    before: float | None = None
    after: float | None = None


@dataclass(slots=True)
class Converted:
    """The target's parameters.

    Attributes:
        rows: What is new in them.
        slots: All of them, in the target's order.
        settings: The hyperparameters of those that have none of their own.
        map: How the first buffer is mapped; None where there is none.
        remarks: What did not come along.
    """

    rows: list[Row] = field(default_factory=list[Row])
    slots: list[Slot] = field(default_factory=list[Slot])
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    map: StateMap | None = None
    remarks: list[str] = field(default_factory=list[str])


def convert_pairs(
    matched: Matched, maps: SlotMaps, says: dict[str, Any] | None, progress: Callable[[int], None]
) -> Converted:
    """Return the target's parameters.

    Args:
        matched: What comes from where.
        maps: The maps of the source's.
        says: The template's hyperparameters, which count where nothing is known; None where there
            is no template of an optimizer, whose groups would be kept.
        progress: Called when a buffer is done, with how many there are in all.

    Raises:
        FileError: If a parameter is needed that is not there.
        InvalidUseError: If the state cannot be converted; the text says what would work.
    """
    total = sum(
        pair.source is not None and pair.source.buffer is not None for pair in matched.pairs
    )
    made = Converted()
    numbers: list[dict[str, Any] | None] = []
    rounded: dict[torch.dtype, list[str]] = {}
    for pair in matched.pairs:
        slot, like = pair.source, pair.target
        if slot is None:
            numbers.append(None)
            made.slots.append(replace(cast("Slot", like), own={}))
            continue
        values, steps = maps.values(slot, like), _steps(pair, says)
        found = maps.of(values) if steps else None
        if slot.buffer is not None and made.map is None:
            made.map = found
        made.rows.append(row := _row(pair))
        if slot.buffer is not None and found is not None and not found.changes_nothing:
            rounded.setdefault(slot.buffer.dtype, []).append(slot.name)
        converted = _converted(pair, found, row, lambda: progress(total))
        group = slot.group if like is None or says is None else like.group
        made.slots.append(replace(converted, group=group, stepped=steps))
        numbers.append({**_said(like, says or {}), **maps.settings(values)} if steps else None)
    _separate(made, matched.pairs, numbers, says or {}, maps.known)
    made.remarks += _lost(matched.pairs, made.slots) + _multiplied(matched.pairs, maps)
    made.remarks += _rounded(rounded)
    return made


def _steps(pair: Pair, says: dict[str, Any] | None) -> bool:
    """Whether the target steps it: as the template says, if that is of an optimizer."""
    slot = pair.source if says is None or pair.target is None else pair.target
    return slot is not None and slot.stepped


def _said(like: Slot | None, says: dict[str, Any]) -> dict[str, Any]:
    """Return what the template says of a parameter in numbers."""
    own = {} if like is None else like.own
    return {**says, **{n: value for n, value in own.items() if not isinstance(value, Times)}}


def _separate(
    made: Converted,
    pairs: list[Pair],
    numbers: list[dict[str, Any] | None],
    says: dict[str, Any],
    known: Mapping[str, Any],
) -> None:
    """Set the numbers of most parameters apart from the own ones of the others.

    A parameter that stays as the template has it is stepped as the others of its group.
    """
    groups: dict[int, dict[str, Any]] = {}
    plain: dict[str, Any] | None = None
    for slot, pair, values in zip(made.slots, pairs, numbers, strict=True):
        if values is not None:
            groups.setdefault(slot.group, values)
            if plain is None and pair.source is not None and not pair.source.own:
                plain = values
    base = plain or next(iter(groups.values()), {**says, **known})
    made.settings = {name: value for name, value in base.items() if value is not None}
    for i, (slot, pair) in enumerate(zip(made.slots, pairs, strict=True)):
        values = numbers[i]
        if values is None and slot.stepped:
            values = groups.get(slot.group) or _said(pair.target, says)
        own = {} if values is None else _differing(values, base)
        if own:
            made.slots[i] = replace(slot, own=own)


def _differing(values: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    names = [*base, *(name for name in values if name not in base)]
    return {n: values.get(n) for n in names if values.get(n) != base.get(n)}


def _row(pair: Pair) -> Row:
    slot, like = cast("Slot", pair.source), pair.target
    stored = slot.parameter or slot.buffer
    back = "" if like is None else " -> ".join(reversed(like.layout.split(" -> ")))
    return Row(
        name=slot.name,
        target=pair.name,
        shape=() if stored is None else stored.shape,
        layout=", ".join(text for text in (slot.layout, back) if text),
    )


def _converted(pair: Pair, found: StateMap | None, row: Row, done: Callable[[], None]) -> Slot:
    slot = cast("Slot", pair.source)
    if slot.buffer is None and found is not None:
        found.check_first_step(shown(slot.name))
    return Slot(
        name=pair.name,
        parameter=_parameter(slot, found),
        buffer=_buffer(slot, found, row, done),
    )


def _parameter(slot: Slot, found: StateMap | None) -> Stored | None:
    p, b = slot.parameter, slot.buffer
    if p is None or b is None or found is None or not found.moves_parameter:
        return p

    def read() -> Tensor:
        old = p.read()
        return found.parameter(old, b.read(), out=old)

    return replace(p, read=read)


def _buffer(
    slot: Slot, found: StateMap | None, row: Row, done: Callable[[], None]
) -> Stored | None:
    p, b = slot.parameter, slot.buffer
    if b is None or found is None:
        return None
    if found.needs_parameter and p is None:
        raise FileError(
            f"'{shown(slot.name)}' must come with its parameter for this conversion; give the "
            "weights"
        )

    def read() -> Tensor:
        held = b.read()
        row.before = row.after = norm(held)
        if not found.changes_nothing:
            point = p.read() if found.needs_parameter and p is not None else None
            held = found.buffer(held, point, out=held)
            row.after = norm(held)
        done()
        return held

    return replace(b, read=read)


def _lost(pairs: list[Pair], slots: list[Slot]) -> list[str]:
    """Say whose momentum the target has no use for."""
    names = [
        pair.source.name
        for pair, slot in zip(pairs, slots, strict=True)
        if pair.source is not None and pair.source.buffer is not None and not slot.stepped
    ]
    return [f"momentum of {listed(names)}, which the target does not step"] if names else []


def _rounded(names: dict[torch.dtype, list[str]]) -> list[str]:
    """Say which buffers have lost something that shows."""
    return [
        f"momentum of {listed(of)} is rounded to {dtype} once more"
        for dtype, of in names.items()
        if dtype.itemsize == 2
    ]


def _multiplied(pairs: list[Pair], maps: SlotMaps) -> list[str]:
    """Say what the template multiplies for single parameters, as the source did not."""
    names: dict[str, list[str]] = {}
    for pair in pairs:
        if pair.source is None or pair.target is None or not pair.target.own:
            continue
        its, new = maps.values(pair.source), maps.values(pair.source, pair.target)
        for name in new:
            if new[name] != its.get(name):
                names.setdefault(name, []).append(pair.name)
    return [
        f"{name} of {listed(of)}: in the target it is what the template makes of it"
        for name, of in names.items()
    ]
