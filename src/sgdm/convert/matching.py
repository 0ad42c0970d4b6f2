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
from typing import Any, NamedTuple, cast

from sgdm.convert.checkpoint import Slot, broken, opened, shown
from sgdm.errors import FileError, InvalidValueError

__all__ = ["Matched", "NameMap", "Pair", "match"]


class NameMap:
    """Rules from source names to target names, in order; none leaves names as they are."""

    def __init__(self, rules: dict[str, str]) -> None:
        self._rules = {pattern: _compiled(pattern, target) for pattern, target in rules.items()}

    @classmethod
    def read(cls, path: Path) -> "NameMap":
        """Read a mapping file.

        Raises:
            FileError: If it is no such file; the text names the rule.
        """
        with opened(path, "a mapping file") as file:
            try:
                given = tomllib.load(file)
            except (ValueError, RecursionError) as error:
                raise broken(path, "as a whole", str(error), "write it as TOML") from error
        table: Any = given.get("names")
        if set(given) != {"names"} or not isinstance(table, dict):
            raise broken(path, "its tables", f"got {sorted(given)}", "write one table, [names]")
        names = cast("dict[str, object]", table)
        for pattern, target in names.items():
            if not isinstance(target, str):
                raise broken(path, repr(pattern), f"got {target!r:.100}", "give a name")
        try:
            return cls(cast("dict[str, str]", names))
        except InvalidValueError as error:
            raise broken(path, "[names]", str(error), "mend the rule") from error

    def __call__(self, name: str) -> str:
        """Return the target's name."""
        return self.renamed([name])[0][0]

    def renamed(self, names: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return the target's names, and the rules that have given none of them."""
        unused = dict.fromkeys(self._rules)
        targets: list[str] = []
        for name in names:
            target = name
            for pattern, rule in self._rules.items():
                found = rule(name)
                if found is not None:
                    target = found
                    unused.pop(pattern, None)
                    break
            targets.append(target)
        return targets, list(unused)


# Given a name, returns the target's if the rule fits.
_Rule = Callable[[str], str | None]


def _compiled(pattern: str, target: str) -> _Rule:
    if len(pattern) > 2 and pattern.startswith("/") and pattern.endswith("/"):
        return _expression(pattern, target)
    if pattern.count("*") != target.count("*"):
        raise InvalidValueError(
            f"{pattern!r} must have as many * as {target!r}; write each once on both sides"
        )
    return _glob(pattern, target)


def _expression(pattern: str, target: str) -> _Rule:
    try:
        expression = re.compile(pattern[1:-1])
        expression.sub(target, "")  # which reads the target whether anything fits or not
    except (re.error, IndexError, RecursionError, OverflowError) as error:
        raise InvalidValueError(
            f"{pattern!r} cannot make {target!r} ({error}); write it as Python's re has it"
        ) from error
    return lambda name: found.expand(target) if (found := expression.fullmatch(name)) else None


def _glob(pattern: str, target: str) -> _Rule:
    parts = [part.split("*") for part in pattern.split("/")]
    first, *rest = target.split("*")

    def fill(name: str) -> str | None:
        given = name.split("/")
        if len(given) != len(parts):
            return None
        stood: list[str] = []
        for pieces, text in zip(parts, given, strict=True):
            found = _between(pieces, text)
            if found is None:
                return None
            stood += found
        return first + "".join(a + b for a, b in zip(stood, rest, strict=True))

    return fill


def _between(pieces: list[str], text: str) -> list[str] | None:
    """Return what stands between these pieces of a text, each as late as it can; None if not so.

    The first gap is the longest that can be, as in a regular expression, and no name takes longer
    than its length.
    """
    first, *middle = pieces
    if not middle:
        return [] if text == first else None
    last = middle.pop()
    end = len(text) - len(last)
    if end < len(first) or not text.startswith(first) or not text.endswith(last):
        return None
    found: list[str] = []
    for piece in reversed(middle):
        at = text.rfind(piece, len(first), end)
        if at < 0:
            return None
        found.append(text[at + len(piece) : end])
        end = at
    return [text[len(first) : end], *reversed(found)]


class Pair(NamedTuple):
    """What is to be under a name of the target.

    Attributes:
        name: That name.
        source: What comes there; None where the template's own stays.
        target: The template's; None without one.
    """

    name: str
    source: Slot | None
    target: Slot | None


@dataclass(slots=True)
class Matched:
    """What was matched with what.

    Attributes:
        pairs: In the target's order.
        unused: Names of the source that the target has no place for, after mapping.
        missing: Names of the target that nothing was found for.
        counters: Those of both that are no floating-point tensors, which can do without: counts of
            batches are kept by one framework and not by another.
        rules: The mapping's that have fitted nothing.
    """

    pairs: list[Pair] = field(default_factory=list[Pair])
    unused: list[str] = field(default_factory=list[str])
    missing: list[str] = field(default_factory=list[str])
    counters: list[str] = field(default_factory=list[str])
    rules: list[str] = field(default_factory=list[str])


def match(source: Sequence[Slot], template: Sequence[Slot] | None, names: NameMap) -> Matched:
    """Match the parameters of a source with those of a template, in the template's order.

    Args:
        source: What there is.
        template: What there is to be; None for whatever the source has.
        names: From source names to target names.

    Raises:
        FileError: If two names become one, or the shapes of a pair differ.
    """
    targets, rules = names.renamed([slot.name for slot in source])
    renamed: dict[str, Slot] = {}
    for name, slot in zip(targets, source, strict=True):
        if name in renamed:
            raise FileError(
                f"'{shown(renamed[name].name)}' and '{shown(slot.name)}' both become "
                f"'{shown(name)}'; mend the mapping"
            )
        renamed[name] = slot
    found = Matched(rules=rules)
    if template is None:
        found.pairs = [Pair(name, slot, None) for name, slot in renamed.items()]
        return found
    for target in template:
        slot = renamed.pop(target.name, None)
        if slot is None:
            (found.counters if _is_counter(target) else found.missing).append(target.name)
        else:
            _check_shapes(slot, target)
        found.pairs.append(Pair(target.name, slot, target))
    for name, slot in renamed.items():
        what = f"{slot.name} (as {name})"
        (found.counters if _is_counter(slot) else found.unused).append(what)
    return found


def _is_counter(slot: Slot) -> bool:
    stored = slot.parameter
    if slot.stepped or stored is None:
        return False
    return not (stored.dtype.is_floating_point or stored.dtype.is_complex)


def _check_shapes(slot: Slot, target: Slot) -> None:
    for one in (slot.parameter, slot.buffer):
        for other in (target.parameter, target.buffer):
            if one is not None and other is not None and one.shape != other.shape:
                raise FileError(
                    f"'{shown(slot.name)}' has shape {one.shape} in torch's layout, and "
                    f"'{shown(target.name)}' {other.shape}; they are not one parameter: mend the "
                    "mapping"
                )
