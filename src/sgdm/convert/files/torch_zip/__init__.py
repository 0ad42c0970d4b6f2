"""Files of torch.save (`.pt`, `.pth`) with a state of torch.optim.SGD or sgdm.SGD.

Read are an optimizer's state_dict, alone or in a training checkpoint under "optimizer",
"optimizer_state_dict", "optim" or "optimizer_states" (a list of one, as Lightning keeps it), with
the model's under "model", "model_state_dict" or "state_dict", or the only dict of tensors there is;
or a model's state_dict alone. Of several such keys the first counts. A buffer that is missing or
None is absent. What the model has besides the optimizer's parameters is not stepped: statistics of
BatchNorm, and what is frozen.

The optimizer numbers its parameters in the order of its groups. They get the names that it gives
them ("param_names", or its keys, as in torch.distributed); else the model's, in the model's order;
else their numbers, "0", "1", ....

Written is {"model": {name: tensor}, "optimizer": state_dict}, the first alone where the learning
rate is not known and there is no buffer, the second alone where there are no tensors; both with
"steps" where it is known.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sgdm.convert.checkpoint import Checkpoint, Stored, broken, listed
from sgdm.convert.files.torch_zip.archive import write_archive
from sgdm.convert.files.torch_zip.contents import opened
from sgdm.convert.files.torch_zip.groups import Groups, grouped
from sgdm.convert.files.torch_zip.pickled import DTYPES, View
from sgdm.convert.files.torch_zip.reading import BUFFER, checkpoint_of, could_be_stepped
from sgdm.files import write_atomically

__all__ = ["prepare", "read"]


@contextmanager
def read(path: Path, weights: Path | None = None) -> Generator[Checkpoint]:
    """Open a file of torch.save.

    Args:
        path: The file.
        weights: Another one with the model's state_dict, where it is not in the first.

    Raises:
        FileError: If a file is broken, or not of this kind.
    """
    with opened(path, weights) as contents:
        yield checkpoint_of(contents)


def prepare(path: Path, checkpoint: Checkpoint, template: Path | None = None) -> Callable[[], None]:
    """Return what writes a file that torch.load(weights_only=True) reads.

    Args:
        path: The file to make or to replace.
        checkpoint: What to write.
        template: A file of the same model and optimizer, such as it is before training: the groups
            are as they are there, with settings that the checkpoint does not have.

    Raises:
        FileError: If the groups of the template do not fit, or something cannot be written.
    """
    if template is None:
        groups = grouped(path, checkpoint, None)
    else:
        with opened(template) as contents:
            groups = grouped(path, checkpoint, contents)
    slots, tensors = checkpoint.slots, dict[str, Stored]()

    def add(place: str, stored: Stored) -> View:
        if stored.dtype not in DTYPES:
            raise broken(
                path,
                place,
                f"is of {stored.dtype}",
                "convert it to a floating-point one of 16 bits or more",
            )
        numel, stride = 1, list[int]()
        for n in reversed(stored.shape):
            stride.insert(0, numel)
            numel *= max(n, 1)
        elements = 0 if 0 in stored.shape else numel
        view = View(str(len(tensors)), stored.dtype, elements, 0, stored.shape, tuple(stride))
        tensors[view.key] = stored
        return view

    model = {s.name: add(s.name, s.parameter) for s in slots if s.parameter is not None}
    if 0 < len(model) < len(slots):
        lacking = [slot.name for slot in slots if slot.parameter is None]
        raise broken(path, listed(lacking), "has no weights where others have", "give all or none")
    frozen = [s.name for s in slots if not s.stepped and could_be_stepped(s)]
    if frozen:
        checkpoint.remarks.append(f"not in the optimizer: {listed(frozen)}")
    modes = {settings["weight_decay_mode"] for _, settings in groups if _decays_oddly(settings)}
    checkpoint.remarks += [
        f"weight_decay_mode={mode!r}: sgdm.SGD decays so, torch.optim.SGD does not"
        for mode in sorted(modes)
    ]
    content: dict[str, Any] = _state_dict(groups, add)
    if model and not content["state"] and "lr" not in checkpoint.hyperparameters:
        content = {"model": model}
    elif model:
        content = {"model": model, "optimizer": content}
    if checkpoint.steps is not None:
        content["steps"] = checkpoint.steps
    return lambda: write_atomically(path, lambda file: write_archive(file, content, tensors))


def _decays_oddly(settings: dict[str, Any]) -> bool:
    """Whether torch.optim.SGD, which loads this, would decay in another way."""
    torch_s = settings.get("convention") == "torch"
    return torch_s and bool(settings["weight_decay"]) and bool(settings.get("weight_decay_mode"))


def _state_dict(groups: Groups, add: Callable[[str, Stored], View]) -> dict[str, Any]:
    """Return an optimizer's state_dict; its parameters are numbered through the groups."""
    in_order = [slot for slots, _ in groups for slot in slots]
    names = [slot.name for slot in in_order]
    numbered = names == [str(i) for i in range(len(names))]
    param_groups: list[dict[str, Any]] = []
    begin = 0
    for slots, settings in groups:
        end = begin + len(slots)
        param_groups.append({**settings, "params": list(range(begin, end))})
        if not numbered:
            param_groups[-1]["param_names"] = names[begin:end]
        begin = end
    state = {
        i: {BUFFER: add(f"{slot.name}: {BUFFER}", slot.buffer)}
        for i, slot in enumerate(in_order)
        if slot.buffer is not None
    }
    return {"state": state, "param_groups": param_groups}
