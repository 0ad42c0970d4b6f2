"""The shapes of parameters that are stepped: real networks, many small tensors, one large one."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod

__all__ = ["NETWORKS", "SWEEP", "Network"]

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Network:
    """A list of parameters, by their shapes alone.

    Attributes:
        name: What it is called on the command line and in the results.
        shapes: One a parameter, in the order that a model lists them.
    """

    name: str
    shapes: tuple[Shape, ...]

    @property
    def tensors(self) -> int:
        """How many parameters there are."""
        return len(self.shapes)

    @property
    def elements(self) -> int:
        """How many numbers they hold."""
        return sum(map(prod, self.shapes))


def _linear(inputs: int, outputs: int) -> Iterator[Shape]:
    yield outputs, inputs
    yield (outputs,)


def _mlp(*widths: int) -> Iterator[Shape]:
    for inputs, outputs in pairwise(widths):
        yield from _linear(inputs, outputs)


def _normed_conv(inputs: int, outputs: int, size: int) -> Iterator[Shape]:
    """Yield a convolution without bias, and weight and bias of its batch norm."""
    yield outputs, inputs, size, size
    yield (outputs,)
    yield (outputs,)


def _resnet50() -> Iterator[Shape]:
    yield from _normed_conv(3, 64, 7)
    inputs = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        outputs = 4 * width
        for block in range(blocks):
            yield from _normed_conv(inputs, width, 1)
            yield from _normed_conv(width, width, 3)
            yield from _normed_conv(width, outputs, 1)
            if block == 0:
                yield from _normed_conv(inputs, outputs, 1)
            inputs = outputs
    yield from _linear(inputs, 1000)


def _gpt2_small() -> Iterator[Shape]:
    """Yield the shapes as published: the linear layers are stored inputs first."""
    width = 768
    norm: tuple[Shape, Shape] = ((width,), (width,))
    yield 50257, width  # also the last layer, which has no tensor of its own
    yield 1024, width
    for _ in range(12):
        yield from norm
        for inputs, outputs in ((width, 3 * width), (width, width)):
            yield inputs, outputs
            yield (outputs,)
        yield from norm
        for inputs, outputs in ((width, 4 * width), (4 * width, width)):
            yield inputs, outputs
            yield (outputs,)
    yield from norm


def _equal(tensors: int, elements: int) -> Network:
    """Return tensors of one length, named as in "1000x256"."""
    return Network(f"{tensors}x{elements}", ((elements,),) * tensors)


NETWORKS = (
    Network("tiny", tuple(_mlp(64, 64, 64, 10))),
    _equal(1000, 256),
    Network("resnet50", tuple(_resnet50())),
    Network("gpt2", tuple(_gpt2_small())),
    Network("1x50m", ((50_000_000,),)),
)

# Where the cost of a tensor ends and the cost of its elements begins.
SWEEP = (
    *(_equal(tensors, 256) for tensors in (1, 10, 100, 1000)),
    *(_equal(1, round(10 ** (half / 2))) for half in range(6, 16)),
)
