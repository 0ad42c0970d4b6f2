"""Learning rate schedules, as functions of the step: nothing to save, nothing to go wrong."""

import math

from sgdm.training.settings import Settings

__all__ = ["drop_steps", "learning_rate"]


def learning_rate(settings: Settings, step: int, *, total: int, per_epoch: int) -> float:
    """Return ε_t.

    Args:
        settings: The run's.
        step: t, from 0.
        total: Steps of the whole run.
        per_epoch: Steps of an epoch.

    Example:
        >>> from sgdm.training.settings import Settings
        >>> settings = Settings(lr=0.5, lr_schedule="steps", lr_drops=(0.5,), lr_drop_factor=0.5)
        >>> [learning_rate(settings, t, total=4, per_epoch=2) for t in range(4)]
        [0.5, 0.5, 0.25, 0.25]
    """
    lr = settings.lr
    if settings.lr_schedule == "steps":
        lr *= settings.lr_drop_factor ** sum(step >= drop for drop in drop_steps(settings, total))
    elif settings.lr_schedule == "cosine":
        lr *= (1 + math.cos(math.pi * step / total)) / 2
    warmup = round(settings.warmup_epochs * per_epoch)
    return lr * min(1.0, (step + 1) / warmup) if warmup else lr


def drop_steps(settings: Settings, total: int) -> list[int]:
    """Return the steps from which on the learning rate is lower, for the schedule "steps"."""
    return [round(part * total) for part in sorted(settings.lr_drops)]
