"""Write docs/conventions.md, the table, and docs/pairs.md, every pair of it.

python tools/convention_pages.py

A test makes the pages again and compares.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from sgdm import Convention, list_conventions
from sgdm.identity import Fingerprint, Side, fingerprint, verdict

DOCS = Path(__file__).parents[1] / "docs"
CODES = {
    "always": "=",
    "unless lr and momentum change at once": "ε or μ",
    "while lr is constant": "μ",
    "while momentum is constant": "ε",
    "while lr and momentum are constant": "-",
    "never": "",
}
PAIRS = """# Every pair of conventions

When do two conventions make the same trajectory, given the same hyperparameters, the second going on from the first one's state in its own units? Decided in exact arithmetic on their coefficients (`sgdm.identity`), for every pair of the rows that run; a test computes this page again. `sgdm compare A B` says of one pair why, what converts the state, and what would make them the same.

Rows in one class are the same always, whatever the schedules do (steps with μ = 0 or ε = 0 aside, where some stop or empty the buffer). Between classes:

| | the same while |
|---|---|
| μ | the momentum alone changes: the learning rate must be constant |
| ε | the learning rate alone changes: the momentum must be constant |
| ε or μ | either changes, but not both at once |
| - | neither changes |
| | never: other hyperparameters may do (`sgdm.port_hyperparameters`) |
"""


CONVENTIONS = """# The conventions

Every row is a point on the same axes; `sgdm conventions NAME` prints its equations. What an empty cell stands for is the common case: a buffer of zeros is where the first step starts, there is no Nesterov form, a step uses its own μ, and μ = 0 or ε = 0 are ordinary values.

Proof: `recorded` rows are equal to trajectories that the real framework made, to 1e-12 in float64 and 2e-6 of the trajectory's size in float32, the buffer included (`tests/conformance`, `tools/record_trajectories.py`). `transcribed` ones could not be run here: they are equal to the published update, written down literally from its source (`tests/transcriptions.py`). `none` ones do not run and were not compared with anything.
"""


class Question(NamedTuple):
    """What is asked of all rows."""

    title: str
    text: str
    nesterov: bool
    weight_decay: bool


QUESTIONS = (
    Question("Heavy ball", "Rows that do not look ahead, unless they are asked to.", False, False),
    Question("Nesterov's method", "Rows that look ahead, by option or always.", True, False),
    Question("Heavy ball with weight decay", "The same λ, in each row's own way.", False, True),
    Question(
        "Nesterov's method with weight decay", "The same λ, in each row's own way.", True, True
    ),
)


def pairs() -> str:
    """Return the page of pairs."""
    return "\n".join([PAIRS, *(line for question in QUESTIONS for line in section(question))])


def conventions() -> str:
    """Return the page of the table."""
    titles = ["name", "what", *AXES, "proof"]
    lines = [CONVENTIONS, f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    rows = list_conventions()
    for row in rows:
        axes = [tell(row) if row.runs else "" for tell in AXES.values()]
        proof = row.proof if row.runs else f"{row.proof}, not run"
        lines.append(f"| `{row.name}` | {row.title} | {' | '.join([*axes, proof])} |")
    lines += ["", "## Notes", ""]
    for row in rows:
        names = ", ".join(f"`{alias}`" for alias in row.aliases)
        told = [f"also {names}"] if names else []
        told += [row.versions] if row.versions else []
        told += [row.source, *row.quirks]
        told += [f"not run: {row.obstacle}"] if row.obstacle else []
        lines.append(f"- `{row.name}`: {'; '.join(told)}.")
    return "\n".join([*lines, ""])


def nesterov_of(row: Convention) -> str:
    """Say how a row looks ahead."""
    kind = {"momentum": "", "two steps": ", two steps", "nu": ", by ν"}[row.look_ahead]
    return {"never": "", "optional": "option", "always": "always"}[row.nesterov] + kind


AXES: dict[str, Callable[[Convention], str]] = {
    "ε": lambda row: row.lr,
    "buffer along": lambda row: row.sign,
    "gain": lambda row: {"one": "1", "1-dampening": "1 - τ", "1-momentum": "1 - μ"}[row.gain],
    "first step": lambda row: "copies" if row.first == "copy" else "",
    "Nesterov": nesterov_of,
    "μ": lambda row: "" if row.momentum == "current" else row.momentum,
    "μ = 0": lambda row: "freezes" if row.momentum_zero == "freeze" else "",
    "ε = 0": lambda row: {"run": "", "freeze": "freezes", "forget": "empties"}[row.lr_zero],
    "decay": lambda row: row.weight_decay,
}


def section(question: Question) -> list[str]:
    """Return the lines of one question: its classes, and the table of their pairs."""
    classes = classes_of(question)
    lines = [f"## {question.title}", "", question.text, ""]
    lines += [f"{i}. {', '.join(names)}" for i, (names, _) in enumerate(classes, 1)]
    numbers = [str(i) for i in range(1, len(classes) + 1)]
    lines += ["", f"| | {' | '.join(numbers)} |", "|---" * (len(classes) + 1) + "|"]
    for i, (_, one) in enumerate(classes, 1):
        cells = [CODES[verdict(one, other)] for _, other in classes]
        lines.append(f"| {i} | {' | '.join(cells)} |")
    return [*lines, ""]


def classes_of(question: Question) -> list[tuple[list[str], Fingerprint]]:
    """Return the rows that are the same always, class by class, in the table's order."""
    rows = [row for row in list_conventions() if row.runs and takes_part(row, question)]
    prints = {row.name: fingerprint(side(row, question)) for row in rows}
    classes: list[tuple[list[str], Fingerprint]] = []
    for name, own in prints.items():
        for names, known in classes:
            if verdict(known, own) == "always":
                names.append(name)
                break
        else:
            classes.append(([name], own))
    return classes


def takes_part(row: Convention, question: Question) -> bool:
    """Whether the row is asked."""
    return row.nesterov in (("optional", "always") if question.nesterov else ("optional", "never"))


def side(row: Convention, question: Question) -> Side:
    """Return the row with what is asked."""
    return Side(
        convention=row,
        nesterov=question.nesterov and row.nesterov == "optional",
        weight_decay=question.weight_decay,
    )


if __name__ == "__main__":
    (DOCS / "conventions.md").write_text(conventions(), "utf-8")
    (DOCS / "pairs.md").write_text(pairs(), "utf-8")
