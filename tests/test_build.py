"""Building from source, where that goes wrong."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROGRAMS = Path(sys.executable).parent  # cmake and ninja are installed beside Python


def configure(tmp_path, *options, **environment) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            PROGRAMS / "cmake",
            *("-S", ROOT, "-B", tmp_path, "-G", "Ninja"),
            f"-DCMAKE_MAKE_PROGRAM={PROGRAMS / 'ninja'}",
            *options,
        ],
        env={"PATH": "", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_without_a_compiler_one_line_says_so(tmp_path):
    done = configure(tmp_path)
    assert done.returncode != 0
    assert [line.strip() for line in done.stderr.splitlines() if "compiler" in line] == [
        "sgdm needs a C++17 compiler to be built from source and found none; install g++ or "
        "clang++ (Debian: apt install g++), or a wheel, which needs none"
    ]
