"""The command line, one file a command. What it knows it asks the library; nothing imports it."""

import sys
from typing import Annotated

import typer

from sgdm.cli.conventions import conventions
from sgdm.errors import SgdmError
from sgdm.version import __version__

__all__ = ["main"]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(conventions)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"sgdm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """SGD with momentum, complete."""


def main() -> None:
    """Run the command line; a mistake of the user's is one line on stderr and exit status 2."""
    try:
        app()
    except SgdmError as error:
        typer.echo(f"sgdm: {error}", err=True)
        sys.exit(2)
