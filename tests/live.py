"""The programs that made the recordings, run again where their framework is installed."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RECORDED = ROOT / "tests" / "conformance" / "files"


def recorded_or_live(request, tmp_path_factory, framework: str, *programs: tuple[str, ...]) -> Path:
    """Return the folder of the recordings, or one that the framework has just filled."""
    if request.param == "recorded":
        return RECORDED
    if find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed; its recordings are tested")
    folder = tmp_path_factory.mktemp(framework)
    for program, *arguments in programs:
        subprocess.run(
            [sys.executable, ROOT / program, *arguments, folder],
            env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
            check=True,
            stdout=subprocess.PIPE,
        )
    return folder
