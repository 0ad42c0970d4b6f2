"""What the native engine refuses: tensors that it cannot serve, and what is no plan."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

import sgdm
from sgdm.engines import _native
from sgdm.engines.plan import Part, Rule, StepPlan
from sgdm.errors import InvalidUseError
from sgdm.running import run

H = sgdm.Hyperparameters(lr=0.1, momentum=0.9, weight_decay=0.3)
RULE = Rule(sgdm.coefficients(sgdm.get_convention("torch"), H, first=False))
SPARSE_RULE = Rule(replace(RULE.coefficients, coupled_decay=0))


class Tagged(torch.Tensor):
    """A subclass that changes nothing."""


class Wrapped(torch.Tensor):
    """A subclass whose elements are in another tensor."""

    wrapped: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor):
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        made.wrapped = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        def unwrap(x):
            return x.wrapped if isinstance(x, Wrapped) else x

        out = func(*tree_map(unwrap, args), **tree_map(unwrap, kwargs or {}))
        if func._schema.is_mutable:
            return args[0]
        return tree_map(lambda x: Wrapped(x) if isinstance(x, Tensor) else x, out)


def values(x: Tensor) -> Tensor:
    """The numbers of a tensor of any kind, copied."""
    with torch.no_grad():
        x = x.wrapped if isinstance(x, Wrapped) else x
        x = x.to_dense() if x.layout is not torch.strided else x
        return x.as_subclass(torch.Tensor).resolve_conj().resolve_neg().clone()


def equal(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return all(torch.equal(values(x), values(y)) for x, y in zip(a, b, strict=True))


def x(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape or (6,), dtype=dtype)


def z() -> Tensor:
    return x(dtype=torch.complex64)


def part(p: Any, g: Any, b: Any, *, rule: Rule = RULE) -> Part:
    columns = [list(c) if isinstance(c, tuple) else [c] for c in (p, g, b)]
    return Part(rule, *columns)


def sharing(*places: slice) -> list[Tensor]:
    memory = x(24)
    return [memory[place] for place in places]


def overlapping_params() -> Part:
    p, q = sharing(slice(0, 6), slice(5, 11))
    return part((p, q), (x(), x()), (x(), x()))


def buffer_is_the_next_gradient() -> Part:
    b, c = sharing(slice(0, 6), slice(6, 12))
    return part((x(), x()), (c, b), (b, x()))


def gradient_over_another_parameter() -> Part:
    q, g = sharing(slice(0, 6), slice(5, 11))
    return part((x(), q), (g, x()), (x(), x()))


def own_gradient_as_buffer() -> Part:
    g = x()
    return part(x(), g, g)


def one_parameter_twice() -> Part:
    p = x()
    return part((p, p), (x(), x()), (x(), x()))


REFUSED: dict[str, tuple[Callable[[], Part], str]] = {
    "negated parameter": (
        lambda: part(torch._neg_view(x()), x(), x()), "a parameter is a negated view"
    ),
    "negated gradient": (
        lambda: part(x(), torch._neg_view(x()), x()), "a gradient is a negated view"
    ),
    "negated buffer": (
        lambda: part(x(), x(), torch._neg_view(x())), "a momentum_buffer is a negated view"
    ),
    "imaginary part of a conjugate": (
        lambda: part(x(), z().conj().imag, x()), "a gradient is a negated view"
    ),
    "complex": (lambda: part(z(), z(), z()), "a parameter is of a dtype other than float64"),
    "conjugate": (
        lambda: part(z(), z().conj(), z()), "a parameter is of a dtype other than float64"
    ),
    "whole numbers": (
        lambda: part(x(), torch.arange(6), x()), "a gradient is of a dtype other than float64"
    ),
    "subclass, parameter": (
        lambda: part(x().as_subclass(Tagged), x(), x()), "a parameter is of the type Tagged"
    ),
    "subclass, gradient": (
        lambda: part(x(), x().as_subclass(Tagged), x()), "a gradient is of the type Tagged"
    ),
    "subclass, buffer": (
        lambda: part(x(), x(), x().as_subclass(Tagged)), "a momentum_buffer is of the type Tagged"
    ),
    "wrapper subclass": (
        lambda: part(Wrapped(x()), Wrapped(x()), Wrapped(x())), "a parameter is of the type Wrapped"
    ),
    "sparse gradient": (
        lambda: part(x(), torch.eye(6)[2].to_sparse(), x(), rule=SPARSE_RULE),
        "a gradient is not a plain strided tensor",
    ),
    "parameter with gaps": (
        lambda: part(x(4, 6)[:, ::2], x(4, 3), x(4, 3)), "a parameter is a view that leaves gaps"
    ),
    "buffer with gaps": (
        lambda: part(x(4, 3), x(4, 3), x(4, 6)[:, ::2]),
        "a momentum_buffer is a view that leaves gaps",
    ),
    "overlapping parameters": (overlapping_params, "two of the tensors share memory"),
    "one parameter twice": (one_parameter_twice, "two of the tensors share memory"),
    "buffer over another's gradient": (
        buffer_is_the_next_gradient, "two of the tensors share memory"
    ),
    "buffer over its own gradient": (own_gradient_as_buffer, "two of the tensors share memory"),
    "gradient over another parameter": (
        gradient_over_another_parameter, "two of the tensors share memory"
    ),
    "expanded along the fastest dimension": (
        lambda: part(x(4, 5), x(4, 1).expand(4, 5), x(4, 5)), "expanded along its fastest dimension"
    ),
    "expanded along the fastest dimension in memory": (
        lambda: part(x(5, 4).t(), x(1, 5).expand(4, 5), x(4, 5)),
        "expanded along its fastest dimension",
    ),
    "float64 with a float32 buffer": (
        lambda: part(x(dtype=torch.float64), x(dtype=torch.float64), x()),
        "a momentum_buffer is float64 and its parameter is not, or the other way round",
    ),
    "float32 with a float64 gradient": (
        lambda: part(x(), x(dtype=torch.float64), x()),
        "a gradient is float64 and its parameter is not, or the other way round",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_serve_is_refused_or_left_to_torch(name, seed):
    """The last tensors are the ones at fault, so that earlier ones would have been written."""
    make, words = REFUSED[name]

    def plan() -> tuple[StepPlan, list[Tensor]]:
        torch.manual_seed(seed)
        good, bad = part(x(9), x(9), x(9)), make()
        tensors = [
            t
            for p in (good, bad)
            for column in (p.params, p.gradients, p.buffers)
            for t in column or ()
        ]
        return StepPlan(parts=[good, bad]), tensors

    refused, tensors = plan()
    before = [values(t) for t in tensors]
    with pytest.raises(InvalidUseError, match=words) as error:
        run(refused, engine="native")
    assert "engine='native' cannot run this step: " in str(error.value)
    assert equal(tensors, before), "something was written"
    ends = []
    for engine in ("auto", "eager"):
        mine, tensors = plan()
        run(mine, engine=engine)
        ends.append(tensors)
    assert equal(*ends)
    assert not equal(ends[0], before)


def fake() -> Tensor:
    with FakeTensorMode(allow_non_fake_inputs=True):
        return torch.ones(6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: x().to("meta"), "a parameter is not a plain strided tensor"),
        (fake, "a parameter is of the type FakeTensor"),
    ],
    ids=["meta", "fake"],
)
def test_tensors_without_elements_are_refused_or_left_to_torch(make, words):
    p = make()
    with pytest.raises(InvalidUseError, match=words):
        run(StepPlan(parts=[part(p, torch.ones_like(p), torch.ones_like(p))]), engine="native")
    run(StepPlan(parts=[part(p, torch.ones_like(p), torch.ones_like(p))]))


@pytest.mark.parametrize("which", range(3))
def test_a_tensor_whose_memory_was_taken_is_refused(which):
    """As sharded training does between uses; torch itself would read what is not there."""
    tensors = [x(), x(), x()]
    tensors[which].untyped_storage().resize_(0)
    name = ("parameter", "gradient", "momentum_buffer")[which]
    with pytest.raises(InvalidUseError, match=f"a {name} is without memory"):
        run(StepPlan(parts=[part(*tensors)]), engine="native")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"lr": torch.tensor(0.1, requires_grad=True)}, "autograd goes through a hyperparameter"),
        ({"differentiable": True}, "differentiable=True"),
    ],
    ids=["lr", "differentiable"],
)
def test_what_autograd_records_is_refused_or_left_to_torch(arguments, words, seed):
    start, gradients = x(), x(2, 6)
    ends = []
    for engine in ("native", "auto", "eager"):
        p = start.clone()
        optimizer = sgdm.SGD([p], momentum=0.9, engine=engine, **arguments)
        for g in gradients:
            p.grad = g.clone()
            if engine == "native":
                with pytest.raises(InvalidUseError, match=words):
                    optimizer.step()
                assert not optimizer.state
            else:
                optimizer.step()
        ends.append(p.detach())
    assert torch.equal(ends[0], start)
    assert torch.equal(ends[1], ends[2])
    assert not torch.equal(ends[1], start)


@pytest.mark.skipif(not hasattr(torch, "_lazy_clone"), reason="this torch has no lazy copies")
@pytest.mark.parametrize("which", ["parameter", "gradient", "buffer"])
def test_a_lazy_copy_is_made_before_it_is_written(which, seed):
    tensors = {name: x() for name in ("parameter", "gradient", "buffer")}
    kept = {name: t.clone() for name, t in tensors.items()}
    given = dict(tensors)
    given[which] = torch._lazy_clone(tensors[which])
    run(StepPlan(parts=[part(*given.values())]), engine="native")
    assert torch.equal(tensors[which], kept[which]), "the other one changed"
    run(StepPlan(parts=[part(*kept.values())]), engine="eager")
    assert equal(list(given.values()), list(kept.values()))


# ---- what is no plan ----

ONE = [torch.ones(3)]


def plan_of(**changed: Any) -> Any:
    part = Part(RULE, [torch.ones(3)], [torch.ones(3)], [torch.ones(3)])
    for name, value in changed.items():
        setattr(part, name, value)
    return part


@pytest.mark.parametrize(
    ("parts", "fresh"),
    [
        (None, [None]),
        ((plan_of(),), [None]),
        ([plan_of()], None),
        ([None], [None]),
        ([3], [None]),
        ([plan_of(rule=None)], [None]),
        ([plan_of(rule=Rule(None))], [None]),  # pyright: ignore[reportArgumentType]
        ([plan_of(rule=RULE._replace(coefficients=replace(RULE.coefficients, step="a")))], [None]),
        ([plan_of(rule=RULE._replace(average_weight="a"))], [None]),
        (
            [plan_of(rule=RULE._replace(coefficients=replace(RULE.coefficients, step=10**400)))],
            [None],
        ),
        ([plan_of(rule=RULE._replace(maximize=torch.ones(3)))], [None]),
        ([plan_of(params=None)], [None]),
        ([plan_of(params=[None])], [None]),
        ([plan_of(params=["p"])], [None]),
        ([plan_of(params=ONE[0].numpy())], [None]),
        ([plan_of(params=ONE * 2)], [None]),
        ([plan_of(params=[])], [None]),
        ([plan_of(gradients=3)], [None]),
        ([plan_of(gradients=[None])], [None]),
        ([plan_of(gradients=[])], [None]),
        ([plan_of(gradients=ONE * 2)], [None]),
        ([plan_of(buffers=None)], [None]),
        ([plan_of(buffers=[None])], [None]),
        ([plan_of(buffers=ONE * 2)], [None]),
        ([plan_of(averages=[None])], [None]),
        ([plan_of(averages=[])], [None]),
        ([plan_of()], [ONE * 2]),
        ([plan_of()], [[None]]),
        ([plan_of(gradients=None)], [None]),
        ([plan_of()], []),
        ([plan_of()], [tuple(ONE)]),
        ([plan_of(gradients=tuple(ONE))], [None]),
        ([plan_of(gradients="g")], [None]),
        ([plan_of(gradients={0: ONE[0]})], [None]),
        ([plan_of(gradients=torch.ones(1))], [None]),
        ([plan_of(buffers=tuple(ONE))], [None]),
        ([plan_of(averages=tuple(ONE))], [None]),
        ([plan_of(rule=RULE._replace(coefficients=replace(RULE.coefficients, buffer=3)))], [None]),
    ],
)
def test_what_is_no_plan_is_refused(parts, fresh):
    try:
        prepared = _native.prepare(parts, fresh, _native.Memory())
    except (TypeError, ValueError, AttributeError, OverflowError, RuntimeError):
        return
    assert isinstance(prepared, str)


def test_without_a_memory_or_parts_nothing_is_prepared():
    with pytest.raises(TypeError):
        _native.prepare([], [], None)  # pyright: ignore[reportArgumentType]
    prepared = _native.prepare([], [], _native.Memory())
    assert not isinstance(prepared, str)
    prepared.step(1.0)
    assert prepared.gradient_norm() == (0.0, None)
