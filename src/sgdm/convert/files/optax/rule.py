"""Whether a file's optimizer is SGD with momentum, and what of its rule the file does not say.

optax keeps the states of a chain, and neither the names of its rules nor their settings: those
without a state are empty maps, which can be a clipping, a weight decay or a scaling. What stands
where is all there is to go by.
"""

from pathlib import Path

from sgdm.convert.checkpoint import broken, listed
from sgdm.convert.files.optax.train_state import Placed, TrainState

__all__ = ["check_rule", "decay_is_coupled", "unsaid"]

_REMEDY = "convert a run of optax.sgd"


def check_rule(path: Path, state: TrainState, parameters: list[str] | None) -> None:
    """Refuse a file whose optimizer is another one, or that has none and no parameters.

    Args:
        path: The file, for messages.
        state: What is in it.
        parameters: Their names; None where there are none, in this file or another.

    Raises:
        FileError: If it is.
    """
    if found := state.of_optimizer(state.averages):
        problem = "it is a state of optax.ema, and " + (
            "steps that are averaged are not those of SGD with momentum"
            if state.momenta
            else "the file does not say whether its steps were divided by 1 - μ^t (debias)"
        )
        raise broken(path, found[0], problem, _REMEDY)
    if not state.momenta and parameters is None:
        raise broken(
            path,
            "as a whole",
            'it has neither a momentum ("trace") nor parameters ("params")',
            "save the train state, or its opt_state",
        )
    others = state.of_optimizer(state.others)
    if state.optimizer is None:  # then what is kept of each parameter, wherever it is
        last = {name.rpartition("/")[2] for name in parameters or ()}
        others = [place for place in state.others if place.rpartition("/")[2] in last]
    if others:
        problem = "it is the state of another rule than SGD with momentum"
        raise broken(path, others[0], problem, _REMEDY)
    for momentum in state.momenta:
        if not momentum.followed:
            raise broken(
                path,
                momentum.place,
                "no rule follows it, so that its steps are not those of optax.sgd, which scales "
                "them by the learning rate last (optax.lars scales the gradients)",
                _REMEDY,
            )


def decay_is_coupled(state: TrainState, injected: Placed) -> bool:
    """Whether an injected weight decay surely acts before the momentum, and on all parameters."""
    if len(state.hyperparameters["weight_decay"]) > 1:
        return False
    for place, node in state.before:
        if f"{place}/" == injected.wrapper:
            return isinstance(node, dict) and node.get("inner_state") == {}
    before = [node for place, node in state.before if place.startswith(injected.wrapper)]
    after = [place for place, _ in state.after if place.startswith(injected.wrapper)]
    one = len(state.momenta) == len(after) == 1
    return one and bool(before) and all(node == {} for node in before)


def unsaid(state: TrainState) -> list[str]:
    """Return remarks on rules that the file does not name."""
    remarks: list[str] = []
    if state.before:
        places = listed([place for place, _ in state.before])
        remarks.append(f"what acts before the momentum, such as clipping or decay: {places}")
    if len(state.after) > len(state.momenta):
        places = listed([place for place, _ in state.after])
        remarks.append(f"what acts after the momentum, besides the scaling by lr: {places}")
    return remarks
