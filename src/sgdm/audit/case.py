"""A case: one way in which optimizers are wrong, as a function that is also the script to show it.

The body of the function is what runs here and what a user is given to run, so the two cannot
differ.
"""

import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple

import torch

from sgdm.audit.subject import Refused, Subject

__all__ = ["Case", "Result", "run_case", "script"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One way in which an optimizer is wrong.

    Attributes:
        defect: What it is if the body fails, such as "elements are not updated".
        body: Called with `make`, which makes an optimizer of the subject's, and one setting by
            keyword. Its assertions are what must hold, and their texts what was seen. Anything
            else that it raises is a failure too.
        settings: The keyword arguments to try, the smallest first.
        needs: The arguments that the subject must take.
        torch_only: Whether it is about what only a `torch.optim.Optimizer` has, such as a state
            dict.
        may_refuse: Whether an exception of the subject's own is a refusal, not a failure.
        note: Whether it is worth knowing and no defect.
    """

    defect: str
    body: Callable[..., None]
    settings: tuple[Mapping[str, Any], ...] = ({},)
    needs: tuple[str, ...] = ()
    torch_only: bool = False
    may_refuse: bool = False
    note: bool = False

    @property
    def name(self) -> str:
        """The name of the body, as it is typed."""
        return self.body.__name__.replace("_", "-")


class Result(NamedTuple):
    """What came of a case.

    Attributes:
        outcome: "refused" if the subject does not take what the case is about.
        text: What was seen, or why nothing was.
        setting: Of the failure.
    """

    outcome: Literal["passed", "failed", "refused"]
    text: str = ""
    setting: Mapping[str, Any] = {}


def run_case(
    case: Case, subject: Subject, trying: Callable[[Mapping[str, Any]], None] = lambda _: None
) -> Result:
    """Try the settings in their order, until one fails.

    Args:
        case: What to try.
        subject: On what.
        trying: Told each setting before it is tried, after which nothing may come back.
    """
    missing = [name for name in case.needs if not subject.takes(name)]
    if missing:
        return Result("refused", f"it has no {' and no '.join(missing)}")
    if case.torch_only and not subject.makes_torch():
        return Result("refused", "it is no torch.optim.Optimizer")
    refused: list[str] = []
    for setting in case.settings:
        torch.manual_seed(0)
        trying(setting)
        try:
            case.body(subject.make, **setting)
        except Refused as error:
            refused.append(str(error))
        except AssertionError as error:
            return Result("failed", str(error), setting)
        except Exception as error:  # noqa: BLE001 - whatever a subject raises is a finding
            text = f"{type(error).__name__}: {error}"
            if not case.may_refuse:
                return Result("failed", text, setting)
            refused.append(text)
    if len(refused) == len(case.settings):
        return Result("refused", refused[0])
    return Result("passed")


def script(case: Case, subject: Subject, setting: Mapping[str, Any]) -> str:
    """Return a program that shows the failure: it raises what the case raised."""
    body = _source(case.body)
    lines = ["import torch", *subject.setup()]
    if "torch.rand" in body:
        lines.append("torch.manual_seed(0)")
    if setting:
        names, values = ", ".join(setting), ", ".join(map(repr, setting.values()))
        lines.append(f"{names} = {values}")
    return "\n".join([*lines, body])


@cache  # a script is made for every setting that is tried
def _source(body: Callable[..., None]) -> str:
    """Return the statements of a function, without its docstring."""
    source = textwrap.dedent(inspect.getsource(body))
    statements = textwrap.dedent(source[source.index(") -> None:\n") + len(") -> None:\n") :])
    if statements.startswith('"""'):
        statements = statements[statements.index('"""', 3) + 3 :].lstrip("\n")
    return statements
