"""`sgdm explore`: conventions side by side in a page of the browser."""

import webbrowser
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated

import typer

__all__ = ["explore"]


def explore(
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the page there, and open nothing.",
            show_default="a temporary file, opened in the browser",
        ),
    ] = None,
) -> None:
    """Compare conventions in one page, with sliders; it works offline."""
    from sgdm.explorer import write_page

    path = Path(mkdtemp(prefix="sgdm-")) / "explorer.html" if out is None else out
    write_page(path)
    typer.echo(str(path))
    if out is None and not webbrowser.open(path.as_uri()):
        typer.echo("no browser was found; open the file in one", err=True)
