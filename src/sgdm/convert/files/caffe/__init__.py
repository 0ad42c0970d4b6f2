"""Caffe: `.solverstate` and `.caffemodel`, in protobuf or, with ".h5" after that, in HDF5.

A solver state holds the history, a blob for each parameter in the net's order, without names: they
come from the `.caffemodel` of the snapshot, such as "conv1/0" for the first blob of layer conv1;
without it the slots are "0", "1", ... A name that ends in ".caffemodel" or ".caffemodel.h5" is one
of weights alone, any other one of a solver state. BatchNorm's statistics have a history too, of
zeros; so have blobs with an lr_mult of 0, which are not stepped either.

Neither file has the learning rate, the momentum or whether it is Nesterov's: solver.prototxt does.
"""

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from sgdm.convert.checkpoint import (
    Checkpoint,
    Slot,
    Stored,
    Times,
    broken,
    check_rule,
    listed,
)
from sgdm.convert.files.caffe.snapshot import Net, Weight, open_net, open_solver, paired
from sgdm.convert.files.caffe.writing import is_weights, prepare_net, prepare_solver

__all__ = ["prepare", "read"]

_CONVENTION = "caffe"
_NOT_HELD = (
    "not in a snapshot, but in solver.prototxt: base_lr, momentum, type, weight_decay, "
    "regularization_type, lr_policy, clip_gradients"
)
_DTYPES = (torch.float32, torch.float64)


@contextmanager
def read(path: Path, weights: Path | None = None) -> Generator[Checkpoint]:
    """Yield what a solver state, or a file of weights, holds.

    Args:
        path: The file.
        weights: The `.caffemodel` of the same snapshot, for the names and the parameters. A
            `.caffemodel.h5` has no order: it does where the shapes leave only one.
    """
    with ExitStack() as stack:
        if is_weights(path):
            if weights is not None:
                raise broken(path, "name", "it is one of weights itself", "give a .solverstate")
            net = stack.enter_context(open_net(path))
            slots = [_slot(weight) for weight in net.weights]
            yield Checkpoint(convention=_CONVENTION, slots=slots, remarks=_of_net(net))
            return
        solver = stack.enter_context(open_solver(path))
        if weights is None:
            slots = [
                Slot(name=str(number), layout=layout, buffer=stored)
                for number, (stored, layout) in enumerate(
                    zip(solver.history, solver.layouts, strict=True)
                )
            ]
            remarks = [_NOT_HELD, *solver.remarks]
        else:
            net = stack.enter_context(open_net(weights))
            slots = [_slot(weight, stored) for weight, stored in paired(solver, net)]
            remarks = [_NOT_HELD, *solver.remarks, *_of_net(net)]
        yield Checkpoint(convention=_CONVENTION, slots=slots, steps=solver.steps, remarks=remarks)


def prepare(path: Path, checkpoint: Checkpoint, template: Path | None = None) -> Callable[[], None]:
    """Return what writes a solver state, or a file of weights.

    Without a template a solver state is of the history alone, in the checkpoint's order, which has
    to be the net's. With one it is in the template's order; and if there are parameters, they are
    written beside it first, as a copy of the template named after the target, "x.caffemodel" beside
    "x.solverstate", which the solver state names by the path that was given here.

    A buffer that is absent becomes zeros, which are what Caffe starts with. current_step is 0: a
    schedule of lr_policy "multistep" catches up by a step an iteration.

    Args:
        path: What to write.
        checkpoint: With a template, has the parameters of it, in its order. What the solver has to
            be set to is added to its remarks.
        template: A `.caffemodel` of the net.
    """
    check_rule(path, checkpoint, _CONVENTION)
    _check_dtypes(path, checkpoint)
    with ExitStack() as stack:
        net = None if template is None else stack.enter_context(open_net(template))
        if is_weights(path):
            return prepare_net(path, checkpoint.slots, net)
        write = prepare_solver(path, checkpoint.slots, net, checkpoint.steps or 0)
    checkpoint.remarks += _for_the_solver(checkpoint)
    return write


def _slot(weight: Weight, history: Stored | None = None) -> Slot:
    of, own = weight.parameter, dict[str, Any]()
    stepped = of is None or of.stepped
    if of is not None and stepped:
        multipliers = {"lr": of.lr_mult, "weight_decay": of.decay_mult}
        own = {name: Times(factor) for name, factor in multipliers.items() if factor != 1}
    return Slot(
        name=weight.name,
        layout=weight.layout,
        parameter=weight.turned(weight.raw),
        buffer=None if history is None or not stepped else weight.turned(history),
        own=own,
        stepped=stepped,
    )


def _of_net(net: Net) -> list[str]:
    """Say what is to be known of a net's parameters."""
    known = [it.parameter for it in net.weights if it.parameter is not None]
    statistics = [it.name for it in known if it.statistic]
    frozen = [it.name for it in known if not (it.statistic or it.stepped)]
    found: list[str] = []
    if statistics:
        found.append(
            f"statistics of BatchNorm ({listed(statistics)}): mean and variance are to be divided "
            "by the third blob of their layer"
        )
    if frozen:
        found.append(f"frozen by lr_mult=0, with their history: {listed(frozen)}")
    if net.messages is None:
        found.append("not in HDF5: lr_mult, decay_mult and transpose of the layers, taken as unset")
    return found


def _for_the_solver(checkpoint: Checkpoint) -> list[str]:
    """Say what solver.prototxt has to say, since a snapshot does not."""
    asked = checkpoint.hyperparameters
    found = [f"type {'Nesterov' if asked['nesterov'] else 'SGD'!r}"] if "nesterov" in asked else []
    numbers = {"lr": "base_lr", "momentum": "momentum", "weight_decay": "weight_decay"}
    found += [f"{its}={asked[name]:g}" for name, its in numbers.items() if name in asked]
    said = [f"not in a snapshot, to be set in solver.prototxt: {', '.join(found)}"] if found else []
    return said if checkpoint.steps is not None else [*said, "iter is 0: the updates are not known"]


def _check_dtypes(path: Path, checkpoint: Checkpoint) -> None:
    for slot in checkpoint.slots:
        for stored in (slot.parameter, slot.buffer):
            if stored is not None and stored.dtype not in _DTYPES:
                problem = f"it is {stored.dtype}, and Caffe has float32 and float64"
                raise broken(path, slot.name, problem, "convert the checkpoint's dtype first")
