"""Pickles without executing: what is not on a list becomes an inert record.

The standard library decodes the opcodes, and a small machine interprets them. Nothing that the
pickle chooses is called, hashed or printed, and the memo is a dict: neither a memo index of 2**32
nor tuples nested a hundredfold in each other, as a key, cost anything.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pickletools import genops
from typing import Any, cast

__all__ = ["Inert", "interpret"]

_LIMIT = 2_000_000  # opcodes; a tensor takes about 30
_LONGEST_NAME = 1000


@dataclass(frozen=True, slots=True)
class Inert:
    """What a pickle names and is not made: its name."""

    name: str


def interpret(
    data: bytes, known: Mapping[str, Any], persistent: Callable[[tuple[Any, ...]], Any]
) -> Any:
    """Return what a pickle holds: plain data, what is known, and `Inert` for the rest.

    Sets become lists, and items of a dict whose key is neither text nor an integer are left out:
    hashing what a pickle made may take for ever.

    Args:
        data: The pickle.
        known: What stands for a global, by "module name"; a callable there is called with the
            tuple of arguments.
        persistent: Given a persistent id, returns what it stands for.

    Raises:
        Exception: Of any kind, if it is no pickle, or one with opcodes of old or rare kinds.
    """
    return _Machine(known, persistent).run(data)


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NEW: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": list,  # its elements would be hashed
}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BINSTRING", "SHORT_BINSTRING"),
}
_IGNORED = {"PROTO", "FRAME"}


class _Machine:
    """A stack, the stacks below its marks, and the memo."""

    def __init__(
        self, known: Mapping[str, Any], persistent: Callable[[tuple[Any, ...]], Any]
    ) -> None:
        self.known = known
        self.persistent = persistent
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for count, (opcode, arg, _) in enumerate(genops(data)):
            name = opcode.name
            if count == _LIMIT:
                raise ValueError(f"more than {_LIMIT} opcodes")
            if name in _LITERALS:
                self.stack.append(_literal(arg))
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _NEW:
                self.stack.append(_NEW[name]())
            elif name in _ACTIONS:
                _ACTIONS[name](self, arg)
            elif name == "STOP":
                return self.stack.pop()
            elif name not in _IGNORED:
                raise ValueError(f"opcode {name}, which is not read")
        raise ValueError("no end")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("an empty stack")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def add(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            cast("list[Any]", self.stack[-1]).extend(items)

    def put(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                if isinstance(key, str | int):  # another key is none that is looked for
                    target[key] = value

    def remember(self, index: Any) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def find(self, name: str) -> None:
        if len(name) > _LONGEST_NAME:
            raise ValueError("a global with a name that long")
        self.stack.append(self.known.get(name, Inert(name.replace(" ", "."))))

    def find_named(self, _: Any) -> None:
        parts = self.last(2)
        if not all(isinstance(part, str) and len(part) < _LONGEST_NAME for part in parts):
            raise TypeError("a global without a name")
        self.find(" ".join(parts))

    def call(self, _: Any) -> None:
        function, args = self.last(2)
        if not isinstance(args, tuple):
            raise TypeError("a call without a tuple of arguments")
        self.stack.append(function(args) if callable(function) else _object_of(function))

    def make(self, count: int) -> None:
        self.stack.append(_object_of(self.last(count)[0]))

    def load_persistent(self, _: Any) -> None:
        (identity,) = self.last(1)
        if not isinstance(identity, tuple):
            raise TypeError("a persistent id that is no tuple")
        self.stack.append(self.persistent(cast("tuple[Any, ...]", identity)))


def _literal(value: Any) -> Any:
    """Return a number or text, unless it could not be computed with, shown or written."""
    if isinstance(value, int) and abs(value) >= 2**63:
        return Inert("an integer beyond 64 bits")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return Inert("text with half a character")
    return value


def _object_of(named: object) -> Inert:
    return named if isinstance(named, Inert) else Inert("an object")


_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": lambda m, _: m.last(1).clear(),
    "POP_MARK": lambda m, _: m.to_mark().clear(),
    "TUPLE": lambda m, _: m.push(tuple(m.to_mark())),
    "TUPLE1": lambda m, _: m.push(tuple(m.last(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.last(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.last(3))),
    "FROZENSET": lambda m, _: m.push(m.to_mark()),
    "APPEND": lambda m, _: m.add(m.last(1)),
    "APPENDS": lambda m, _: m.add(m.to_mark()),
    "ADDITEMS": lambda m, _: m.add(m.to_mark()),
    "SETITEM": lambda m, _: m.put(m.last(2)),
    "SETITEMS": lambda m, _: m.put(m.to_mark()),
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": _Machine.remember,
    "BINGET": lambda m, index: m.push(m.memo[index]),
    "LONG_BINGET": lambda m, index: m.push(m.memo[index]),
    "GLOBAL": _Machine.find,
    "STACK_GLOBAL": _Machine.find_named,
    "REDUCE": _Machine.call,
    "NEWOBJ": lambda m, _: m.make(2),
    "NEWOBJ_EX": lambda m, _: m.make(3),
    "BUILD": lambda m, _: m.last(1).clear(),  # attributes, such as a state_dict's _metadata
    "BINPERSID": _Machine.load_persistent,
}
