"""Programs run as by `python -c`, each in a fork of a Python that has loaded torch and no more.

Loading it takes seconds, and as long again when an optimizer is made, which loads its compiler.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

_SERVER = """
def next_program():
    import json, os, sys, torch._dynamo
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            os.chdir(request["folder"])
            for name, channel in (("stdout", 1), ("stderr", 2)):
                os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT), channel)
            return request["program"]
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    sys.exit()

exec(next_program())
"""


class Done(NamedTuple):
    status: int
    stdout: str
    stderr: str


class FreshPython:
    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, program: str, folder: Path, outputs: Path) -> Done:
        """Run a program in a folder; what it prints goes into another."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        paths = {name: outputs / name for name in ("stdout", "stderr")}
        request = {"program": program, "folder": folder, **paths}
        print(json.dumps(request, default=str), file=self._server.stdin, flush=True)
        status = int(self._server.stdout.readline())
        return Done(status, *(path.read_text("utf-8") for path in paths.values()))

    def close(self) -> None:
        self._server.communicate()
