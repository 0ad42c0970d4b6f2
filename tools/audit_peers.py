"""Examine the optimizers that people use, and write what came of it into docs/audit.md.

    python tools/audit_peers.py                 # all
    python tools/audit_peers.py "optax sgd"     # these, by title; the others as they were

tools/peers/audit/subjects.json says which, with what settings and why; its install.sh builds the
environment they run in, where it is not yet built; results.json beside it holds the reports.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "tools" / "peers" / "audit"
RESULTS = PEERS / "results.json"
PAGE = ROOT / "docs" / "audit.md"
BEGIN, END = "<!-- the table of peers -->", "<!-- the end of the table -->"


def examined(subject: dict[str, Any], python: Path) -> dict[str, Any]:
    """Return the report on a subject, or why there is none."""
    given = [f"--set={name}={_written(value)}" for name, value in subject["settings"].items()]
    paths = f"{ROOT / 'src'}{os.pathsep}{PEERS}"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [python, "-m", "sgdm", "audit", subject["path"], *given, "--json", report]
        command += ["--time-limit", str(subject.get("time_limit", 60))]
        done = subprocess.run(
            [sys.executable if subject.get("own") else python, *command[1:]],
            env={**os.environ, "PYTHONPATH": paths, **subject.get("env", {})},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in (0, 1) or not report.exists():
            return {"error": (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]}
        found = json.loads(report.read_text())
    found["findings"] = [each for each in found["findings"] if each["outcome"] == "failed"]
    return found


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def table(subjects: list[dict[str, Any]], results: dict[str, Any]) -> list[str]:
    """Return the table, and below it what was seen."""
    lines = ["| optimizer | version | rule | defects |", "|---|---|---|---|"]
    details: list[str] = []
    for subject in subjects:
        title, found = subject["title"], results[subject["title"]]
        if "error" in found:
            lines.append(f"| {title} | | | not examined: {found['error']} |")
            continue
        defects = [each for each in found["findings"] if not each["note"]]
        version = found["version"].partition("+")[0]
        rule = _rule(found["identity"])
        lines.append(f"| {title} | {version} | {rule} | {len(defects) or '-'} |")
        if defects:
            details += ["", f"**{title}** ({found['subject']})", ""]
            details += [f"- {defect['defect']}: {_cell(defect['text'])}" for defect in defects]
    return [*lines, *details]


def _rule(identity: dict[str, Any]) -> str:
    if identity["stranger"]:
        return f"not of the family: {identity['stranger']}"
    if identity["rules"]:
        more = len(identity["rules"]) - 1
        return f"`{identity['rules'][0]}`" + (f" and {more} more" if more else "")
    faces = {"without": identity["without_nesterov"], "with": identity["with_nesterov"]}
    told = [f"{word} nesterov `{rules[0]}`" for word, rules in faces.items() if rules]
    differs = [name for name in identity["differs_in"] if not name.endswith("with nesterov")]
    near = f"nearest `{identity['nearest']}`, but for {', '.join(differs)}"
    return "none of the table; " + "; ".join(told or [near])


def _version(subject: dict[str, Any], python: Path) -> str:
    name = subject["distribution"]
    program = f"from importlib.metadata import version; print(version({name!r}))"
    done = subprocess.run(
        [sys.executable if subject.get("own") else python, "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def _cell(text: str) -> str:
    return text.splitlines()[0].replace("|", "\\|")[:300]


def main() -> None:
    """Examine what is asked for, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("titles", nargs="*")
    parser.add_argument("--prefix", type=Path, default=ROOT / "build" / "peers" / "audit")
    arguments = parser.parse_args()
    subjects: list[dict[str, Any]] = json.loads((PEERS / "subjects.json").read_text())
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    python = arguments.prefix / "bin" / "python"
    if not python.exists():
        subprocess.run(["bash", PEERS / "install.sh", arguments.prefix], check=True)
    titles = arguments.titles or [subject["title"] for subject in subjects]
    for subject in subjects:
        if subject["title"] in titles:
            found = examined(subject, python)
            found["date"] = datetime.now(UTC).date().isoformat()
            found["version"] = _version(subject, python)
            results[subject["title"]] = found
            told = found.get("error") or _rule(found["identity"])
            print(f"{subject['title']}: {told}", flush=True)
    results = {subject["title"]: results[subject["title"]] for subject in subjects}
    RESULTS.write_text(json.dumps(results, ensure_ascii=False, indent=1) + "\n")
    page = PAGE.read_text()
    head, rest = page.split(BEGIN)
    dates = sorted({found["date"] for found in results.values()})
    said = f"Examined {dates[0]}" + (f" to {dates[-1]}" if len(dates) > 1 else "")
    body = [BEGIN, "", f"{said}, on one CPU.", "", *table(subjects, results), "", END]
    PAGE.write_text(head + "\n".join(body) + rest.split(END)[1])


if __name__ == "__main__":
    main()
