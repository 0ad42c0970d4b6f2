"""The state of the optimizer: what is kept of each parameter, and what is taken from a dict.

The layout is torch's, so that state dicts go both ways.
"""

from typing import Any

from torch import Tensor

from sgdm.errors import InvalidValueError
from sgdm.frameworks import get_convention
from sgdm.group import check_group

__all__ = ["BUFFER", "ITERATE_WEIGHT", "STEPS", "adopt_groups"]

BUFFER = "momentum_buffer"  # torch's key
STEPS = "steps"  # gradients seen, kept where the first step is not an ordinary one
ITERATE_WEIGHT = "iterate_weight"  # in a group, of its last step: θ = Θ - iterate_weight * buffer

_OWN_SETTINGS = ("convention", "weight_decay_mode", "lr0")  # torch's dicts do not have them


def adopt_groups(
    groups: list[dict[str, Any]], loaded: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[Tensor, Tensor]]:
    """Check a state dict against an optimizer's groups, before anything is loaded.

    Args:
        groups: The optimizer's.
        loaded: The state dict. Groups too many or too few are left for torch to refuse.

    Returns:
        The dict's groups, completed by what they do not know, and its buffers by parameter.

    Raises:
        InvalidValueError: If its buffers have another meaning, or one does not fit.
    """
    saved_groups: list[dict[str, Any]] = loaded["param_groups"]
    adopted: list[dict[str, Any]] = []
    buffers: dict[Tensor, Tensor] = {}
    for own, saved in zip(groups, saved_groups, strict=False):
        held: dict[Tensor, Tensor] = {}
        for param, key in zip(own["params"], saved["params"], strict=False):
            buffer = loaded["state"].get(key, {}).get(BUFFER)
            if buffer is not None:
                _check_shape(param, buffer)
                held[param] = buffer
        _check_convention(own["convention"], saved.get("convention"), has_buffers=bool(held))
        buffers |= held
        taken = {**{k: own[k] for k in _OWN_SETTINGS if k in own}, **saved}
        check_group({**own, **taken})
        adopted.append(taken)
    return adopted + saved_groups[len(adopted) :], buffers


def _check_shape(param: Tensor, buffer: Tensor) -> None:
    if buffer.shape != param.shape:
        raise InvalidValueError.of(
            BUFFER,
            f"of shape {tuple(param.shape)}, as its parameter is",
            tuple(buffer.shape),
            "load the state of this very model",
        )


def _check_convention(own: str, saved: str | None, *, has_buffers: bool) -> None:
    """Refuse state whose buffers mean something else."""
    row = get_convention(own)
    if saved is not None and saved != own:
        raise InvalidValueError.of(
            "convention",
            f"{own!r} in a state dict for this optimizer",
            saved,
            f"its buffers have another meaning; build the optimizer with convention={saved!r}",
        )
    torch_like = row.lr == "outside" and row.sign == "gradient" and row.momentum == "current"
    if saved is None and has_buffers and not torch_like:
        raise InvalidValueError.of(
            "state_dict",
            f"of convention {own!r}, whose buffer is not torch's",
            "one without a convention, as torch.optim.SGD writes it",
            "build the optimizer with convention='torch' to go on from it",
        )
