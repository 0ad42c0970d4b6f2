"""torch.compile: around forward and backward, or around the step too; lr moves all the while."""

import sys

import torch
from digits import accuracy, batches, distance, network, same_bits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import OneCycleLR

import sgdm

seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
images = [batch for epoch in range(4) for batch in batches(64, seed + epoch)]


def train(*, compiled: bool, step_inside: bool) -> nn.Module:
    """Train under a schedule that moves lr and momentum with every step."""
    model = network(seed)
    optimizer = sgdm.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = OneCycleLR(optimizer, max_lr=0.2, total_steps=len(images))

    def learn(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        if step_inside:
            optimizer.step()

    run = torch.compile(learn) if compiled else learn
    for i, (x, y) in enumerate(images):
        # All is compiled after two calls; to compile again is an error then.
        with torch.compiler.set_stance("default" if i < 2 else "fail_on_recompile"):
            run(x, y)
        if not step_inside:
            optimizer.step()
        schedule.step()
    return model


eager = train(compiled=False, step_inside=False)
outside = train(compiled=True, step_inside=False)
inside = train(compiled=True, step_inside=True)
print("test accuracy:", f"{accuracy(inside):.4f}")
print("steps with another lr, and nothing compiled again:", len(images) - 2)
print("the same bits with the step inside and outside:", same_bits(inside, outside))
print("distance, compiled and not compiled:", f"{distance(outside, eager):.0e}")
