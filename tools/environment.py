"""An environment of its own that sees the packages of this one behind its own."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path


def make_environment(home: Path, *, editable: bool) -> Path:
    """Make it, and return its Python.

    Args:
        home: The folder to make or to make anew.
        editable: Whether what is installed here as a link to its source is seen too.
    """
    venv.create(home, clear=True, symlinks=True)
    here = sysconfig.get_path("purelib")
    there = sysconfig.get_path("purelib", vars={"base": str(home)})
    seen = f"import site; site.addsitedir({here!r})" if editable else here
    Path(there, "behind.pth").write_text(f"{seen}\n", "utf-8")
    return home / "bin" / "python"


def install(python: Path, what: str | Path) -> None:
    """Install a package into an environment, without what it depends on.

    Args:
        python: Of the environment.
        what: A requirement or a file.
    """
    options = ["--quiet", "--no-deps", "--ignore-installed"]
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", *options, what], check=True
    )
