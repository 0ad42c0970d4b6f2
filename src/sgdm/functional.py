"""A step as a function."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sgdm.convention import WeightDecayMode
from sgdm.engines.plan import Options, StepPlan
from sgdm.errors import InvalidUseError, InvalidValueError
from sgdm.frameworks import get_convention
from sgdm.group import LAST_MOMENTUM, GroupRules, as_float, check_group
from sgdm.hyperparameters import check_max_grad_norm, check_nesterov
from sgdm.parts import add_parts, keep
from sgdm.running import run
from sgdm.shards import is_whole

__all__ = ["StepState", "step"]


class StepState(NamedTuple):
    """What `step` keeps: tensors and numbers in dicts, for `torch.save` and torch's pytrees.

    Attributes:
        params: Of each parameter, by its name, what `sgdm.SGD` has in its `state`.
        group: What is kept of all together, as in a group of `sgdm.SGD`.
    """

    params: dict[str, dict[str, Any]]
    group: dict[str, Any]


def step(
    params: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor | None],
    state: StepState | None = None,
    *,
    lr: float | Tensor = 1e-3,
    momentum: float = 0,
    dampening: float = 0,
    weight_decay: float | Tensor = 0,
    nesterov: bool = False,
    maximize: bool = False,
    differentiable: bool = False,
    convention: str = "torch",
    weight_decay_mode: WeightDecayMode | None = None,
    engine: str = "auto",
    max_grad_norm: float | None = None,
    ema_decay: float | None = None,
    buffer_dtype: torch.dtype | None = None,
    correct_momentum: bool = False,
    nu: float | None = None,
) -> tuple[dict[str, Tensor], StepState]:
    """Return the parameters after a step of `sgdm.SGD`, and its state; nothing is written in place.

    It fits `torch.func`: parameters by name, as `dict(model.named_parameters())` has them. The bits
    are those of `sgdm.SGD` with the same arguments.

    Args:
        params: By name.
        gradients: By the same names; a parameter without one, or with None, is returned as it is.
        state: What the step before returned; None for the first.
        lr: As for `sgdm.SGD`, and so are the others. The learning rate and all else may be another
            one at each step; the ε_0 of `weight_decay_mode` is that of the first.
        momentum: See there.
        dampening: See there.
        weight_decay: See there.
        nesterov: See there.
        maximize: See there.
        differentiable: Let autograd go through the step: into parameters, gradients and state, and
            into lr or weight_decay where they are tensors that require a gradient.
        convention: See there.
        weight_decay_mode: See there.
        engine: See there.
        max_grad_norm: See there.
        ema_decay: See there; the averages are in the state.
        buffer_dtype: See there.
        correct_momentum: See there.
        nu: See there.

    Raises:
        InvalidValueError: If a hyperparameter is out of range, or a gradient fits no parameter.
        InvalidUseError: If the rule takes the gradient at another point than the parameters, or the
            engine cannot run the step.
        InvalidTypeError: If a hyperparameter is no number.

    Example:
        >>> import torch
        >>> from sgdm.functional import step
        >>> params, state = {"w": torch.ones(2)}, None
        >>> for _ in range(2):
        ...     gradients = torch.func.grad(lambda p: (p["w"] ** 2).sum())(params)
        ...     params, state = step(params, gradients, state, lr=0.25, momentum=0.5)
        >>> params["w"]
        tensor([0., 0.])
    """
    row = get_convention(convention)
    check_max_grad_norm(max_grad_norm)
    given = {} if state is None else state.group
    group: dict[str, Any] = {
        "lr": lr,
        "momentum": momentum,
        "dampening": dampening,
        "weight_decay": weight_decay,
        "nesterov": nesterov,
        "maximize": maximize,
        "convention": row.name,
        "weight_decay_mode": weight_decay_mode,
        "ema_decay": ema_decay,
        "buffer_dtype": buffer_dtype,
        "correct_momentum": correct_momentum,
        "nu": nu,
        "lr0": given.get("lr0", as_float(lr)),
        LAST_MOMENTUM: given.get(LAST_MOMENTUM),
        "params": list(params.values()),
    }
    check_group(group)
    check_nesterov(row, momentum=momentum, dampening=dampening, nesterov=nesterov)
    if unknown := gradients.keys() - params.keys():
        raise InvalidValueError.of(
            "gradients", "of parameters that are given", sorted(unknown), "use the same names"
        )
    if state is not None and (unknown := state.params.keys() - params.keys()):
        raise InvalidValueError.of(
            "state", "of parameters that are given", sorted(unknown), "use the same names"
        )
    rules = GroupRules(group)
    if rules.needs_closure:
        raise InvalidUseError(
            f"nesterov must be False with convention {row.name!r} in sgdm.functional.step, whose "
            "gradients are taken at the given parameters, got True; use convention='bengio', which "
            "stores the look-ahead point"
        )
    new = {name: _copied(p, differentiable=differentiable) for name, p in params.items()}
    held: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
    for name, own in ({} if state is None else state.params).items():
        held[new[name]] = {
            key: _copied(value, differentiable=differentiable) if torch.is_tensor(value) else value
            for key, value in own.items()
        }
    plan = StepPlan(differentiable, wholes=[p for p in new.values() if is_whole(p)])
    ordered = [gradients.get(name) for name in new]
    made = add_parts(plan, list(new.values()), rules, held, ordered)
    run(plan, engine=engine, options=Options(max_grad_norm=max_grad_norm))
    for part in made:
        keep(part, rules, held)
    kept = {name: held[p] for name, p in new.items() if p in held}
    remembered = dict([rules.remembers]) if rules.remembers is not None and plan.parts else {}
    return new, StepState(kept, {"lr0": group["lr0"], **given, **remembered})


def _copied(x: Tensor, *, differentiable: bool) -> Tensor:
    return x.clone() if differentiable else x.detach().clone()
