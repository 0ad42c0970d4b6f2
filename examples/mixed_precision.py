"""Mixed precision: autocast in bfloat16, and in float16 with GradScaler and steps that overflow."""

import math
import sys
from copy import deepcopy
from typing import NamedTuple

import torch
from digits import accuracy, batches, network, same_bits
from torch import nn
from torch.nn.functional import cross_entropy

import sgdm

seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0


class Trained(NamedTuple):
    """What a run leaves: skipped steps as the scaler and as the optimizer tell them."""

    model: nn.Module
    optimizer: sgdm.SGD
    skipped: int
    told: int
    untouched: bool


def train(dtype: torch.dtype, *, fused: bool = False) -> Trained:
    """Train for four epochs; float16 needs the loss scaled, bfloat16 has float32's range.

    Where a scaled gradient overflows, GradScaler skips the step and halves the scale. With
    fused=True it leaves both unscaling and skipping to the step, which saves a pass over the
    gradients, and keeps them scaled.
    """
    model = network(seed)
    optimizer = sgdm.SGD(
        model.parameters(), lr=0.1, momentum=0.9, fused=fused, max_grad_norm=math.inf
    )
    scaler = torch.amp.GradScaler(
        "cpu", init_scale=2.0**24, growth_interval=20, enabled=dtype is torch.float16
    )
    skipped, told, untouched = 0, 0, True
    for epoch in range(4):
        for x, y in batches(64, seed + epoch):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype):
                loss = cross_entropy(model(x), y)
            scaler.scale(loss).backward()
            before, scale = deepcopy(model), scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            told += optimizer.last_step_skipped
            if scaler.get_scale() < scale:
                skipped += 1
                untouched &= same_bits(model, before)
                untouched &= skipped > 1 or not optimizer.state  # the first step overflows
    return Trained(model, optimizer, skipped, told, untouched)


in_bfloat16 = train(torch.bfloat16)
in_float16 = train(torch.float16)
fused = train(torch.float16, fused=True)
print("test accuracy:", f"{accuracy(in_bfloat16.model):.4f}")
print("test accuracy in float16:", f"{accuracy(fused.model):.4f}")
print("steps skipped by the scaler and by sgdm:", fused.skipped, fused.told)
print("a skipped step changed nothing:", in_float16.untouched and fused.untouched)
print("the same bits with fused=True and without:", same_bits(in_float16.model, fused.model))
print("norm of the last gradient, unscaled:", f"{fused.optimizer.last_grad_norm:.4f}")
print("and where the scaler unscaled:", f"{in_float16.optimizer.last_grad_norm:.4f}")
