"""What importing may load, and how long it may take: the mathematics is there without torch."""

import pkgutil
import subprocess
import sys
from statistics import median

import pytest
from typer.main import get_group

import sgdm
from sgdm.cli import app

PURE = ("sgdm.convention", "sgdm.frameworks", "sgdm.hyperparameters", "sgdm.recurrence")
EXACT = (
    "sgdm.identity",
    "sgdm.porting",
    "sgdm.rule_name",
    "sgdm.stability",
    "sgdm.surfaces",
    "sgdm.system",
)
HEAVY = ("torch", "numpy", "sympy", "typer", "rich")


def told_by(program: str) -> list[str]:
    """The words that a fresh interpreter writes to stderr: a command line has stdout."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.split()


def loaded_by(program: str) -> set[str]:
    """The heavy modules that a fresh interpreter has loaded after the program."""
    return set(
        told_by(
            f"{program}\n"
            f"import sys\nprint(*[m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
        )
    )


def added_by(program: str, *, after: str) -> set[str]:
    """What a program loads that is not loaded yet, and not of the standard library."""
    return set(
        told_by(
            f"{after}\n"
            "import sys\nbefore = {*sys.modules}\n"
            f"{program}\n"
            "added = {*sys.modules} - before\n"
            "added = [m for m in added if m.split('.')[0] not in sys.stdlib_module_names]\n"
            "print(*added, file=sys.stderr)"
        )
    )


def test_importing_the_package_loads_it_and_its_version():
    assert added_by("import sgdm", after="") == {"sgdm", "sgdm.version"}


def test_the_optimizer_loads_nothing_that_torch_has_not():
    added = added_by("import sgdm; sgdm.SGD", after="import torch")
    assert "sgdm.optimizer" in added
    assert {name.split(".")[0] for name in added} == {"sgdm"}


def test_importing_costs_little_beside_torch():
    """Time of the processor, of both in one process: what else the machine does, it does to both.

    Measured: 0.2 % for the package, 3 % for the optimizer.
    """
    program = (
        "import sys\nfrom time import process_time as now\n"
        "times = [now()]\nimport sgdm\n"
        "times += [now()]\nimport torch\n"
        "times += [now()]\nsgdm.SGD\n"
        "times += [now()]\nprint(*times, file=sys.stderr)"
    )
    package, optimizer = [], []
    for _ in range(3):
        start, ours, torch, end = map(float, told_by(program))
        package.append((ours - start) / (torch - ours))
        optimizer.append((end - torch) / (torch - ours))
    assert median(package) < 0.02
    assert median(optimizer) < 0.2


def test_every_module_can_be_imported():
    names = [module.name for module in pkgutil.walk_packages(sgdm.__path__, "sgdm.")]
    names.remove("sgdm.__main__")
    assert len(names) > 150
    assert {*names} <= added_by("\n".join(f"import {name}" for name in names), after="")


@pytest.mark.parametrize("module", [*PURE, *EXACT, "sgdm.errors", "sgdm.schedule"])
def test_the_mathematics_needs_the_standard_library_alone(module):
    assert loaded_by(f"import {module}") == set()


def test_the_table_and_the_coefficients_need_no_torch():
    program = (
        "import sgdm\n"
        "h = sgdm.Hyperparameters(lr=0.1, momentum=0.9)\n"
        "sgdm.coefficients(sgdm.get_convention('nag'), h, first=False)"
    )
    assert loaded_by(program) == set()


def test_the_check_can_fail():
    assert "torch" in loaded_by("import sgdm; sgdm.SGD")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        *([command, "--help"] for command in get_group(app).commands),
        ["conventions"],
        ["conventions", "nag"],
        ["compare", "nag", "mlx"],
    ],
    ids=" ".join,
)
def test_the_command_line_answers_without_torch(arguments):
    program = (
        f"import sys; sys.argv = ['sgdm', *{arguments!r}]\n"
        "from sgdm.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code"
    )
    loaded = loaded_by(program)
    assert not loaded & {"torch", "numpy"}
    assert "sympy" not in loaded or not arguments[-1].startswith("--")


def test_every_public_name_is_there():
    for name in sgdm.__all__:
        assert getattr(sgdm, name) is not None
    assert set(dir(sgdm)) == set(sgdm.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'sgdm' has no attribute 'Adam'"):
        getattr(sgdm, "Adam")  # noqa: B009 - for the type checker there is no such name
