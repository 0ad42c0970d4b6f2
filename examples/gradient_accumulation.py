"""Gradient accumulation in plain torch: parts of a batch make the step of the whole batch."""

import sys

import torch
from digits import accuracy, batches, distance, network
from torch import nn
from torch.nn.functional import cross_entropy

import sgdm

seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0


def train(part: int, dtype: torch.dtype, *, epochs: int = 4) -> nn.Module:
    """Train with batches of 64, of which this many images at a time go through the network."""
    model = network(seed).to(dtype)
    optimizer = sgdm.SGD(
        model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4, max_grad_norm=1
    )
    for epoch in range(epochs):
        for x, y in batches(64, seed + epoch):
            optimizer.zero_grad()
            for pixels, labels in zip(x.to(dtype).split(part), y.split(part), strict=True):
                # Each part's share of the mean over the batch: right for uneven parts too.
                (cross_entropy(model(pixels), labels, reduction="sum") / len(y)).backward()
            optimizer.step()  # one step, and the norm of the sum is what is clipped
    return model


at_once = train(64, torch.float32)
print("test accuracy:", f"{accuracy(at_once):.4f}")
print("test accuracy in parts:", f"{accuracy(train(24, torch.float32)):.4f}")
for dtype in (torch.float32, torch.float64):
    for epochs in (1, 4):
        pair = (train(part, dtype, epochs=epochs) for part in (64, 24))
        name = str(dtype).removeprefix("torch.")
        print(f"distance in {name} after {22 * epochs} steps:", f"{distance(*pair):.0e}")
