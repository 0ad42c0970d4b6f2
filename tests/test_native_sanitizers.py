"""The native engine's own tests, tests/native, built with sanitizers and run."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ADDRESS = "-fsanitize=address,undefined -fno-sanitize-recover=all"
THREAD = "-fsanitize=thread"


def tool(name):
    """The tool of this environment, be it activated or not, or the system's."""
    path = shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
    if path is None:
        pytest.fail(f"{name} is not found, and builds the native tests; pip install {name}")
    return path


def run(*command):
    """Runs the command; its output is the message if it fails."""
    # Looking for leaks takes ptrace, which containers may forbid; the engine owns only vectors.
    environment = {
        **os.environ,
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1",
    }
    done = subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=300,
        check=False,
    )
    return done.returncode, f"{' '.join(map(str, command))}\n{done.stdout}"


def succeed(*command):
    code, output = run(*command)
    assert code == 0, output
    return output


@pytest.mark.long
@pytest.mark.parametrize(
    ("sanitizers", "programs"),
    [
        pytest.param(ADDRESS, ["test_passes", "test_parallel"], id="address"),
        pytest.param(THREAD, ["test_parallel"], id="thread"),
    ],
)
def test_the_native_tests_pass_under_sanitizers(tmp_path, sanitizers, programs):
    cmake = tool("cmake")
    succeed(
        cmake,
        *("-S", ROOT, "-B", tmp_path, "-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
        "-DSGDM_TESTS=ON",
        "-DCMAKE_BUILD_TYPE=Sanitized",  # none that CMake knows: only the flags given here
        f"-DCMAKE_CXX_FLAGS={sanitizers} -g -O1",
    )
    succeed(cmake, "--build", tmp_path, "--parallel", "2", "--target", *programs)
    for program in programs:
        path = tmp_path / "tests" / "native" / program
        code, output = run(path)
        if "unexpected memory mapping" in output:  # an old ThreadSanitizer, a new kernel
            code, output = run(tool("setarch"), "--addr-no-randomize", path)
        assert code == 0, output
