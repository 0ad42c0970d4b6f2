"""Bodies that change what the whole process shares, and how it is put back."""

import warnings
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import torch

__all__ = ["isolated"]

_P = ParamSpec("_P")


def isolated(body: Callable[_P, None]) -> Callable[_P, None]:
    """Let a body change torch's settings, and silence the warnings about it; a script needs none.

    Args:
        body: Of a case; it changes the number of threads or the deterministic mode, or forks.
    """

    @wraps(body)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> None:
        threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
        try:
            with warnings.catch_warnings(action="ignore"):
                body(*args, **kwargs)
        finally:
            torch.set_num_threads(threads)
            torch.set_deterministic_debug_mode(mode)

    return call
