"""Replacing a folder whole: what was there stays until what replaces it is beside it.

A rename cannot replace a folder that holds something, so it takes two. A kill between them leaves
the old one under another name, which `recover` undoes.
"""

import os
import shutil
from pathlib import Path

__all__ = ["beside", "put_in_place", "recover", "stage"]


def beside(place: Path) -> tuple[Path, Path]:
    """Return where the new folder is written, and where the old one waits for it."""
    place = _behind_links(place)
    return place.parent / f".{place.name}.new", place.parent / f".{place.name}.old"


def stage(place: Path) -> Path:
    """Make the empty folder that is to be written, and then put in place."""
    recover(place)
    staged, _ = beside(place)
    staged.mkdir(parents=True)
    return staged


def put_in_place(place: Path) -> None:
    """Let what was staged take its place."""
    staged, replaced = beside(place)
    place = _behind_links(place)
    if place.exists():
        place.rename(replaced)
    staged.rename(place)
    recover(place)


def recover(place: Path) -> None:
    """Undo a replacement that was cut off, or finish it."""
    staged, replaced = beside(place)
    place = _behind_links(place)
    if replaced.exists():
        if place.exists():
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            replaced.rename(place)
    shutil.rmtree(staged, ignore_errors=True)


def _behind_links(place: Path) -> Path:
    """Return the folder that is meant: a rename would replace the link."""
    return Path(os.path.realpath(place))
