"""Tensors that torch's operations step together, beside each by itself, bit for bit."""

from typing import Any

import pytest
import torch
from torch import Tensor

import sgdm
from cases import EVERY_RULE, Case
from device_twins import DEVICE, Twins, drawn
from driving import make
from sgdm.engines import batches, operations
from sgdm.errors import InvalidValueError
from sgdm.functional import step

SHAPES = ((), (5, 3), (0, 3), (17,))
SETTINGS: tuple[tuple[torch.dtype, dict[str, Any]], ...] = (
    (torch.float32, {}),
    (torch.bfloat16, {"buffer_dtype": torch.float32, "ema_decay": 0.9}),
    (torch.float64, {"weight_decay": 0.1, "maximize": True}),
    (torch.float16, {"weight_decay": 0.1, "ema_decay": 0.3}),
    (torch.float32, {"weight_decay": 0.1, "weight_decay_mode": "lr", "ema_decay": 0.999}),
    (torch.float32, {"buffer_dtype": torch.float16, "max_grad_norm": 1.5}),
)
CASES = [(case, *SETTINGS[i % len(SETTINGS)]) for i, case in enumerate(EVERY_RULE)]


class Counted(list[str]):
    """The operations on many tensors that were called."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        for name in vars(operations):
            if name.startswith("_foreach_"):
                patch.setattr(operations, name, self.counting(name, getattr(operations, name)))

    def counting(self, name, called):
        def count(*arguments, **named):
            self.append(name)
            return called(*arguments, **named)

        return count


@pytest.fixture
def together(monkeypatch) -> Counted:
    """Where there is no GPU, what is done there is done on the CPU, which has the lists too."""
    monkeypatch.setattr(batches, "_TOGETHER", frozenset((DEVICE,)))
    return Counted(monkeypatch)


def twins(case: Case, starts: list[Tensor], **arguments) -> Twins:
    def build(params, engine):
        engine = {"together": "eager", "eager": "native"}[engine]
        return make(case, params, engine=engine, **arguments)

    return Twins(starts, build, engine="together")


@pytest.mark.parametrize(("case", "dtype", "arguments"), CASES, ids=str)
def test_every_rule_has_the_bits_of_one_tensor_at_a_time(case, dtype, arguments, together, seed):
    """With a parameter that comes late, so that first steps are beside later ones."""
    pair = twins(case, drawn(dtype, SHAPES), **arguments)
    for t in range(3):
        gradients = drawn(dtype, SHAPES)
        pair.step([*gradients[:3], gradients[3] if t else None])
        if "max_grad_norm" in arguments:
            assert pair.mine.last_grad_norm == pytest.approx(pair.rival.last_grad_norm, rel=1e-12)
    pair.assert_equal()
    assert "_foreach_add_" in together or "_foreach_copy_" in together


def test_tensors_of_several_dtypes_go_with_their_own(together, seed):
    dtypes = (torch.float32, torch.bfloat16, torch.float32, torch.float64, torch.bfloat16)
    starts = [torch.randn(7).to(dtype) for dtype in dtypes]
    pair = twins(Case("torch", None), starts, weight_decay=0.1, ema_decay=0.9)
    for _ in range(3):
        pair.step([torch.randn(7).to(dtype) for dtype in dtypes])
    pair.assert_equal()
    assert "_foreach_lerp_" in together


def test_a_step_of_many_tensors_calls_each_operation_once(together, seed):
    params = [torch.nn.Parameter(torch.randn(3, device=DEVICE)) for _ in range(50)]
    optimizer = sgdm.SGD(params, momentum=0.9, max_grad_norm=1e-3, engine="eager")
    for _ in range(2):
        for p in params:
            p.grad = torch.ones_like(p)
        together.clear()
        optimizer.step()
    scaled, retained = "_foreach_mul", "_foreach_mul_"
    assert together == ["_foreach_norm", scaled, retained, "_foreach_add_", "_foreach_add_"]


def test_a_batch_has_so_many_bytes(monkeypatch, together, seed):
    """What is computed on the way is of a batch: seven parameters of 400 bytes are three."""
    monkeypatch.setattr(batches, "_BATCH", 1000)
    pair = twins(Case("torch", None), drawn(shapes=[(100,)] * 7))
    for _ in range(2):
        together.clear()
        pair.step(drawn(shapes=[(100,)] * 7))
        assert together.count("_foreach_add_") in (3, 6)  # the first makes buffers
    pair.assert_equal()


class Named(Tensor):
    """A tensor of another type, which has every operation on one tensor and none on many."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        assert "_foreach" not in function.__name__
        return super().__torch_function__(function, types, args, kwargs or {})


def of_another_type() -> list[Tensor]:
    return [torch.ones(4).as_subclass(Named) for _ in range(2)]


def that_share_memory() -> list[Tensor]:
    both = torch.ones(6)
    return [both[:4], both[2:]]


def negated() -> list[Tensor]:
    return [torch.ones(4, dtype=torch.complex64).conj().imag.add_(1) for _ in range(2)]


@pytest.mark.parametrize("make_two", [of_another_type, that_share_memory, negated])
def test_what_is_not_plain_goes_alone(make_two, together):
    ends: list[list[Tensor]] = []
    for patched in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not patched:
                patch.setattr(batches, "_TOGETHER", frozenset())
            params = [p.requires_grad_() for p in make_two()]
            optimizer = sgdm.SGD(params, lr=0.5, max_grad_norm=1.0, engine="eager")
            for p in params:
                p.grad = torch.ones_like(p.detach())
            optimizer.step()
            ends.append([p.detach().as_subclass(Tensor).clone() for p in params])
    assert all(map(torch.equal, *ends))
    assert "_foreach_add_" not in together


@pytest.mark.filterwarnings("ignore:Sparse")
def test_what_has_no_operation_for_many_goes_alone(together, seed):
    dense, sparse = ([torch.nn.Parameter(torch.ones(4)) for _ in range(2)] for _ in range(2))
    optimizer = sgdm.SGD([*dense, *sparse], lr=0.5, engine="eager")
    for p in dense:
        p.grad = torch.ones(4)
    for p in sparse:
        p.grad = torch.ones(4).to_sparse()
    optimizer.step()
    assert together == ["_foreach_add_"]
    for p in optimizer.param_groups[0]["params"]:
        assert torch.equal(p.detach(), torch.full((4,), 0.5))


def test_a_learning_rate_with_a_graph_is_no_number(together):
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    lr = torch.tensor(0.5, requires_grad=True)
    optimizer = sgdm.SGD(params, lr=lr, engine="eager")
    for p in params:
        p.grad = torch.ones(2)
    optimizer.step()
    assert together == []
    assert all(torch.equal(p.detach(), torch.full((2,), 0.5)) for p in params)


def test_autograd_records_a_step_of_each(together):
    params = {name: torch.zeros(2) for name in "ab"}
    gradients = {name: torch.full((2,), 3.0, requires_grad=True) for name in "ab"}
    after, _ = step(params, gradients, lr=0.5, differentiable=True)
    (after["a"].sum() + after["b"].sum()).backward()
    assert together == []
    for g in gradients.values():
        assert g.grad is not None
        assert torch.equal(g.grad, torch.full((2,), -0.5))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_norm_names_the_first_that_is_not_finite(bad, together):
    params = [torch.nn.Parameter(torch.zeros(2, device=DEVICE)) for _ in range(4)]
    optimizer = sgdm.SGD(params, nonfinite="raise", engine="eager")
    for i, p in enumerate(params):
        p.grad = torch.full_like(p, bad if i in (2, 3) else 1.0)
    with pytest.raises(InvalidValueError, match="gradient of parameter 2 of group 0"):
        optimizer.step()
    assert together == ["_foreach_norm"]
    assert not any(p.any() for p in params)
