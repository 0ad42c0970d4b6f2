"""Compiled training around the optimizer: the step is opaque, and keeps its bits."""

import pytest
import torch
from torch._dynamo import reset
from torch._dynamo.testing import CompileCounter

import sgdm


def train(compiled: bool, cls=sgdm.SGD, **arguments):
    """Five steps with a moving lr; return the parameters and how often graphs were compiled."""
    torch.manual_seed(0)
    reset()
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    optimizer = cls(model.parameters(), lr=0.1, momentum=0.9, **arguments)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    x, y = torch.randn(16, 4), torch.randn(16, 1)
    counter = CompileCounter()

    def step():
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    run = torch.compile(step, backend=counter) if compiled else step
    counts, losses = [], []
    for _ in range(5):
        losses.append(run())
        scheduler.step()
        counts.append(counter.frame_count)
    return [p.detach() for p in model.parameters()], losses, counts


@pytest.mark.filterwarnings("ignore")  # what Dynamo says of its own workings
@pytest.mark.parametrize(
    "arguments", [{}, {"nesterov": True, "weight_decay": 0.1}, {"convention": "bengio"}], ids=str
)
def test_a_compiled_training_step_keeps_the_bits_and_never_recompiles_for_lr(arguments):
    eager, eager_losses, _ = train(compiled=False, **arguments)
    compiled, losses, counts = train(compiled=True, **arguments)
    assert counts[0] > 0
    assert counts[1] == counts[-1], "recompiled when lr moved"
    assert all(torch.equal(a, b) for a, b in zip(eager, compiled, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(eager_losses, losses, strict=True))


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_optimizer_step_keeps_the_bits():
    """torch.compile(optimizer.step), as people write it."""
    ends = []
    for compiled in (False, True):
        reset()
        p = torch.nn.Parameter(torch.linspace(-1, 1, 37))
        optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, nesterov=True)
        run = torch.compile(optimizer.step) if compiled else optimizer.step
        for t in range(4):
            p.grad = torch.sin(p.detach() * t)
            run()
        ends.append(p.detach())
    assert torch.equal(*ends)
