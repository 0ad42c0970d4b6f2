"""Pickled estimators without executing: records in the place of objects, arrays left in the file.

Every global becomes a `Record` of its name, and calling one, or giving it a state, only notes the
arguments. The data of an array stays a `Block`, a place in the file: so a tensor is read when it is
asked for, and a copy of the file with other numbers at that place is a valid pickle of the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedIOBase
from pickletools import genops
from typing import Any, cast

__all__ = ["Block", "NotUnderstood", "Record", "interpret"]

_LIMIT = 2_000_000  # opcodes; an estimator of ten layers takes about 2000


class NotUnderstood(Exception):  # noqa: N818 - of the file, which the caller names
    """What is in a pickle is not what was looked for.

    Attributes:
        problem: What it is instead.
        remedy: What to do.
    """

    def __init__(self, problem: str, remedy: str = "take an intact copy") -> None:
        super().__init__(problem)
        self.problem, self.remedy = problem, remedy


@dataclass(frozen=True, slots=True)
class Block:
    """Bytes in the file.

    Attributes:
        start: Where the first is.
        size: How many.
        head: The first eight, enough for a number.
    """

    start: int
    size: int
    head: bytes


@dataclass(slots=True, eq=False)
class Record:
    """A global, or an object that would have been made with it.

    Attributes:
        name: Module and name.
        args: What it would have been called with; None for the global itself.
        state: What it would have been given after that.
    """

    name: str
    args: tuple[Any, ...] | None = None
    state: Any = None


def interpret(file: BufferedIOBase) -> Any:
    """Return what a pickle of protocol 3 or later holds: plain data, `Record` and `Block`.

    Sets become lists, and items of a dict whose key is neither text nor an integer are left out:
    hashing what a pickle made may take for ever.

    Raises:
        NotUnderstood: If it is compressed, or a file of joblib's.
        Exception: Of any kind, if it is no pickle.
    """
    machine = _Machine(file)
    if machine.file.read(1) != b"\x80":
        raise NotUnderstood(
            "it is no pickle, or compressed", "load it with what wrote it and pickle.dump it"
        )
    file.seek(0)
    return machine.run()


class _Bounded:
    """A file that is asked for no more than it has: its reader believes every length."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        self._size = file.seek(0, 2)
        file.seek(0)

    def read(self, count: int) -> bytes:
        if count > self._size - self._file.tell():
            raise ValueError(f"{count} bytes are announced, and the file ends before")
        return self._file.read(count)

    def readline(self) -> bytes:
        return self._file.readline(1000)

    def tell(self) -> int:
        return self._file.tell()


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NEW: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": list,  # its elements would be hashed
}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_BLOCKS = {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_IGNORED = {"PROTO", "FRAME"}


class _Machine:
    """A stack, the stacks below its marks, and the memo."""

    def __init__(self, file: BufferedIOBase) -> None:
        self.file = _Bounded(file)
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for count, (opcode, arg, _) in enumerate(genops(cast("Any", self.file))):
            name = opcode.name
            if count == _LIMIT:
                raise ValueError(f"more than {_LIMIT} opcodes")
            if name in _LITERALS:
                self.stack.append(arg)
            elif name in _BLOCKS:
                data = cast("bytes", arg)
                self.stack.append(Block(self.file.tell() - len(data), len(data), bytes(data[:8])))
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _NEW:
                self.stack.append(_NEW[name]())
            elif name in _ACTIONS:
                _ACTIONS[name](self, arg)
            elif name == "STOP":
                return self.stack.pop()
            elif name not in _IGNORED:
                raise ValueError(f"opcode {name}, which protocols 3 to 5 do not need")
        raise ValueError("no end")

    def to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def mark(self, _: Any) -> None:
        self.below.append(self.stack)
        self.stack = []

    def push(self, value: Any) -> None:
        self.stack.append(value)

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

    def find(self, _: Any) -> None:
        module, name = self.last(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a global without a name")
        self.name(f"{module} {name}")

    def name(self, name: str) -> None:
        if name.startswith("joblib"):
            raise NotUnderstood(
                "it is a file of joblib's, which is not quite a pickle",
                "load it with joblib and pickle.dump it",
            )
        self.stack.append(Record(name))

    def call(self, count: int) -> None:
        function, args, *_ = self.last(count)
        if not isinstance(function, Record) or not isinstance(args, tuple):
            raise TypeError("a call of what is no global, or without a tuple of arguments")
        self.stack.append(Record(function.name, cast("tuple[Any, ...]", args)))

    def build(self, _: Any) -> None:
        (state,) = self.last(1)
        if isinstance(self.stack[-1], Record):
            self.stack[-1].state = state


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
    "BINPUT": lambda m, index: m.memo.__setitem__(index, m.stack[-1]),
    "LONG_BINPUT": lambda m, index: m.memo.__setitem__(index, m.stack[-1]),
    "MEMOIZE": lambda m, _: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    "BINGET": lambda m, index: m.push(m.memo[index]),
    "LONG_BINGET": lambda m, index: m.push(m.memo[index]),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.find,
    "REDUCE": lambda m, _: m.call(2),
    "NEWOBJ": lambda m, _: m.call(2),
    "NEWOBJ_EX": lambda m, _: m.call(3),
    "BUILD": _Machine.build,
}
