"""Caffe: `.solverstate` and `.caffemodel`, in protobuf or, with ".h5" after that, in HDF5.

A solver state holds the history, a blob for each parameter in the net's order, without names: they
come from the `.caffemodel` of the snapshot, such as "conv1/0" for the first blob of layer conv1;
without it the slots are "0", "1", ... A name that ends in ".caffemodel" or ".caffemodel.h5" is one
of weights alone, any other one of a solver state. BatchNorm's statistics are slots like others,
since they have a history, of zeros; so are blobs with an lr_mult of 0.

Neither file has the learning rate, the momentum or whether it is Nesterov's: solver.prototxt does.
"""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from sgdm.convert.checkpoint import Checkpoint, Slot, Stored, broken
from sgdm.convert.files.caffe.snapshot import Net, Weight, open_net, open_solver, paired
from sgdm.convert.files.caffe.writing import in_order, is_weights, write_net, write_solver
from sgdm.convert.statistics import listed

__all__ = ["read", "write"]

_CONVENTION = "caffe"
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
            yield Checkpoint(convention=_CONVENTION, slots=slots, remarks=_remarks(net))
            return
        solver = stack.enter_context(open_solver(path))
        if weights is None:
            slots = [
                Slot(name=str(number), layout=layout, buffer=stored)
                for number, (stored, layout) in enumerate(
                    zip(solver.history, solver.layouts, strict=True)
                )
            ]
            remarks = solver.remarks
        else:
            net = stack.enter_context(open_net(weights))
            slots = [_slot(weight, stored) for weight, stored in paired(solver, net)]
            remarks = solver.remarks + _remarks(net)
        yield Checkpoint(convention=_CONVENTION, slots=slots, steps=solver.steps, remarks=remarks)


def write(path: Path, checkpoint: Checkpoint, template: Path | None = None) -> None:
    """Write a solver state, or a file of weights.

    Without a template a solver state is of the history alone, in the checkpoint's order, which has
    to be the net's. With one it is in the template's order; and if there are parameters, they are
    written beside it first, as a copy of the template named after the target, "x.caffemodel" beside
    "x.solverstate", which the solver state names by the path that was given here.

    A buffer that is absent becomes zeros, which are what Caffe starts with. current_step is 0: a
    schedule of lr_policy "multistep" catches up by a step an iteration.

    Args:
        path: What to write.
        checkpoint: With a template, has every parameter of it, by its name there; BatchNorm's
            statistics may be left out and stay as they are.
        template: A `.caffemodel` of the net.
    """
    _check_rule(path, checkpoint)
    with ExitStack() as stack:
        net = None if template is None else stack.enter_context(open_net(template))
        slots = in_order(path, checkpoint.slots, net)
        if is_weights(path):
            write_net(path, slots, net)
        else:
            write_solver(path, slots, net, checkpoint.steps or 0)


def _slot(weight: Weight, history: Stored | None = None) -> Slot:
    of = weight.parameter
    return Slot(
        name=weight.name,
        layout=weight.layout,
        parameter=weight.stored,
        buffer=history,
        lr_scale=1.0 if of is None else of.lr_mult,
    )


def _remarks(net: Net) -> list[str]:
    """Say which parameters have a learning rate and a decay of their own."""
    names: dict[tuple[float, float], list[str]] = {}
    for weight in net.weights:
        if (of := weight.parameter) is not None and not of.statistic:
            names.setdefault((of.lr_mult, of.decay_mult), []).append(of.name)
    return [
        f"lr_mult={lr_mult:g} and decay_mult={decay_mult:g} of {listed(of)}: their learning rate, "
        "which is in their history, and their weight decay are that many times the solver's: give "
        "them a group with both"
        for (lr_mult, decay_mult), of in names.items()
        if (lr_mult, decay_mult) != (1, 1)
    ]


def _check_rule(path: Path, checkpoint: Checkpoint) -> None:
    """Refuse what Caffe would go on from in another way than is meant, or cannot hold."""
    if checkpoint.convention not in (None, _CONVENTION):
        problem = f"the checkpoint's buffers are those of {checkpoint.convention!r}"
        raise broken(path, "checkpoint", problem, f"convert them to {_CONVENTION!r} first")
    if dampening := checkpoint.hyperparameters.get("dampening"):
        problem = f"the checkpoint has dampening={dampening}, and Caffe none"
        raise broken(path, "checkpoint", problem, "convert it to another convention first")
    for slot in checkpoint.slots:
        for stored in (slot.parameter, slot.buffer):
            if stored is not None and stored.dtype not in _DTYPES:
                problem = f"it is {stored.dtype}, and Caffe has float32 and float64"
                raise broken(path, slot.name, problem, "convert the checkpoint's dtype first")
