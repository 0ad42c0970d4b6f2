"""How Sphinx makes the pages: `make docs`. A public name that no page documents is a failure."""

from importlib import import_module
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.logging import getLogger

from sgdm.version import __version__

project = "sgdm"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "sgdm"
html_show_copyright = html_copy_source = False

highlight_language = "text"  # of indented blocks; the others say theirs
smartquotes_action = "D"  # dashes: "outside" is a value
myst_heading_anchors = 3

# Every reference must lead somewhere, but for what other packages document and what is internal.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|collections|contextlib|io|numbers|pathlib|re|typing|types)\..*"),
    ("py:.*", r"sgdm\.(.*\.)?_.*"),
    ("py:.*", r"sgdm\.audit\.(identify|subject|traits)\..*"),  # what its reports were made of
    ("py:.*", r"dict\[str"),  # a piece of the signature of a dataclass with "<factory>" in it
]

default_role = "code"  # a docstring's `name` is what Markdown takes it for
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Reference"]

# The modules whose `__all__` is public; the last four are what extensions are made of.
PUBLIC = (
    "sgdm",
    "sgdm.audit",
    "sgdm.errors",
    "sgdm.explorer",
    "sgdm.functional",
    "sgdm.plots",
    "sgdm.schedule",
    "sgdm.stability",
    "sgdm.audit.case",
    "sgdm.convert.checkpoint",
    "sgdm.engines.choose",
    "sgdm.engines.plan",
)


def check_public_names(_: Sphinx, env: BuildEnvironment) -> None:
    """Warn of each public name that no page documents: a warning is an error."""
    documented = env.domains.python_domain.objects
    for module in PUBLIC:
        names = import_module(module).__all__
        missing = [name for name in names if f"{module}.{name}" not in documented]
        if missing:
            getLogger(__name__).warning("%s: documented nowhere: %s", module, ", ".join(missing))


def keep_indented_blocks(*arguments: Any) -> None:
    """Make an indented block in a docstring code, as in Markdown; in reST it is a quotation."""
    lines: list[str] = arguments[-1]
    for i in range(len(lines) - 1, 1, -1):
        before, blank, line = lines[i - 2 : i + 1]
        if line.startswith("    ") and not blank and before and not before.startswith(" "):
            lines.insert(i, "")
            lines.insert(i, "::")


def setup(app: Sphinx) -> None:
    """Connect what is done besides."""
    app.connect("autodoc-process-docstring", keep_indented_blocks, priority=400)  # before napoleon
    app.connect("env-check-consistency", check_public_names)
