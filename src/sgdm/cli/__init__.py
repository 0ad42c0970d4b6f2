"""The command line, one file a command. What it knows it asks the library; nothing imports it."""

import os
import sys
import traceback
from io import TextIOWrapper
from typing import Annotated, Any

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
    diverged, 130 one interrupted, 141 nobody reads its output any more, 75 a run that another of
    its processes left; 70, with a traceback, a fault of this program.
    """
    streams: list[TextIOWrapper[Any]] = [
        stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, TextIOWrapper)
    ]
    for stream in streams:
        stream.reconfigure(errors="replace")  # a locale without Greek letters gets "?"
    try:
        status = _run()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in streams:
            os.dup2(nowhere, stream.fileno())  # what is left is written when Python ends
        status = 141  # as if SIGPIPE, which Python ignores, had ended it
    sys.exit(status)


def _run() -> int:
    try:
        return app(standalone_mode=False) or 0
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer and rich end with 1
            raise end.__context__ from None
        raise
    except typer.TyperException as error:
        return _say(error.format_message(), error.exit_code)
    except SgdmError as error:
        return _say(str(error), _status_of(error))
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted", 130)
    except Exception:  # noqa: BLE001 - 1, which Python would end with, is an audit's answer
        traceback.print_exc()
        return 70


def _status_of(error: SgdmError) -> int:
    if isinstance(error, DivergedError):
        return 3
    return 130 if isinstance(error, InterruptedRunError) else 2


def _say(message: str, status: int) -> int:
    if message:  # asked for nothing, the help has been printed
        typer.echo("sgdm: " + " ".join(message.splitlines()), err=True)
    return status
