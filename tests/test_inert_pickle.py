"""The pickle machine by itself: plain data as pickle.loads, objects inert, bombs bounded."""

import os
import pickle
import pickletools
import re
import tracemalloc
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgdm.convert.inert_pickle import Inert, interpret


def read(data, *args, **options) -> Any:
    return interpret(BytesIO(data), *args, **options)


# ---- plain data ----

# What each opcode does, on what pickle.loads reads too.
PLAIN = {
    "PROTO NONE STOP": b"\x80\x02N.",
    "FRAME": b"\x80\x04\x95\x02\0\0\0\0\0\0\0N.",
    "NEWTRUE NEWFALSE TUPLE2": b"\x80\x02\x88\x89\x86.",
    "BININT BININT1 BININT2 TUPLE3": b"J\xff\xff\xff\xffK\xffM\xff\xff\x87.",
    "LONG1 LONG4": b"\x8a\x02\xff\x80\x8b\x02\0\0\0\xff\x80\x86.",
    "BINFLOAT": b"G\xbf\xf8\0\0\0\0\0\0.",
    "BINSTRING SHORT_BINSTRING": b"T\x01\0\0\0aU\x01b\x86.",
    "BINUNICODE SHORT_BINUNICODE": b"X\x02\0\0\0\xc3\xa9\x8c\x01b\x86.",
    "BINUNICODE8": b"\x8d\x01\0\0\0\0\0\0\0a.",
    "BINBYTES SHORT_BINBYTES": b"B\x01\0\0\0aC\x01b\x86.",
    "BINBYTES8": b"\x8e\x01\0\0\0\0\0\0\0a.",
    "BYTEARRAY8": b"\x96\x01\0\0\0\0\0\0\0a.",
    "EMPTY_TUPLE EMPTY_LIST EMPTY_DICT": b")]}\x87.",
    "MARK TUPLE": b"(NK\1K\2K\3t.",
    "TUPLE1": b"N\x85.",
    "POP POP_MARK": b"NN0(K\1K\2" + b"1.",
    "APPEND APPENDS": b"]K\0a(K\1K\2e.",
    "SETITEM SETITEMS": b"}K\0Ns(K\1NX\1\0\0\0aNu.",
    "BINPUT BINGET": b"]q\7h\7\x86.",
    "LONG_BINPUT LONG_BINGET": b"]r\0\1\0\0j\0\1\0\0\x86.",
    "MEMOIZE": b"]\x94N\x94h\0h\1\x87.",
}
SETS = {"EMPTY_SET ADDITEMS": b"\x8f(K\1\x90.", "FROZENSET": b"(K\1\x91."}
OBJECTS = {"GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "NEWOBJ_EX", "BUILD", "BINPERSID"}
SUPPORTED = OBJECTS.union(*(names.split() for names in (*PLAIN, *SETS)))


@pytest.mark.parametrize("names", PLAIN)
def test_an_opcode_does_what_it_does_in_pickle(names):
    assert set(names.split()) <= {op.name for op, _, _ in pickletools.genops(PLAIN[names])}
    assert repr(read(PLAIN[names])) == repr(pickle.loads(PLAIN[names]))


@pytest.mark.parametrize("names", SETS)
def test_sets_become_lists(names):
    assert read(SETS[names]) == list(pickle.loads(SETS[names])) == [1]


NUMBERS_AND_TEXT = st.none() | st.integers(-(2**31), 2**31 - 1) | st.floats() | st.text()
LITERALS = NUMBERS_AND_TEXT | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1)


def nested(literals):
    keys = st.text() | st.integers(0, 2**31 - 1)
    return st.recursive(
        literals,
        lambda inner: (
            st.lists(inner)
            | st.lists(inner).map(tuple)
            | st.dictionaries(keys, inner)
            | inner.map(lambda x: [x, (x, x)])  # through the memo
        ),
        max_leaves=10,
    )


@given(nested(NUMBERS_AND_TEXT), nested(LITERALS), nested(LITERALS | st.binary()), st.binary())
def test_plain_data_is_what_pickle_loads(old, plain, with_bytes, more):
    for protocol, value in (
        (1, old),
        (2, plain),
        (3, with_bytes),
        (4, with_bytes),
        (5, [with_bytes, bytearray(more)]),
    ):
        data = pickle.dumps(value, protocol)
        assert repr(read(data)) == repr(pickle.loads(data))


@given(nested(LITERALS), st.sampled_from([0, 1]))
def test_an_old_protocol_is_read_or_its_opcode_named(value, protocol):
    data = pickle.dumps(value, protocol)
    opcodes = [(op.name, place) for op, _, place in pickletools.genops(data)]
    refused = [opcode for opcode in opcodes if opcode[0] not in SUPPORTED]
    if refused:
        name, place = refused[0]
        with pytest.raises(
            ValueError, match=f"^opcode {name}, which is not read, at byte {place}$"
        ):
            read(data)
    else:
        assert repr(read(data)) == repr(pickle.loads(data))


REFUSED = [op for op in pickletools.opcodes if op.name not in SUPPORTED]


@pytest.mark.parametrize("opcode", REFUSED, ids=lambda opcode: opcode.name)
def test_another_opcode_is_refused_with_its_place(opcode):
    argument = b"'1'\n" if opcode.name == "STRING" else b"1\n1\n"
    data = b"\x80\x02N" + opcode.code.encode("latin-1") + argument + b"."
    with pytest.raises(ValueError, match=f"^opcode {opcode.name}, which is not read, at byte 3$"):
        read(data)


def test_keys_that_would_be_hashed_are_left_out():
    assert read(pickle.dumps({(1, 2): 0, None: 1, 0.5: 2, b"a": 3, "b": 4, 5: 6})) == {"b": 4, 5: 6}


def test_literals_that_could_not_be_computed_with_or_shown():
    for value, name in (
        (2**63, "an integer beyond 64 bits"),
        (-(2**63), "an integer beyond 64 bits"),
        (256**300, "an integer beyond 64 bits"),
        ("\ud800", "text with half a character"),
    ):
        assert read(pickle.dumps(value, 4)).name == name


# ---- objects ----


class Reduced:
    """Pickled as a call, and what is given to its result."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


class New:
    """Pickled as a call of __new__ with a keyword, and a state."""

    def __init__(self):
        self.a = 1

    def __getnewargs_ex__(self):
        return ("x",), {"key": 2}


MKDIR = f"{os.mkdir.__module__} mkdir"


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_objects_become_inert(protocol, tmp_path):
    place = str(tmp_path / "made")
    items = iter([1]), iter({"b": 2}.items())
    data = pickle.dumps([os.mkdir, Reduced(os.mkdir, (place,), {"a": 1}, *items)], protocol)
    named, called = read(data)
    assert (named.name, named.args, named.state) == (MKDIR, None, None)
    assert (called.name, called.args, called.state) == (MKDIR, (place,), {"a": 1})
    assert list(tmp_path.iterdir()) == []
    pickle.loads(pickle.dumps(Reduced(os.mkdir, (place,)), protocol))
    assert len(list(tmp_path.iterdir())) == 1  # it would have


def test_objects_of_new_become_inert():
    new = read(pickle.dumps(New(), 4))
    assert (new.name, new.args, new.state) == (f"{__name__} New", ("x",), {"a": 1})
    assert read(b"\x80\x02cm\nn\n)\x81.").args == ()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_is_found_is_called(protocol):
    data = pickle.dumps([Reduced(os.mkdir, (1, 2)), os.rmdir], protocol)
    assert read(data, {MKDIR: sum, MKDIR.replace("mk", "rm"): "known"}.get) == [3, "known"]


def test_persistent_ids_are_given_a_meaning_or_refused():
    data = b"\x80\x02(K\1K\2tQ."
    assert read(data, persistent_load=lambda identity: ("for", identity)) == ("for", (1, 2))
    with pytest.raises(ValueError, match="a persistent id, which stands for nothing here"):
        read(data)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_bytes_come_with_their_place(protocol):
    values = [b"short", b"long" * 100, bytearray(b"mutable" if protocol == 5 else b"")]
    data = pickle.dumps(values if protocol == 5 else values[:2], protocol)
    places = read(data, load_bytes=lambda content, start: (bytes(content), start))
    assert [content for content, _ in places] == [bytes(value) for value in values[: len(places)]]
    for content, start in places:
        assert data[start : start + len(content)] == content


# ---- what is broken or hostile ----


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "pickle exhausted before seeing STOP"),
        (b"\x80\x02N", "pickle exhausted before seeing STOP"),
        (b"\x80\x02.", "pop from empty list"),
        (b"\x80\x02\xff.", r"at position 2, opcode b'\xff' unknown"),
        (b"\x80\x02N\x86.", "an empty stack"),
        (b"\x80\x02t.", "pop from empty list"),
        (b"\x80\x02h\0.", "0"),  # of the memo
        (b"\x80\x02cm\nn\n]R.", "a call without a tuple of arguments"),
        (b"\x80\x02])R.", "a call of what is no global"),
        (b"\x80\x02NN\x93.", "a global without a name"),
        (b"\x80\x02c" + b"m" * 1000 + b"\nn\n.", "a global with a name that long"),
        (b"\x80\x02}(Nu.", "zip() argument 2 is shorter than argument 1"),
        (b"\x80\x02" + b"N" * 2_500_000 + b".", "more than 2500000 opcodes"),
        (
            b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",
            "expected 9223372036854775807 bytes in a bytes8",
        ),
    ],
    ids=range(14),
)
def test_a_broken_pickle_is_refused(data, text):
    with pytest.raises((ValueError, TypeError, LookupError), match=re.escape(text)):
        read(data)


DEPTH = 100_000


@pytest.mark.parametrize(
    "data",
    [
        b"Nr\xff\xff\xff\xff.",  # a C unpickler's memo would take gigabytes
        b"}(" + b")" + b"q\0h\0\x86q\0" * 200 + b"K\1u.",  # as a key: hashed in 2**200 steps
        b"]" + b"q\0]q\1(h\0h\0eh\1q\0" * 200 + b"cm\nn\nh\0\x85R.",  # 2**200 leaves, in a record
        b")" + b"\x85" * DEPTH + b".",
        b"]" * DEPTH + b"a" * (DEPTH - 1) + b".",
        b"(" * DEPTH + b"t" * DEPTH + b".",
        b"cm\nn\nq\0" + b"h\0" * DEPTH + b")R" + b"\x85R" * DEPTH + b".",  # calls in calls
        b"cm\nn\nq\0" + b"h\0)R" * DEPTH + b"b" * DEPTH + b".",  # states in states
    ],
    ids=["memo", "key", "shared", "tuples", "lists", "marks", "calls", "states"],
)
def test_bombs_take_memory_and_time_in_proportion_to_their_bytes(data):
    tracemalloc.start()
    try:
        found = read(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000 + 300 * len(data)
    if isinstance(found, Inert):
        assert repr(found) == "Inert(name='m n')"


def test_a_list_may_hold_itself():
    found = read(b"\x80\x02]q\0h\0a.")
    assert found[0] is found
