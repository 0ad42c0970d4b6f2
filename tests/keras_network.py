"""The network of tools/peers/main/keras_training.py in torch, trained there and written for Keras.

Run as a program it writes the file from which the real Keras goes on:

    python tests/keras_network.py tests/conformance/files
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

import sgdm
from in_memory import slot
from sgdm.convert.checkpoint import Checkpoint
from sgdm.convert.files.keras import prepare, read

LR, TORCH_STEPS = 0.1, 10

# Keras's names of the network's parameters, in the order of `parameters()`.
NAMES = (
    "conv2d/kernel",
    "conv2d/bias",
    "separable_conv2d/depthwise_kernel",
    "separable_conv2d/pointwise_kernel",
    "separable_conv2d/bias",
    "dense/kernel",
    "dense/bias",
)


class Network(nn.Module):
    """A convolution, a separable one, the mean over the image, a dense layer: 294 parameters."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3)
        self.depthwise = nn.Conv2d(6, 12, 3, groups=6, bias=False)
        self.pointwise = nn.Conv2d(12, 8, 1)
        self.dense = nn.Linear(8, 10)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        x = torch.relu(self.pointwise(self.depthwise(x)))
        return self.dense(x.mean((2, 3)))


def go_on_from(path, lr, *, with_momentum=True):
    """Return the network and its optimizer as a Keras file has them, and the steps done."""
    network = Network()
    optimizer = sgdm.SGD(
        network.parameters(), lr=lr, momentum=0.9, nesterov=True, convention="keras"
    )
    with read(path) as checkpoint:
        slots = {slot.name: slot for slot in checkpoint.slots}
        for name, param in zip(NAMES, network.parameters(), strict=True):
            parameter, buffer = slots[name].parameter, slots[name].buffer
            assert parameter is not None
            assert buffer is not None
            with torch.no_grad():
                param.copy_(parameter.read())
            if with_momentum:
                optimizer.state[param]["momentum_buffer"] = buffer.read()
        assert checkpoint.steps is not None
        return network, optimizer, checkpoint.steps


def train(network, optimizer, data, first, count):
    """Take steps on the batches in turn; return the loss of each, before its update."""
    losses = []
    for t in range(first, first + count):
        x, y = data["x"][t % len(data["x"])], data["y"][t % len(data["y"])]
        x = torch.from_numpy(x.astype("float32"))[:, None] / 4
        loss = nn.functional.cross_entropy(network(x), torch.from_numpy(y.astype("int64")))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses)


def train_in_torch(folder):
    """Go on from Keras's file in torch for a while; return network, optimizer and steps done."""
    network, optimizer, done = go_on_from(folder / "keras-training.keras", LR)
    train(network, optimizer, np.load(folder / "keras-training.npz"), done, TORCH_STEPS)
    return network, optimizer, done + TORCH_STEPS


def write_for_keras(path, folder, network, optimizer, steps, lr):
    """Write what torch has trained as a Keras file, into a copy of Keras's own."""
    slots = [
        slot(name, param, optimizer.state[param]["momentum_buffer"])
        for name, param in zip(NAMES, network.parameters(), strict=True)
    ]
    hyperparameters = {"lr": lr, "momentum": 0.9, "nesterov": True}
    prepare(
        path,
        Checkpoint(convention="keras3", slots=slots, hyperparameters=hyperparameters, steps=steps),
        folder / "keras-training.keras",
    )()


if __name__ == "__main__":
    place = Path(sys.argv[1])
    write_for_keras(place / "keras-from-torch.keras", place, *train_in_torch(place), LR / 10)
