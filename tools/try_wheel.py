"""Try the wheel in dist/ where there is no compiler, no tool and no source.

python tools/try_wheel.py

Installed in build/wheel, it passes the tests below in a folder that has nothing but them.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from environment import install, make_environment

ROOT = Path(__file__).parents[1]
HOME = ROOT / "build" / "wheel"
# What could be missing from a wheel: modules, the engine, and the files that modules read. The
# others test the same code again, or need what is not in a wheel: docs/, tools/, fuzz/, examples/,
# a compiler, a browser.
TESTS = (
    "test_imports.py",
    "test_cli.py",
    "test_native.py",
    "test_battery.py",
    "test_state.py",
    "test_convert_state.py",
    "test_convert_job.py",
    "test_audit_examine.py",
    "test_explorer.py",
)


def main() -> None:
    """Check the tag, install, and run the tests; the status is theirs."""
    (wheel,) = (ROOT / "dist").glob("*.whl")
    if sys.platform == "linux":
        check_tag(wheel)
    python = make_environment(HOME, editable=False)
    install(python, wheel)
    shutil.copytree(ROOT / "tests", HOME / "tests")
    shutil.copy(ROOT / "pyproject.toml", HOME)
    bare = {"PATH": ""}
    where = "import sgdm, sys; sys.exit(not sgdm.__file__.startswith(sys.prefix))"
    subprocess.run([python, "-c", where], cwd=HOME, env=bare, check=True)
    arguments = [python, "-m", "pytest", "-n", "auto", *(f"tests/{name}" for name in TESTS)]
    sys.exit(subprocess.run(arguments, cwd=HOME, env=bare, check=False).returncode)


def check_tag(wheel: Path) -> None:
    """End with an error unless the wheel needs nothing that other Linux machines lack."""
    told = subprocess.run(
        [Path(sys.executable).with_name("auditwheel"), "show", wheel],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    if 'platform tag: "manylinux_' not in " ".join(told.split()):
        sys.exit(told)


if __name__ == "__main__":
    main()
