"""What the kernels read from the memory of the device: where tensors are, and what is asked.

It is written once, and again only where it has changed. Uploads are queued like any other work of
the device: nobody waits for them.
"""

from array import array
from itertools import accumulate
from operator import is_

import torch
from torch import Tensor

from sgdm.engines.plan import Rule
from sgdm.engines.triton import layout
from sgdm.engines.triton.fit import Fit, Kind
from sgdm.errors import InvalidUseError

__all__ = ["Key", "Table", "Tables", "is_capturing"]

# Of each part the number of tensors, and whether their buffers and averages are stepped.
Held = tuple[int, bool, bool]
# What makes a structure: all that is known of the tensors but their addresses.
Key = tuple[bytes, tuple[Held, ...]]
# Structures that are remembered: step_in_backward has one for each parameter.
_REMEMBERED = 256


def is_capturing(device: torch.device) -> bool:
    """Whether what is queued is captured into a CUDA graph, and not run."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


class Table:
    """The tensors of one structure, on their device. It holds on to none of them.

    Attributes:
        key: The structure.
        device: Where all of it is.
        kinds: The combinations of dtypes.
        tensors: How many tensors are stepped.
        total: Of the blocks of all of them.
        copied: Which gradients are copied before a step.
        captured: Whether a CUDA graph reads it. Its addresses stay then.
        addresses: Where parameters, buffers and averages are.
        gradients: Where the gradients are.
        facts: About each tensor.
        blocks: Whose each block is.
        numbers: What is asked, and the rules.
        squares: Room for sums.
        nonfinite: Room for tensors that are not finite.
        ticket: How many programs have summed.
    """

    def __init__(self, key: Key, found: Fit, device: torch.device) -> None:
        _refuse_in_capture(device)
        parts = key[1]
        self.key = key
        self._found = found
        self.kinds: tuple[Kind, ...] = tuple(sorted(set(found.kinds), key=str))
        self.tensors = n = len(found.counts)
        size = layout.BLOCK
        counts = [-(-count // size) for count in found.counts]
        self.total = sum(counts)
        self.copied = found.copied
        self.captured = False
        self.device = device
        self._wrote: dict[str, bytes] = {}
        self._rules: list[Rule] = []
        self._head: tuple[float, ...] = ()
        owners = torch.arange(n, dtype=torch.int32).repeat_interleave(torch.tensor(counts))
        places = _places(parts)
        facts = [
            *found.counts,
            *accumulate(counts[:-1], initial=0),
            *(i for i, part in enumerate(parts) for _ in range(part[0])),
            *map(self.kinds.index, found.kinds),
            *(buffer for buffer, _ in places),
            *(average for _, average in places),
        ]
        self.blocks = owners.to(device)
        self.facts = torch.tensor(facts, dtype=torch.int64, device=device)
        held = sum(count * (1 + buffers + averages) for count, buffers, averages in parts)
        rows = layout.HEAD + layout.ROW * len(parts)
        self.addresses, self.gradients = (self._room(k, torch.int64) for k in (held, n))
        self.numbers = self._room(rows, torch.float64)
        programs = layout.PROGRAMS_OF_NORM
        self.squares = self._room(programs, torch.float64)
        self.nonfinite = self._room(programs, torch.int32)
        self.ticket = torch.zeros(1, dtype=torch.int32, device=device)

    def anew(self) -> "Table":
        """Return another table of the same structure."""
        return Table(self.key, self._found, self.device)

    def _room(self, size: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(size, dtype=dtype, device=self.device)

    def is_at(self, addresses: bytes, gradients: bytes) -> bool:
        """Whether the tensors are where the table says."""
        wrote = self._wrote
        return wrote.get("addresses") == addresses and wrote.get("gradients") == gradients

    def move(self, addresses: bytes, gradients: bytes) -> None:
        """Write where the tensors are."""
        self._write("addresses", self.addresses, addresses)
        self._write("gradients", self.gradients, gradients)

    def ask(self, head: tuple[float, ...], rules: list[Rule]) -> None:
        """Write what is asked of a step, and the rules of the parts."""
        known = len(rules) == len(self._rules) and all(map(is_, rules, self._rules))
        if known and head == self._head:
            return
        numbers = [*head, *(number for rule in rules for number in _row(rule))]
        self._write("numbers", self.numbers, array("d", numbers).tobytes())
        self._rules, self._head = rules, head

    def _write(self, name: str, to: Tensor, data: bytes) -> None:
        if self._wrote.get(name) == data:
            return
        _refuse_in_capture(self.device)
        source = torch.frombuffer(bytearray(data), dtype=to.dtype)
        if self.device.type == "cuda":
            source = source.pin_memory()  # freed to its pool when the upload is done, not before
        to.copy_(source, non_blocking=True)
        self._wrote[name] = data


def _refuse_in_capture(device: torch.device) -> None:
    """Refuse to queue an upload that each replay would make again, of what is long gone."""
    if is_capturing(device):
        raise InvalidUseError(
            "a step that is captured into a CUDA graph must find its tensors and hyperparameters "
            "where the step before had them, got others; keep the gradients "
            "(zero_grad(set_to_none=False)) and take one step of the same kind before the capture"
        )


def _places(parts: tuple[Held, ...]) -> list[tuple[int, int]]:
    """Return where the addresses of each tensor's buffer and average are.

    All parameters come first, then the buffers that there are, then the averages. What is not there
    has its parameter's place.
    """
    n = sum(count for count, _, _ in parts)
    buffers, averages, at = list(range(n)), list(range(n)), n
    for column, which in ((buffers, 1), (averages, 2)):
        first = 0
        for part in parts:
            if part[which]:
                column[first : first + part[0]] = range(at, at + part[0])
                at += part[0]
            first += part[0]
    return list(zip(buffers, averages, strict=True))


def _row(rule: Rule) -> tuple[float, ...]:
    c = rule.coefficients
    return (
        c.coupled_decay,
        c.retain,
        c.gain,
        c.buffer_weight,
        c.gradient_weight,
        c.keep,
        c.step,
        rule.average_weight or 0.0,
        c.buffer == "running",
        rule.maximize,
    )


class Tables:
    """The tables of an optimizer, by structure."""

    def __init__(self) -> None:
        self._known: dict[Key, Table] = {}
        self._last: Table | None = None
        self._captured: list[Table] = []  # as long as their graphs may be replayed

    def of(self, key: Key) -> Table | None:
        """Return the table of a structure, if there is one."""
        if self._last is None or self._last.key != key:
            self._last = self._known.get(key)
        return self._last

    def add(self, table: Table) -> None:
        """Remember a table, in place of another one of that structure."""
        if len(self._known) >= _REMEMBERED:
            self._known.pop(next(iter(self._known)))
        self._known[table.key] = self._last = table

    def keep(self, table: Table) -> None:
        """Keep a table for a CUDA graph that reads it."""
        if not table.captured:
            table.captured = True
            self._captured.append(table)
