"""The arguments that cases try beside the subject's own, the fewest first."""

from typing import Any

__all__ = ["CHANGES", "LRS", "WITH_CHANGES"]

CHANGES: tuple[dict[str, float], ...] = (
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "weight_decay": 0.1},
)
WITH_CHANGES: tuple[dict[str, Any], ...] = tuple({"changes": changes} for changes in CHANGES)

# A user's lr may be too small to be seen; without, for what takes none.
LRS: tuple[dict[str, float], ...] = ({"lr": 0.1}, {})
