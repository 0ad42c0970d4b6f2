"""The examination as a whole: reports, processes that end, the check for an author's own tests."""

import importlib
import json
import subprocess
import sys
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import torch

import sgdm
import unruly
from clean_sgd import CleanSGD
from sgdm.audit import Finding, Identity, Report, check, examine
from sgdm.audit.cases import CASES
from sgdm.audit.examine import examine_with
from sgdm.errors import InvalidTypeError, InvalidUseError, InvalidValueError, MissingExtraError

MOMENTUM: dict[str, Any] = {"lr": 0.1, "momentum": 0.9}


@pytest.fixture(scope="module")
def fused() -> Report:
    return examine(torch.optim.SGD, **MOMENTUM, fused=True)


def failed(report: Report) -> dict[str, str]:
    return {finding.name: finding.text for finding in report.defects}


def test_what_is_wrong_with_the_fused_step_of_torch(fused):
    assert fused.subject == "torch.optim.sgd:SGD(lr=0.1, momentum=0.9, fused=True)"
    assert fused.versions["torch"].startswith(torch.__version__.partition("+")[0])
    assert fused.versions["sgdm"] == sgdm.__version__
    assert fused.identity.rules == ("torch", "torch7", "apex", "mindspore-sgd")
    assert fused.identity.residual < 1e-14
    assert failed(fused)["gradient-strides-are-heeded"] == (
        "a transposed gradient of the same values makes another step"
    )
    assert "overflow-changes-nothing" in failed(fused)


def test_the_same_twice(fused):
    assert examine(torch.optim.SGD, **MOMENTUM, fused=True) == fused


def test_every_finding_has_a_script_that_shows_it(fused, tmp_path):
    found = (*fused.defects, *fused.notes)
    paths = [tmp_path / f"{finding.name}.py" for finding in found]
    for path, finding in zip(paths, found, strict=True):
        path.write_text(finding.script)
        assert len(finding.script.splitlines()) <= 15
    every = (
        "import runpy, sys\n"
        "for path in sys.argv[1:]:\n"
        "    try: runpy.run_path(path, run_name='__main__')\n"
        "    except AssertionError as error: print(error)\n"
        "    except Exception as error: print(f'{type(error).__name__}: {error}')"
    )
    done = subprocess.run(
        [sys.executable, "-c", every, *paths], stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout.splitlines() == [finding.text for finding in found]


def test_json(fused):
    read = json.loads(fused.json())
    assert read["identity"]["rules"][0] == "torch"
    assert [finding["name"] for finding in read["findings"]] == [case.name for case in CASES]


def test_junit(fused):
    suite = ET.fromstring(fused.junit())  # noqa: S314 - our own
    assert int(suite.get("tests", "")) == len(CASES) == len(suite)
    assert int(suite.get("failures", "")) == len(fused.defects) == len(suite.findall("*/failure"))
    assert int(suite.get("skipped", "")) == len(suite.findall("*/skipped"))
    assert (suite.findtext("*/failure") or "").startswith("import torch")


def test_markdown(fused):
    text = fused.markdown()
    assert text.startswith("## torch.optim.sgd:SGD(lr=0.1, momentum=0.9, fused=True)\n")
    assert "The rule of torch, torch7, apex and mindspore-sgd" in text
    assert "### gradient-strides-are-heeded (defect): the gradient's strides are ignored" in text


def test_a_summary_counts():
    def finding(outcome, *, note=False):
        return Finding(name="a", defect="", note=note, outcome=outcome, text="", script="")

    def summary(*findings):
        report = Report(subject="", versions={}, identity=Identity(), findings=findings)
        return report.summary()

    assert summary(finding("passed")) == "no defects, no notes, 1 case passed"
    found = (finding("failed"), finding("failed", note=True), finding("refused"))
    assert summary(*found) == "1 defect, 1 note, no cases passed, 1 does not apply"
    assert summary(*found, *found) == "2 defects, 2 notes, no cases passed, 2 do not apply"


@pytest.mark.parametrize("engine", ["eager", "native"])
def test_this_package_passes_on_every_engine(engine):
    check(sgdm.SGD, rule="torch", **MOMENTUM, engine=engine)


def test_a_clean_one_is_not_accused():
    check(CleanSGD, rule="torch", **MOMENTUM)


def test_a_factory_that_nothing_can_import_is_examined():
    def factory(params, lr=0.1):
        return CleanSGD(params, lr)

    report = examine_with(factory, {}, only=["scalars-move"])
    assert not report.defects
    assert report.subject == factory.__qualname__
    assert "python" in report.versions


ENDS = {
    "Crashing": "the process was ended by SIGABRT",
    "Leaving": "the process ended with status 3: no memory",
    "Hanging": "it did not come back within 6 s",
}


@pytest.mark.parametrize(
    ("name", "text"),
    [pytest.param(*end, marks=[pytest.mark.long] * (end[0] != "Crashing")) for end in ENDS.items()],
)
def test_a_subject_that_ends_or_hangs_is_a_finding_and_the_rest_is_examined(name, text):
    cases = ["every-element-moves", "scalars-move", "closure-is-called-once"]
    report = examine_with(getattr(unruly, name), MOMENTUM, only=cases, time_limit=6)
    assert failed(report) == {"every-element-moves": text}
    script = next(f.script for f in report.defects if f.name == "every-element-moves")
    assert "torch.float16" in script
    assert report.identity.rules[0] == "torch"
    assert report.count("passed") == 3


def test_one_that_always_hangs_is_told_soon():
    report = examine(unruly.AlwaysHanging, **MOMENTUM, time_limit=0.5)
    assert report.identity.lines() == ["Not SGD with momentum: it did not come back within 0.5 s."]
    assert failed(report) == {"it-steps": "it did not come back within 0.5 s"}
    assert {f.text for f in report.findings if f.outcome == "refused"} == {
        "not run: it cannot step"
    }


def test_one_that_cannot_step_is_asked_nothing_else():
    report = examine(unruly.Unable, **MOMENTUM)
    assert failed(report) == {"it-steps": "TypeError: not today"}
    assert report.identity.lines() == [
        "Not SGD with momentum: it does not step: TypeError: not today."
    ]
    assert report.summary() == f"1 defect, no notes, no cases passed, {len(CASES) - 1} do not apply"


def test_a_momentum_of_another_name_is_measured():
    def factory(params, lr=0.1, beta=0.7):
        return CleanSGD(params, lr, beta)

    assert "torch" in examine_with(factory, {}, only=["scalars-move"]).identity.rules


def test_what_a_subject_prints_does_not_disturb():
    assert not examine_with(unruly.Noisy, MOMENTUM, only=["scalars-move"]).defects


MISUSE = [
    (
        lambda: examine(torch.optim.SGD, lr=-1.0),
        InvalidValueError,
        "torch.optim.sgd:SGD(lr=-1.0) cannot be made: ValueError: Invalid learning rate: -1.0; "
        "mend the settings",
    ),
    (
        lambda: examine("torch.optim.SGD"),
        InvalidValueError,
        "subject must be module:name, such as torch.optim:SGD, got 'torch.optim.SGD'; write it so",
    ),
    (
        lambda: examine("torch.optim:SDG"),
        InvalidValueError,
        "subject must be in module torch.optim, got 'torch.optim:SDG'; mend the name",
    ),
    (
        lambda: examine("no_such_thing:SGD"),
        MissingExtraError,
        "no_such_thing:SGD: No module named 'no_such_thing'; install it",
    ),
    (
        lambda: examine("math:pi"),
        InvalidTypeError,
        "subject must be a class or function, got 3.141592653589793; name a factory",
    ),
    (
        lambda: examine(CleanSGD, time_limit=0),
        InvalidValueError,
        "time_limit must be > 0, got 0; give seconds",
    ),
    (
        lambda: check(CleanSGD, allow=["no-such-case"]),
        InvalidValueError,
        "allow must be names of cases, got ['no-such-case']; mend them",
    ),
    (
        lambda: check(CleanSGD, rule="no-such-rule"),
        InvalidValueError,
        "convention must be the name of a convention, got 'no-such-rule'; `sgdm "
        "conventions` lists them",
    ),
]


@pytest.mark.parametrize(("call", "error", "text"), MISUSE, ids=range(len(MISUSE)))
def test_misuse(call, error, text):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == text


MODULES = {
    "import os\nos._exit(0)": "the process ended with status 0: nothing was said",
    "import os\nos._exit(1)": "the process ended with status 1: nothing was said",
    "import sys\nsys.exit(0)": "SystemExit: 0",
    "raise RuntimeError('no')": "RuntimeError: no",
    "def f(:": "SyntaxError: invalid syntax (broken.py, line 1)",
}


@pytest.mark.parametrize(("source", "text"), MODULES.items())
def test_a_module_that_cannot_be_imported(source, text, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidUseError) as caught:
        examine("broken:SGD")
    assert str(caught.value) == f"broken:SGD cannot be loaded: {text}; mend the module"


def test_a_module_is_imported_in_the_child_alone_and_from_where_it_is_called(tmp_path, monkeypatch):
    (tmp_path / "once.py").write_text(
        "from pathlib import Path\n"
        "with Path('imported').open('a') as file: file.write('x')\n"
        "from torch.optim import SGD\n"
    )
    monkeypatch.chdir(tmp_path)
    assert (
        examine_with("once:SGD", {"lr": 0.1}, only=["scalars-move"]).subject == "once:SGD(lr=0.1)"
    )
    assert (tmp_path / "imported").read_text() == "x"
    assert "once" not in sys.modules


def test_what_only_this_process_can_import_goes_by_value(tmp_path, monkeypatch):
    (tmp_path / "here.py").write_text("from clean_sgd import CleanSGD\nclass Mine(CleanSGD): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    here = importlib.import_module("here")
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(tmp_path)])
    report = examine_with(here.Mine, {"lr": 0.1}, only=["scalars-move"])
    assert report.subject == "Mine(lr=0.1)"
    assert not report.defects


def test_settings_may_have_any_name_and_be_tensors():
    def factory(params, time_limit=0.1, progress=None):
        return CleanSGD(params, time_limit)

    settings = {"time_limit": 0.2, "progress": torch.tensor([1.0])}
    assert not examine_with(factory, settings, only=["scalars-move"]).defects


def test_what_cannot_be_imported_has_a_script_to_be_filled_in():
    factory = unruly.Unable
    report = examine_with(lambda params, lr=0.1: factory(params, lr), {}, only=["scalars-move"])
    (finding,) = report.defects
    lines = finding.script.splitlines()
    assert lines[1].startswith("YOUR_FACTORY = ...  # ")
    assert lines[3] == "    return YOUR_FACTORY(params, **{**more})"
    compile(finding.script, "script", "exec")


def test_one_that_needs_a_closure_is_identified_and_the_rest_left_out():
    settings: dict[str, Any] = {**MOMENTUM, "convention": "sutskever", "nesterov": True}
    report = examine(sgdm.SGD, **settings)
    assert not report.defects
    assert report.identity.rules == ("sutskever",)
    assert report.findings[0].text.startswith("it steps with a closure only: InvalidUseError")
    assert report.findings[1].text == "not run: it steps with a closure only"


def test_names_of_cases():
    with pytest.raises(InvalidValueError) as caught:
        examine_with(CleanSGD, {}, only=["no-such-case"])
    text = "only must be names of cases, got ['no-such-case']; mend them"
    assert str(caught.value) == text


def test_check_fails_with_the_report():
    with pytest.raises(AssertionError) as caught:
        check(torch.optim.SGD, rule="caffe", **MOMENTUM, fused=True, allow=["every-element-moves"])
    text = str(caught.value)
    assert "elements are not updated" not in text
    assert "the gradient's strides are ignored: a transposed gradient of the same values" in text
    assert "def make(params, **more):" in text
    assert "it is not 'caffe': The rule of torch, torch7, apex and mindspore-sgd" in text


def test_a_process_that_ends_before_it_has_heard_what_to_do_is_named(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    settings: Any = {"text": "x" * 1_000_000}  # more than a pipe holds
    with pytest.raises(InvalidUseError, match="cannot be loaded: the process ended with status 1"):
        examine(unruly.AlwaysHanging, **settings)
