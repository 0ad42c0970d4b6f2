"""The state of the optimizer: what is kept of each parameter, and what is taken from a dict.

The layout is torch's, so that state dicts go both ways.
"""

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor

from sgdm.errors import InvalidTypeError, InvalidValueError
from sgdm.group import (
    BUFFER_DTYPES,
    LAST_MOMENTUM,
    as_float,
    check_buffer_dtype,
    check_group,
    convention_of,
)
from sgdm.ranks import any_rank
from sgdm.shards import check_layout, laid_out_as, shard_of

__all__ = [
    "AVERAGE",
    "BUFFER",
    "STEPS",
    "State",
    "adopt_groups",
    "new_average",
    "plain_groups",
    "settle",
]

State = MutableMapping[Tensor, dict[str, Any]]  # the optimizer's, by parameter

BUFFER = "momentum_buffer"  # torch's key
AVERAGE = "average"  # the moving average of the parameter
STEPS = "steps"  # gradients seen, kept where the first step is not an ordinary one

_TENSORS = (BUFFER, AVERAGE)

# torch's dicts do not have them.
_OWN_SETTINGS = (
    "convention",
    "weight_decay_mode",
    "nu",
    "correct_momentum",
    "lr0",
    "ema_decay",
    "buffer_dtype",
    LAST_MOMENTUM,
)


# In a state dict a dtype is a word: torch.distributed.checkpoint takes numbers and words only.
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in BUFFER_DTYPES}


def plain_groups(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the groups of a state dict as numbers and words."""
    names = {dtype: name for name, dtype in _DTYPES.items()}
    return [
        {**group, "buffer_dtype": names.get(group["buffer_dtype"], group["buffer_dtype"])}
        for group in groups
    ]


def new_average(param: Tensor) -> Tensor:
    """Return the moving average of a parameter that has been stepped once: its copy.

    16-bit parameters are averaged in float32: with ema_decay=0.999 most of an average's moves
    would be lost to rounding.
    """
    wide = torch.promote_types(param.dtype, torch.float32)
    return param.detach().to(wide, copy=True)


def adopt_groups(
    groups: list[dict[str, Any]], loaded: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[Tensor, dict[str, Tensor]]]:
    """Check a state dict against an optimizer's groups, before anything is loaded.

    Args:
        groups: The optimizer's.
        loaded: The state dict. Groups too many or too few are left for torch to refuse.

    Returns:
        The dict's groups, completed by what they do not know, and of each parameter the tensors
        that the dict holds, by their keys.

    Raises:
        InvalidValueError: If its buffers have another meaning, or one does not fit.
    """
    saved_groups: list[dict[str, Any]] = loaded["param_groups"]
    adopted: list[dict[str, Any]] = []
    held: dict[Tensor, dict[str, Tensor]] = {}
    for own, saved in zip(groups, saved_groups, strict=False):
        has_buffers = False
        for param, index in zip(own["params"], saved["params"], strict=False):
            state = loaded["state"].get(index, {})
            tensors = {key: state[key] for key in _TENSORS if state.get(key) is not None}
            for key, tensor in tensors.items():
                _check_shape(key, param, tensor)
                check_layout(key, param, tensor)
            has_buffers |= BUFFER in tensors
            if tensors:
                held[param] = tensors
        _check_convention(own, saved, has_buffers=has_buffers)
        taken = {**{k: own[k] for k in _OWN_SETTINGS if k in own}, **saved}
        if not saved.keys() & {"convention", "lr0"} and saved.get("initial_lr") is not None:
            taken["lr0"] = as_float(saved["initial_lr"])  # as Composer and torch's schedulers write
        taken["buffer_dtype"] = _DTYPES.get(taken["buffer_dtype"], taken["buffer_dtype"])
        complete = {**own, **taken}
        check_group(complete)
        check_buffer_dtype(complete["buffer_dtype"], own["params"])
        adopted.append(taken)
    return adopted + saved_groups[len(adopted) :], held


def settle(state: State, held: dict[Tensor, dict[str, Tensor]]) -> None:
    """Finish what torch has loaded: dtypes are kept, and what is missing is missing.

    Args:
        state: The optimizer's, loaded.
        held: What `adopt_groups` returned.
    """
    for param, tensors in held.items():
        own = state[param]
        for key, tensor in tensors.items():
            if own[key].dtype != tensor.dtype and tensor.is_floating_point():
                own[key] = tensor.detach().to(device=param.device, copy=True)
            own[key] = laid_out_as(param, own[key])
        if own.get(STEPS) == 0 and BUFFER in tensors:
            # Not 0: torch went on in between, and does not count.
            own[STEPS] = int(any_rank(bool(shard_of(own[BUFFER]).any()), [param]))
    for own in state.values():
        for key in _TENSORS:
            if key in own and own[key] is None:  # as old versions of torch wrote a buffer
                del own[key]


def _check_shape(key: str, param: Tensor, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise InvalidTypeError.of(key, "a tensor", tensor, "load the state of this very model")
    if tensor.shape != param.shape:
        raise InvalidValueError.of(
            key,
            f"of shape {tuple(param.shape)}, as its parameter is",
            tuple(tensor.shape),
            "load the state of this very model",
        )


def _check_timm(own: dict[str, Any], saved: dict[str, Any]) -> None:
    """Refuse what a group of timm's SGDW asks for and this rule does not do."""
    if saved.get("caution"):
        raise InvalidValueError.of(
            "caution",
            "False in a state dict for sgdm.SGD, as no convention masks its step",
            saved["caution"],
            "set it to False to go on without the mask",
        )
    mode = own["weight_decay_mode"] or convention_of(own).weight_decay
    if saved.get("corrected_weight_decay") and mode != "lr^2/lr0":
        raise InvalidValueError.of(
            "corrected_weight_decay",
            f"False in a state dict for convention {own['convention']!r}",
            saved["corrected_weight_decay"],
            "take convention='timm-corrected'",
        )


def _check_convention(own: dict[str, Any], saved: dict[str, Any], *, has_buffers: bool) -> None:
    """Refuse state whose buffers mean something else."""
    name = own["convention"]
    if "convention" not in saved:
        row = convention_of(own)
        torch_like = (
            row.lr != "inside"
            and row.sign == "gradient"
            and row.momentum == "current"
            and row.gain != "1-momentum"
        )
        if has_buffers and not torch_like:
            raise InvalidValueError.of(
                "state_dict",
                f"of convention {name!r}, whose buffer is not torch's",
                "one without a convention, as torch.optim.SGD writes it",
                f"load sgdm.convert_state_dict(state_dict, to={name!r})",
            )
        _check_timm(own, saved)
        return
    if saved["convention"] != name:
        raise InvalidValueError.of(
            "convention",
            f"{name!r} in a state dict for this optimizer",
            saved["convention"],
            "its buffers have another meaning; load sgdm.convert_state_dict(state_dict, "
            f"to={name!r})",
        )
    corrects = saved.get("correct_momentum", False)
    if corrects != own["correct_momentum"]:
        raise InvalidValueError.of(
            "correct_momentum",
            f"{own['correct_momentum']!r} in a state dict for this optimizer",
            corrects,
            "its buffers have another scale; load sgdm.convert_state_dict(state_dict, "
            f"to={name!r}, correct_momentum={own['correct_momentum']!r})",
        )
