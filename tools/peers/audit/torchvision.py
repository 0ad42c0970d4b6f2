"""Stands in for torchvision, so that what lies beside models can be imported without it."""

import sys
from unittest.mock import MagicMock

for name in (
    "datasets",
    "models",
    "models.feature_extraction",
    "ops",
    "ops.misc",
    "transforms",
    "transforms.functional",
    "utils",
):
    sys.modules[f"{__name__}.{name}"] = MagicMock()
