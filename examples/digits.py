"""What the examples train on, scikit-learn's digits, and how they look at what came out."""

from collections.abc import Generator
from typing import Any, Protocol

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

__all__ = ["accuracy", "batches", "distance", "network", "same_bits", "test", "train"]

_x, _y = load_digits(return_X_y=True)
_pixels, _labels = torch.tensor(_x, dtype=torch.float32) / 8 - 1, torch.tensor(_y)
_order = torch.randperm(len(_labels), generator=torch.Generator().manual_seed(0))
train = TensorDataset(_pixels[_order[360:]], _labels[_order[360:]])  # 1437 images of 8 x 8
test = TensorDataset(_pixels[_order[:360]], _labels[_order[:360]])


def batches(size: int, seed: int) -> DataLoader[tuple[Tensor, ...]]:
    """Whole batches of the training part, in an order that the seed decides."""
    order = torch.Generator().manual_seed(seed)
    return DataLoader(train, size, shuffle=True, drop_last=True, generator=order)


def network(seed: int, *, batch_norm: bool = False) -> nn.Sequential:
    """A small network, initialised by the seed."""
    torch.manual_seed(seed)
    between = [nn.BatchNorm1d(64), nn.ReLU()] if batch_norm else [nn.ReLU()]
    return nn.Sequential(nn.Linear(64, 64), *between, nn.Linear(64, 10))


@torch.no_grad()
def accuracy(model: nn.Module) -> float:
    """The part of the test images that the model tells right."""
    x, y = test.tensors
    training = model.training
    model.eval()
    right = model(x).argmax(1) == y
    model.train(training)
    return right.float().mean().item()


class HasState(Protocol):
    """A model or an optimizer."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a checkpoint keeps."""
        ...


def same_bits(a: HasState, b: HasState) -> bool:
    """Whether two models, or two optimizers, hold the same tensors."""
    pairs = zip(_tensors(a.state_dict()), _tensors(b.state_dict()), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)


@torch.no_grad()
def distance(a: nn.Module, b: nn.Module) -> float:
    """The largest difference between the parameters of two models."""
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max((p - q).abs().max().item() for p, q in pairs)


def _tensors(state: Any) -> Generator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from _tensors(value)
