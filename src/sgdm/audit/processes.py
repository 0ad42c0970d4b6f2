"""The processes that a subject is examined in: one, and another behind each job that ends one."""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sgdm.audit.case import Case
from sgdm.audit.child import IDENTIFY, Answer, Described, Order
from sgdm.audit.named import name_of
from sgdm.audit.report import Finding, Identity
from sgdm.errors import InvalidUseError, MissingExtraError, SgdmError
from sgdm.extras import load_extra

__all__ = ["Processes"]

_START_SECONDS = 180.0  # importing a framework, the first time
_MOST_HANGS = 3  # so that one that always hangs is told within a minute or two


class Processes:
    """An examination of a subject.

    Attributes:
        described: The subject, once it could be made.
        findings: By the case's name.
        identity: Which rule it is.
    """

    def __init__(
        self,
        given: str | Callable[..., Any],
        settings: Mapping[str, Any],
        *,
        time_limit: float,
        progress: Callable[[str], None],
    ) -> None:
        self._given = given
        self._settings = dict(settings)
        self._time_limit = time_limit
        self._progress = progress
        self._by_value = False
        self._hangs = 0
        self._cases: dict[str, Case] = {}
        self.described: Described | None = None
        self.findings: dict[str, Finding] = {}
        self.identity: Identity | None = None

    def run(self, cases: Sequence[Case]) -> None:
        """Do all that there is to do; the first case is whether it steps at all.

        Raises:
            SgdmError: If the subject cannot be made.
        """
        self._cases = {case.name: case for case in cases}
        first, *others = self._cases
        while left := [job for job in (first, IDENTIFY, *others) if not self._is_done(job)]:
            if self._hangs >= _MOST_HANGS:
                self._leave_out(f"{_MOST_HANGS} others did not come back")
                break
            if first in self.findings and self.findings[first].outcome == "failed":
                if IDENTIFY not in left:
                    self._leave_out(self._why_not(first))
                    break
                left = [IDENTIFY]
            self._run_child(left)
        if self.identity is None:
            self.identity = Identity(stranger="not run")

    def _why_not(self, first: str) -> str:
        """Return why nothing else is asked of what the first case could not step."""
        assert self.identity is not None
        if not self.identity.steps:
            return "it cannot step"
        why = "it steps with a closure only"
        text = f"{why}: {self.findings[first].text}"
        self.findings[first] = Finding.of(self._cases[first], "refused", text)
        return why

    def _is_done(self, job: str) -> bool:
        return job in self.findings if job != IDENTIFY else self.identity is not None

    def _leave_out(self, why: str) -> None:
        for name, case in self._cases.items():
            if name not in self.findings:
                self.findings[name] = Finding.of(case, "refused", f"not run: {why}")

    def _run_child(self, jobs: list[str]) -> None:
        read, write = os.pipe()
        with (
            Connection(read, writable=False) as answers,
            tempfile.TemporaryFile() as said,
            subprocess.Popen(  # noqa: S603 - this Python, and our own program
                [sys.executable, "-c", f"from sgdm.audit.child import main; main({write})"],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                pass_fds=[write],
                start_new_session=True,
            ) as child,
        ):
            os.close(write)
            try:
                assert child.stdin is not None
                path = [str(Path.cwd()), *(place for place in sys.path if place)]
                order = Order(path, self._pickled(), jobs)
                with suppress(BrokenPipeError), child.stdin:  # how it ended is heard below
                    pickle.dump(order, child.stdin)
                self._listen(child, answers, said)
            finally:
                _kill(child)

    def _listen(self, child: "subprocess.Popen[bytes]", answers: Connection, said: Any) -> None:
        trying = Answer("")
        while True:
            seconds = self._time_limit if trying.job else _START_SECONDS
            try:
                if not answers.poll(seconds):
                    self._hangs += 1
                    self._end(trying, f"it did not come back within {seconds:g} s", hung=True)
                    return
                answer: Answer = pickle.loads(answers.recv_bytes())  # noqa: S301 - our own child's
            except EOFError:
                self._end(trying, _how_it_ended(child.wait(), said))
                return
            if isinstance(answer.result, SgdmError):
                self._cannot_load(answer.result)
                return
            if isinstance(answer.result, Described):
                self.described = answer.result
            elif isinstance(answer.result, Identity):
                self.identity = answer.result
            elif isinstance(answer.result, Finding):
                self.findings[answer.job] = answer.result
            elif not answer.job:
                return
            else:
                if answer.job != trying.job:
                    self._progress(answer.job)
                trying = answer

    def _end(self, trying: Answer, how: str, *, hung: bool = False) -> None:
        """Note the job that ended its process."""
        if not trying.job:
            raise InvalidUseError(f"{self._name()} cannot be loaded: {how}; mend the module")
        if trying.job == IDENTIFY:
            self.identity = Identity(stranger=how)
            return
        case = self._cases[trying.job]
        slow = hung and case.note
        self.findings[case.name] = Finding.of(
            case, "refused" if slow else "failed", how, trying.script or ""
        )

    def _cannot_load(self, error: SgdmError) -> None:
        """Try again by value what was given as an object, and that only this process has."""
        not_found = isinstance(error, (MissingExtraError, InvalidUseError)) or error.name
        if self._by_value or isinstance(self._given, str) or not not_found:
            raise error
        self._by_value = True

    def _pickled(self) -> bytes:
        """Return the subject for another process: by its name, or by value where it has none."""
        if isinstance(self._given, str):
            return pickle.dumps((self._given, self._settings))
        module, name = name_of(self._given)
        if module and not self._by_value:
            return pickle.dumps((f"{module}:{name}", self._settings))
        cloudpickle: Any = load_extra("cloudpickle", extra="audit")
        if module:
            cloudpickle.register_pickle_by_value(sys.modules[module])
        try:
            return cloudpickle.dumps((self._given, self._settings))
        finally:
            if module:
                cloudpickle.unregister_pickle_by_value(sys.modules[module])

    def _name(self) -> str:
        return self._given if isinstance(self._given, str) else ":".join(name_of(self._given))


def _kill(child: "subprocess.Popen[bytes]") -> None:
    """End it and all that it has forked."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _how_it_ended(status: int, said: Any) -> str:
    if status < 0:
        return f"the process was ended by {signal.Signals(-status).name}"
    said.seek(0)
    lines = said.read().decode(errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "nothing was said")
    return f"the process ended with status {status}: {last}"
