"""What importing may load: the mathematics is there without torch."""

import subprocess
import sys

import pytest

import sgdm

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


def loaded_by(program: str) -> set[str]:
    """The heavy modules that a fresh interpreter has loaded after the program."""
    code = (
        f"{program}\nimport sys\nprint(*[m for m in {HEAVY} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("import sgdm") == set()


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
    "arguments", [["--help"], ["conventions"], ["conventions", "nag"], ["compare", "nag", "mlx"]]
)
def test_the_command_line_answers_without_torch(arguments):
    program = (
        f"import sys; sys.argv = ['sgdm', *{arguments!r}]\n"
        "from sgdm.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code"
    )
    assert "torch" not in loaded_by(program)


def test_every_public_name_is_there():
    for name in sgdm.__all__:
        assert getattr(sgdm, name) is not None
    assert set(dir(sgdm)) == set(sgdm.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'sgdm' has no attribute 'Adam'"):
        getattr(sgdm, "Adam")  # noqa: B009 - for the type checker there is no such name
