"""Write docs/conventions.md, the table; docs/conventions/, each row of it; docs/pairs.md, every pair.

python tools/convention_pages.py

A test makes the pages again and compares.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sgdm import Convention, get_convention, list_conventions
from sgdm.convention import DESCRIPTION
from sgdm.equations import step_equations
from sgdm.frameworks import classic, current, papers, pytorch, seed, tensorflow_jax
from sgdm.identity import Fingerprint, Side, fingerprint, verdict

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
RECORDS = ROOT / "tests" / "conformance"
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

This page is normative: it says what the rows and axes of the table mean, and code that does something else is wrong.

## The step

Every rule that runs is one recurrence, in the parameter p and one buffer b of its shape; g is the gradient:

    d = g + coupled_decay·p
    b = retain·b + gain·d
    u = buffer_weight·b + gradient_weight·d
    p = keep·p + step·u

A row and the hyperparameters of a step give the seven coefficients (`sgdm.coefficients`), and one word that says whether b is read and written: not there, frozen, made by this step as gain·d, or running. Engines run the coefficients and know nothing of rows. [Numerics](numerics.md) has the roundings.

ε is the learning rate, μ the momentum, τ the dampening, λ the weight decay, ν the buffer's share of the move; θ is the iterate and Θ its look-ahead point; ε_0 is the learning rate given to the constructor. Rows hold rules and never defaults: every hyperparameter is the caller's.

## The axes

"""

TABLE = """
## The table

Every row is a point on these axes; its name leads to its equations, which `sgdm conventions NAME` prints too. What an empty cell stands for is the common case: a buffer of zeros is where the first step starts, there is no Nesterov form, a step uses its own μ, and μ = 0 or ε = 0 are ordinary values.

Proof: `recorded` rows are equal to trajectories that the real framework made, to 1e-12 in float64 and 2e-6 of the trajectory's size in float32, the buffer included ([how near they are](numerics.md#the-real-frameworks)). `transcribed` ones could not be run here: they are equal to the published update, written down literally from its source (`tests/transcriptions.py`). `none` ones do not run and were not compared with anything.
"""


class Family(NamedTuple):
    """The rows of one page."""

    page: str
    title: str
    text: str
    rows: tuple[Convention, ...]


FAMILIES = (
    Family(
        "seed",
        "The seed's equations",
        "The rules of [the text](../seed.md) that the library grew from, in its order.",
        seed.ROWS,
    ),
    Family(
        "papers",
        "Published methods",
        "What is no framework's. m, e, a, b, c, g and k are hyperparameters by the letters of their papers.",
        papers.ROWS,
    ),
    Family(
        "pytorch",
        "PyTorch and its relatives",
        "What runs on tensors of PyTorch, and its forefathers.",
        pytorch.ROWS,
    ),
    Family(
        "tensorflow-jax", "TensorFlow, Keras, JAX", "And what stands on them.", tensorflow_jax.ROWS
    ),
    Family(
        "current",
        "Other frameworks in use",
        "Frameworks and libraries that are developed.",
        current.ROWS,
    ),
    Family(
        "classic",
        "Frameworks of before",
        "Where recipes and checkpoints come from that are still about.",
        classic.ROWS,
    ),
)
PAGE_OF = {row.name: family.page for family in FAMILIES for row in family.rows}
PROOF = {
    "transcribed": "equal to the published update, written down literally",
    "none": "none; it is not run",
}


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
    """Return the page of the axes and of the table."""
    lines = [CONVENTIONS + "| field | values |", "|---|---|"]
    lines += [f"| `{name}` | {text} |" for name, text in axes_in_words() if name not in DESCRIPTION]
    titles = ["name", "what", *AXES, "proof"]
    lines += [TABLE, f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in list_conventions():
        axes = [tell(row) if row.runs else "" for tell in AXES.values()]
        proof = row.proof if row.runs else f"{row.proof}, not run"
        link = f"[`{row.name}`](conventions/{PAGE_OF[row.name]}.md#{anchor(row.name)})"
        lines.append(f"| {link} | {row.title} | {' | '.join([*axes, proof])} |")
    return "\n".join([*lines, ""])


def axes_in_words() -> Iterator[tuple[str, str]]:
    """Yield each field of a convention, as its docstring explains it."""
    assert Convention.__doc__
    block = Convention.__doc__.split("Attributes:\n")[1].split("\n\n")[0]
    for found in re.finditer(r"^ {8}(\w+): (.*(?:\n {12}.*)*)", block, re.MULTILINE):
        yield found[1], " ".join(found[2].split())


def anchor(heading: str) -> str:
    """Return what code hosts and Sphinx call a heading."""
    return heading.replace(".", "")


def family(page: str) -> str:
    """Return the page of a family."""
    (found,) = (family for family in FAMILIES if family.page == page)
    told = "How they are to be read is in [the conventions](../conventions.md)."
    lines = [f"# {found.title}", "", f"{found.text} {told}"]
    return "\n".join([*lines, *(line for row in found.rows for line in entry(row)), ""])


def entry(row: Convention) -> Iterator[str]:
    """Yield the lines of one row."""
    yield from ("", f"## `{row.name}`", "")
    also = f"; also {', '.join(f'`{alias}`' for alias in row.aliases)}" if row.aliases else ""
    yield row.title + also
    if row.equations:
        yield from ("", "As published:", "", *(f"    {line}" for line in row.equations))
    yield from running(row) if row.runs else ("", f"Not run: {row.obstacle}")
    yield ""
    yield from (f"- {quirk}" for quirk in row.quirks)
    if row.versions:
        yield f"- Versions: {row.versions}"
    yield f"- Source: {row.source}"
    yield f"- Proof: {PROOF.get(row.proof) or recorded_with(row)}"


def running(row: Convention) -> Iterator[str]:
    """Yield the steps of a row that runs, and where it stands beside torch's."""
    for nesterov in (False, True):
        if (row.nesterov, nesterov) not in (("never", True), ("always", False)):
            optional = row.nesterov == "optional" and nesterov
            yield from ("", "As it runs, with `nesterov=True`:" if optional else "As it runs:", "")
            yield from (f"    {line}" for line in step_equations(row, nesterov=nesterov))
    first = step_equations(row, first=True)[-2]
    yield from ("", f"The first step of a parameter: `{first}`.")
    torch = get_convention("torch")
    apart = [
        f"`{field.name}={getattr(row, field.name)!r}`"
        for field in fields(row)
        if field.name not in DESCRIPTION and getattr(row, field.name) != getattr(torch, field.name)
    ]
    if row != torch:
        same = "It stands where `torch` does on every axis."
        yield from ("", f"Unlike `torch`: {', '.join(apart)}." if apart else same)


def recorded_with(row: Convention) -> str:
    """Say which versions of what made the trajectories."""
    with np.load(RECORDS / f"{row.name}.npz", allow_pickle=False) as file:
        versions = json.loads(str(file["about"]))["versions"]
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"equal to recorded trajectories ({told})"


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
    for each in FAMILIES:
        (DOCS / "conventions" / f"{each.page}.md").write_text(family(each.page), "utf-8")
    (DOCS / "pairs.md").write_text(pairs(), "utf-8")
