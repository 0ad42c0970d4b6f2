"""The page put together: template, style, script, words, and the formulas that Python generates."""

import json
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from sgdm.explorer.javascript import arrow, body, symbols
from sgdm.explorer.rules import NU, behaviour, rule_table, state_map
from sgdm.files import write_atomically
from sgdm.frameworks import list_conventions
from sgdm.plots.style import COLOURS
from sgdm.surfaces import Surface, list_surfaces
from sgdm.version import __version__

__all__ = ["make_page", "write_page"]

# One script in the page, in this order.
_SCRIPTS = (
    "words.js",
    "settings.js",
    "simulate.js",
    "axes.js",
    "map.js",
    "timeline.js",
    "drop.js",
    "cards.js",
    "controls.js",
    "main.js",
)
_ON_LIGHT = (0, 1, 2)  # places in COLOURS: blue, vermilion, green
_ON_DARK = (5, 4, 2)  # sky blue, orange, green


def write_page(path: Path) -> None:
    """Write the page.

    Args:
        path: The file to make or to replace.

    Raises:
        FileError: If it cannot be written.
    """
    page = make_page()
    write_atomically(path, lambda file: file.write(page.encode()))


def make_page() -> str:
    """Return the page as HTML. It needs no other file and asks for none."""
    style = _colours() + _template("page.css")
    script = _data() + "".join(_template(name) for name in _SCRIPTS)
    page = _template("page.html")
    for mark, text in {
        "{{policy}}": _policy(style, script),
        "{{style}}": style,
        "{{script}}": script,
    }.items():
        page = page.replace(mark, text)
    return page


def _template(name: str) -> str:
    return files("sgdm.explorer").joinpath("template", name).read_text("utf-8")


def _policy(style: str, script: str) -> str:
    """Return what the page may do: run this very script, and load nothing."""
    return (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode()


def _colours() -> str:
    """Return the colours of the conventions as CSS, for a light and a dark page."""
    light, dark = (
        "".join(f"--run-{i}: {COLOURS[place]};" for i, place in enumerate(places))
        for places in (_ON_LIGHT, _ON_DARK)
    )
    return f":root{{{light}}}\n@media (prefers-color-scheme: dark){{:root{{{dark}}}}}\n"


def _data() -> str:
    """Return the constants that the scripts read, as JavaScript."""
    table = rule_table(list_conventions())
    return "".join(
        f"const {name} = {text};\n"
        for name, text in {
            "VERSION": _json(__version__),
            "WORDS": _json(json.loads(_template("words.json"))),
            "CONVENTIONS": _json(table.rows),
            "EQUATIONS": _json(table.equations),
            "STEPS": _array(table.steps),
            "stateMap": state_map(),
            "behaviourOf": behaviour(),
            "NU": _json(NU),
            "SURFACES": _array([_surface(surface) for surface in list_surfaces()]),
        }.items()
    )


def _surface(surface: Surface) -> str:
    """Return a surface as a JavaScript object."""
    arguments = symbols("x", "y", *(p.name for p in surface.parameters))
    facts: dict[str, Any] = {
        "name": surface.name,
        "start": surface.start,
        "minimum": surface.minimum,
        "bounds": surface.bounds,
        "lr": surface.lr,
        "parameters": [p._asdict() for p in surface.parameters],
    }
    formulas = {
        "value": arrow(arguments, body(surface.value(*arguments))),
        "gradient": arrow(arguments, body(*surface.gradient(*arguments))),
    }
    members = [f"{name}: {_json(fact)}" for name, fact in facts.items()]
    members += [f"{name}: {text}" for name, text in formulas.items()]
    return f"{{ {', '.join(members)} }}"


def _array(texts: list[str]) -> str:
    return "[\n" + "".join(f"{text},\n" for text in texts) + "]"


def _json(value: object) -> str:
    """Return a value as JavaScript that no HTML parser takes for a tag."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
