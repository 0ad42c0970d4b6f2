"""Comparing pictures with those that a person has looked at."""

import re
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

# Root mean square over all channels, of 255. One version of matplotlib makes the same pixels but
# for how a processor rounds; a label less makes 6, and 3 is the least that other numbers make.
TOLERANCE = 1.0


def apart(drawn: bytes, kept: Path) -> float:
    """Return the root mean square difference of two PNGs; infinity if their sizes differ.

    Skips the test under another matplotlib than the one that drew what is kept: between 3.10 and
    3.11 texts change their widths, and with them every layout (13 to 36).
    """
    by = re.search(rb"Matplotlib version(\d+\.\d+)", kept.read_bytes())
    assert by
    version = by[1].decode()
    if not mpl.__version__.startswith(f"{version}."):
        pytest.skip(f"the picture is of matplotlib {version}, here is {mpl.__version__}")
    pixels = [imread(BytesIO(each), format="png") for each in (drawn, kept.read_bytes())]
    if pixels[0].shape != pixels[1].shape:
        return float("inf")
    return float(255 * np.sqrt(np.mean((pixels[0] - pixels[1]) ** 2)))
