"""Where the parameters, traces and counts lie in what flax has written of a training run.

optax nests the states of a chain as it likes, so they are found by the names of their fields:
"trace" (optax.trace's), "ema" beside "count" (optax.ema's), "hyperparams" (inject_hyperparams's).
Parameters are under "params", or, in a file without one, under "model", as NNX names them.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sgdm.convert.checkpoint import broken
from sgdm.convert.files.optax.reader import Array, Leaf, Node

__all__ = ["Placed", "TrainState", "find_train_state", "leaves"]

# Of optax.inject_hyperparams, by the names of optax.sgd's arguments.
_HYPERPARAMETERS = {"learning_rate": "lr", "momentum": "momentum", "weight_decay": "weight_decay"}
# Under which the optimizer's state lies, beside the parameters.
_OPTIMIZER = {"opt_state", "optimizer", "opt"}


@dataclass(frozen=True, slots=True)
class Placed:
    """A thing in the file that is no map, and its place."""

    place: str
    node: Leaf | Array


@dataclass(slots=True)
class TrainState:
    """The parts of a training run.

    Attributes:
        parameters: By their names; None where there are none.
        traces: By the names of their parameters.
        averages: Places of optax.ema's states.
        counts: Of updates, in the optimizer's state.
        steps: Of the train state.
        hyperparameters: By sgdm's names; several where several rules are chained.
        scheduled: Which of these a schedule sets.
        others: Places of arrays that are none of these.
        all_are_trained: Whether all of `parameters` are; in an NNX module only those with a trace.
    """

    parameters: dict[str, Placed] | None = None
    traces: dict[str, Placed] = field(default_factory=dict[str, Placed])
    averages: list[str] = field(default_factory=list[str])
    counts: list[Placed] = field(default_factory=list[Placed])
    steps: list[Placed] = field(default_factory=list[Placed])
    hyperparameters: dict[str, list[Placed]] = field(default_factory=dict[str, list[Placed]])
    scheduled: set[str] = field(default_factory=set[str])
    others: list[str] = field(default_factory=list[str])
    all_are_trained: bool = True


def find_train_state(path: Path, tree: dict[str, Node]) -> TrainState:
    """Return the parts of a training run.

    Args:
        path: The file, for messages.
        tree: What it holds.

    Raises:
        FileError: If it holds several runs, so that it is open which is meant.
    """
    weights = "params" if _has_parameters(tree) else "model"
    finder = _Finder(path, weights)
    finder.walk(tree, "")
    state = finder.state
    if state.parameters is not None:  # a module's statistics may have a "count" too
        state.counts = [c for c in state.counts if _OPTIMIZER & set(c.place.split("/"))]
    return state


def leaves(path: Path, node: Node, place: str) -> dict[str, Placed]:
    """Return what is in a tree, by name: the keys that lead there, joined by "/".

    A map with nothing but an array "value" is what flax makes of a leaf in a box, such as
    nn.with_partitioning puts it in, and is that array.
    """
    found: dict[str, Placed] = {}
    for name, leaf in _leaves(node, ""):
        if name in found:
            raise broken(path, f"{place}/{name}", "two things have this name", "rename one")
        found[name] = Placed(f"{place}/{name}", leaf)
    return found


def _leaves(node: Node, name: str) -> Iterator[tuple[str, Leaf | Array]]:
    if not isinstance(node, dict):
        yield name, node
    elif node.keys() == {"value"} and isinstance(value := node["value"], Array) and name:
        yield name, value
    else:
        for key, child in node.items():
            yield from _leaves(child, f"{name}/{key}" if name else key)


def _has_parameters(node: dict[str, Node]) -> bool:
    return isinstance(node.get("params"), dict) or any(
        isinstance(child, dict) and key not in {"trace", "ema"} and _has_parameters(child)
        for key, child in node.items()
    )


class _Finder:
    def __init__(self, path: Path, weights: str) -> None:
        self.state = TrainState(all_are_trained=weights == "params")
        self._path = path
        self._weights = weights

    def walk(self, node: dict[str, Node], place: str) -> None:
        for key, child in node.items():
            here = f"{place}/{key}" if place else key
            if key == "ema" and "count" in node:
                self.state.averages.append(here)
            elif isinstance(child, dict):
                self._enter(key, child, here)
            elif key in {"count", "gradient_step"}:
                self.state.counts.append(Placed(here, child))
            elif key == "step" and node.keys() & {"params", "opt_state"}:
                self.state.steps.append(Placed(here, child))
            elif isinstance(child, Array):
                self.state.others.append(here)

    def _enter(self, key: str, child: dict[str, Node], here: str) -> None:
        state = self.state
        if key == "trace":
            for name, placed in leaves(self._path, child, here).items():
                if name in state.traces:
                    raise broken(
                        self._path,
                        placed.place,
                        f"there is another trace of it, {state.traces[name].place}",
                        "save one optimizer in a file",
                    )
                state.traces[name] = placed
        elif key == self._weights:
            if state.parameters is not None:
                raise broken(
                    self._path,
                    here,
                    "it has parameters in another place, too",
                    "save one train state in a file",
                )
            state.parameters = leaves(self._path, child, here)
        elif key == "hyperparams":
            for name, leaf in leaves(self._path, child, here).items():
                if name in _HYPERPARAMETERS:
                    state.hyperparameters.setdefault(_HYPERPARAMETERS[name], []).append(leaf)
        else:
            if key == "hyperparams_states":
                state.scheduled |= {_HYPERPARAMETERS[k] for k in child if k in _HYPERPARAMETERS}
            self.walk(child, here)
