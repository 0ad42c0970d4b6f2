"""The native engine has the bits of the eager one, and is the literal equations but for rounding.

Plans are made by hand here, so that lengths, storage offsets, dtypes and layouts can be crossed.
"""

import math
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sgdm
from sgdm.engines import _native
from sgdm.engines.plan import Options, Part, Rule, StepPlan
from sgdm.running import run

EPS, MU, DECAY, SCALE = 0.1, 0.9, 0.3, 0.37
SETS = _native.instruction_sets()
THREADS = (1, 2, 3, 8)


class Dtypes(NamedTuple):
    p: torch.dtype
    g: torch.dtype
    b: torch.dtype

    def __str__(self) -> str:
        return "-".join(str(dtype).removeprefix("torch.") for dtype in self)


SINGLE, WIDE = torch.float32, torch.float64
# float64 stays among itself; everything else may be mixed.
SERVED = [
    Dtypes(WIDE, WIDE, WIDE),
    Dtypes(SINGLE, SINGLE, SINGLE),
    *(
        Dtypes(*dtypes)
        for narrow in (torch.float16, torch.bfloat16)
        for dtypes in product((SINGLE, narrow), repeat=3)
        if narrow in dtypes
    ),
]
ON_EVERY_DTYPE = pytest.mark.parametrize("dtypes", SERVED, ids=str)


def loss_scale(way: "Way") -> Options:
    return Options(grad_scale=torch.tensor(1 / way.scale, dtype=WIDE))


def rule_of(
    convention: str = "torch", *, first: bool = False, momentum: float = MU, **more: Any
) -> Rule:
    of_rule = {name: more.pop(name) for name in ("maximize", "average_weight") if name in more}
    h = sgdm.Hyperparameters(lr=EPS, momentum=momentum, **more)
    return Rule(sgdm.coefficients(sgdm.get_convention(convention), h, first=first), **of_rule)


class Way(NamedTuple):
    """A rule, and its equations literally: (p, g, b) -> (p, b)."""

    rule: Rule
    literal: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    scale: float = 1.0


def _nesterov(p: Tensor, g: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    b = MU * b + g
    return p - EPS * (g + MU * b), b


def _coupled(p: Tensor, g: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    b = MU * b + (g + DECAY * p)
    return p - EPS * b, b


def _decoupled(p: Tensor, g: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    b = MU * b + g
    return p - EPS * DECAY * p - EPS * b, b


def _bengio(p: Tensor, g: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    b = MU * b - MU * EPS * g
    return p + b - EPS * g, b


WAYS = {
    "plain": Way(rule_of(momentum=0), lambda p, g, b: (p - EPS * g, b)),
    "first": Way(rule_of(first=True), lambda p, g, b: (p - EPS * g, g)),
    "first with gain": Way(rule_of("caffe", first=True), lambda p, g, b: (p - EPS * g, EPS * g)),
    "first, nesterov": Way(
        rule_of(first=True, nesterov=True), lambda p, g, b: (p - EPS * (g + MU * g), g)
    ),
    "running": Way(rule_of(), lambda p, g, b: (p - EPS * (MU * b + g), MU * b + g)),
    "nesterov": Way(rule_of(nesterov=True), _nesterov),
    "bengio": Way(rule_of("bengio"), _bengio),
    "coupled decay": Way(rule_of(weight_decay=DECAY), _coupled),
    "decoupled decay": Way(rule_of(weight_decay=DECAY, weight_decay_mode="lr"), _decoupled),
    "maximize": Way(rule_of(maximize=True), lambda p, g, b: (p - EPS * (MU * b - g), MU * b - g)),
    "scaled": Way(
        rule_of(), lambda p, g, b: (p - EPS * (MU * b + SCALE * g), MU * b + SCALE * g), SCALE
    ),
    "scaled, maximize, decay, nesterov": Way(
        rule_of(maximize=True, weight_decay=DECAY, nesterov=True),
        lambda p, g, b: _nesterov(p, DECAY * p - SCALE * g, b),
        SCALE,
    ),
    "averaged": Way(
        rule_of(average_weight=0.1), lambda p, g, b: (p - EPS * (MU * b + g), MU * b + g)
    ),
    "averaged, mostly the new": Way(
        rule_of("caffe", first=True, average_weight=0.7), lambda p, g, b: (p - EPS * g, EPS * g)
    ),
}


def same(a: Tensor, b: Tensor, *, any_nan: bool = False) -> bool:
    """Equal to the last bit; or one NaN is like another."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    equal = a.contiguous().view(integers) == b.contiguous().view(integers)
    if any_nan:
        equal |= a.isnan() & b.isnan()
    return bool(equal.all())


# What is left of the bits of a NaN of 16 bits depends on who converts it.
same_numbers = partial(same, any_nan=True)


class Room:
    """Memory for tensors of these lengths, each begun so many elements off the alignment.

    One stretch holds all of them, so that comparing it finds what is written beside them too.
    """

    def __init__(self, lengths: list[int], offsets: list[int]) -> None:
        self.places: list[tuple[int, int]] = []
        end = 0
        for length, offset in zip(lengths, offsets, strict=True):
            self.places.append((end + offset, length))
            end += -(-(length + 4) // 64) * 64
        self.whole = torch.randn(end, dtype=WIDE)

    def tensors(self, whole: Tensor) -> list[Tensor]:
        return [whole[begin : begin + length] for begin, length in self.places]

    def flat(self, whole: Tensor) -> Tensor:
        return torch.cat(self.tensors(whole))


class Trial:
    """Parameters, gradients, buffers and averages of many lengths, and a step of all of them."""

    def __init__(self, dtypes: Dtypes, lengths: list[int], offsets: list[int]) -> None:
        self.rooms = [Room(lengths, [(o * k) % 4 for o in offsets]) for k in (1, 3, 2, 1)]
        kept = WIDE if dtypes.p is WIDE else SINGLE
        self.start = [r.whole.to(d) for r, d in zip(self.rooms, (*dtypes, kept), strict=True)]

    def step(self, way: Way, engine: str) -> list[Tensor]:
        """Return the memory of parameters, buffers and averages after a step."""
        gradients = self.start[1].clone()
        wholes = [self.start[0].clone(), gradients, self.start[2].clone(), self.start[3].clone()]
        p, g, b, a = (r.tensors(w) for r, w in zip(self.rooms, wholes, strict=True))
        kind = way.rule.coefficients.buffer
        part = Part(way.rule, p, g)
        part.rule = way.rule._replace(buffer_dtype=self.start[2].dtype)
        part.buffers = b if kind == "running" else None
        part.averages = a if way.rule.average_weight is not None else None
        run(StepPlan(parts=[part]), engine=engine, options=loss_scale(way))
        assert same(gradients, self.start[1]), "a gradient was written"
        if kind == "first":
            assert part.buffers is not None
            wholes[2] = torch.cat(part.buffers)
        return [wholes[0], wholes[2], wholes[3]]

    def assert_near_literal(self, way: Way, ends: list[Tensor]) -> None:
        """Within the rounding of what is stored, and of a few operations of the arithmetic."""
        p, g, b, a = (r.flat(w).double() for r, w in zip(self.rooms, self.start, strict=True))
        arithmetic = 2**-53 if self.start[0].dtype is WIDE else 2**-24
        error = 4 * arithmetic * (p.abs() + g.abs() + b.abs() + a.abs())
        wanted = list(way.literal(p, g, b))
        found = [self.rooms[0].flat(ends[0])]
        made = way.rule.coefficients.buffer == "first"
        found.append(ends[1] if made else self.rooms[2].flat(ends[1]))
        if way.rule.average_weight is not None:
            wanted.append(a + way.rule.average_weight * (found[0].double() - a))
            found.append(self.rooms[3].flat(ends[2]))
        for x, y in zip(found, wanted, strict=True):
            rounding = 0.0
            if x.element_size() == 2:
                info = torch.finfo(x.dtype)
                rounding = (y.abs().clamp(min=info.smallest_normal) + error) * info.eps / 2
            assert bool(((x.double() - y).abs() <= error + rounding).all())


@pytest.fixture
def use_set() -> Iterator[Callable[[str], None]]:
    kept = _native.instruction_set()
    yield _native.use_instruction_set
    _native.use_instruction_set(kept)


@pytest.fixture
def use_threads() -> Iterator[Callable[[int], None]]:
    kept = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(kept)


@ON_EVERY_DTYPE
def test_every_length_and_offset_on_every_instruction_set(dtypes, use_set, seed):
    lengths = [*range(131), 1023, 1024, 1025, 2049]
    trial = Trial(dtypes, lengths * 4, [k for k in range(4) for _ in lengths])
    for name, way in WAYS.items():
        eager = trial.step(way, "eager")
        trial.assert_near_literal(way, eager)
        for instructions in SETS:
            use_set(instructions)
            assert all(map(same, trial.step(way, "native"), eager)), f"{name}, {instructions}"


@ON_EVERY_DTYPE
def test_every_number_of_threads(dtypes, use_threads, seed):
    """At the edges of pieces and tasks, among small tensors, so that tasks end inside tensors."""
    lengths = [5, 16383, 64, 16384, 0, 16385, 1, 127, 1023, 32767, 7, 32768, 1024, 32769, 1025, 33]
    trial = Trial(dtypes, lengths, [i % 4 for i in range(len(lengths))])
    for i, (name, way) in enumerate(WAYS.items()):
        use_threads(1)
        eager = trial.step(way, "eager")
        trial.assert_near_literal(way, eager)
        for threads in (1, THREADS[1 + i % 3]):
            use_threads(threads)
            assert all(map(same, trial.step(way, "native"), eager)), f"{name}, {threads} threads"


@pytest.mark.parametrize("length", [32767, 32768, 32769, 70_001])
@pytest.mark.parametrize("threads", THREADS)
def test_one_tensor_in_pieces(length, threads, use_threads, seed):
    way = WAYS["nesterov"]
    for dtypes in (SERVED[0], SERVED[1], SERVED[-1]):
        trial = Trial(dtypes, [length], [3])
        eager = trial.step(way, "eager")
        use_threads(threads)
        assert all(map(same, trial.step(way, "native"), eager))
        use_threads(1)


@ON_EVERY_DTYPE
def test_zeros_infinities_and_numbers_at_the_ends_of_the_range(dtypes, use_set, seed):
    """Every pair of special values meets in (p, g), (p, b) and (g, b); NaN comes in alone."""
    tiny, huge = torch.finfo(dtypes.p).smallest_normal, torch.finfo(dtypes.p).max
    values = [0.0, -0.0, 1.0, -1.5, tiny, -tiny / 2, tiny / 64, huge, -huge, math.inf, -math.inf]
    pairs = [(x, y, z) for x, y in product(values, values) for z in (0.5, -0.0)]
    triples = [(x, y, z) for x, y, z in pairs] + [(x, z, y) for x, y, z in pairs]
    triples += [(z, x, y) for x, y, z in pairs]
    triples += [(math.nan, 1.0, 1.0), (1.0, math.nan, 1.0), (1.0, 1.0, math.nan)] * 3
    columns = torch.tensor(triples, dtype=WIDE).T
    trial = Trial(dtypes, [len(triples)], [1])
    for room, start, column in zip(trial.rooms, trial.start, [*columns, columns[0]], strict=True):
        room.tensors(start)[0].copy_(column)
    alike = same if dtypes in SERVED[:2] else same_numbers
    for name, way in WAYS.items():
        eager = trial.step(way, "eager")
        for instructions in SETS:
            use_set(instructions)
            assert all(map(alike, trial.step(way, "native"), eager)), f"{name}, {instructions}"


@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16])
def test_every_number_of_16_bits_is_read_and_rounded_as_torch_does(narrow, use_set, seed):
    """All 65,536 as gradients; the sums with them as parameters, with ties among them."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(narrow)
    way = WAYS["plain"]
    halves = way._replace(rule=Rule(replace(way.rule.coefficients, step=0.5)))
    for shift in (0.0, 1.0, -3.0):
        trial = Trial(Dtypes(narrow, narrow, SINGLE), [2**16], [0])
        trial.rooms[0].tensors(trial.start[0])[0].fill_(shift)
        trial.rooms[1].tensors(trial.start[1])[0].copy_(every)
        eager = trial.step(halves, "eager")
        for instructions in SETS:
            use_set(instructions)
            assert all(map(same_numbers, trial.step(halves, "native"), eager)), instructions


def test_an_instruction_set_that_does_not_exist_is_refused():
    kept = _native.instruction_set()
    with pytest.raises(ValueError, match="does not run it"):
        _native.use_instruction_set("mmx")
    assert _native.instruction_set() == kept == SETS[0]
    assert SETS[-1] == "baseline"


@ON_EVERY_DTYPE
def test_the_norm_does_not_depend_on_threads_or_instructions(dtypes, use_set, use_threads, seed):
    sizes = [1, 0, 15, 16385, 33, 50_000, 1023]
    gradients = [torch.randn(n).to(dtypes.g) for n in sizes]
    params = [torch.randn(n).to(dtypes.p) for n in sizes]
    memory = _native.Memory()

    def measured():
        part = Part(WAYS["plain"].rule, params, gradients)
        prepared = _native.prepare([part], [None], memory)
        assert not isinstance(prepared, str), prepared
        return prepared.gradient_norm()

    norms = set()
    for instructions, threads in product(SETS, THREADS[:3]):
        use_set(instructions)
        use_threads(threads)
        norms.add(measured())
    (norm,) = norms
    exact = math.sqrt(math.fsum(float((g.double() ** 2).sum()) for g in gradients))
    assert norm.value == pytest.approx(exact, rel=1e-13)
    assert norm.nonfinite is None
    for place, value in ((5, math.nan), (3, math.inf)):  # the first of them is named
        gradients[place][-1] = value
        assert measured().nonfinite is params[place]


# ---- layouts ----


def permuted(x: Tensor, *order: int) -> Tensor:
    """The same elements, lying in memory with the dimensions in this order."""
    back = sorted(range(len(order)), key=order.__getitem__)
    return x.permute(order).clone(memory_format=torch.contiguous_format).permute(back)


def odd_strides(x: Tensor) -> Tensor:
    """Another stride where there is one element, as views and autograd leave them."""
    strides = [
        7 * k if n == 1 else s for k, (n, s) in enumerate(zip(x.shape, x.stride(), strict=True))
    ]
    return torch.empty_strided(x.shape, strides, dtype=x.dtype).copy_(x)


DENSE = {
    "contiguous": lambda x: x.clone(),
    "channels_last": lambda x: x.clone(memory_format=torch.channels_last),
    "transposed": lambda x: permuted(x, 0, 1, 3, 2),
    "reversed": lambda x: permuted(x, 3, 2, 1, 0),
    "odd strides": lambda x: odd_strides(permuted(x, 1, 3, 0, 2)),
}
READ = DENSE | {
    "with gaps": lambda x: torch.stack([x, x + 1], -1)[..., 0],
    "with gaps, reversed": lambda x: permuted(torch.stack([x, x + 1], -1), 3, 2, 1, 0, 4)[..., 0],
    "rows of a larger one": lambda x: torch.cat([x, x], 2)[:, :, : x.shape[2]],
}


def stepped(
    way: Way, p: Tensor, g: Tensor, b: Tensor | None, engine: str = "native"
) -> list[Tensor]:
    """Step one tensor; return it, and the buffer where there is one then."""
    part = Part(way.rule, [p], [g], None if b is None else [b])
    run(StepPlan(parts=[part]), engine=engine, options=loss_scale(way))
    return [p, *(part.buffers or [])]


@pytest.mark.parametrize("dtypes", [SERVED[0], SERVED[1], SERVED[8], SERVED[-1]], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 1, 5, 1), (5, 4, 3, 37)], ids=str)
def test_elements_meet_by_index_however_they_lie(dtypes, shape, seed):
    p, g, b = (torch.randn(shape).to(dtype) for dtype in dtypes)
    way = WAYS["scaled, maximize, decay, nesterov"]
    plain = stepped(way, p.clone(), g, b.clone(), "eager")
    for (of_p, lay_p), (of_g, lay_g), (of_b, lay_b) in product(
        DENSE.items(), READ.items(), DENSE.items()
    ):
        laid = lay_p(p), lay_g(g), lay_b(b)
        strides = [x.stride() for x in laid]
        ends = stepped(way, *laid)
        assert [x.stride() for x in laid] == strides
        assert all(map(same, ends, plain)), f"p {of_p}, g {of_g}, b {of_b}"
        assert same(laid[1], g), f"g {of_g} was written"


@pytest.mark.parametrize("threads", [1, 2])
def test_layouts_in_pieces(threads, use_threads, seed):
    """More than a block, a piece and a task of elements, with runs that end in between."""
    p, g, b = torch.randn(3, 7, 3, 61, 53).unbind()
    plain = stepped(WAYS["nesterov"], p.clone(), g, b.clone(), "eager")
    use_threads(threads)
    for lay_p, lay_g in product(DENSE.values(), READ.values()):
        ends = stepped(WAYS["nesterov"], lay_p(p), lay_g(g), permuted(b, 2, 0, 3, 1))
        assert all(map(same, ends, plain))


@pytest.mark.parametrize("of_p", DENSE)
def test_a_first_buffer_lies_as_the_eager_one(of_p, seed):
    p, g = torch.randn(2, 2, 3, 4, 5).unbind()
    for name, lay in READ.items():
        ends = [
            stepped(WAYS["first, nesterov"], DENSE[of_p](p), lay(g), None, engine)
            for engine in ("native", "eager")
        ]
        (mine, buffer), (theirs, eager_buffer) = ends
        assert buffer.stride() == eager_buffer.stride(), name
        assert same(mine, theirs), name
        assert same(buffer, eager_buffer), name


@pytest.mark.parametrize("dims", [(0,), (1,), (2,), (0, 1), (0, 2), (0, 1, 2)], ids=str)
def test_a_gradient_expanded_along_slow_dimensions(dims, seed):
    p, g, b = torch.randn(3, 4, 5, 6, 7).unbind()
    for dim in dims:
        g = g.narrow(dim, 0, 1)
    g = g.expand(p.shape)
    for way in WAYS.values():
        held = b if way.rule.coefficients.buffer == "running" else None
        given = way._replace(rule=way.rule._replace(average_weight=None))
        copies = [None if held is None else held.clone() for _ in range(2)]
        mine = stepped(given, p.clone(), g, copies[0])
        theirs = stepped(given, p.clone(), g.clone(), copies[1], "eager")
        assert len(mine) == len(theirs)
        assert all(map(same, mine, theirs))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1), (0,), (0, 3), (3, 0, 2)], ids=str)
@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_no_dimension_and_no_element(shape, way, seed):
    given = way._replace(rule=way.rule._replace(average_weight=None))
    p, g, b = torch.randn(3, *shape).unbind()
    ends = []
    for engine in ("native", "eager"):
        held = b.clone() if way.rule.coefficients.buffer == "running" else None
        ends.append(stepped(given, p.clone(), g, held, engine))
    assert len(ends[0]) == len(ends[1])
    assert all(map(same, *ends))


# ---- properties ----

LENGTHS = st.lists(st.integers(0, 70), min_size=1, max_size=8)
SOME_WAY = st.sampled_from([name for name, way in WAYS.items() if way.rule.average_weight is None])
SEEDS = st.integers(0, 2**31)


def drawn(seed: int, lengths: list[int]) -> list[list[Tensor]]:
    """Parameters, gradients and buffers, by tensor."""
    generator = torch.Generator().manual_seed(seed)
    return [list(torch.randn(3, n, generator=generator).unbind()) for n in lengths]


def stepped_together(way: Way, rows: list[list[Tensor]]) -> list[tuple[Tensor, ...]]:
    p, g, b = ([row[k].clone() for row in rows] for k in range(3))
    part = Part(way.rule, p, g, b if way.rule.coefficients.buffer == "running" else None)
    run(StepPlan(parts=[part]), engine="native", options=loss_scale(way))
    return list(zip(p, part.buffers or b, strict=True))


@settings(max_examples=60)
@given(lengths=LENGTHS, name=SOME_WAY, seed=SEEDS, data=st.data())
def test_the_order_of_parameters_does_not_matter(lengths, name, seed, data):
    rows = drawn(seed, lengths)
    order = data.draw(st.permutations(range(len(rows))))
    plain = stepped_together(WAYS[name], rows)
    for i, ends in zip(order, stepped_together(WAYS[name], [rows[i] for i in order]), strict=True):
        assert all(map(same, ends, plain[i]))


@settings(max_examples=60)
@given(lengths=LENGTHS, name=SOME_WAY, seed=SEEDS)
def test_a_tensor_in_parts_steps_as_in_one(lengths, name, seed):
    rows = drawn(seed, lengths)
    whole = [torch.cat(column) for column in zip(*rows, strict=True)]
    (together,) = stepped_together(WAYS[name], [whole])
    parts = zip(*stepped_together(WAYS[name], rows), strict=True)
    assert all(same(torch.cat(column), end) for column, end in zip(parts, together, strict=True))


@settings(max_examples=60)
@given(lengths=LENGTHS, seed=SEEDS, k=st.integers(-20, 20), nesterov=st.booleans())
def test_gradients_times_a_power_of_two_and_lr_by_it_change_no_bit(lengths, seed, k, nesterov):
    """With lr outside the buffer: it grows by the power, and the parameters stay."""
    rows = drawn(seed, lengths)
    ends = []
    for power in (0, k):
        h = sgdm.Hyperparameters(lr=EPS * 2.0**-power, momentum=MU, nesterov=nesterov)
        rule = Rule(sgdm.coefficients(sgdm.get_convention("torch"), h, first=False))
        scaled = [[p, g * 2.0**power, b * 2.0**power] for p, g, b in rows]
        ends.append(stepped_together(Way(rule, WAYS["plain"].literal), scaled))
    for (p, b), (p_scaled, b_scaled) in zip(*ends, strict=True):
        assert same(p, p_scaled)
        assert same(b * 2.0**k, b_scaled)


# ---- the file ----


def test_it_runs_on_the_threads_of_torch():
    assert _native.is_threaded() == ("OpenMP" in torch.__config__.parallel_info())


@pytest.mark.skipif(
    platform.system() != "Linux" or shutil.which("readelf") is None, reason="reads an ELF file"
)
def test_it_is_linked_against_neither_torch_nor_openmp():
    program = ["readelf", "--dynamic", "--wide", str(_native.__file__)]
    listing = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True).stdout
    needed = [line for line in listing.splitlines() if "(NEEDED)" in line]
    assert any("libc.so" in line for line in needed)
    for name in ("torch", "c10", "omp", "iomp"):
        assert not any(name in line for line in needed)
