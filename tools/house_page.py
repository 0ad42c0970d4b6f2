"""Write docs/house.md: every module from the top down, in the words of its own first line.

python tools/house_page.py

It ends with an error where a module imports one that stands above it, where modules import each
other in a circle, and where one is not in `FLOORS`. A test makes the page again and compares.
"""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "house.md"
SOURCE = ROOT / "src" / "sgdm"

HOUSE = """# The house

A module imports only what stands below it on this page. `tools/house_page.py` writes the page from the first line of each module, and fails where an arrow goes up, where modules import each other in a circle, or where one is missing here.

The one idea: every convention's step is a linear recurrence of seven coefficients in the parameter and one buffer. So a convention is data, one function makes the coefficients, engines run them and know nothing of conventions, and conversion, equivalence and stability are linear algebra on them.
"""


class Floor(NamedTuple):
    """What stands side by side in the house, from the top down.

    Attributes:
        units: Modules and packages of sgdm, each above those after it.
    """

    title: str
    text: str
    units: tuple[str, ...]


FLOORS = (
    Floor(
        "The doors",
        "The commands, the page, the public names. Nothing imports them.",
        ("__main__", "cli", "explorer", "__init__"),
    ),
    Floor(
        "The jobs",
        "Each a use of the optimizer or of the mathematics.",
        ("plots", "figures", "training", "bench", "convert", "audit"),
    ),
    Floor(
        "The optimizer",
        "From the user's parameter groups to a plan of tensors and coefficients, which an engine runs.",
        (
            "in_backward", "grouping", "selectors", "optimizer", "points", "probe", "functional", "running",
            "parts", "state", "group", "ranks", "shards", "engines",
        ),
    ),
    Floor(
        "The mathematics",
        "Without torch. From the table of conventions down nothing but the standard library: it runs on floats, fractions and symbols alike.",
        (
            "compare", "reasons", "identity", "porting", "stability", "system", "equations",
            "rule_name", "schedule", "surfaces", "frameworks", "recurrence", "hyperparameters",
            "convention",
        ),
    ),
    Floor("The ground", "", ("files", "extras", "errors", "version")),
)  # fmt: skip
NATIVE = """
## The engine in C++

`native/`, built into `sgdm.engines._native`. A header tells its file's story.
"""
ELSEWHERE = """
## Beside it

- `tests/`: `reference.py` and `transcriptions.py` have every published equation literally; one file a module; a battery that every rule passes on every engine; `conformance/`, what real frameworks did.
- `tools/`: what records them, and what writes the generated pages. `tools/peers` has a driver a framework.
- `benchmarks/`: what was measured. `fuzz/`: longer runs against broken files.
"""


class Module(NamedTuple):
    """A module of sgdm."""

    name: str
    path: Path

    @property
    def unit(self) -> str:
        """What of the top folder it belongs to."""
        return self.name.split(".")[1] if "." in self.name else "__init__"

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        told = ast.get_docstring(_tree(self.path))
        if not told:
            sys.exit(f"{self.path} has no docstring")
        return told.splitlines()[0]


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def modules() -> dict[str, Module]:
    """Return every module by its name."""
    found: dict[str, Module] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path)
    return found


def imports(module: Module, known: dict[str, Module]) -> Iterator[Module]:
    """Yield the modules that one imports, wherever in its text."""
    for node in ast.walk(_tree(module.path)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in names]
        yield from (known[name] for name in names if name in known and name != module.name)


def complaints(known: dict[str, Module]) -> list[str]:
    """Say what is not as the page says."""
    order = [unit for floor in FLOORS for unit in floor.units]
    said = [f"{unit} stands on no floor" for unit in {m.unit for m in known.values()} - {*order}]
    said += [f"there is no {unit}" for unit in {*order} - {m.unit for m in known.values()}]
    if said:
        return said
    arrows = [(m, other) for m in known.values() for other in imports(m, known)]
    said += [
        f"{one.name} imports {other.name}, which stands above it"
        for one, other in arrows
        if order.index(one.unit) > order.index(other.unit)
    ]
    try:
        circle = TopologicalSorter[str]()
        for one, other in arrows:
            circle.add(one.name, other.name)
        circle.prepare()
    except CycleError as error:
        said.append(f"a circle: {' -> '.join(error.args[1])}")
    return said


def house() -> str:
    """Return the page."""
    known = modules()
    if said := complaints(known):
        sys.exit("\n".join(sorted(said)))
    lines = [HOUSE.rstrip()]
    for floor in FLOORS:
        lines += ["", f"## {floor.title}"]
        lines += ["", floor.text, ""] if floor.text else [""]
        for unit in floor.units:
            lines += entries([m for m in known.values() if m.unit == unit])
    lines += [NATIVE.rstrip(), "", *map(_native, sorted((ROOT / "native").glob("*.h")))]
    lines += [_native(ROOT / "native" / "bindings.cpp"), ELSEWHERE.rstrip(), ""]
    return "\n".join(lines)


def entries(unit: list[Module]) -> Iterator[str]:
    """Yield a line for a module, or for a package and each of its modules."""
    for module in unit:
        path = module.path.relative_to(SOURCE)
        if path.name == "__init__.py" and path.parent.parts:
            path = path.parent
        depth = "  " * (len(path.parts) > 1)
        slash = "/" if module.path.name == "__init__.py" and module.unit != "__init__" else ""
        yield f"{depth}- `{path.as_posix()}{slash}`: {module.summary}"


def _native(path: Path) -> str:
    comment = re.match(r"(?://.*\n)+", path.read_text("utf-8"))
    if not comment:
        sys.exit(f"{path} does not begin with a comment")
    told = " ".join(comment[0].replace("//", "").split())
    return f"- `{path.name}`: {told.split('. ')[0].rstrip('.')}."


if __name__ == "__main__":
    PAGE.write_text(house(), "utf-8")
