from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from sgdm.engines.plan import GradientNorm, Part

class Memory:
    def __init__(self) -> None: ...

class PreparedStep:
    def step(self, scale: float) -> None: ...
    def gradient_norm(self) -> GradientNorm: ...
    def bare_pass(self, reads_before: bool) -> int: ...

def set_up(
    tensor: type,
    parameter: type,
    increment_version: Callable[[list[Tensor]], None],
    get_num_threads: Callable[[], int],
    norm_of: Callable[[list[float], Tensor | None], GradientNorm],
    library: str,
) -> None: ...
def prepare(
    parts: list[Part], fresh: list[list[Tensor] | None], memory: Memory
) -> PreparedStep | str: ...
def look(
    written: list[Tensor], read: list[Tensor], memory: Memory
) -> tuple[bytes, bytes, bytes] | str: ...
def holds(group: dict[str, Any], names: tuple[str, ...], values: tuple[Any, ...]) -> bool: ...
def gather(
    params: list[Tensor],
    state: Mapping[Tensor, dict[str, Any]],
    buffer: str | None,
    average: str | None,
    memory: Memory,
) -> (
    tuple[
        list[Tensor],
        list[Tensor],
        list[Tensor] | None,
        list[Tensor] | None,
        list[Tensor] | None,
    ]
    | None
): ...
def know_sharded(sharded: type, plain_getters: Callable[[], Any]) -> None: ...
def is_threaded() -> bool: ...
def instruction_sets() -> list[str]: ...
def instruction_set() -> str: ...
def use_instruction_set(name: str) -> None: ...
