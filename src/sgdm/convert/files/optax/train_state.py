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

__all__ = ["Momentum", "Placed", "TrainState", "find_train_state", "leaves"]

# Of optax.inject_hyperparams, by the names of optax.sgd's arguments.
_HYPERPARAMETERS = {"learning_rate": "lr", "momentum": "momentum", "weight_decay": "weight_decay"}
# Under which the optimizer's state lies, beside the parameters.
_OPTIMIZER = {"opt_state", "optimizer", "opt"}
_OF_MULTI_STEPS = {"mini_step", "acc_grads", "skip_state"}  # the first is in no other state
# States of rules that leave SGD what it is: apply_if_finite, add_noise, reduce_on_plateau.
_HARMLESS = (
    {"notfinite_count", "last_finite", "total_notfinite"},
    {"count", "rng_key"},
    {"scale", "best_value", "plateau_count", "cooldown_count", "count", "avg_value"},
)


@dataclass(frozen=True, slots=True)
class Placed:
    """A thing in the file that is no map, and its place."""

    place: str
    node: Leaf | Array

    @property
    def wrapper(self) -> str:
        """The place, with its last slash, of the state that has this among its "hyperparams"."""
        return self.place.rpartition("hyperparams/")[0]


@dataclass(slots=True)
class Momentum:
    """A state of optax.trace.

    Attributes:
        place: Of its trace.
        followed: Whether another rule comes after it in a chain, as the scaling by -ε has to; true
            of the first in a chain.
    """

    place: str
    followed: bool = False


@dataclass(slots=True)
class TrainState:
    """The parts of a training run.

    Attributes:
        parameters: By their names; None where there are none.
        traces: By the names of their parameters.
        momenta: The states that these are of.
        before: Other rules of their chains, before them: place and state.
        after: And after them, the scaling by -ε among them.
        untraced: Places of rules for some of the parameters, without a trace, that step.
        averages: Places of optax.ema's states.
        mini_steps: Gradients that MultiSteps has accumulated.
        counts: Of updates, in the optimizer's state.
        steps: Of the train state.
        hyperparameters: By sgdm's names; several where several rules are chained.
        scheduled: Which of these a schedule sets.
        harmless: Places of what an optimizer has that changes nothing in its rule.
        others: Places of arrays that are none of these.
        optimizer: Where its state is; "" for the whole file, None for nowhere.
        all_are_trained: Whether all of `parameters` are; in an NNX module only those with a trace.
    """

    parameters: dict[str, Placed] | None = None
    traces: dict[str, Placed] = field(default_factory=dict[str, Placed])
    momenta: list[Momentum] = field(default_factory=list[Momentum])
    before: list[tuple[str, Node]] = field(default_factory=list[tuple[str, Node]])
    after: list[tuple[str, Node]] = field(default_factory=list[tuple[str, Node]])
    untraced: list[str] = field(default_factory=list[str])
    averages: list[str] = field(default_factory=list[str])
    mini_steps: list[Placed] = field(default_factory=list[Placed])
    counts: list[Placed] = field(default_factory=list[Placed])
    steps: list[Placed] = field(default_factory=list[Placed])
    hyperparameters: dict[str, list[Placed]] = field(default_factory=dict[str, list[Placed]])
    scheduled: set[str] = field(default_factory=set[str])
    harmless: list[str] = field(default_factory=list[str])
    others: list[str] = field(default_factory=list[str])
    optimizer: str | None = None
    all_are_trained: bool = True

    def of_optimizer(self, places: list[str]) -> list[str]:
        """Return those of some places that are in the optimizer's state."""
        if not self.optimizer:
            return [] if self.optimizer is None else places
        return [place for place in places if place.startswith(f"{self.optimizer}/")]


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
    if state.momenta:
        state.optimizer = _optimizer_of(state.momenta[0].place, finder.weights_place)
    if state.parameters is not None:  # a module's statistics may have a "count" too
        state.counts = [c for c in state.counts if _OPTIMIZER & set(c.place.split("/"))]
    return state


def _optimizer_of(trace: str, weights: str | None) -> str:
    """Return the place of the optimizer that has a trace: by its name, or beside the weights."""
    keys = trace.split("/")
    for depth, key in enumerate(keys, 1):
        if key in _OPTIMIZER:
            return "/".join(keys[:depth])
    if weights is None:
        return ""
    shared = 0
    for mine, its in zip(keys, weights.split("/"), strict=False):
        if mine != its:
            break
        shared += 1
    return "/".join(keys[: shared + 1])


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
        self.weights_place: str | None = None
        self._path = path
        self._weights = weights

    def walk(self, node: dict[str, Node], place: str) -> None:
        traced: list[tuple[str, list[Momentum]]] = []
        for key, child in node.items():
            here, known = f"{place}/{key}" if place else key, len(self.state.momenta)
            if key in _OF_MULTI_STEPS and "mini_step" in node:
                self._multi_steps(key, child, here)
            elif key == "ema" and "count" in node:
                self.state.averages.append(here)
            elif isinstance(child, dict):
                self._enter(key, child, here)
            else:
                self._single(key, child, here, node)
            if found := self.state.momenta[known:]:
                traced.append((key, found))
        if traced:
            self._beside(node, place, traced)

    def _single(self, key: str, child: Leaf | Array, here: str, beside: dict[str, Node]) -> None:
        state = self.state
        if key in {"count", "gradient_step"}:
            state.counts.append(Placed(here, child))
        elif key == "step" and beside.keys() & {"params", "opt_state"}:
            state.steps.append(Placed(here, child))
        elif key == "trace" and len(beside) == 1 and isinstance(child, Array):
            raise broken(
                self._path,
                here,
                "it is one array and no map of the parameters, as optax.flatten makes it",
                "restore it, take it apart with jax.flatten_util.ravel_pytree(params)[1], and save "
                "it as the state of the optimizer without optax.flatten",
            )
        elif isinstance(child, Array):
            harmless = any(key in fields and fields <= beside.keys() for fields in _HARMLESS)
            (state.harmless if harmless else state.others).append(here)

    def _multi_steps(self, key: str, child: Node, here: str) -> None:
        if key == "mini_step" and not isinstance(child, dict):
            self.state.mini_steps.append(Placed(here, child))
        self.state.harmless += [
            placed.place if isinstance(child, dict) else here
            for placed in leaves(self._path, child, here).values()
            if isinstance(placed.node, Array)
        ]

    def _beside(
        self, node: dict[str, Node], place: str, traced: list[tuple[str, list[Momentum]]]
    ) -> None:
        """Note what is beside the traces in a chain, or in a partition of the parameters."""
        others = node.keys() - {key for key, _ in traced}
        if place.rpartition("/")[2] == "inner_states":
            nothing: Node = {"inner_state": {}}
            self.state.untraced += [
                f"{place}/{k}" for k in node if k in others and node[k] != nothing
            ]
            return
        if any(str(i) not in node for i in range(len(node))):
            return
        first, last = min(int(key) for key, _ in traced), max(map(int, others), default=-1)
        for number in sorted(map(int, others)):
            rule = (f"{place}/{number}" if place else f"{number}", node[str(number)])
            (self.state.before if number < first else self.state.after).append(rule)
        for key, momenta in traced:
            for momentum in momenta:
                momentum.followed = momentum.followed or int(key) < last

    def _enter(self, key: str, child: dict[str, Node], here: str) -> None:
        state = self.state
        if key == "trace":
            self._trace(child, here)
        elif key == self._weights:
            if state.parameters is not None:
                raise broken(
                    self._path,
                    here,
                    "it has parameters in another place, too",
                    "save one train state in a file",
                )
            state.parameters, self.weights_place = leaves(self._path, child, here), here
        elif key == "hyperparams":
            for name, leaf in leaves(self._path, child, here).items():
                if name in _HYPERPARAMETERS:
                    state.hyperparameters.setdefault(_HYPERPARAMETERS[name], []).append(leaf)
                elif isinstance(leaf.node, Array):
                    state.harmless.append(leaf.place)
        else:
            if key == "hyperparams_states":
                state.scheduled |= {_HYPERPARAMETERS[k] for k in child if k in _HYPERPARAMETERS}
            if key in _OPTIMIZER and state.optimizer is None:
                state.optimizer = here
            self.walk(child, here)

    def _trace(self, trace: dict[str, Node], here: str) -> None:
        traces = self.state.traces
        for name, placed in leaves(self._path, trace, here).items():
            if name in traces:
                raise broken(
                    self._path,
                    placed.place,
                    f"there is another trace of it, {traces[name].place}",
                    "save one optimizer in a file",
                )
            traces[name] = placed
        # NNX leaves states of nothing out; of those with something before them that is not enough.
        first = f"/{here}".endswith("/0/trace")
        self.state.momenta.append(Momentum(here, followed=first))
