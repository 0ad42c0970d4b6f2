"""Make an environment with another torch than this one's, for the tests.

python tools/other_torch.py FOLDER REQUIREMENT

Not every version is there without CUDA, whose packages would take gigabytes more and are of no use
without a GPU. So a library stands in the place of each of its own, where every function answers
that there is no device.
"""

import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

from environment import install, make_environment

OF_CUDA = re.compile(r"(lib|__)?(cu|nv|nccl)")
NO_DEVICE = 100  # cudaErrorNoDevice


def main() -> None:
    """Make it."""
    home, requirement = Path(sys.argv[1]), sys.argv[2]
    os.environ.pop("PIP_CONSTRAINT", None)  # it pins the torch of this environment
    python = make_environment(home, editable=True)
    install(python, requirement)
    (folder,) = home.glob("lib/python*/site-packages/torch/lib")
    if sys.platform == "linux":
        stand_in(folder)
    tell = "import torch; print('torch', torch.__version__)"
    subprocess.run([python, "-c", tell], check=True)


def stand_in(folder: Path) -> None:
    """Put libraries in the place of those that are missing from a folder.

    Args:
        folder: Where torch has its own, and looks first.
    """
    libraries = sorted(folder.glob("*.so*"))
    functions = functions_asked_of(libraries)
    with TemporaryDirectory() as scratch:
        source, script = Path(scratch, "none.c"), Path(scratch, "versions")
        source.write_text("".join(f"int {f}(void) {{ return {NO_DEVICE}; }}\n" for f in functions))
        for name, versions in versions_asked_of(libraries).items():
            script.write_text("".join(f"{version} {{ *; }};\n" for version in versions))
            options = [f"-Wl,--version-script={script}"] if versions else []
            options += ["-shared", "-fPIC", "-w", f"-Wl,-soname,{name}", "-o", str(folder / name)]
            subprocess.run(["cc", *options, source], check=True)


def functions_asked_of(libraries: list[Path]) -> set[str]:
    """Return the functions of CUDA that these libraries call."""
    told = printed(["nm", "--dynamic", "--undefined-only", "--just-symbols", *libraries])
    names = (line.partition("@")[0] for line in told.splitlines())
    return {name for name in names if OF_CUDA.match(name) and not name.endswith(":")}


def versions_asked_of(libraries: list[Path]) -> dict[str, set[str]]:
    """Return each library of CUDA that is not among these, with the versions asked of it."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    of = ""
    for line in printed(["objdump", "--private-headers", *libraries]).splitlines():
        match line.split():
            case ["NEEDED", name]:
                found[name]
            case ["required", "from", name]:
                of = name.removesuffix(":")
            case [_, _, _, version] if line.startswith("    0x"):
                found[of].add(version)
            case _:
                pass
    ours = {path.name for path in libraries}
    return {name: found[name] for name in found if OF_CUDA.match(name) and name not in ours}


def printed(command: list[str | Path]) -> str:
    """Return what a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    main()
