"""The native engine over many steps: what it remembers, autograd, copies, processes, threads."""

import copy
import gc
import io
import os
import pickle
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import sgdm
from driving import buffer_of
from sgdm.engines import _native
from sgdm.engines.plan import Part, Rule

H = sgdm.Hyperparameters(lr=0.1, momentum=0.9, weight_decay=0.3)
RULE = Rule(sgdm.coefficients(sgdm.get_convention("torch"), H, first=False))


def equal(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return all(torch.equal(x.resolve_neg(), y.resolve_neg()) for x, y in zip(a, b, strict=True))


def x(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape or (6,), dtype=dtype)


# ---- what is remembered between steps ----


def replace_data(optimizer: sgdm.SGD, params: list) -> None:
    params[1].data = 2 * params[1].data


def replace_data_negated(optimizer: sgdm.SGD, params: list) -> None:
    params[1].data = torch._neg_view(params[1].data)


def negate_data_of_buffer(optimizer: sgdm.SGD, params: list) -> None:
    b = buffer_of(optimizer, params[1])
    b.data = torch._neg_view(b.data)


def replace_data_transposed(optimizer: sgdm.SGD, params: list) -> None:
    params[1].data = params[1].data.t().contiguous().t()


def replace_data_by_other_dtype(optimizer: sgdm.SGD, params: list) -> None:
    params[1].data = params[1].data.double()
    params[1].grad = None
    optimizer.state.pop(params[1])


def swap_data(optimizer: sgdm.SGD, params: list) -> None:
    params[0].data, params[2].data = params[2].data, params[0].data


def replace_buffer(optimizer: sgdm.SGD, params: list) -> None:
    optimizer.state[params[1]]["momentum_buffer"] = torch.full_like(params[1], 0.3).detach()


def replace_buffer_negated(optimizer: sgdm.SGD, params: list) -> None:
    held = optimizer.state[params[1]]
    held["momentum_buffer"] = torch._neg_view(held["momentum_buffer"])


def replace_buffer_of_16_bits(optimizer: sgdm.SGD, params: list) -> None:
    held = optimizer.state[params[1]]
    held["momentum_buffer"] = held["momentum_buffer"].bfloat16()


def reorder_state(optimizer: sgdm.SGD, params: list) -> None:
    for p in list(optimizer.state)[:-1][::-1]:
        optimizer.state[p] = optimizer.state.pop(p)


def add_group(optimizer: sgdm.SGD, params: list) -> None:
    params.append(torch.nn.Parameter(torch.linspace(-1, 1, 9)))
    optimizer.add_param_group({"params": params[-1:], "lr": 0.01, "weight_decay": 0.3})


def reorder_params(optimizer: sgdm.SGD, params: list) -> None:
    optimizer.param_groups[0]["params"].reverse()


def replace_param(optimizer: sgdm.SGD, params: list) -> None:
    new = torch.nn.Parameter(torch.ones(3, 4))
    optimizer.state[new] = optimizer.state.pop(params[1])
    params[1] = optimizer.param_groups[0]["params"][1] = new


def change_rule(optimizer: sgdm.SGD, params: list) -> None:
    optimizer.param_groups[0].update(lr=0.03, momentum=0.5, nesterov=True, weight_decay=0.01)


CHANGES: list[Any] = [
    replace_data,
    replace_data_transposed,
    replace_data_by_other_dtype,
    swap_data,
    replace_buffer,
    replace_buffer_negated,
    replace_buffer_of_16_bits,
    reorder_state,
    add_group,
    reorder_params,
    replace_param,
    change_rule,
    lambda optimizer, params: optimizer.state.clear(),
    lambda optimizer, params: optimizer.state.pop(params[1]),
    lambda optimizer, params: optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict())),
    lambda optimizer, params: optimizer.param_groups[0].update(momentum=0.0),
    lambda optimizer, params: optimizer.param_groups[0]["params"].pop(0),
    replace_data_negated,
    negate_data_of_buffer,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("late", [None, 0, 2])
def test_what_changes_between_steps_is_seen(change, late, seed):
    """Between two steps of a run; one parameter may get its first gradient after that."""
    starts = [torch.randn(shape) for shape in ((5,), (3, 4), (5,))]
    ends = []
    for engine in ("auto", "eager"):
        torch.manual_seed(seed)
        params = [torch.nn.Parameter(start.clone()) for start in starts]
        optimizer = sgdm.SGD(params, lr=0.1, momentum=0.9, engine=engine)
        first = list(params)
        for t in range(6):
            for p in params:
                p.grad = torch.randn_like(p)
            if late is not None and t < 4:
                first[late].grad = None
            optimizer.step()
            if t == 2:
                change(optimizer, params)
        held = [optimizer.state.get(p, {}).get("momentum_buffer") for p in params]
        ends.append([*params, *(b for b in held if b is not None)])
    assert equal(*ends)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_buffers_that_are_gone_are_not_kept(momentum, seed):
    """Two steps later nothing holds on to them."""
    p = torch.nn.Parameter(x())
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, engine="native")
    p.grad = x()
    for _ in range(2):
        optimizer.step()
    old = weakref.ref(buffer_of(optimizer, p))
    optimizer.state.clear()
    optimizer.param_groups[0]["momentum"] = momentum
    for _ in range(2):
        optimizer.step()
    gc.collect()
    assert old() is None


# ---- autograd ----


def test_autograd_notices_what_was_written(seed):
    messages = []
    for make in (sgdm.SGD, torch.optim.SGD):
        p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
        optimizer = make([p, q], lr=0.1, momentum=0.9)
        loss = (p * p).sum()
        p.grad = torch.ones(3)
        version = p._version
        optimizer.step()
        assert p._version > version
        assert q._version == 0
        buffer = buffer_of(optimizer, p)
        version = buffer._version
        optimizer.step()
        assert buffer._version > version
        assert p.grad._version == 0
        with pytest.raises(RuntimeError, match="modified by an inplace operation") as error:
            loss.backward()
        messages.append(type(error.value))
        (p * p).sum().backward()
    assert messages[0] is messages[1]


def test_parameters_made_in_inference_mode_step_in_it(seed):
    start, gradient = x(), x()
    ends = []
    for engine in ("native", "eager"):
        with torch.inference_mode():
            p = start.clone()
            p.grad = gradient.clone()
            optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, engine=engine)
            for _ in range(3):
                optimizer.step()
            ends.append([p.clone(), buffer_of(optimizer, p).clone()])
    assert equal(*ends)


# ---- copies and the garbage collector ----


def restore(optimizer: sgdm.SGD, how: str) -> sgdm.SGD:
    if how == "deepcopy":
        return copy.deepcopy(optimizer)
    if how == "pickle":
        return pickle.loads(pickle.dumps(optimizer))
    file = io.BytesIO()
    torch.save(optimizer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_goes_on_with_the_same_bits(how, seed):
    params = [torch.nn.Parameter(torch.randn(n)) for n in (3, 40_000)]
    optimizer = sgdm.SGD(params, lr=0.1, momentum=0.9, nesterov=True, engine="native")

    def step(of: sgdm.SGD, k: int) -> None:
        for p in of.param_groups[0]["params"]:
            p.grad = torch.cos(p.detach() * k)
        of.step()

    for k in range(3):
        step(optimizer, k)
    twin = restore(optimizer, how)
    before = [p.detach().clone() for p in params]
    step(twin, 3)
    step(twin, 4)
    assert equal(params, before)
    step(optimizer, 3)
    step(optimizer, 4)
    assert equal(params, twin.param_groups[0]["params"])
    assert not equal(params, before)


def tie_by_attribute(p: Any, optimizer: Any) -> None:
    p.owner = optimizer


def tie_by_hook(p: Any, optimizer: Any) -> None:
    p.register_hook(lambda g: None if optimizer else g)


def tie_by_buffer(p: Any, optimizer: Any) -> None:
    buffer: Any = buffer_of(optimizer, p)
    buffer.owner = optimizer


@pytest.mark.parametrize("tie", [None, tie_by_attribute, tie_by_hook, tie_by_buffer])
def test_what_is_dropped_is_freed(tie):
    """torch sees through these ties; through register_post_accumulate_grad_hook it does not."""

    def made() -> list[weakref.ref]:
        p = torch.nn.Parameter(torch.ones(3))
        optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, engine="native")
        for _ in range(2):
            p.grad = torch.ones(3)
            optimizer.step()
        if tie is not None:
            tie(p, optimizer)
        return [weakref.ref(kept) for kept in (p, optimizer, buffer_of(optimizer, p))]

    gone = made()
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3


# ---- processes and threads ----

# The child does nothing with torch's own operations on large tensors: those would hang there.
FORKED = """
import os, signal, torch, sgdm
torch.set_num_threads(2)

def problem():
    p = torch.nn.Parameter(torch.linspace(-1, 1, 200_000))
    p.grad = torch.linspace(2, 3, 200_000)
    return p, sgdm.SGD([p], lr=0.1, momentum=0.9, engine="native", max_grad_norm=1e9)

def step(p, optimizer):
    for _ in range(3):
        optimizer.step()
    return p.detach().numpy()

problems = [problem() for _ in range(3)]
alone = step(*problems[0])
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(0 if (step(*problems[1]) == alone).all() else 3)
_, status = os.waitpid(child, 0)
assert (step(*problems[2]) == alone).all()
print(os.waitstatus_to_exitcode(status))
"""


def in_a_process(program: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_steps_without_the_threads_of_its_parent():
    assert in_a_process(FORKED, OMP_NUM_THREADS="2").stdout == "0\n"


def test_nothing_is_said_when_python_ends_with_an_optimizer_alive():
    program = """
import torch, sgdm
p = torch.nn.Parameter(torch.ones(3))
optimizer = sgdm.SGD([p], lr=0.1)
p.register_post_accumulate_grad_hook(lambda p: optimizer.step())
(p * p).sum().backward()
"""
    assert in_a_process(program).stderr == ""


def test_optimizers_step_side_by_side(seed):
    """Each in its own thread, with the bits it has alone."""
    starts = [torch.randn(n) for n in (70_000, 5, 40_000, 33)]

    def train(start: Tensor) -> Tensor:
        params = [torch.nn.Parameter(start.clone()), torch.nn.Parameter(start[:3].clone())]
        optimizer = sgdm.SGD(params, lr=0.1, momentum=0.9, engine="native", max_grad_norm=1e3)
        for _ in range(25):
            for p in params:
                p.grad = 0.5 * p.detach() + 1
            optimizer.step()
        return torch.cat(list[Tensor](params)).detach()

    alone = [train(start) for start in starts]
    ends: list[Tensor | None] = [None] * len(starts)

    def work(i: int) -> None:
        ends[i] = train(starts[i])

    kept = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        workers = [threading.Thread(target=work, args=(i,)) for i in range(len(starts))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
    finally:
        torch.set_num_threads(kept)
    for end, wanted in zip(ends, alone, strict=True):
        assert end is not None
        assert torch.equal(end, wanted)


@pytest.mark.parametrize("work", ["step", "gradient_norm"])
def test_python_goes_on_during_a_large_step(work, seed):
    """Nobody is made to give up the interpreter's lock here: another thread runs if it is given."""
    p, g, b = x(3, 1_000_000).unbind()
    prepared = _native.prepare([Part(RULE, [p], [g], [b])], [None], _native.Memory())
    assert not isinstance(prepared, str), prepared
    do = (lambda: prepared.step(1.0)) if work == "step" else prepared.gradient_norm
    counted, stop = [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0)  # gives the lock back

    kept = sys.getswitchinterval()
    counter = threading.Thread(target=count)
    counter.start()
    try:
        while counted[0] == 0:
            time.sleep(0.001)
        sys.setswitchinterval(1e6)
        before = counted[0]
        for _ in range(300):
            do()
            if counted[0] > before:
                break
        advanced = counted[0] - before
    finally:
        sys.setswitchinterval(kept)
        stop.set()
        counter.join()
    assert advanced > 0
