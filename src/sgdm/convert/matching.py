r"""Which parameter of one file is which of another: by name, or by a mapping file.

A mapping file is TOML with one table. The first rule that fits a source's name gives the target's:

    [names]
    "conv2d/kernel" = "conv1.weight"              # a name
    "block_*/kernel" = "blocks.*.weight"          # a glob: what a * stood for (no slash) is put in
    '/dense_(\d+)/bias/' = 'fc\1.bias'            # between slashes, a regular expression
"""

import re
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from sgdm.convert.checkpoint import Slot, broken
from sgdm.errors import FileError, InvalidValueError

__all__ = ["Matched", "NameMap", "match"]


class NameMap:
    """Rules from source names to target names, in order; none leaves names as they are."""

    def __init__(self, rules: dict[str, str]) -> None:
        self._rules = [_compiled(pattern, target) for pattern, target in rules.items()]

    @classmethod
    def read(cls, path: Path) -> "NameMap":
        """Read a mapping file.

        Raises:
            FileError: If it is no such file; the text names the rule.
        """
        try:
            given = tomllib.loads(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise broken(path, "as a whole", str(error), "write it as TOML") from error
        table: Any = given.get("names")
        if set(given) != {"names"} or not isinstance(table, dict):
            raise broken(path, "its tables", f"got {sorted(given)}", "write one table, [names]")
        names = cast("dict[str, object]", table)
        for pattern, target in names.items():
            if not isinstance(target, str):
                raise broken(path, repr(pattern), f"got {target!r}", "give a name")
        try:
            return cls(cast("dict[str, str]", names))
        except (re.error, InvalidValueError) as error:
            raise broken(path, "[names]", str(error), "mend the rule") from error

    def __call__(self, name: str) -> str:
        """Return the target's name."""
        for rule in self._rules:
            found = rule(name)
            if found is not None:
                return found
        return name


def _compiled(pattern: str, target: str) -> Callable[[str], str | None]:
    """Return what gives the target's name of one that fits, and None of another."""
    if len(pattern) > 2 and pattern.startswith("/") and pattern.endswith("/"):
        expression = re.compile(pattern[1:-1])
        if expression.groups < max(map(int, re.findall(r"\\(\d+)", target)), default=0):
            raise InvalidValueError(f"{pattern!r} has no group for {target!r}; add the parentheses")
        return lambda name: found.expand(target) if (found := expression.fullmatch(name)) else None
    if pattern.count("*") != target.count("*"):
        raise InvalidValueError(
            f"{pattern!r} must have as many * as {target!r}; write each once on both sides"
        )
    expression = re.compile("([^/]*)".join(map(re.escape, pattern.split("*"))))
    pieces = target.split("*")

    def fill(name: str) -> str | None:
        found = expression.fullmatch(name)
        if found is None:
            return None
        filled = pieces[0]
        for stood, piece in zip(found.groups(), pieces[1:], strict=True):
            filled += stood + piece
        return filled

    return fill


@dataclass(slots=True)
class Matched:
    """What was matched with what.

    Attributes:
        pairs: Source and target, the target's None where there is no template.
        names: The target's name of each pair.
        unused: Names of the source that the target has no place for, after mapping.
        missing: Names of the target that nothing was found for.
    """

    pairs: list[tuple[Slot, Slot | None]] = field(default_factory=list[tuple[Slot, Slot | None]])
    names: list[str] = field(default_factory=list[str])
    unused: list[str] = field(default_factory=list[str])
    missing: list[str] = field(default_factory=list[str])


def match(source: Sequence[Slot], template: Sequence[Slot] | None, names: NameMap) -> Matched:
    """Match the parameters of a source with those of a template, in the template's order.

    Args:
        source: What there is.
        template: What there is to be; None for whatever the source has.
        names: From source names to target names.

    Raises:
        FileError: If two names become one, or the shapes of a pair differ.
    """
    renamed: dict[str, Slot] = {}
    for slot in source:
        name = names(slot.name)
        if name in renamed:
            raise FileError(
                f"{renamed[name].name!r} and {slot.name!r} both become {name!r}; mend the mapping"
            )
        renamed[name] = slot
    found = Matched()
    if template is None:
        found.pairs = [(slot, None) for slot in renamed.values()]
        found.names = list(renamed)
        return found
    for target in template:
        slot = renamed.pop(target.name, None)
        if slot is None:
            found.missing.append(target.name)
            continue
        _check_shapes(slot, target)
        found.pairs.append((slot, target))
        found.names.append(target.name)
    found.unused = [f"{slot.name} (as {name})" for name, slot in renamed.items()]
    return found


def _check_shapes(slot: Slot, target: Slot) -> None:
    for one in (slot.parameter, slot.buffer):
        for other in (target.parameter, target.buffer):
            if one is not None and other is not None and one.shape != other.shape:
                raise FileError(
                    f"{slot.name!r} has shape {one.shape} in torch's layout, and {target.name!r} "
                    f"{other.shape}; they are not one parameter: mend the mapping"
                )
