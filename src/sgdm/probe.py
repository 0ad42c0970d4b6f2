"""The step with which checkpoint libraries ask which state there will be.

torch.distributed.checkpoint sets lr to 0 and every gradient to zero, and steps. It then fills the
state, or, where there is nothing to load, leaves it as it is and goes on training.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from sgdm.group import GroupRules
from sgdm.ranks import any_rank
from sgdm.shards import shard_of
from sgdm.state import AVERAGE, BUFFER, STEPS, State, new_average

__all__ = ["Probe"]

_Groups = Iterable[dict[str, Any]]


class Probe:
    """What was made to answer such a step, and nobody has written into yet.

    Attributes:
        averages: The shards of averages, and at which version they were made.
    """

    def __init__(self) -> None:
        self.averages: dict[Tensor, int] = {}

    def is_answered(
        self,
        groups: _Groups,
        state: State,
        rules_of: Callable[[dict[str, Any]], GroupRules],
        wholes: Iterable[Tensor],
    ) -> bool:
        """Whether the step about to be made was such a question.

        Then buffers of zeros are made, without decay, and averages; a first step that is still to
        come stays one.

        Args:
            groups: The optimizer's.
            state: The optimizer's; it is written into.
            rules_of: A group's rules.
            wholes: The optimizer's DTensors, whose processes answer together.
        """
        if not all(bool(group["lr"] == 0) for group in groups):
            return False
        params = [p for group in groups for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in params]
        unlike = not gradients or any(g.layout != torch.strided or g.is_meta for g in gradients)
        moves = bool(state) or unlike or any(bool(shard_of(g).any()) for g in gradients)
        if any_rank(moves, wholes):
            return False
        for group in groups:
            self._answer([p for p in group["params"] if p.grad is not None], state, rules_of(group))
        return True

    def _answer(self, params: list[Tensor], state: State, rules: GroupRules) -> None:
        for param in params:
            if rules.makes_buffers:
                state[param][BUFFER] = torch.zeros_like(
                    param, dtype=rules.buffer_dtype, requires_grad=False
                )
                if rules.counts_steps:
                    state[param][STEPS] = 0
            if rules.average_weight is not None:
                average = state[param][AVERAGE] = new_average(param)
                self.averages[shard_of(average)] = shard_of(average)._version  # noqa: SLF001

    def clear(self) -> None:
        """Take all that is there for the run's own."""
        self.averages.clear()

    def drop(self, state: State) -> None:
        """Begin the averages that were asked for at the first step that is made."""
        for param, own in self.without(state).items():
            state[param] = own
        self.clear()

    def without(self, state: Mapping[Any, dict[str, Any]]) -> dict[Any, dict[str, Any]]:
        """Return state without the averages that nobody has written into."""
        if not self.averages:
            return dict(state)
        return {
            key: {k: v for k, v in own.items() if k != AVERAGE or not self._is_made_here(v)}
            for key, own in state.items()
        }

    def _is_made_here(self, average: Tensor) -> bool:
        """Whether nobody has written into it; a process whose shard is empty never does."""
        shard = shard_of(average)
        is_written = self.averages.get(shard) != shard._version  # noqa: SLF001
        return not any_rank(is_written, [average])
