"""A step as a function: training with torch.func, and a learning rate learned through the steps."""

import sys
from typing import Any

import torch
from digits import accuracy, batches, network
from torch import Tensor
from torch.func import functional_call, grad
from torch.nn.functional import cross_entropy

import sgdm
from sgdm.functional import step

seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
settings: dict[str, Any] = {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
model = network(seed)
start = {name: p.detach().clone() for name, p in model.named_parameters()}


def loss(params: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Of the network with these parameters."""
    return cross_entropy(functional_call(model, params, (x,)), y)


# Nothing is written in place: parameters and state go in, new ones come out.
params, state = start, None
for epoch in range(4):
    for x, y in batches(64, seed + epoch):
        params, state = step(params, grad(loss)(params, x, y), state, lr=0.1, **settings)

optimizer = sgdm.SGD(model.parameters(), lr=0.1, **settings)
for epoch in range(4):
    for x, y in batches(64, seed + epoch):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
same = all(torch.equal(p, params[name]) for name, p in model.named_parameters())
print("test accuracy:", f"{accuracy(model):.4f}")
print("same bits as sgdm.SGD:", same)

# The loss after five steps is a function of lr, and autograd goes through the steps.
few = list(batches(64, seed))[:6]


def after_five(lr: Tensor) -> Tensor:
    """The loss on the sixth batch after five steps with this learning rate."""
    params, state = start, None
    for x, y in few[:5]:
        gradients = grad(loss)(params, x, y)
        params, state = step(params, gradients, state, lr=lr, momentum=0.9, differentiable=True)
    return loss(params, *few[5])


lr = torch.tensor(0.01)
print("loss after five steps:", f"{after_five(lr).item():.3f}")
for _ in range(16):
    lr.requires_grad_()
    (slope,) = torch.autograd.grad(after_five(lr), lr)
    lr = (lr - 0.002 * slope.sign()).detach()
print("loss after five steps with the learned lr:", f"{after_five(lr).item():.3f}")
