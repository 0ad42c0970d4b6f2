"""Converting a checkpoint file: read, match, map the state, write; one tensor at a time."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sgdm.convention import Convention
from sgdm.convert.checkpoint import Checkpoint, Slot, broken, listed
from sgdm.convert.converted import Row, convert_pairs
from sgdm.convert.formats import FORMATS, Format, get_format
from sgdm.convert.matching import Matched, NameMap, match
from sgdm.convert.slot_maps import SlotMaps
from sgdm.convert.state_map import StateMap, one_rule
from sgdm.errors import FileError, InvalidValueError
from sgdm.files import check_place
from sgdm.frameworks import get_convention

__all__ = ["Job", "Summary", "convert_file"]


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


@dataclass(frozen=True, slots=True)
class Summary:
    """What a conversion did.

    Attributes:
        source: The source's convention.
        target: The target's.
        map: How the state was mapped; None where there was none.
        rows: The parameters.
        matched: What was left over on either side.
        remarks: What did not come along, and what was assumed.
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
    old, new = get_format(job.source_format), get_format(job.target_format)
    _check_target(job, new)
    with ExitStack() as stack:
        source: Checkpoint = stack.enter_context(old.load().read(job.source, job.weights))
        template: Checkpoint | None = None
        if job.template is not None:
            template = stack.enter_context(new.load().read(job.template))
        maps = _maps(job, source, old, new)
        _check_template(job, template, maps.target)
        maps.check_known(source.slots, job.hyperparameters)
        matched = match(source.slots, template.slots if template else None, job.names)
        _check_all_matched(job, matched)
        made = convert_pairs(matched, maps, _said(template, new), progress)
        checkpoint = Checkpoint(
            convention=maps.target.name,
            slots=made.slots,
            hyperparameters=made.settings,
            steps=source.steps,
            remarks=[*source.remarks, *made.remarks, *_not_held(job, new, matched, made.slots)],
            assumed=[*source.assumed, *(template.assumed if template else [])],
        )
        write = new.load().prepare(job.target, checkpoint, job.template)
        if job.dry_run:
            _read_all(checkpoint)
        else:
            write()
    return Summary(
        source=maps.source.name,
        target=maps.target.name,
        map=made.map,
        rows=made.rows,
        matched=matched,
        remarks=list(dict.fromkeys(checkpoint.remarks + checkpoint.assumed)),
    )


def _check_target(job: Job, new: Format) -> None:
    check_place(job.target)
    if new.needs_template and job.template is None:
        raise InvalidValueError.of(
            "template",
            f"a file of the same model for format {job.target_format!r}",
            None,
            "save one from a freshly built model and pass it",
        )
    named = [name for name, row in FORMATS.items() if job.target.name.endswith(row.suffixes)]
    if named and job.target_format not in named:
        raise InvalidValueError.of(
            "target",
            f"named as a file of format {job.target_format!r} is",
            str(job.target),
            f"name it so, or write format {named[0]!r}",
        )


def _check_template(job: Job, template: Checkpoint | None, target: Convention) -> None:
    if job.template is None or template is None or template.convention is None:
        return
    its = _row(job.template, template.convention)
    if not one_rule(its, target):
        raise broken(
            job.template,
            "template",
            f"its convention is {its.name!r}, and {target.name!r} is to be written",
            "give a template of the convention that is converted to",
        )


def _said(template: Checkpoint | None, new: Format) -> dict[str, Any] | None:
    """Return the numbers of a template of an optimizer; None without one."""
    if template is None or template.convention is None:
        return None
    return template.hyperparameters if new.holds_own else {}


def _row(path: Path, convention: str) -> Convention:
    """Return the convention that a file names."""
    try:
        return get_convention(convention)
    except InvalidValueError as error:
        problem = f"{convention:.100} is not known"
        raise broken(path, "convention", problem, "see sgdm conventions") from error


def _maps(job: Job, source: Checkpoint, old: Format, new: Format) -> SlotMaps:
    row = _row(job.source, source.convention or old.convention or "torch")
    target = get_convention(new.convention or job.convention or "torch")
    if job.convention is not None and get_convention(job.convention) != target:
        raise InvalidValueError.of(
            "convention", f"{target.name!r}, which the format holds", job.convention, "leave it out"
        )
    # What torch.optim.SGD is to load decays as it does, unless the source never did.
    own_decay = new.convention is not None or (target.name == "torch" and row != target)
    return SlotMaps(
        source=row,
        target=target,
        known={**source.hyperparameters, **job.hyperparameters},
        port=job.port,
        own_decay=own_decay,
    )


def _check_all_matched(job: Job, matched: Matched) -> None:
    left = {
        "without a counterpart in the template": matched.unused,
        "without a counterpart in the source": matched.missing,
        "rules of the mapping that fit nothing": matched.rules,
    }
    problems = [f"{what}: {listed(names)}" for what, names in left.items() if names]
    if problems and not job.allow_unmatched:
        raise FileError(
            f"{job.source}: {'; '.join(problems)}; give a mapping file that fits, or allow it"
        )
    if all(pair.source is None for pair in matched.pairs):
        raise FileError(f"{job.source}: no parameter has a counterpart; give a mapping file")


def _not_held(job: Job, new: Format, matched: Matched, slots: list[Slot]) -> list[str]:
    """Say whose own hyperparameters the format has no place for, unless its template has them."""
    if new.holds_own:
        return []
    names: dict[str, list[str]] = {}
    for pair, slot in zip(matched.pairs, slots, strict=True):
        for name in slot.own:
            if pair.target is None or name not in pair.target.own:
                names.setdefault(name, []).append(slot.name)
    return [
        f"{name} of {listed(of)}: not held by {job.target_format}" for name, of in names.items()
    ]


def _read_all(checkpoint: Checkpoint) -> None:
    for slot in checkpoint.slots:
        for stored in (slot.parameter, slot.buffer):
            if stored is not None:
                stored.read()
