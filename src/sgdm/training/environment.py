"""What the environment tells a process that was started with others, in torch's words and ours."""

import os

__all__ = ["LAUNCHER", "RENDEZVOUS", "is_launched", "rendezvous", "world_size"]

LAUNCHER = "SGDM_LAUNCHER"  # the process id of `sgdm train --nproc`, in what it starts
RENDEZVOUS = "SGDM_RENDEZVOUS"  # where what it starts meets


def is_launched() -> bool:
    """Whether `sgdm train --nproc` has started this process."""
    return LAUNCHER in os.environ


def rendezvous() -> str | None:
    """Return where the processes meet, as torch.distributed takes it; None for one by itself."""
    return os.environ.get(RENDEZVOUS) or ("env://" if "MASTER_ADDR" in os.environ else None)


def world_size() -> int:
    """Return how many processes were started together."""
    return int(os.environ.get("WORLD_SIZE", "1")) if rendezvous() is not None else 1
