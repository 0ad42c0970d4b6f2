"""Point links to source lines at the line that holds their text: run it after code has moved.

A link such as [`def coefficients`](../src/sgdm/recurrence.py#L66) promises that line 66 holds that
text. `tests/test_docs.py` checks the promise; this mends it.
"""

import re
import sys
from pathlib import Path

LINK = re.compile(r"\[`(?P<text>[^`]+)`\]\((?P<path>[^)#]+)#L\d+\)")


def mended(page: Path) -> str:
    """Return the page with every line number set to the first line that holds the link's text."""

    def at_its_line(link: re.Match[str]) -> str:
        lines = (page.parent / link["path"]).read_text("utf-8").splitlines()
        numbers = [i for i, line in enumerate(lines, 1) if link["text"] in line]
        if not numbers:
            sys.exit(f"{page}: {link['path']} has no line with {link['text']!r}")
        return f"[`{link['text']}`]({link['path']}#L{numbers[0]})"

    return LINK.sub(at_its_line, page.read_text("utf-8"))


if __name__ == "__main__":
    root = Path(__file__).parent.parent
    for page in [root / "README.md", *root.glob("docs/*.md")]:
        page.write_text(mended(page), "utf-8")
