"""Steps inside backward: each parameter as soon as its gradient is complete, which is then freed.

So there is never more than a few gradients' memory. The arithmetic is that of the ordinary step,
parameter by parameter; what a group remembers of a step is written when `optimizer.step()` ends it.
"""

import gc
import sys
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor

from sgdm.engines.plan import Memory
from sgdm.errors import InvalidTypeError, InvalidUseError
from sgdm.group import GroupRules, Remembered
from sgdm.optimizer import SGD

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

__all__ = ["StepsInBackward", "step_in_backward"]

# They reduce a gradient after torch has called it complete, so a step would take this process's.
_REDUCE_LATER = (
    ("torch.nn.parallel.distributed", "DistributedDataParallel"),
    ("torch.distributed.fsdp.fully_sharded_data_parallel", "FullyShardedDataParallel"),
)


def step_in_backward(optimizer: SGD) -> "StepsInBackward":
    """Step every parameter during `loss.backward()`, and free its gradient at once.

    The training loop stays as it is. `optimizer.step()` then ends the step: it steps what still
    has a gradient, and schedulers see it as usual. The bits are those of the ordinary loop. With n
    parameters of equal size the gradients take the memory of a few of them in place of n.

    Not everything can be done so: what needs all gradients before the first step (`max_grad_norm`,
    `nonfinite`), gradients that are accumulated over several backward calls, a look-ahead that
    needs a closure, autograd through the step, and models that reduce gradients after torch has
    called them complete (DistributedDataParallel, FullyShardedDataParallel; `fully_shard` reduces
    before). All of that is refused. GradScaler is not to be used: it notices too late that it has
    been passed over. An error in the middle of backward, such as a gradient that does not fit,
    leaves the parameters before it stepped.

    Args:
        optimizer: Its parameters of now; of groups added later, `optimizer.step()` takes care. The
            hyperparameters are read during backward: move them after `optimizer.step()`.

    Returns:
        A handle; `remove()` it, or leave its `with` block, for ordinary steps.

    Raises:
        InvalidTypeError: If it is no `sgdm.SGD`.
        InvalidUseError: If the optimizer is set to something that needs all gradients, or steps
            inside backward already.

    Example:
        >>> import torch, sgdm
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = sgdm.SGD([p], lr=0.5)
        >>> with sgdm.step_in_backward(optimizer):
        ...     p.sum().backward()
        ...     optimizer.step()
        >>> p.data, p.grad
        (tensor([0.5000, 0.5000]), None)

    Reference:
        Lv, Yan, Guo, Lv, Qiu: AdaLomo, 2023, section 1; Lv et al.: Full parameter fine-tuning for
        large language models with limited resources (LOMO), ACL 2024, section 3.2.
    """
    return StepsInBackward(optimizer)


class StepsInBackward:
    """The hooks of `step_in_backward`, until they are removed."""

    def __init__(self, optimizer: SGD) -> None:
        if not isinstance(optimizer, SGD):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidTypeError.of(
                "optimizer",
                "an sgdm.SGD",
                optimizer,
                "others step all parameters at once",
            )
        if optimizer.in_backward is not None:
            raise InvalidUseError(
                "step_in_backward() must be called once for an optimizer, whose parameters would "
                "be stepped twice, got a second call; remove() the first handle"
            )
        self._optimizer = optimizer
        self._lock = Lock()  # backward has a thread for each device
        self._memory = Memory()
        self._stepped: set[Tensor] = set()
        self._remembered: dict[int, Remembered] = {}
        self._groups: dict[Tensor, dict[str, Any]] = {}  # of each parameter, in this step
        self._hooks: list[RemovableHandle] = []
        self._was_looked_at = False
        self._check()
        for group in optimizer.param_groups:
            if GroupRules(group).needs_closure:
                raise InvalidUseError(
                    f"nesterov must be False with convention {group['convention']!r} inside "
                    "step_in_backward, which cannot take every gradient at θ + μ·v, got True; use "
                    "convention='bengio', which stores that point"
                )
            for param in group["params"]:
                if param.requires_grad:
                    hook: Any = param.register_post_accumulate_grad_hook(self._step)
                    self._hooks.append(hook)
        optimizer.in_backward = self._end_step

    def remove(self) -> None:
        """Step in `optimizer.step()` again."""
        if self._stepped:
            raise InvalidUseError(
                "remove() must be called after optimizer.step(), got a step that is not ended; "
                "call optimizer.step() after backward()"
            )
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        if self._optimizer.in_backward == self._end_step:
            self._optimizer.in_backward = None

    def __enter__(self) -> Self:
        """Begin; the hooks are there already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Remove the hooks."""
        if kind is not None:
            self._stepped.clear()
        self.remove()

    def _end_step(self) -> list[Remembered]:
        """Begin anew, and return what the groups are to remember of the step."""
        remembered = list(self._remembered.values())
        self._stepped.clear()
        self._remembered.clear()
        return remembered

    def _step(self, param: Tensor) -> None:
        with self._lock:
            self._step_one(param)

    def _step_one(self, param: Tensor) -> None:
        if not self._stepped:
            self._check()
            # load_state_dict puts other groups in their place.
            groups = self._optimizer.param_groups
            self._groups = {p: group for group in groups for p in group["params"]}
        group = self._groups.get(param)
        if group is None:
            return  # the optimizer has it no more
        if param in self._stepped:
            raise InvalidUseError(
                "backward() must be called once a step inside step_in_backward, which keeps no "
                f"gradient to add to, got a second one for a parameter of {tuple(param.shape)}; "
                "call optimizer.step() after each backward(), or accumulate in ordinary steps"
            )
        if param.grad is None:
            raise InvalidUseError(
                "a parameter must belong to one optimizer inside step_in_backward, got one of "
                f"{tuple(param.shape)} whose gradient another hook has freed; remove that hook"
            )
        self._optimizer.refuse_while_shown("backward")
        self._stepped.add(param)
        for remembered in self._optimizer.step_params([(group, [param])], self._memory):
            self._remembered[id(group)] = remembered
        param.grad = None

    def _check(self) -> None:
        """Refuse what cannot be done parameter by parameter."""
        optimizer = self._optimizer
        whole = {
            "max_grad_norm": (optimizer.max_grad_norm, None),
            "nonfinite": (optimizer.nonfinite, "propagate"),
            "differentiable": (bool(optimizer.defaults["differentiable"]), False),
        }
        for name, (value, wanted) in whole.items():
            if value != wanted:
                raise InvalidUseError(
                    f"{name} must be {wanted!r} inside step_in_backward, which steps the first "
                    f"parameter before it has seen the last gradient, got {value!r}; take "
                    "ordinary steps"
                )
        if not self._was_looked_at:
            _refuse_reduced_later([p for g in optimizer.param_groups for p in g["params"]])
            self._was_looked_at = bool(self._hooks)  # a model may be wrapped until its first step


def _refuse_reduced_later(params: list[Tensor]) -> None:
    loaded = [(sys.modules.get(module), name) for module, name in _REDUCE_LATER]
    kinds = tuple(getattr(module, name) for module, name in loaded if module is not None)
    ours = set(map(id, params))
    for module in [x for x in gc.get_objects() if issubclass(type(x), kinds)]:
        if any(id(p) in ours for p in module.parameters()):
            raise InvalidUseError(
                "the model must reduce its gradients before torch calls them complete, got a "
                f"{type(module).__name__}, which does so after; use "
                "torch.distributed.fsdp.fully_shard, or ordinary steps"
            )
