"""How much memory a program takes, in a process of its own."""

import os
import subprocess
import sys
import textwrap

import pytest

# Not getrusage's, which a process begins with the peak of the one that starts it.
_BEGIN = """
import re, sys, torch
from pathlib import Path

def memory(name):
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(name + ":[^0-9]*([0-9]+) kB", status)[1])

paths = [Path(given) for given in sys.argv[1:]]
"""


def measures_memory(test):
    """Mark a test that takes hundreds of megabytes, in memory and on the disk."""
    linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    return pytest.mark.long(linux(test))


def peak_growth(preparation, work, *paths):
    """Return by how many bytes memory peaks in the work over what is held before.

    Args:
        preparation: What is run before, such as imports.
        work: What is measured; it finds the paths in `paths`.
        paths: Given to the program.
    """
    program = "\n".join(
        (
            _BEGIN,
            textwrap.dedent(preparation),
            'before = memory("VmRSS")',
            textwrap.dedent(work),
            'print(memory("VmHWM") - before)',
        )
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *paths],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    grown = int(done.stdout)
    print(f"grown by {grown / 1e6:.0f} MB")
    return grown
