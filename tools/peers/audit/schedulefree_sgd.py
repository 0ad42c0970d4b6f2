"""`schedulefree.SGDScheduleFree` in the mode that it steps in."""

from functools import wraps
from typing import Any

from schedulefree import SGDScheduleFree

__all__ = ["sgd_in_training"]


@wraps(SGDScheduleFree)
def sgd_in_training(*args: Any, **settings: Any) -> SGDScheduleFree:
    """Return an optimizer that `train` was called of."""
    optimizer = SGDScheduleFree(*args, **settings)
    optimizer.train()
    return optimizer
