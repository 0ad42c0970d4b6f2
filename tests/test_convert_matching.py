"""Which parameter becomes which: names, globs, regular expressions, and what is left over."""

import random
import re

import pytest
import torch

from sgdm.convert.checkpoint import Slot, Stored
from sgdm.convert.layout import described, from_torch, shape_in_torch, to_torch
from sgdm.convert.matching import NameMap, match
from sgdm.errors import FileError, InvalidValueError


def slot(name: str, *shape: int) -> Slot:
    stored = Stored(shape, torch.float32, lambda: torch.zeros(shape))
    return Slot(name=name, parameter=stored, buffer=stored)


def test_without_rules_names_stay():
    assert NameMap({})("conv/kernel") == "conv/kernel"


def test_the_first_rule_that_fits_counts():
    names = NameMap(
        {
            "conv2d/kernel": "first.weight",
            "conv2d*/kernel": "conv*.weight",
            "/conv2d_(\\d+)/(bias)/": "conv_\\1.\\2",
            "block_*/dense_*/kernel": "blocks.*.linear*.weight",
        }
    )
    assert names("conv2d/kernel") == "first.weight"
    assert names("conv2d_1/kernel") == "conv_1.weight"
    assert names("conv2d_12/bias") == "conv_12.bias"
    assert names("block_3/dense_4/kernel") == "blocks.3.linear4.weight"
    assert names("block_3/x/dense_4/kernel") == "block_3/x/dense_4/kernel"


def test_a_mapping_file(tmp_path):
    path = tmp_path / "names.toml"
    path.write_text("[names]\n\"a.b\" = \"c\"\n'/d(.)/' = 'e\\1'\n")
    names = NameMap.read(path)
    assert (names("a.b"), names("axb"), names("dz")) == ("c", "axb", "ez")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[names", "as a whole"),
        ("[other]\n", "its tables"),
        ("names = 3\n", "its tables"),
        ("[names]\na = 3\n", "'a'"),
        ("[names]\n'/(/' = 'b'\n", "[names]"),
        ("[names]\n'a*' = 'b'\n", "[names]: 'a*' must have as many * as 'b'"),
        ("[names]\n'/a/' = 'b\\1'\n", "[names]: '/a/' cannot make 'b\\\\1' (invalid group ref"),
        ("[names]\n'/a/' = '\\q'\n", "[names]: '/a/' cannot make '\\\\q' (bad escape"),
        ("[names]\n'/a/' = '\\g<3>'\n", "[names]: '/a/' cannot make '\\\\g<3>' (invalid group"),
        ("[names]\n'/a/' = '\\g<x>'\n", "[names]: '/a/' cannot make '\\\\g<x>' (unknown group"),
        ("names=" + "[" * 100_000, "as a whole: maximum recursion depth"),
    ],
)
def test_a_mapping_file_that_is_none(tmp_path, text, place):
    path = tmp_path / "names.toml"
    path.write_text(text)
    with pytest.raises(FileError) as caught:
        NameMap.read(path)
    assert str(caught.value).startswith(f"{path}: {place}")
    with pytest.raises(FileError, match=r"file: cannot be opened .No such file"):
        NameMap.read(tmp_path / "none.toml")
    path.write_bytes(b"\xff")
    with pytest.raises(FileError, match="as a whole"):
        NameMap.read(path)


def test_a_rule_is_checked_when_it_is_given():
    with pytest.raises(InvalidValueError, match=r"'a\*' must have as many \* as 'b'"):
        NameMap({"a*": "b"})


def test_the_order_is_the_templates():
    source = [slot("b", 2), slot("a", 3)]
    template = [slot("A", 3), slot("B", 2)]
    found = match(source, template, NameMap({"a": "A", "b": "B"}))
    assert [(pair.name, pair.source.name) for pair in found.pairs if pair.source] == [
        ("A", "a"),
        ("B", "b"),
    ]
    assert not found.unused
    assert not found.missing


def test_what_is_left_over_is_listed():
    found = match([slot("a", 3), slot("x", 1)], [slot("a", 3), slot("y", 1)], NameMap({"x": "z"}))
    assert [(pair.name, pair.source is None) for pair in found.pairs] == [("a", False), ("y", True)]
    assert found.unused == ["x (as z)"]
    assert found.missing == ["y"]


def test_counts_of_batches_are_apart_from_what_has_to_match():
    def counter(name):
        stored = Stored((), torch.int64, lambda: torch.tensor(0))
        return Slot(name=name, parameter=stored, stepped=False)

    found = match([slot("a", 3), counter("n")], [slot("a", 3), counter("m")], NameMap({}))
    assert (found.unused, found.missing, found.counters) == ([], [], ["m", "n (as n)"])


def test_rules_that_fit_nothing_are_listed():
    """Or only what an earlier one has fitted."""
    rules = {"a": "A", "a*": "B*", "x*": "y*"}
    assert match([slot("a", 3)], None, NameMap(rules)).rules == ["a*", "x*"]


def test_globs_are_as_regular_expressions_and_never_slow(seed):
    rng = random.Random(seed)
    for _ in range(3000):
        pattern = "a" + "".join(rng.choices("ab/*", k=rng.randint(1, 7)))
        name = "a" + "".join(rng.choices("ab/", k=rng.randint(0, 9)))
        target = "".join(f"<{i}*>" for i in range(pattern.count("*")))
        expression = re.compile("([^/]*)".join(map(re.escape, pattern.split("*"))))
        found = expression.fullmatch(name)
        expected = name
        if found is not None:
            expected = "".join(f"<{i}{text}>" for i, text in enumerate(found.groups()))
        assert NameMap({pattern: target})(name) == expected, (pattern, name)
    names = NameMap({"block_*_*_*_*_*/kernel": "b*.*.*.*.*"})
    assert names("block_" + "_" * 100_000) == "block_" + "_" * 100_000


def test_names_of_a_file_are_shown_without_what_a_terminal_would_do():
    odd = slot("\x1b]0;pwned\x07" + "x" * 1000, 1)
    with pytest.raises(FileError) as caught:
        match([odd, odd], None, NameMap({}))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_two_that_become_one_are_refused():
    with pytest.raises(FileError, match=r"'a' and 'b' both become 'c'; mend the mapping"):
        match([slot("a", 1), slot("b", 1)], None, NameMap({"a": "c", "b": "c"}))


def test_shapes_must_fit():
    with pytest.raises(FileError) as caught:
        match([slot("a", 2, 3)], [slot("b", 3, 2)], NameMap({"a": "b"}))
    assert str(caught.value) == (
        "'a' has shape (2, 3) in torch's layout, and 'b' (3, 2); they are not one parameter: mend "
        "the mapping"
    )


@pytest.mark.parametrize(
    ("layout", "stored", "there", "text"),
    [
        ("torch", (2, 3), (2, 3), ""),
        ("kernel", (2, 3), (3, 2), "IO -> OI"),
        ("kernel", (4, 2, 3), (3, 2, 4), "WIO -> OIW"),
        ("kernel", (5, 4, 2, 3), (3, 2, 5, 4), "HWIO -> OIHW"),
        ("kernel", (6, 5, 4, 2, 3), (3, 2, 6, 5, 4), "DHWIO -> OIDHW"),
        ("kernel", (7,), (7,), ""),
        ("depthwise", (5, 4, 3, 2), (6, 1, 5, 4), "HWCM -> (CM)1HW"),
    ],
)
def test_layouts_go_there_and_back(layout, stored, there, text):
    tensor = torch.randn(stored)
    moved = to_torch(tensor, layout)
    assert tuple(moved.shape) == shape_in_torch(stored, layout) == there
    assert moved.is_contiguous()
    assert torch.equal(from_torch(moved, layout, stored), tensor)
    assert described(layout, len(stored)) == text


def test_a_kernel_of_keras_does_in_torch_what_it_did(seed):
    """By the definition of a convolution, not by the permutation."""
    torch.manual_seed(seed)
    kernel, image = torch.randn(3, 3, 2, 4), torch.randn(1, 5, 5, 2)
    out = torch.zeros(1, 3, 3, 4)
    for i in range(3):
        for j in range(3):
            patch = image[0, i : i + 3, j : j + 3, :]
            out[0, i, j] = torch.einsum("hwc,hwco->o", patch, kernel)
    torchs = torch.nn.functional.conv2d(image.permute(0, 3, 1, 2), to_torch(kernel, "kernel"))
    assert torch.allclose(torchs.permute(0, 2, 3, 1), out, atol=1e-5)
    depth = torch.randn(3, 3, 2, 2)
    out = torch.zeros(1, 3, 3, 4)
    for i in range(3):
        for j in range(3):
            patch = image[0, i : i + 3, j : j + 3, :]
            out[0, i, j] = torch.einsum("hwc,hwcm->cm", patch, depth).reshape(4)
    torchs = torch.nn.functional.conv2d(
        image.permute(0, 3, 1, 2), to_torch(depth, "depthwise"), groups=2
    )
    assert torch.allclose(torchs.permute(0, 2, 3, 1), out, atol=1e-5)
