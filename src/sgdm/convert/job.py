"""Converting a checkpoint file: read, match, map the state, write; one tensor at a time."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from sgdm.convention import Convention
from sgdm.convert.checkpoint import Checkpoint, Slot, Stored
from sgdm.convert.formats import Format, get_format
from sgdm.convert.matching import Matched, NameMap, match
from sgdm.convert.state_map import Setting, StateMap, state_map
from sgdm.errors import FileError, InvalidValueError
from sgdm.frameworks import get_convention
from sgdm.hyperparameters import (
    check_combination,
    check_range,
    check_weight_decay_mode,
)

__all__ = ["Job", "Row", "Summary", "convert_file"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A conversion of a file.

    Attributes:
        source: The file.
        target: The file to be written; replaced whole if it is there.
        source_format: Of the source, by name.
        target_format: Of the target.
        weights: A second file with the source's parameters and their names, where the format keeps
            them apart.
        template: A file of the target's format and model, after which the target is written.
        names: From source names to target names.
        convention: Of the target, for formats that hold any; "torch" without.
        hyperparameters: lr, momentum, nesterov, weight_decay, dampening and nu of the coming step,
            by name, before what the source says.
        port: Take the hyperparameters that make the source's trajectory in the target.
        allow_unmatched: Whether names without a counterpart are left out in place of refused.
        dry_run: Read and map everything, and write nothing.
    """

    source: Path
    target: Path
    source_format: str
    target_format: str
    weights: Path | None = None
    template: Path | None = None
    names: NameMap = field(default_factory=lambda: NameMap({}))
    convention: str | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict[str, Any])
    port: bool = False
    allow_unmatched: bool = False
    dry_run: bool = False


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


@dataclass(frozen=True, slots=True)
class Summary:
    """What a conversion did.

    Attributes:
        source: The source's convention.
        target: The target's.
        map: How the state was mapped; None where there was none.
        rows: The parameters.
        matched: What was left over on either side.
        remarks: What did not come along.
    """

    source: str
    target: str
    map: StateMap | None
    rows: list[Row]
    matched: Matched
    remarks: list[str]


def convert_file(job: Job, *, progress: Callable[[int], None] = lambda _: None) -> Summary:
    """Convert a checkpoint file.

    Args:
        job: What is to be done.
        progress: Called when a buffer is done, with how many there are in all.

    Raises:
        FileError: If a file is broken, or names or shapes do not fit; the target is as it was.
        InvalidValueError: If a name or number is wrong, or one is needed that no file says.
        InvalidUseError: If the state cannot be converted; the text says what would work.
    """
    source_format, target_format = get_format(job.source_format), get_format(job.target_format)
    if target_format.needs_template and job.template is None:
        raise InvalidValueError.of(
            "template",
            f"a file of the same model for format {job.target_format!r}",
            None,
            "save one from a freshly built model and pass it",
        )
    _target_convention(job, target_format)
    with ExitStack() as stack:
        read = source_format.load().read(job.source, job.weights)
        source: Checkpoint = stack.enter_context(read)
        template: Checkpoint | None = None
        if job.template is not None:
            template = stack.enter_context(target_format.load().read(job.template))
        matched = match(source.slots, template.slots if template else None, job.names)
        _check_all_matched(job, matched)
        mapped = _mapped(job, source, source_format, target_format)
        rows, slots = _slots(matched, mapped, progress)
        checkpoint = _checkpoint(job, source, target_format, mapped, slots)
        if job.dry_run:
            _read_all(checkpoint)
        else:
            target_format.load().write(job.target, checkpoint, job.template)
    return Summary(
        source=mapped.source.name,
        target=mapped.target.name,
        map=mapped.map,
        rows=rows,
        matched=matched,
        remarks=source.remarks,
    )


def _check_all_matched(job: Job, matched: Matched) -> None:
    left = [f"{name} of the source" for name in matched.unused]
    left += [f"{name} of the template" for name in matched.missing]
    if left and not job.allow_unmatched:
        raise FileError(
            f"{job.source}: without a counterpart: {', '.join(left)}; give a mapping file, or "
            "allow it"
        )
    if not matched.pairs:
        raise FileError(f"{job.source}: no parameter has a counterpart; give a mapping file")


def _target_convention(job: Job, new: Format) -> Convention:
    row = get_convention(new.convention or job.convention or "torch")
    if job.convention is not None and get_convention(job.convention) != row:
        raise InvalidValueError.of(
            "convention", f"{row.name!r}, which the format holds", job.convention, "leave it out"
        )
    return row


@dataclass(frozen=True, slots=True)
class _Mapped:
    source: Convention
    target: Convention
    map: StateMap | None
    given: dict[str, Any]
    setting: Setting | None = None
    port: bool = False

    def map_of(self, slot: Slot, target: Slot | None) -> StateMap | None:
        """Return the map of one parameter, which may have a learning rate of its own."""
        scale = slot.lr_scale if target is None or slot.lr_scale != 1 else target.lr_scale
        if self.setting is None or scale == 1:
            return self.map
        if scale == 0:
            return None  # it never moves, and has no momentum
        own = replace(self.setting, lr=self.setting.lr * scale)
        return state_map(own, self.target, port_values=self.port)


def _mapped(job: Job, source: Checkpoint, old: Format, new: Format) -> _Mapped:
    """Return the map of the state, if the source has any."""
    row = get_convention(source.convention or old.convention or "torch")
    target = _target_convention(job, new)
    given = {**source.hyperparameters, **job.hyperparameters}
    if all(slot.buffer is None for slot in source.slots):
        return _Mapped(row, target, None, given)
    same_rule = replace(target, name=row.name) == row
    for name in ("lr", "momentum"):
        if name not in given and not same_rule:
            raise InvalidValueError.of(
                name,
                f"given to convert from {row.name!r} to {target.name!r}",
                None,
                f"pass --{name}",
            )
        if name in given:
            check_range(name, given[name])
    check_weight_decay_mode(given.get("weight_decay_mode"))
    if source.differing and not same_rule:
        raise FileError(
            f"{job.source}: its parameter groups differ in {', '.join(source.differing)}, and a "
            "file is converted by one set of numbers; load it and use sgdm.convert_"
        )
    check_combination(
        row,
        dampening=given.get("dampening", 0.0),
        nesterov=given.get("nesterov", False) and row.nesterov != "always",
        nu=given.get("nu"),
    )
    setting = Setting(
        convention=row,
        lr=given.get("lr", 1.0),
        momentum=given.get("momentum", 0.9),
        dampening=given.get("dampening", 0.0),
        weight_decay=given.get("weight_decay", 0.0),
        nesterov=given.get("nesterov", False) and row.nesterov == "optional",
        nu=given.get("nu"),
        lr0=given.get("lr0"),
        weight_decay_mode=given.get("weight_decay_mode"),
    )
    found = state_map(setting, target, port_values=job.port)
    return _Mapped(row, target, found, given, setting, job.port)


def _slots(
    matched: Matched, mapped: _Mapped, progress: Callable[[int], None]
) -> tuple[list[Row], list[Slot]]:
    """Return the target's slots, whose tensors are mapped when they are read."""
    total = sum(slot.buffer is not None for slot, _ in matched.pairs)
    rows: list[Row] = []
    slots: list[Slot] = []
    for (slot, target), name in zip(matched.pairs, matched.names, strict=True):
        stored = slot.parameter or slot.buffer
        layouts = [slot.layout, "" if target is None else _reversed(target.layout)]
        row = Row(
            name=slot.name,
            target=name,
            shape=() if stored is None else stored.shape,
            layout=", ".join(text for text in layouts if text),
        )
        rows.append(row)
        found = mapped.map_of(slot, target)
        slots.append(
            Slot(
                name=name,
                parameter=_parameter(slot, found),
                buffer=_buffer(slot, found, row, lambda: progress(total)),
            )
        )
    return rows, slots


def _reversed(layout: str) -> str:
    return " -> ".join(reversed(layout.split(" -> ")))


def _parameter(slot: Slot, found: StateMap | None) -> Stored | None:
    p, b = slot.parameter, slot.buffer
    if p is None or b is None or found is None or not found.moves_parameter:
        return p
    return replace(p, read=lambda: found.parameter(p.read(), b.read()))


def _buffer(
    slot: Slot, found: StateMap | None, row: Row, done: Callable[[], None]
) -> Stored | None:
    p, b = slot.parameter, slot.buffer
    if b is None or found is None:
        return None
    if found.needs_parameter and p is None:
        raise FileError(
            f"{slot.name!r} must come with its parameter for this conversion; give the weights"
        )

    def read() -> Tensor:
        old = b.read()
        new = found.buffer(old, p.read() if found.needs_parameter and p is not None else None)
        row.before, row.after = _norm(old), _norm(new)
        done()
        return new

    return replace(b, read=read)


def _norm(x: Tensor) -> float:
    wide = torch.promote_types(x.dtype, torch.float32)
    return cast("float", torch.linalg.vector_norm(x, dtype=wide).item())


def _checkpoint(
    job: Job, source: Checkpoint, target_format: Format, mapped: _Mapped, slots: list[Slot]
) -> Checkpoint:
    """Return what is to be written."""
    given = dict(mapped.given)
    if mapped.map is not None:
        to = mapped.map.to
        given["nesterov"] = to.nesterov
        if mapped.map.ported:
            given |= {
                name: float(getattr(to, name))
                for name in ("lr", "momentum", "dampening", "weight_decay")
            }
            given |= {} if to.nu is None else {"nu": float(to.nu)}
        another_decay = to.weight_decay != 0 and to.weight_decay_mode is not None
        given.pop("weight_decay_mode", None)
        if another_decay and target_format.convention is None:
            given["weight_decay_mode"] = to.weight_decay_mode
        elif another_decay:
            raise InvalidValueError.of(
                "weight_decay",
                f"0 for format {job.target_format!r}, whose decay is of another kind",
                given.get("weight_decay"),
                "use port, or leave the decay out and set it in the target",
            )
    return Checkpoint(
        convention=mapped.target.name, slots=slots, hyperparameters=given, steps=source.steps
    )


def _read_all(checkpoint: Checkpoint) -> None:
    for slot in checkpoint.slots:
        for stored in (slot.parameter, slot.buffer):
            if stored is not None:
                stored.read()
