"""`heavyball.SGD` without compilation, which takes seconds for every shape."""

from heavyball import SGD, utils

__all__ = ["SGD"]

utils.compile_mode = None
