"""A learner: a network, its optimizer and its schedules, moved one step at a time.

Everything that a step does is a function of the settings and of its number: batches are drawn from
(seed, epoch), learning rates from the step. So a run that goes on from a checkpoint draws nothing
twice and saves no generator.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sgdm.errors import DivergedError, InvalidValueError
from sgdm.optimizer import SGD
from sgdm.schedule import MomentumScheduler, demon, nesterov, su_boyd_candes, sutskever
from sgdm.training.data import Dataset
from sgdm.training.lr_schedule import learning_rate
from sgdm.training.models import build_model
from sgdm.training.parallel import parts_of, spread
from sgdm.training.settings import Settings
from sgdm.training.world import World

__all__ = ["Batch", "Learner", "Score", "make_optimizer"]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step saw, in all processes, at the point where its gradient was taken.

    Attributes:
        loss: Mean cross entropy.
        correct: Examples classified rightly.
        size: Examples.
    """

    loss: float
    correct: int
    size: int


@dataclass(frozen=True, slots=True)
class Score:
    """How the network does on a set of examples: mean cross entropy, and the part it has right."""

    loss: float
    accuracy: float


class Learner:
    """A network in training, in one process or in several that share each batch.

    Args:
        settings: The run's.
        data: The examples.
        dtype: float32, or float64 where runs are compared.
        world: The processes; they make it all at once.
        shard: Whether each keeps a part of the parameters and of the optimizer's state, and not a
            copy.

    Raises:
        InvalidValueError: If a setting is out of range, has no place in the convention, or names a
            device that is not there.
    """

    def __init__(
        self,
        settings: Settings,
        data: Dataset,
        *,
        dtype: torch.dtype = torch.float32,
        world: World | None = None,
        shard: bool = False,
    ) -> None:
        self.settings = settings
        self.world = world or World()
        self.shard = shard
        with self.world.together():
            self.device = _device(self.world.device(settings.device))
        self._train = (data.train_x.to(self.device, dtype), data.train_y.to(self.device))
        self._test = (data.test_x.to(self.device, dtype), data.test_y.to(self.device))
        model = build_model(settings.model, data, seed=settings.seed)
        self.model: nn.Module = model.to(self.device, dtype)
        self._network = (
            self.model if self.world.size == 1 else spread(self.model, self._train[0], shard=shard)
        )
        self.per_epoch = math.ceil(len(data.train_y) / settings.batch_size)
        self.total = self.per_epoch * settings.epochs
        self.optimizer = make_optimizer(settings, list(self.model.parameters()))
        self._momenta = _momentum_scheduler(settings, self.optimizer, self.total)
        self._order: tuple[int, Tensor] | None = None

    def step(self, t: int) -> Batch:
        """Take step t: the batch, the gradient, the update.

        Raises:
            DivergedError: If the loss is not finite. The parameters are not updated then.
        """
        self.set_hyperparameters(t)
        x, y = self.batch(t)
        seen: list[Batch] = []

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss, batch = self._measure(x, y)
            if not math.isfinite(batch.loss):
                raise DivergedError(
                    f"the loss is {batch.loss} at step {t} of {self.total}; "
                    "take a smaller --lr, or warm it up with --warmup-epochs"
                )
            loss.backward()
            seen.append(batch)
            return loss

        self.optimizer.step(closure)
        return seen[0]

    def _measure(self, x: Tensor, y: Tensor) -> tuple[Tensor, Batch]:
        """Return the loss to go backward from, and what all processes saw together."""
        own = self.world.part(len(y))
        outputs, labels = self._network(x[own]), y[own]
        loss = self._mean_loss(outputs, labels, len(y))
        correct = int((outputs.argmax(1) == labels).sum().item())
        total, correct = self.world.total(loss.item(), correct)
        return loss, Batch(total / self.world.size, int(correct), len(y))

    def _mean_loss(self, outputs: Tensor, labels: Tensor, size: int) -> Tensor:
        """Return this process's part of the mean over `size` examples, times the processes.

        Over these the gradients are averaged: so they become those of the whole mean, however
        many examples each has, and with none as well.
        """
        if self.world.size == 1:
            return nn.functional.cross_entropy(outputs, labels)
        summed = nn.functional.cross_entropy(outputs, labels, reduction="sum")
        return summed * (self.world.size / size)

    def set_hyperparameters(self, t: int) -> None:
        """Write the learning rate and momentum of step t into the optimizer."""
        lr = learning_rate(self.settings, t, total=self.total, per_epoch=self.per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self._momenta is not None:
            self._momenta.load_state_dict({"t": t})

    def batch(self, t: int) -> tuple[Tensor, Tensor]:
        """Return the examples of step t, of all processes."""
        epoch, place = divmod(t, self.per_epoch)
        if self._order is None or self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self.settings.seed * 2**20 + epoch)
            order = torch.randperm(len(self._train[1]), generator=generator).to(self.device)
            self._order = (epoch, order)
        size = self.settings.batch_size
        chosen = self._order[1][place * size : (place + 1) * size]
        return self._train[0][chosen], self._train[1][chosen]

    @torch.no_grad()
    def evaluate(self) -> Score:
        """Score the test examples, at Θ as stored or at the iterate θ, as the settings say."""
        with self.at_evaluation_point():
            _, seen = self._measure(*self._test)
        return Score(seen.loss, seen.correct / seen.size)

    def load(self, weights: dict[str, Any], optimizer: dict[str, Any]) -> None:
        """Take over whole state dicts, of the model and of its optimizer."""
        if self.shard:
            weights, optimizer = parts_of(self.model, weights, optimizer)
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(optimizer)

    def at_evaluation_point(self, optimizer: SGD | None = None) -> AbstractContextManager[None]:
        """Show the parameters that are evaluated: its own, or those of a like optimizer."""
        if self.settings.evaluate_at == "look-ahead":
            return nullcontext()
        return (optimizer or self.optimizer).at_iterate()


def make_optimizer(settings: Settings, params: list[nn.Parameter]) -> SGD:
    """Build the optimizer that the settings ask for."""
    return SGD(
        params,
        lr=settings.lr,
        momentum=settings.momentum,
        dampening=settings.dampening,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
        convention=settings.convention,
        weight_decay_mode=settings.weight_decay_mode,
    )


def _momentum_scheduler(settings: Settings, optimizer: SGD, total: int) -> MomentumScheduler | None:
    kind, momentum = settings.momentum_schedule, settings.momentum
    if kind == "constant":
        return None
    if kind == "sutskever":
        return MomentumScheduler(optimizer, sutskever(momentum))
    if kind == "demon":
        return MomentumScheduler(optimizer, demon(momentum, total))
    return MomentumScheduler(optimizer, nesterov() if kind == "nesterov" else su_boyd_candes())


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # a meta device has no numbers
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidValueError.of(
            "device", "one that torch has here", name, f"take 'cpu' ({reason})"
        ) from error
    return device
