"""Parameters twice: on the device of the engine for CUDA, and on the CPU for torch's operations."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import sgdm
from sgdm.engines.triton import layout

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
NEEDS_GPU = pytest.mark.skipif(not ON_GPU, reason="there is no GPU")
# NumPy, which the interpreter computes with, warns where a GPU has an infinity or NaN.
QUIET = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")

BLOCK = layout.BLOCK
SHAPES = ((), (BLOCK + 1,), (0, 3), (BLOCK,))
MOST: dict[str, Any] = {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.01, "ema_decay": 0.75}


def on_device(x: Tensor) -> Tensor:
    return x.detach().clone().to(DEVICE)


def bits(x: Tensor) -> Tensor:
    """Every number as an integer, NaN's all alike: 0 and -0 are apart."""
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    x = x.detach().cpu()
    return torch.where(x.isnan(), 0, x.contiguous().view(whole))


def assert_bits(ours: Tensor, theirs: Tensor) -> None:
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    assert torch.equal(ours.cpu().isnan(), theirs.isnan())
    assert torch.equal(bits(ours), bits(theirs))


class Twins:
    """The same parameters twice: stepped by this engine, and on the CPU by torch's operations."""

    def __init__(self, starts: list[Tensor], build: Callable[..., sgdm.SGD], engine="triton"):
        self.ours = [torch.nn.Parameter(on_device(x)) for x in starts]
        self.theirs = [torch.nn.Parameter(x.clone()) for x in starts]
        self.mine = build(self.ours, engine=engine)
        self.rival = build(self.theirs, engine="eager")

    def step(self, gradients: Sequence[Tensor | None]) -> None:
        for p, q, g in zip(self.ours, self.theirs, gradients, strict=True):
            p.grad, q.grad = (None, None) if g is None else (on_device(g), g.clone())
        for optimizer in (self.mine, self.rival):
            optimizer.step(lambda: torch.tensor(0.0))

    def assert_equal(self) -> None:
        for p, q in zip(self.ours, self.theirs, strict=True):
            assert_bits(p, q)
            ours, theirs = self.mine.state.get(p, {}), self.rival.state.get(q, {})
            assert ours.keys() == theirs.keys()
            for key, value in theirs.items():
                if isinstance(value, Tensor):
                    assert_bits(ours[key], value)
                else:
                    assert ours[key] == value


def drawn(dtype=torch.float32, shapes=SHAPES) -> list[Tensor]:
    return [torch.randn(shape).to(dtype) for shape in shapes]


def sgd(**arguments: Any) -> Callable[..., sgdm.SGD]:
    return lambda params, engine: sgdm.SGD(params, lr=0.1, engine=engine, **arguments)
