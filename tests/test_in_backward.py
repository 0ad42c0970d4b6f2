"""Steps inside backward have the bits of ordinary steps, and hold few gradients at a time."""

import copy
import re
from typing import Any

import pytest
import torch
from torch import nn

import sgdm
from cases import EVERY_RULE, Case
from sgdm.errors import InvalidTypeError, InvalidUseError
from sgdm.recurrence import needs_closure

ORDINARY = [
    case
    for case in EVERY_RULE
    if not needs_closure(case.row, case.hyperparameters(0, lambda t: 0.1, lambda t: 0.9))
]


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    tied = nn.Linear(6, 6)
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), tied, nn.Tanh(), tied, nn.Linear(6, 3))


def optimizer_of(model: nn.Module, case: Case, **arguments: Any) -> sgdm.SGD:
    first, *others = model.parameters()
    given: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, **case.options, **arguments}
    groups = [{"params": [first]}, {"params": others, "weight_decay": 0.1}]
    return sgdm.SGD(groups, convention=case.convention, **given)


def batches(seed: int, steps: int):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield torch.randn(7, 5, generator=generator), torch.randn(7, 3, generator=generator)


def train(model, optimizer, seed: int, *, schedule=True) -> None:
    """Seven steps under a moving lr and momentum; the last layer is left out of the second."""
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
    for t, (x, y) in enumerate(batches(seed, 7)):
        model[-1].requires_grad_(t != 1)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()
        if schedule:
            scheduler.step()
            for group in optimizer.param_groups:
                group["momentum"] = 0.9 - 0.05 * t
    model[-1].requires_grad_(True)


def same_state(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_state(a[key], b[key]) for key in a)
    return a == b


@pytest.mark.parametrize("engine", ["eager", "native"])
@pytest.mark.parametrize("case", ORDINARY, ids=str)
def test_it_has_the_bits_of_ordinary_steps(case, engine, seed):
    ordinary, hooked = network(seed % 1000), network(seed % 1000)
    first = optimizer_of(ordinary, case, engine=engine, ema_decay=0.9)
    second = optimizer_of(hooked, case, engine=engine, ema_decay=0.9)
    train(ordinary, first, seed)
    with sgdm.step_in_backward(second):
        train(hooked, second, seed)
    assert all(map(torch.equal, ordinary.parameters(), hooked.parameters()))
    a, b = first.state_dict(), second.state_dict()
    assert a["param_groups"] == b["param_groups"]
    assert same_state(a["state"], b["state"])


def test_it_covers_nearly_every_rule():
    assert len(EVERY_RULE) - len(ORDINARY) == sum(
        case.convention == "sutskever" and "nesterov" in case.options for case in EVERY_RULE
    )


def test_gradients_are_freed_one_by_one():
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(8)))
    optimizer = sgdm.SGD(model.parameters(), lr=0.1)
    held: list[int] = []
    for param in model.parameters():
        param.register_post_accumulate_grad_hook(
            lambda _: held.append(sum(p.grad is not None for p in model.parameters()))
        )
    model(torch.ones(1, 4)).sum().backward()
    assert max(held) == 16
    held.clear()
    optimizer.zero_grad()
    with sgdm.step_in_backward(optimizer):
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
    assert max(held) == 1
    assert all(p.grad is None for p in model.parameters())


def test_the_loop_is_ordinary_again_afterwards(seed):
    ordinary, hooked = network(3), network(3)
    case = EVERY_RULE[0]
    first, second = optimizer_of(ordinary, case), optimizer_of(hooked, case)
    train(ordinary, first, 1)
    train(ordinary, first, 2)
    handle = sgdm.step_in_backward(second)
    train(hooked, second, 1)
    handle.remove()
    handle.remove()
    train(hooked, second, 2)
    assert all(map(torch.equal, ordinary.parameters(), hooked.parameters()))
    assert all(p.grad is not None for p in hooked.parameters())


def test_a_closure_and_late_groups_are_stepped_too():
    p, late, by_hand = (nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = sgdm.SGD([p, by_hand], lr=0.5)
    with sgdm.step_in_backward(optimizer):
        optimizer.add_param_group({"params": [late]})
        by_hand.grad = torch.ones(2)

        def closure():
            loss = (p + late).sum()
            loss.backward()
            assert p.grad is None
            assert late.grad is not None
            return loss

        assert optimizer.step(closure) == 4
    assert all(torch.equal(x, torch.full((2,), 0.5)) for x in (p, late, by_hand))


@pytest.mark.parametrize("inside", [True, False])
def test_groups_that_a_state_dict_brings_are_those_that_are_stepped_by(inside):
    p = nn.Parameter(torch.ones(2))
    optimizer = sgdm.SGD([p], lr=0.5)
    if inside:
        sgdm.step_in_backward(optimizer)
    optimizer.load_state_dict(sgdm.SGD([nn.Parameter(torch.ones(2))], lr=0.25).state_dict())
    p.sum().backward()
    optimizer.step()
    assert torch.equal(p, torch.full((2,), 0.75))


def test_what_the_optimizer_has_no_more_is_left_alone():
    p, gone = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = sgdm.SGD([{"params": [p]}, {"params": [gone]}], lr=0.5)
    with sgdm.step_in_backward(optimizer):
        del optimizer.param_groups[1]
        (p + gone).sum().backward()
        optimizer.step()
    assert torch.equal(gone, torch.ones(2))
    assert torch.equal(p, torch.full((2,), 0.5))
    assert gone.grad is not None


def test_a_copy_does_not_step_inside_backward():
    p = nn.Parameter(torch.ones(2))
    optimizer = sgdm.SGD([p], lr=0.5)
    sgdm.step_in_backward(optimizer)
    copied = copy.deepcopy(optimizer)
    (twin,) = copied.param_groups[0]["params"]
    assert copied.in_backward is None
    sgdm.step_in_backward(copied)
    twin.sum().backward()
    copied.step()
    assert torch.equal(twin, torch.full((2,), 0.5))


def test_the_probe_of_checkpoint_libraries_is_left_alone():
    p = nn.Parameter(torch.ones(2))
    optimizer = sgdm.SGD([p], lr=0.0, momentum=0.9, weight_decay=0.1)
    with sgdm.step_in_backward(optimizer):
        p.grad = torch.zeros(2)
        optimizer.step()
    assert torch.equal(optimizer.state[p]["momentum_buffer"], torch.zeros(2))


def says(text: str):
    return pytest.raises(InvalidUseError, match=re.escape(text))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            {"max_grad_norm": 1.0},
            "max_grad_norm must be None inside step_in_backward, which steps the first parameter "
            "before it has seen the last gradient, got 1.0; take ordinary steps",
        ),
        ({"nonfinite": "skip"}, "nonfinite must be 'propagate' inside step_in_backward"),
        ({"differentiable": True}, "differentiable must be False inside step_in_backward"),
        (
            {"convention": "sutskever", "nesterov": True, "momentum": 0.9},
            "nesterov must be False with convention 'sutskever' inside step_in_backward, which "
            "cannot take every gradient at θ + μ·v, got True; use convention='bengio', which "
            "stores that point",
        ),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_what_needs_all_gradients_is_refused(arguments, text):
    p = nn.Parameter(torch.ones(2))
    with says(text):
        sgdm.step_in_backward(sgdm.SGD([p], lr=0.1, **arguments))
    p.sum().backward()
    assert p.grad is not None  # no hook was left behind


def test_what_is_set_later_is_refused_in_backward():
    p = nn.Parameter(torch.ones(2))
    optimizer = sgdm.SGD([p], lr=0.1)
    sgdm.step_in_backward(optimizer)
    optimizer.max_grad_norm = 1.0
    with says("max_grad_norm must be None inside step_in_backward"):
        p.sum().backward()
    assert torch.equal(p, torch.ones(2))


def test_accumulated_gradients_are_refused():
    p = nn.Parameter(torch.ones(2))
    optimizer = sgdm.SGD([p], lr=0.1)
    handle = sgdm.step_in_backward(optimizer)
    p.sum().backward()
    with says(
        "backward() must be called once a step inside step_in_backward, which keeps no gradient "
        "to add to, got a second one for a parameter of (2,); call optimizer.step() after each "
        "backward(), or accumulate in ordinary steps"
    ):
        p.sum().backward()
    with says("remove() must be called after optimizer.step(), got a step that is not ended"):
        handle.remove()


def test_two_handles_are_refused():
    optimizer = sgdm.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    sgdm.step_in_backward(optimizer)
    with says("step_in_backward() must be called once for an optimizer"):
        sgdm.step_in_backward(optimizer)


def test_a_parameter_of_two_optimizers_is_refused():
    p = nn.Parameter(torch.ones(2))
    one, other = sgdm.SGD([p], lr=0.1), sgdm.SGD([p], lr=0.1)
    sgdm.step_in_backward(one)
    sgdm.step_in_backward(other)
    with says("a parameter must belong to one optimizer inside step_in_backward"):
        p.sum().backward()


def test_other_optimizers_are_refused():
    with pytest.raises(
        InvalidTypeError, match=r"(?s)optimizer must be an sgdm.SGD, got .*; others step"
    ):
        sgdm.step_in_backward(torch.optim.SGD([nn.Parameter(torch.ones(2))]))  # type: ignore[arg-type]


def test_it_does_not_step_while_other_parameters_are_shown():
    p = nn.Parameter(torch.ones(2))
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, convention="bengio")
    sgdm.step_in_backward(optimizer)
    with optimizer.at_iterate(), says("backward() must be called outside"):
        p.sum().backward()


def wrapped_later() -> str:
    """What a model says that is wrapped after the hooks are there, and one before."""
    model = nn.Linear(2, 2)
    optimizer = sgdm.SGD(model.parameters(), lr=0.1)
    handle = sgdm.step_in_backward(optimizer)
    parallel = nn.parallel.DistributedDataParallel(model)
    messages = []
    with pytest.raises(InvalidUseError) as caught:
        parallel(torch.ones(1, 2)).sum().backward()
    messages.append(str(caught.value))
    handle.remove()
    with pytest.raises(InvalidUseError) as caught:
        sgdm.step_in_backward(optimizer)
    messages.append(str(caught.value))
    assert messages[0] == messages[1]
    return messages[0]


def sharded() -> list[torch.Tensor]:
    """Steps inside backward of a model that is sharded, and ordinary ones."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    ends = []
    for inside in (False, True):
        model = network(4)
        fully_shard(model, mesh=mesh)
        optimizer = sgdm.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        handle = sgdm.step_in_backward(optimizer) if inside else None
        for x, y in batches(5, 4):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            assert all((p.grad is None) == inside for p in model.parameters())
            optimizer.step()
        assert (handle is not None) == inside
        wholes: list[Any] = list(model.parameters())
        ends.append([whole.full_tensor().detach() for whole in wholes])
    assert all(map(torch.equal, *ends))
    return ends[0]


def test_models_that_reduce_later_are_refused(world):
    assert (
        world.run(2, wrapped_later)
        == [
            "the model must reduce its gradients before torch calls them complete, got a "
            "DistributedDataParallel, which does so after; use "
            "torch.distributed.fsdp.fully_shard, or ordinary steps"
        ]
        * 2
    )


def test_fully_shard_reduces_before(world):
    first, second = world.run(2, sharded)
    assert all(map(torch.equal, first, second))
