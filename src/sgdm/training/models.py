"""The networks of the training job: small, plain, and the same bits from the same seed."""

import torch
from torch import nn

from sgdm.errors import InvalidValueError
from sgdm.training.data import Dataset
from sgdm.training.settings import ModelKind

__all__ = ["build_model"]


def build_model(kind: ModelKind, data: Dataset, *, seed: int) -> nn.Sequential:
    """Build a network for the data, on the CPU in float32, with weights drawn from the seed.

    Args:
        kind: "linear": one layer; "mlp": two hidden layers of 128; "cnn": two convolutions and a
            hidden layer, for images.
        data: What it will classify.
        seed: Of the initial weights.

    Raises:
        InvalidValueError: If a "cnn" is asked for data that are no images.
    """
    shape = tuple(data.train_x.shape[1:])
    features = data.train_x[0].numel()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "linear":
            return nn.Sequential(nn.Flatten(), nn.Linear(features, data.classes))
        if kind == "mlp":
            return nn.Sequential(
                nn.Flatten(),
                nn.Linear(features, 128),
                nn.ReLU(),
                nn.Linear(128, 128),
                nn.ReLU(),
                nn.Linear(128, data.classes),
            )
        if len(shape) != 3:
            raise InvalidValueError.of(
                "model", "'linear' or 'mlp' for data without height and width", kind, "choose one"
            )
        return nn.Sequential(
            nn.Conv2d(shape[0], 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
            nn.Linear(32 * 16, 64),
            nn.ReLU(),
            nn.Linear(64, data.classes),
        )
