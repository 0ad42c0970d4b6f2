"""Pickles without executing: objects become inert records of what they would have been made with.

The standard library decodes the opcodes, and a small stack machine interprets them. Nothing that
the pickle chooses is called, hashed or printed, and the memo is a dict: neither a memo index of
2**32 nor tuples nested a hundredfold in each other, as a key, cost anything.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pickletools import genops
from typing import IO, Any, cast

__all__ = ["Inert", "interpret"]

# Opcodes, and one more for 32 bytes of the file: a tensor takes about 30, and 100 bytes besides.
_LIMIT = 2_500_000
_LONGEST_NAME = 1000


@dataclass(slots=True, eq=False)
class Inert:
    """What a pickle holds and is not made: a global, or an object it would have made with it.

    Attributes:
        name: Of the global.
        args: What it would have been called with; None for the global itself.
        state: What the object would have been given after that.
    """

    name: str
    args: tuple[Any, ...] | None = field(default=None, repr=False)
    state: Any = field(default=None, repr=False)


def _refuse(_identity: Any) -> Any:
    raise ValueError("a persistent id, which stands for nothing here")


def interpret(
    file: IO[bytes],
    find_class: Callable[[str], Any] = Inert,
    *,
    persistent_load: Callable[[Any], Any] = _refuse,
    load_bytes: Callable[[bytes, int], Any] = lambda data, _: data,
    size: int = 0,
) -> Any:
    """Return what a pickle holds: plain data, what is given a meaning here, `Inert` for the rest.

    Sets become lists, and items of a dict whose key is neither text nor an integer are left out:
    hashing what a pickle made may take for ever.

    Args:
        file: Open at the pickle. Its `read` is asked for every length that the pickle announces.
        find_class: Given "module name", returns what stands for that global; what is callable is
            called with the tuple of arguments.
        persistent_load: Given a persistent id, returns what it stands for.
        load_bytes: Given bytes and where in the file they begin, returns what stands for them.
        size: Of what the pickle is a part of, in bytes; the larger, the more it may hold.

    Raises:
        Exception: Of any kind, if it is no pickle, or one with opcodes of old or rare kinds.
    """
    machine = _Machine(file, find_class, persistent_load, load_bytes)
    limit = _LIMIT + size // 32
    for count, (opcode, arg, place) in enumerate(genops(file)):
        if count == limit:
            raise ValueError(f"more than {limit} opcodes")
        if opcode.name not in _ACTIONS:
            raise ValueError(f"opcode {opcode.name}, which is not read, at byte {place}")
        _ACTIONS[opcode.name](machine, arg)
    return machine.stack.pop()


@dataclass(slots=True)
class _Machine:
    """A stack, the stacks below its marks, and the memo."""

    file: IO[bytes]
    find_class: Callable[[str], Any]
    persistent_load: Callable[[Any], Any]
    load_bytes: Callable[[bytes, int], Any]
    stack: list[Any] = field(default_factory=list[Any])
    below: list[list[Any]] = field(default_factory=list[list[Any]])
    memo: dict[int, Any] = field(default_factory=dict[int, Any])

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_bytes(self, data: bytes) -> None:
        self.push(self.load_bytes(data, self.file.tell() - len(data)))

    def push_integer(self, value: int) -> None:
        self.push(value if abs(value) < 2**63 else Inert("an integer beyond 64 bits"))

    def push_text(self, value: str) -> None:
        try:
            value.encode()
        except UnicodeEncodeError:  # it cannot be shown or written
            return self.push(Inert("text with half a character"))
        return self.push(value)

    def mark(self, _: None) -> None:
        self.below.append(self.stack)
        self.stack = []

    def to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

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
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, str | int) and isinstance(target, dict):
                target[key] = value

    def memoize(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def find(self, name: str) -> None:
        if len(name) > _LONGEST_NAME:
            raise ValueError("a global with a name that long")
        self.push(self.find_class(name))

    def find_named(self, _: None) -> None:
        module, name = self.last(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a global without a name")
        self.find(f"{module} {name}")

    def call(self, function: Any, args: Any) -> None:
        if not isinstance(args, tuple):
            raise TypeError("a call without a tuple of arguments")
        args = cast("tuple[Any, ...]", args)
        if callable(function):
            self.push(function(args))
        elif isinstance(function, Inert):
            self.push(Inert(function.name, args))
        else:
            raise TypeError("a call of what is no global")

    def build(self, state: Any) -> None:
        if isinstance(self.stack[-1], Inert):
            self.stack[-1].state = state


# By the names of the opcodes, which differ in how their argument is written, if in anything.
_TABLE: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO FRAME STOP": lambda _m, _arg: None,
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "BININT BININT1 BININT2 BINFLOAT BINSTRING SHORT_BINSTRING": _Machine.push,
    "LONG1 LONG4": _Machine.push_integer,
    "SHORT_BINUNICODE BINUNICODE BINUNICODE8": _Machine.push_text,
    "SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8": _Machine.push_bytes,
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "EMPTY_LIST EMPTY_SET": lambda m, _: m.push([]),  # a set's elements would be hashed
    "EMPTY_DICT": lambda m, _: m.push({}),
    "MARK": _Machine.mark,
    "POP": lambda m, _: m.last(1),
    "POP_MARK": lambda m, _: m.to_mark(),
    "TUPLE": lambda m, _: m.push(tuple(m.to_mark())),
    "TUPLE1": lambda m, _: m.push(tuple(m.last(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.last(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.last(3))),
    "FROZENSET": lambda m, _: m.push(m.to_mark()),
    "APPEND": lambda m, _: m.add(m.last(1)),
    "APPENDS ADDITEMS": lambda m, _: m.add(m.to_mark()),
    "SETITEM": lambda m, _: m.put(m.last(2)),
    "SETITEMS": lambda m, _: m.put(m.to_mark()),
    "BINPUT LONG_BINPUT MEMOIZE": _Machine.memoize,
    "BINGET LONG_BINGET": lambda m, index: m.push(m.memo[index]),
    "GLOBAL": _Machine.find,
    "STACK_GLOBAL": _Machine.find_named,
    "REDUCE NEWOBJ": lambda m, _: m.call(*m.last(2)),
    "NEWOBJ_EX": lambda m, _: m.call(*m.last(3)[:2]),
    "BUILD": lambda m, _: m.build(*m.last(1)),
    "BINPERSID": lambda m, _: m.push(m.persistent_load(*m.last(1))),
}
_ACTIONS = {name: action for names, action in _TABLE.items() for name in names.split()}
