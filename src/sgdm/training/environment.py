"""What the environment tells a process that was started with others, in torch's words and ours."""

import os

from sgdm.errors import InvalidValueError

__all__ = [
    "LAUNCHER",
    "RENDEZVOUS",
    "is_launched",
    "is_one_of_several",
    "local_rank",
    "own_rank",
    "rendezvous",
    "world_size",
]

LAUNCHER = "SGDM_LAUNCHER"  # the process id of `sgdm train --nproc`, in what it starts
RENDEZVOUS = "SGDM_RENDEZVOUS"  # where what it starts meets


def is_launched() -> bool:
    """Whether `sgdm train --nproc` has started this process."""
    return LAUNCHER in os.environ


def is_one_of_several() -> bool:
    """Whether this process has been told how to join others."""
    try:
        return world_size() > 1
    except InvalidValueError:
        return False


def rendezvous() -> str | None:
    """Return where the processes meet, as torch.distributed takes it; None for one by itself.

    Raises:
        InvalidValueError: If it is said in part.
    """
    if RENDEZVOUS in os.environ:
        return os.environ[RENDEZVOUS]
    if "MASTER_ADDR" not in os.environ or not {"RANK", "WORLD_SIZE"} & os.environ.keys():
        return None
    _number("MASTER_PORT", 0, 65535)
    return "env://"


def world_size() -> int:
    """Return how many processes were started together.

    Raises:
        InvalidValueError: If it is said in part.
    """
    return 1 if rendezvous() is None else _number("WORLD_SIZE", 1, 10**6)


def own_rank() -> int:
    """Return which of them this one is, from 0.

    Raises:
        InvalidValueError: If it is not said.
    """
    return _number("RANK", 0, world_size() - 1)


def local_rank() -> int:
    """Return which of those on this machine this one is, from 0.

    Raises:
        InvalidValueError: If it is not said.
    """
    return _number("LOCAL_RANK", 0, world_size() - 1)


def _number(name: str, least: int, most: int) -> int:
    text = os.environ.get(name)
    if text is None or not text.isdecimal() or not least <= int(text) <= most:
        raise InvalidValueError.of(
            name,
            f"a number from {least} to {most} in the environment",
            text,
            "start all processes with torchrun, or with --nproc outside of it",
        )
    return int(text)
