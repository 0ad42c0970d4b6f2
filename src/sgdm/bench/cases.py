"""The cases: which network is stepped, by which rule, in which dtype, and what that must move."""

from collections.abc import Sequence
from dataclasses import dataclass

from sgdm.bench.networks import NETWORKS, SWEEP, Network
from sgdm.errors import InvalidValueError

__all__ = ["EVERYTHING", "QUICK", "Case", "Rule", "pick_cases"]

_SWEEP = "sweep"
QUICK = tuple(network.name for network in NETWORKS[:2])
EVERYTHING = (*(network.name for network in NETWORKS), _SWEEP)

_ITEMSIZE = {"float32": 4, "bfloat16": 2}

_LARGE = 16_000_000  # bytes a step; below, the bookkeeping of a step weighs as much as its memory
_LARGEST_ON_HEAP = 32 * 2**20  # bytes; glibc maps what is larger, and unmaps it when it is freed


@dataclass(frozen=True, slots=True)
class Rule:
    """What a step does.

    Attributes:
        name: What it is called on the command line and in the results.
        nesterov: Whether it is Nesterov's form.
        weight_decay: λ.
        is_recipe: Whether the norm of the gradients is clipped before the step, and a moving
            average of the parameters is taken after it.
    """

    name: str
    nesterov: bool = False
    weight_decay: float = 0.0
    is_recipe: bool = False


_MOMENTUM = Rule("momentum")
_NESTEROV = Rule("nesterov", nesterov=True, weight_decay=1e-4)
_RECIPE = Rule("recipe", is_recipe=True)


@dataclass(frozen=True, slots=True)
class Case:
    """One network under one rule.

    Attributes:
        network: What is stepped.
        rule: How.
        dtype: Of parameters and gradients: "float32" or "bfloat16".
    """

    network: Network
    rule: Rule
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """Network and rule, as in "gpt2:nesterov-bfloat16"."""
        suffix = "" if self.dtype == "float32" else f"-{self.dtype}"
        return f"{self.network.name}:{self.rule.name}{suffix}"

    def bytes_per_element(self, buffer_dtype: str = "float32") -> int:
        """Return what a step has to move through memory at least.

        Example:
            >>> pick_cases(["gpt2:momentum"])[0].bytes_per_element()
            20
        """
        item = _ITEMSIZE[self.dtype]
        moved = 3 * item + 2 * _ITEMSIZE[buffer_dtype]  # p and g read, p written; b both
        if self.rule.is_recipe:
            moved += 2 * item + item  # the average read and written; g read for its norm before
        return moved

    @property
    def is_large(self) -> bool:
        """Whether memory, and not bookkeeping, decides what a step costs."""
        return self.bytes_per_element() * self.network.elements >= _LARGE

    @property
    def shows_memory(self) -> bool:
        """Whether what a step allocates is seen from outside, in the size of the process."""
        network = self.network
        return network.elements // network.tensors * _ITEMSIZE[self.dtype] > _LARGEST_ON_HEAP


def pick_cases(names: Sequence[str]) -> list[Case]:
    """Return the cases of these names, in the order given, each once.

    Args:
        names: A network, for all its rules; a network and a rule, as in "gpt2:nesterov"; or
            "sweep".

    Raises:
        InvalidValueError: If no case has such a name.

    Example:
        >>> [case.name for case in pick_cases(["tiny:recipe"])]
        ['tiny:recipe']
    """
    picked: dict[str, Case] = {}
    for name in names:
        found = _cases_named(name)
        if not found:
            rules = ", ".join(case.name.partition(":")[2] for case in _cases_of(NETWORKS[0]))
            raise InvalidValueError.of(
                "case",
                f"one of {', '.join(EVERYTHING)}, or a network with one of the rules {rules}",
                name,
                "as in --case gpt2 or --case gpt2:nesterov",
            )
        picked.update((case.name, case) for case in found)
    return list(picked.values())


def _cases_named(name: str) -> list[Case]:
    if name == _SWEEP:
        return [Case(network, _MOMENTUM) for network in SWEEP]
    cases = [case for network in NETWORKS for case in _cases_of(network)]
    return [case for case in cases if name in (case.network.name, case.name)]


def _cases_of(network: Network) -> list[Case]:
    both = (_MOMENTUM, _NESTEROV)
    return [
        *(Case(network, rule) for rule in both),
        *(Case(network, rule, "bfloat16") for rule in both),
        Case(network, _RECIPE),
    ]
