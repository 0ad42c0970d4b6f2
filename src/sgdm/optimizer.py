"""`SGD`, a `torch.optim.Optimizer`: groups, state and hooks. The arithmetic is elsewhere."""

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from inspect import unwrap
from typing import Any, Self, TypeVar, cast, overload

import torch
from torch import Tensor
from torch.optim.optimizer import (
    Optimizer,
    ParamsT,
    StateDict,
    _global_optimizer_post_hooks,  # pyright: ignore[reportPrivateUsage, reportUnknownVariableType]
    _global_optimizer_pre_hooks,  # pyright: ignore[reportPrivateUsage, reportUnknownVariableType]
)

from sgdm.convention import WeightDecayMode
from sgdm.engines.choose import check_engine
from sgdm.engines.plan import PLAIN, Memory, Options, Outcome, Part, StepPlan
from sgdm.errors import InvalidTypeError, InvalidUseError, InvalidValueError
from sgdm.frameworks import get_convention
from sgdm.group import (
    ITERATE_WEIGHT,
    LAST_MOMENTUM,
    GroupRules,
    KnownRules,
    Remembered,
    as_float,
    check_buffer_dtype,
    check_group,
)
from sgdm.hyperparameters import (
    NonFinite,
    check_max_grad_norm,
    check_nesterov,
    check_nonfinite,
)
from sgdm.parts import add_parts, keep, makes_state
from sgdm.points import averages, copies_of, look_ahead, moves_to_iterate, put_back
from sgdm.probe import Probe
from sgdm.ranks import check_meshes
from sgdm.running import move, refresh, run
from sgdm.shards import is_whole, laid_out_as, refuse_replaced, shard_of
from sgdm.state import BUFFER, adopt_groups, plain_groups, settle

__all__ = ["SGD"]

_Loss = TypeVar("_Loss")  # a number or a tensor


class SGD(Optimizer):
    """SGD with momentum in any convention; by default `torch.optim.SGD`, bit for bit.

    With the coefficients of the convention (`sgdm.coefficients`), g the gradient, p the parameter
    and b the buffer, one step is

        d = g + coupled_decay * p
        b = retain * b + gain * d
        u = buffer_weight * b + gradient_weight * d
        p = keep * p + step * u

    With "torch" that is d = g + λp, b = μb + (1-τ)d, p = p - εb; or p = p - ε(d + μb) with
    nesterov. A parameter whose `grad` is None is skipped; `grad` is never written. Before step t
    the group's `momentum` is μ_t, or μ_{t+1} for "nag", "bengio" and "bengio-lr-outside".

    Args:
        params: Tensors, (name, tensor) pairs, or dicts that describe groups.
        lr: ε >= 0; a float, or a tensor of one element.
        momentum: μ >= 0.
        dampening: τ, finite; for conventions that have it.
        weight_decay: λ >= 0; a float, or a tensor of one element.
        nesterov: Take the gradient at the look-ahead point. Conventions that are Nesterov's by
            definition ignore False; those without a Nesterov form refuse True.
        maximize: Go up the gradient. Weight decay still shrinks.
        foreach: A hint, as in torch. It never changes the numbers.
        differentiable: Let autograd record the step.
        fused: A hint, as in torch. It never changes the numbers.
        convention: The rule, by name; `sgdm conventions` lists them.
        weight_decay_mode: How λ acts: None for the convention's own way; "coupled": in the
            gradient, the derivative of λ|p|²/2; or on p alone, which keeps 1 - ελ ("lr"),
            1 - (ε/ε_0)λ ("lr/lr0", ε_0 the lr given here), 1 - (ε²/ε_0)λ ("lr^2/lr0") or 1 - λ
            ("absolute") of itself.
        engine: "auto", "native" (C++, on the CPU), "triton" (on CUDA; `pip install 'sgdm[triton]'`)
            or "eager" (torch's operations). "auto" takes the fastest that serves the tensors; a
            named one is used or refused.
        max_grad_norm: The gradients of all groups are scaled down together where their norm is
            above this, as `torch.nn.utils.clip_grad_norm_` does; `last_grad_norm` is that norm.
            math.inf measures only. > 0, or None.
        nonfinite: What a NaN or infinity in a gradient does: "propagate", as in torch; "skip" the
            step, which then changes nothing at all; or "raise".
        ema_decay: A moving average a = ema_decay*a + (1 - ema_decay)*p of each parameter is kept
            in the same pass, in float32 for 16-bit ones; see `averaged`. In [0, 1), or None.
        buffer_dtype: What new buffers are stored as, for instance torch.float32 for bfloat16
            parameters; None for the parameter's dtype.
        correct_momentum: With a convention whose buffer holds the learning rate, go on after a
            change of it as if the new one had been there all along (Goyal's momentum
            correction): "keras" then moves as "torch" does under any schedule.
        nu: ν, the buffer's share of the move in convention "qhm"; None for the others.

    Attributes:
        max_grad_norm: As given; may be set.
        nonfinite: As given; may be set.
        last_grad_norm: The norm of all gradients in the last step, before it was clipped. None
            where neither `max_grad_norm` nor `nonfinite` needed it, or GradScaler had found an
            overflow.
        last_step_skipped: Whether the last step was skipped, for a NaN or infinity in a gradient
            or, with fused=True, an overflow that `torch.amp.GradScaler` had found.

    Raises:
        InvalidValueError: A `ValueError`, for a hyperparameter out of range or not finite, an
            unknown name, or a combination that the convention has no place for.
        InvalidTypeError: A `TypeError`, for a hyperparameter that is no number.
        InvalidUseError: A `RuntimeError`, for hints that contradict each other.

    Example:
        >>> import torch, sgdm
        >>> p = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, convention="caffe")
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     p.sum().backward()
        ...     optimizer.step()
        >>> p.data
        tensor([0.7100, 0.7100])

    Reference:
        Sutskever, Martens, Dahl, Hinton: On the importance of initialization and momentum in deep
        learning, ICML 2013, section 2; each convention names its own source.

    It differs from `torch.optim.SGD` where that one is at fault: NaN and infinity in a
    hyperparameter are refused; 16-bit tensors are computed in float32 and rounded once; a buffer
    keeps its dtype when it is loaded; with `differentiable` the first step is recorded too.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        convention: str = "torch",
        weight_decay_mode: WeightDecayMode | None = None,
        engine: str = "auto",
        max_grad_norm: float | None = None,
        nonfinite: NonFinite = "propagate",
        ema_decay: float | None = None,
        buffer_dtype: torch.dtype | None = None,
        correct_momentum: bool = False,
        nu: float | None = None,
    ) -> None:
        row = get_convention(convention)
        check_engine(engine)
        self.max_grad_norm = max_grad_norm
        self.nonfinite = nonfinite
        defaults: dict[str, Any] = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
            "convention": row.name,
            "weight_decay_mode": weight_decay_mode,
            "ema_decay": ema_decay,
            "buffer_dtype": buffer_dtype,
            "correct_momentum": correct_momentum,
            "nu": nu,
        }
        check_group(defaults)
        check_nesterov(row, momentum=momentum, dampening=dampening, nesterov=nesterov)
        if fused and differentiable:
            raise InvalidUseError(
                "`fused` does not support `differentiable`: both are True; pass one of them"
            )
        if fused and foreach:
            raise InvalidUseError(
                "`fused` and `foreach` cannot be `True` together. They name two paths: pass one, "
                "or neither"
            )
        self.engine = engine
        self._forget()
        super().__init__(params, defaults)

    def _forget(self) -> None:
        """Start without anything that is not kept in a checkpoint or pickle."""
        self._outcome = Outcome()  # of the last step
        # Ends a step that has begun inside backward, and returns what is to be remembered of it.
        self.in_backward: Callable[[], list[Remembered]] | None = None
        self._shown: str | None = None  # the method in whose block other parameters are shown
        self._probe = Probe()
        self._wholes: list[Tensor] | None = None  # its DTensors, once their processes agree
        # Whether a step with gradients, and one without, has looked for replaced parameters.
        self._looked: set[bool] = set()
        self._known_rules = KnownRules()
        self._memory = Memory()

    @classmethod
    def from_torch(cls, optimizer: torch.optim.SGD, *, engine: str = "auto") -> Self:
        """Take over a `torch.optim.SGD` in mid-run: its groups, hyperparameters and buffers.

        The buffers are shared, not copied: step the old optimizer no more. A scheduler holds on to
        the optimizer it was given, and a new one rewrites the learning rate when it is built. So
        build the new one on the new optimizer, load the old one's state into it, and then
        `new.load_state_dict(old.state_dict())`.

        Args:
            optimizer: The running optimizer.
            engine: As for the constructor.

        Raises:
            InvalidTypeError: If it is not a `torch.optim.SGD`, or steps otherwise.

        Example:
            >>> import torch, sgdm
            >>> p = torch.nn.Parameter(torch.ones(2))
            >>> sgdm.SGD.from_torch(torch.optim.SGD([p], lr=0.5)).param_groups[0]["lr"]
            0.5
        """
        if not isinstance(optimizer, torch.optim.SGD):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidTypeError.of(
                "optimizer", "a torch.optim.SGD", optimizer, "other rules keep other state"
            )
        theirs, torchs = (cast("Any", kind).step for kind in (type(optimizer), torch.optim.SGD))
        if unwrap(theirs) is not unwrap(torchs):
            raise InvalidTypeError.of(
                "optimizer",
                "a torch.optim.SGD with torch's own step",
                type(optimizer).__name__,
                "build an sgdm.SGD with its convention, and load its state dict",
            )
        groups = [dict(group) for group in optimizer.param_groups]
        new = cls(groups, **optimizer.defaults, engine=engine)
        for param, state in optimizer.state.items():
            if state.get(BUFFER) is not None:
                new.state[param] = {BUFFER: laid_out_as(param, state[BUFFER])}
        return new

    @property
    def max_grad_norm(self) -> float | None:
        """The norm that the gradients of all groups are scaled down to; None for never."""
        return self._max_grad_norm

    @max_grad_norm.setter
    def max_grad_norm(self, value: float | None) -> None:
        check_max_grad_norm(value)
        self._max_grad_norm = value

    @property
    def nonfinite(self) -> NonFinite:
        """Whether NaN and infinity in a gradient "propagate", "skip" the step or "raise"."""
        return self._nonfinite

    @nonfinite.setter
    def nonfinite(self, value: NonFinite) -> None:
        check_nonfinite(value)
        self._nonfinite: NonFinite = value

    @property
    def last_grad_norm(self) -> float | None:
        """The norm of the last step's gradients; where a device has it, this waits for the step."""
        norm = self._outcome.grad_norm
        if isinstance(norm, Tensor):
            norm = norm.item()
            return None if norm < 0 else norm
        return norm

    @property
    def last_step_skipped(self) -> bool:
        """Whether the last step was skipped; where a device has decided, this waits for it."""
        return bool(self._outcome.skipped)

    # ---- groups and state ----

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch does; its hyperparameters are checked as the constructor's are.

        Raises:
            InvalidValueError: If one is out of range, not finite or without a place in the rule.
            InvalidTypeError: If one is no number.
        """
        if isinstance(param_group, dict):  # pyright: ignore[reportUnnecessaryIsInstance]
            merged = {**self.defaults, **param_group}
            row = check_group(merged)
            if "convention" in param_group:
                param_group["convention"] = row.name  # it may have been an alias
            if row.momentum == "previous":
                param_group.setdefault(LAST_MOMENTUM, None)
            # Both keys are there from the start: what a checkpoint holds does not depend on when.
            param_group.setdefault("lr0", as_float(merged["lr"]))
            param_group.setdefault(ITERATE_WEIGHT, None)
        super().add_param_group(param_group)
        try:
            added = self.param_groups[-1]
            check_buffer_dtype(added["buffer_dtype"], added["params"])
        except InvalidValueError:
            self.param_groups.pop()
            raise
        self._wholes = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what pickling and copying keep."""
        self.refuse_while_shown("copy")
        own = {name: getattr(self, name) for name in ("engine", "_max_grad_norm", "_nonfinite")}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickle or copy."""
        if "_known_rules" not in self.__dict__:  # torch also calls this to load a state dict
            self._forget()
            self.max_grad_norm, self.nonfinite = None, "propagate"  # in pickles from before them
        super().__setstate__(state)
        own = {"ema_decay": None, "buffer_dtype": None, "correct_momentum": False, "nu": None}
        for key, value in own.items():
            self.defaults.setdefault(key, value)
        self._complete_groups()

    def _complete_groups(self) -> None:
        """Give every group what it lacks: it may be of an old pickle, or another optimizer's."""
        for group in self.param_groups:
            for key, value in self.defaults.items():
                group.setdefault(key, value)
            group.setdefault("lr0", as_float(group["lr"]))
            group.setdefault(ITERATE_WEIGHT, None)

    def state_dict(self) -> StateDict:
        """Return the state in torch's layout: tensors, numbers and words."""
        written = super().state_dict()
        return {**written, "param_groups": plain_groups(written["param_groups"])}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Load a state dict of `sgdm.SGD` or `torch.optim.SGD`.

        Hyperparameters come from the dict; what torch's dict does not know (the convention, the
        decay mode) stays as constructed. A buffer keeps its dtype.

        Args:
            state_dict: What `state_dict()` of either class returned.

        Raises:
            InvalidValueError: If the dict was written under another convention, or holds torch's
                buffers and this optimizer's have another scale or sign; if a buffer does not fit
                its parameter. Nothing is loaded then.
        """
        self.refuse_while_shown("load_state_dict")
        self._complete_groups()
        held: dict[Tensor, dict[str, Tensor]] = {}

        def adopt(_: Optimizer, loaded: StateDict) -> StateDict:
            loaded = {**loaded, "state": self._probe.without(loaded["state"])}
            groups, tensors = adopt_groups(self.param_groups, loaded)
            held.update(tensors)
            return {**loaded, "param_groups": groups}

        def complete(_: Optimizer) -> None:
            settle(self.state, held)
            self._probe.clear()

        # The first runs after the user's own pre-hooks, the second before the user's post-hooks.
        hooks = (
            self.register_load_state_dict_pre_hook(adopt),
            self.register_load_state_dict_post_hook(complete, prepend=True),
        )
        try:
            super().load_state_dict(state_dict)
        finally:
            for hook in hooks:
                hook.remove()

    # ---- the step ----

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], _Loss]) -> _Loss: ...

    def step(self, closure: Callable[[], _Loss] | None = None) -> _Loss | None:
        """Update every parameter that has a gradient.

        Args:
            closure: Zeroes the gradients, computes the loss, calls backward, returns the loss.
                Convention "sutskever" with nesterov needs one: it is run at the look-ahead point.

        Returns:
            What the closure returned, or None without one.

        Raises:
            InvalidValueError: If a hyperparameter is not finite, or a buffer does not fit; if a
                gradient is not finite, with nonfinite="raise".
            InvalidUseError: If a closure is missing, inside `at_iterate` or `averaged`, for sparse
                gradients that the rule does not take, or tensors that the engine does not.
            InvalidTypeError: If a hyperparameter is no number, or a buffer is of another kind than
                its parameter. All of these are raised before anything is changed.
        """
        if torch.compiler.is_dynamo_compiling():  # is_compiling() is true in other threads too
            return _opaque_step(self, closure)
        return _take_step(self, closure)

    # What torch wraps a step in (7 us: a profiler's record and the hooks) is entered only where
    # somebody looks. This tells torch that the class has taken care of it.
    step.hooked = True  # pyright: ignore[reportFunctionMemberAccess]

    def _step(self, closure: Callable[[], _Loss] | None = None) -> _Loss | None:
        if self._shown is not None:
            self.refuse_while_shown("step")
        if self._wholes is None:
            self._wholes = self._agree()
        if closure is None:
            # Processes ask together: one of them may have had no gradient yet.
            if (self.state and not self._wholes) or not self._probe.is_answered(
                self.param_groups, self.state, self._known_rules.of, self._wholes
            ):
                self._update()
            return None
        with look_ahead(
            self.param_groups,
            self.state,
            self._known_rules.of,
            is_recorded=bool(self.defaults["differentiable"]),
            was_skipped=lambda: self.last_step_skipped,
        ):
            with torch.enable_grad():
                loss = closure()
            self._update(at_look_ahead=True)
        return loss

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether GradScaler leaves unscaling to the step: with fused=True, as in torch.

        It sets `grad_scale` and `found_inf` for the step then, and does not write the gradients.
        """
        return bool(self.defaults["fused"])

    def _update(self, *, at_look_ahead: bool = False) -> None:
        """Step every parameter from where it stands, and keep what the step made."""
        remembered = self.step_params(self._all(), self._memory, at_look_ahead=at_look_ahead)
        if self.in_backward is not None:
            remembered += self.in_backward()
        _remember(remembered)

    def step_params(
        self,
        work: Iterable[tuple[dict[str, Any], list[Tensor]]],
        memory: Memory,
        *,
        at_look_ahead: bool = False,
    ) -> list[Remembered]:
        """Step some parameters of each group, and keep their state: what a step is made of.

        Args:
            work: Groups, and which of their parameters; those without a gradient are left out.
            memory: Of earlier steps of the same parameters.
            at_look_ahead: Whether they stand where their gradients were taken.

        Returns:
            What the groups are to remember, once all of their parameters are stepped.

        Raises:
            InvalidValueError: As `step` does.
            InvalidUseError: As `step` does.
            InvalidTypeError: As `step` does.
        """
        if self._probe.averages:
            self._probe.drop(self.state)
        plan, made, remembered = self._plan(work, memory, at_look_ahead=at_look_ahead)
        has_gradients = bool(plan.parts or self.in_backward)
        if has_gradients not in self._looked:
            refuse_replaced(self._params())
            self._looked.add(has_gradients)
        options = self._options()
        if options is not PLAIN and options.may_skip:
            keeps = any(makes_state(part, rules, self.state) for part, rules in made)
            moves = any(group.get(key) != value for group, key, value in remembered)
            raises = self._nonfinite == "raise"
            options = options._replace(waits=keeps or moves or raises or at_look_ahead)
        outcome = self._outcome = run(plan, engine=self.engine, options=options)
        if outcome.finite is False and self._nonfinite == "raise":
            raise self._nonfinite_gradient(outcome.nonfinite)
        if outcome.skipped is True:
            return []
        for part, rules in made:
            keep(part, rules, self.state)
        return remembered

    def _plan(
        self,
        work: Iterable[tuple[dict[str, Any], list[Tensor]]],
        memory: Memory,
        *,
        at_look_ahead: bool,
    ) -> tuple[StepPlan, list[tuple[Part, GroupRules]], list[Remembered]]:
        """Return a step, what is to be kept of it, and what the groups are to remember."""
        if self._wholes is None:
            self._wholes = self._agree()
        plan = StepPlan(bool(self.defaults["differentiable"]), [], self._wholes, memory)
        made: list[tuple[Part, GroupRules]] = []
        remembered: list[Remembered] = []
        for group, params in work:
            rules = self._known_rules.of(group)
            if rules.needs_closure and not at_look_ahead:
                raise _closure_needed(group["convention"])
            planned = len(plan.parts)
            for part in add_parts(plan, params, rules, self.state):
                made.append((part, rules))  # noqa: PERF401 - mostly there is none
            if rules.remembers is not None and len(plan.parts) > planned:
                remembered.append((group, *rules.remembers))
        for part in plan.parts:
            if part.wholes is not None and not self._wholes:  # parameters were exchanged since
                plan.wholes = self._wholes = self._agree()
        return plan, made, remembered

    def refresh_hyperparameters(self) -> None:
        """Let the next replay of a step that was captured into a CUDA graph use the groups' values.

        A replay runs none of Python, so a scheduler's new learning rate does not come to it by
        itself. Call this between replays, after the scheduler: it is an upload of a few numbers,
        and waits for nothing. The tensors must be those of the capture.

        Raises:
            InvalidUseError: If no step of these tensors was captured, or another engine than
                "triton" runs them.
        """
        plan, _, remembered = self._plan(self._all(), self._memory, at_look_ahead=False)
        refresh(plan, engine=self.engine, options=self._options())
        _remember(remembered)

    def _options(self) -> Options:
        """Return what this optimizer does to all gradients of a step."""
        options = PLAIN
        if self._max_grad_norm is not None or self._nonfinite != "propagate":
            options = Options(None, None, self._max_grad_norm, self._nonfinite != "propagate")
        if self.defaults["fused"]:
            given = {name: getattr(self, name, None) for name in ("grad_scale", "found_inf")}
            options = options._replace(**given)
        return options

    def _agree(self) -> list[Tensor]:
        """Return the DTensors, before the first step.

        Raises:
            InvalidValueError: If processes that hold their shards have another optimizer each.
        """
        wholes = list(filter(is_whole, self._params()))
        check_meshes(self, wholes)
        return [*wholes]

    def _all(self) -> list[tuple[dict[str, Any], list[Tensor]]]:
        """Return every group with all of its parameters."""
        return [(group, group["params"]) for group in self.param_groups]

    def _params(self) -> list[Tensor]:
        return [param for group in self.param_groups for param in group["params"]]

    def _nonfinite_gradient(self, param: Tensor | None) -> InvalidValueError:
        """Name the parameter whose gradient is not finite; None if it is another process's."""
        which, elements = "", "of another process"
        for index, group in enumerate(self.param_groups):
            for i, candidate in enumerate(group["params"]):
                if param is not None and shard_of(candidate) is param:
                    names = group.get("param_names")
                    which = f" {names[i]!r}" if names else f" {i} of group {index}"
                    elements = f"among {tuple(candidate.shape)} elements"
        return InvalidValueError.of(
            f"the gradient of parameter{which}",
            "finite, as nonfinite='raise' asks",
            f"NaN or infinity {elements}",
            "nothing was changed; lower lr, set max_grad_norm, or use nonfinite='skip'",
        )

    # ---- θ and its look-ahead point Θ ----

    @contextmanager
    def at_iterate(self) -> Generator[None]:
        """Show the iterate θ of Nesterov's method in place of its look-ahead point Θ.

        θ is the end of the last gradient step, Θ_t - ε_t·d_t = Θ_{t+1} - μ_{t+1}·v_{t+1}, with the
        ε and μ of that step. Rules without Nesterov's method, and those that store θ, stay as they
        are. On leaving the block the parameters are put back from a copy, bit for bit. A parameter
        without a gradient in the last step is moved by the weight of its group's last step, and so
        is one that another optimizer has stepped since. With the weight decay of "mxnet-nag-1.5"
        and "mxnet-nag-1.6" the point shown is off by the part of the decay that is not in d.

        Raises:
            InvalidUseError: Inside another such block; `step()` and `load_state_dict()` raise it
                inside this one.

        Example:
            >>> import torch, sgdm
            >>> p = torch.nn.Parameter(torch.zeros(1))
            >>> optimizer = sgdm.SGD([p], lr=1.0, momentum=0.5, convention="bengio")
            >>> p.grad = torch.ones(1)
            >>> optimizer.step()
            >>> with optimizer.at_iterate():
            ...     p.item()
            -1.0
            >>> p.item()
            -1.5
        """
        moves = moves_to_iterate(self.param_groups, self.state, self._known_rules.of)
        with self._showing("at_iterate", [one.param for one in moves]):
            for one in moves:
                move(*one)
            yield

    @contextmanager
    def averaged(self) -> Generator[None]:
        """Show the moving averages in place of the parameters, for evaluation.

        With d = `ema_decay`, a = p after the first step and a = d*a + (1 - d)*p after each later
        one in which the parameter has a gradient; those without an average stay as they are. On
        leaving the block the parameters are put back from a copy, bit for bit. Buffers of the
        model, such as BatchNorm's statistics, are not averaged.

        Raises:
            InvalidUseError: Without `ema_decay` in any group, or inside another such block;
                `step()` and `load_state_dict()` raise it inside this one.

        Example:
            >>> import torch, sgdm
            >>> p = torch.nn.Parameter(torch.zeros(1))
            >>> optimizer = sgdm.SGD([p], lr=1.0, ema_decay=0.5)
            >>> for _ in range(2):
            ...     p.grad = torch.ones(1)
            ...     optimizer.step()
            >>> with optimizer.averaged():
            ...     p.item()
            -1.5
            >>> p.item()
            -2.0
        """
        shown = averages(self.param_groups, self.state)
        with self._showing("averaged", shown), torch.no_grad():
            for param, average in shown.items():
                param.copy_(average)
            yield

    @contextmanager
    def _showing(self, method: str, params: Iterable[Tensor]) -> Generator[None]:
        """Let other parameters be shown, and put these back from a copy."""
        self.refuse_while_shown(method)
        copies = copies_of(params)
        self._shown = method
        try:
            yield
        finally:
            put_back(copies)
            self._shown = None

    def refuse_while_shown(self, method: str) -> None:
        """Refuse what needs the parameters themselves inside `at_iterate` and `averaged`.

        Raises:
            InvalidUseError: If others are shown.
        """
        if self._shown is not None:
            raise InvalidUseError(
                f"{method}() must be called outside `with optimizer.{self._shown}()`, where the "
                "parameters are not those that the buffers belong to; leave the block first"
            )


def _is_watched(optimizer: SGD) -> bool:
    """Whether anybody has hooked into steps, or profiles them."""
    return bool(
        optimizer._optimizer_step_pre_hooks  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        or optimizer._optimizer_step_post_hooks  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
        or torch.autograd._profiler_enabled()  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    )


def _take_step(optimizer: SGD, closure: Callable[[], _Loss] | None) -> _Loss | None:
    # torch wraps the step of a subclass, and looks after the hooks there.
    if type(optimizer).step is not SGD.step or not _is_watched(optimizer):
        return optimizer._step(closure)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
    return (
        _watched_step(optimizer) if closure is None else _watched_step(optimizer, closure=closure)
    )


_watched_step = Optimizer.profile_hook_step(SGD._step)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
# Dynamo breaks the graph here and never recompiles for a moved lr. torch's own optimizers use this
# one, which, unlike torch.compiler.disable, loads Dynamo at the first call only.
_opaque_step = torch._disable_dynamo(_take_step)  # noqa: SLF001 # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]


def _closure_needed(convention: str) -> InvalidUseError:
    return InvalidUseError(
        f"step() must be given a closure with convention {convention!r} and nesterov=True, which "
        "takes the gradient at θ + μ·v, got None; without a closure, as under GradScaler, use "
        "convention='bengio', which stores that point (feed it the momentum one step ahead; a "
        "constant one as it is)"
    )


def _remember(remembered: Iterable[Remembered]) -> None:
    for group, key, value in remembered:
        group[key] = as_float(value) if isinstance(value, Tensor) else value
