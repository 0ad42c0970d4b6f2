"""The command line, one file a command. What it knows it asks the library; nothing imports it."""

import sys
import traceback
from io import TextIOWrapper
from typing import Annotated, NoReturn

import typer

from sgdm.cli.audit import audit
from sgdm.cli.bench import bench
from sgdm.cli.compare import compare
from sgdm.cli.conventions import conventions
from sgdm.cli.convert import convert
from sgdm.cli.explore import explore
from sgdm.cli.plot import plot
from sgdm.cli.train import train
from sgdm.errors import DivergedError, InterruptedRunError, SgdmError
from sgdm.version import __version__

__all__ = ["main"]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.command()(conventions)
app.command()(compare)
app.command()(convert)
app.command()(audit)
app.command()(train)
app.command()(bench)
app.command()(plot)
app.command()(explore)


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
    """Run the command line. A mistake is one line on stderr.

    Exit status: 0 done, 1 what was examined has defects, 2 a mistake of the user's, 3 a run that
    diverged, 130 one interrupted, 75 one that another of its processes left; 70, with a traceback,
    a fault of this program.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a locale without Greek letters gets "?"
    try:
        status = app(standalone_mode=False)
    except typer.TyperException as error:
        _fail(error.format_message(), error.exit_code)
    except SgdmError as error:
        _fail(str(error), _status_of(error))
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except Exception:  # noqa: BLE001 - 1, which Python would end with, is an audit's answer
        traceback.print_exc()
        sys.exit(70)
    else:
        sys.exit(status or 0)


def _status_of(error: SgdmError) -> int:
    if isinstance(error, DivergedError):
        return 3
    return 130 if isinstance(error, InterruptedRunError) else 2


def _fail(message: str, status: int) -> NoReturn:
    if message:  # asked for nothing, the help has been printed
        typer.echo("sgdm: " + " ".join(message.splitlines()), err=True)
    sys.exit(status)
