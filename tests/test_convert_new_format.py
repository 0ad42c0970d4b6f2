"""The format that the documentation builds does as it says, and the fuzzer finds every format."""

import re
import runpy
from pathlib import Path

import pytest

from mutations import check_reader, mutations
from sgdm.convert.formats import FORMATS

ROOT = Path(__file__).parent.parent
FUZZER = runpy.run_path(str(ROOT / "fuzz" / "fuzz_convert.py"), run_name="fuzz_convert")
RECORDED = sorted((ROOT / "tests" / "conformance" / "files").iterdir())


@mutations(3_000)
def test_the_documented_format_withstands_broken_files(tmp_path, seed, count):
    page = (ROOT / "docs" / "convert-new-format.md").read_text("utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert code is not None
    (tmp_path / "lines.py").write_text(code[1])
    read = runpy.run_path(str(tmp_path / "lines.py"))["read"]

    def read_all(path):
        with read(path) as checkpoint:
            return [
                stored.read()
                for slot in checkpoint.slots
                for stored in (slot.parameter, slot.buffer)
                if stored is not None
            ]

    valid = b'["weight", [[1.0, 2.0]], [[0.5, 0.25]]]\n["bias", [3.0], null]\n'
    refused = check_reader(read_all, valid, tmp_path / "x.lines", seed=seed, count=count)
    assert refused > count // 2


def test_the_fuzzer_finds_every_format():
    assert FUZZER["FORMATS"] == sorted(found.module for found in FORMATS.values())


@pytest.mark.parametrize("name", FUZZER["FORMATS"])
def test_the_fuzzer_runs_every_format(tmp_path, name):
    """On the recordings of all of them, of which each reads its own and refuses others."""
    for file in RECORDED:
        FUZZER["read_broken"](name, file.read_bytes(), tmp_path / "x")


def test_the_fuzzer_tells_a_reader_that_breaks(tmp_path, monkeypatch):
    from sgdm.convert.files import optax

    def read(path, weights=None):
        raise KeyError("unexpected")

    monkeypatch.setattr(optax, "read", read)
    with pytest.raises(KeyError, match="unexpected"):
        FUZZER["read_broken"]("optax", b"", tmp_path / "x")
