"""The examination as a whole: reports, processes that end, the check for an author's own tests."""

import json
import subprocess
import sys
from xml.etree import ElementTree as ET

import pytest
import torch

import sgdm
import unruly
from clean_sgd import CleanSGD
from sgdm.audit import Finding, Identity, Report, check, examine
from sgdm.audit.cases import CASES
from sgdm.errors import InvalidTypeError, InvalidUseError, InvalidValueError, MissingExtraError

MOMENTUM = {"lr": 0.1, "momentum": 0.9}


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
    assert failed(fused)["every-element-moves"] == "0 of 16 elements moved"
    assert {"gradient-strides-are-heeded", "overflow-changes-nothing"} <= set(failed(fused))


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
        [sys.executable, "-c", every, *paths], capture_output=True, text=True, check=True
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
    assert suite.find("*/failure").text.startswith("import torch")


def test_markdown(fused):
    text = fused.markdown()
    assert text.startswith("## torch.optim.sgd:SGD(lr=0.1, momentum=0.9, fused=True)\n")
    assert "The rule of torch, torch7, apex and mindspore-sgd" in text
    assert "### every-element-moves (defect): elements are not updated" in text


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

    report = examine(factory)
    assert not report.defects
    assert report.subject == factory.__qualname__
    assert "python" in report.versions


ENDS = {
    "Crashing": "the process was ended by SIGABRT",
    "Leaving": "the process ended with status 3: no memory",
    "Hanging": "it did not come back within 2 s",
}


@pytest.mark.parametrize(("name", "text"), ENDS.items())
def test_a_subject_that_ends_or_hangs_is_a_finding_and_the_rest_is_examined(name, text):
    report = examine(getattr(unruly, name), **MOMENTUM, time_limit=2)
    assert failed(report)["every-element-moves"] == text
    script = next(f.script for f in report.defects if f.name == "every-element-moves")
    assert "n, dtype = 1, torch.float16" in script
    assert report.identity.rules[0] == "torch"
    assert report.count("passed") > len(CASES) / 2


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
    assert report.identity.lines() == ["Not SGD with momentum: TypeError: not today."]
    assert report.summary() == f"1 defect, no notes, no cases passed, {len(CASES) - 1} do not apply"


def test_a_momentum_of_another_name_is_measured():
    def factory(params, lr=0.1, beta=0.7):
        return CleanSGD(params, lr, beta)

    assert "torch" in examine(factory).identity.rules


def test_what_a_subject_prints_does_not_disturb():
    assert not examine(unruly.Noisy, **MOMENTUM).defects


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


def test_a_module_that_ends_the_process_when_it_is_imported(tmp_path, monkeypatch):
    (tmp_path / "ending.py").write_text(
        "import os, sys\n"
        "if 'pytest' not in sys.modules: os._exit(1)\n"
        "from clean_sgd import CleanSGD as SGD\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidUseError, match="ending:SGD cannot be loaded: the process ended"):
        examine("ending:SGD")


def test_check_fails_with_the_report():
    with pytest.raises(AssertionError) as caught:
        check(torch.optim.SGD, rule="caffe", **MOMENTUM, fused=True, allow=["every-element-moves"])
    text = str(caught.value)
    assert "elements are not updated" not in text
    assert "the gradient's strides are ignored: a transposed gradient of the same values" in text
    assert "def make(params, **more):" in text
    assert "it is not 'caffe': The rule of torch, torch7, apex and mindspore-sgd" in text
