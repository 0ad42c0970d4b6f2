"""What a step allocates beside what it keeps, seen from outside: the peak size of the process."""

from pathlib import Path

from sgdm.bench.rivals import Step

__all__ = ["extra_peak"]

_PROCESS = Path("/proc/self")
_FORGET_PEAK = "5"  # see proc(5), clear_refs


def extra_peak(step: Step) -> int | None:
    """Return by how many bytes the process grows in a step, or None where that is not Linux.

    Args:
        step: Takes a step; its state must be there already.
    """
    try:
        (_PROCESS / "clear_refs").write_text(_FORGET_PEAK)
        before = _size("VmRSS")
        step()
        return max(0, _size("VmHWM") - before)
    except OSError:
        return None


def _size(field: str) -> int:
    for line in (_PROCESS / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.removesuffix("kB")) * 1024
    raise FileNotFoundError(field)
