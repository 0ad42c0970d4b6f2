"""Hyperparameters that optax.inject_hyperparams keeps, for the parameters under each of its states.

Those of a rule lie in "hyperparams" of the state that wraps the rule's own; what multi_transform
gives a rule of its own has hyperparameters of its own, too.
"""

from collections.abc import Iterator
from typing import Any

from sgdm.convert.checkpoint import listed
from sgdm.convert.files.optax.flax_file import FlaxFile
from sgdm.convert.files.optax.rule import decay_is_coupled
from sgdm.convert.files.optax.train_state import Placed

__all__ = ["Injected", "momentum_of", "wrappers"]


class Injected:
    """What a file says, and what it does not.

    Attributes:
        common: Hyperparameters of the first momentum, which are all parameters' where not `own`.
        remarks: On those that are not taken.
    """

    def __init__(self, file: FlaxFile) -> None:
        self.common: dict[str, float] = {}
        self.remarks: list[str] = []
        self._file = file
        self._by_wrapper: dict[str, dict[str, float]] = {}
        for name, places in file.state.hyperparameters.items():
            for placed in places:
                self._take(name, placed)
        if "weight_decay" not in file.state.hyperparameters:
            self.remarks.append("weight_decay: the file does not say it")
        self._before_others()
        self._by_momentum = {
            momentum.place: self._of(momentum.place) for momentum in file.state.momenta
        }
        if self._by_momentum:
            self.common |= next(iter(self._by_momentum.values()))
        else:
            for its in self._by_wrapper.values():
                self.common |= its
        several = len(self._by_momentum) > 1
        if several and any(
            not {"lr", "momentum"} <= its.keys() for its in self._by_momentum.values()
        ):
            places = listed(list(self._by_momentum))
            self.remarks.append(f"lr and momentum: the file does not say those of each of {places}")

    def own(self, name: str) -> dict[str, Any]:
        """Return what a parameter has other than `common`."""
        trace = self._file.state.traces.get(name)
        if trace is None:
            return {}
        its = {"weight_decay": 0.0, **self._by_momentum[momentum_of(trace, name)]}
        return {key: value for key, value in its.items() if value != self.common.get(key, 0.0)}

    def _before_others(self) -> None:
        """Give what a rule before a momentum has to all that the chain of the two is for."""
        for place, _ in self._file.state.before:
            if its := self._by_wrapper.get(f"{place}/"):
                chain = place.rpartition("/")[0]
                self._by_wrapper.setdefault(f"{chain}/" if chain else "", {}).update(its)

    def _of(self, place: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for wrapper in wrappers(place):
            found |= self._by_wrapper.get(wrapper, {})
        return found

    def _take(self, name: str, placed: Placed) -> None:
        state, value = self._file.state, self._file.number(placed)
        if value is None:
            self.remarks.append(f"{name}: it is no number")
        elif name in state.scheduled:
            remark = f"{name}: a schedule sets it; that of the last step was {value:g}"
            self.remarks.append(remark)
        elif name == "weight_decay" and not decay_is_coupled(state, placed):
            self.remarks.append(f"{name}: it is {value:g}, and may not act on every gradient")
        else:
            self._by_wrapper.setdefault(placed.wrapper, {})[name] = float(value)


def momentum_of(trace: Placed, name: str) -> str:
    """Return the place of the momentum that has the trace of a parameter."""
    return trace.place[: -len(name) - 1]


def wrappers(place: str) -> Iterator[str]:
    """Yield the places that a place lies in, from the outside, each with its last slash."""
    yield ""
    for position, letter in enumerate(place):
        if letter == "/":
            yield place[: position + 1]
