"""Caffe's `.caffemodel`: the parameters of a net, in its order, which is that of the history."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import NamedTuple

from sgdm.convert.checkpoint import Stored
from sgdm.convert.files.caffe.blob import Blob, Piece, as_blob, length_of, read_blob, squeezed
from sgdm.convert.files.caffe.wire import BYTES, Field, Messages, head_of

__all__ = ["Layer", "Parameter", "parameters_of", "read_layers", "rewritten"]

STATISTICS = "BatchNorm"  # a layer whose blobs are no parameters, though they have a history


class _Numbers(NamedTuple):
    """What caffe.proto calls the fields of a layer by, and two of its types."""

    layer: int
    name: int
    type: int
    blobs: int


_NEW = _Numbers(layer=100, name=1, type=2, blobs=7)
_OLD = _Numbers(layer=2, name=4, type=5, blobs=6)  # V1LayerParameter
_OLDEST = 1  # V0LayerParameter, within the latter
_OLD_TYPES = {4: "Convolution", 14: "InnerProduct", 39: "Deconvolution"}
_SPEC, _SPEC_NAME, _LR_MULT, _DECAY_MULT = 6, 1, 3, 4
_OLD_SHARED, _OLD_LR_MULT, _OLD_DECAY_MULT = 1001, 7, 8
_KERNELS = ("Convolution", "Deconvolution")


@dataclass(slots=True)
class Layer:
    """A layer, with its blobs.

    Attributes:
        place: Where it lies.
        numbers: Of its fields.
        name: Its name.
        type: Its type, such as "Convolution".
        blobs: Its tensors, each with the field that it is.
        shared: The name that each is shared by with other layers; "" for none.
        lr_mult: What each multiplies the learning rate by.
        decay_mult: The same of the weight decay.
    """

    place: Field
    numbers: _Numbers
    name: str = ""
    type: str = ""
    blobs: list[tuple[Field, Blob]] = field(default_factory=list[tuple[Field, Blob]])
    shared: list[str] = field(default_factory=list[str])
    lr_mult: list[float] = field(default_factory=list[float])
    decay_mult: list[float] = field(default_factory=list[float])


class Parameter(NamedTuple):
    """A learnable blob.

    Attributes:
        name: Such as "conv1/0".
        shape: In torch's layout.
        blob: Where it lies.
        statistic: Whether it is one of BatchNorm's.
        lr_mult: What it multiplies the learning rate by.
        decay_mult: The same of the weight decay.
    """

    name: str
    shape: tuple[int, ...]
    blob: Blob
    statistic: bool
    lr_mult: float
    decay_mult: float


def read_layers(messages: Messages) -> list[Layer]:
    """Return the layers of a net that have blobs.

    Raises:
        FileError: If it is no net of Caffe's, or one older than `V1LayerParameter`.
    """
    found = list(messages.fields(0, messages.size))
    numbers = _NEW if any(inner.number == _NEW.layer for inner in found) else _OLD
    layers = [_layer(messages, it, numbers) for it in found if it.number == numbers.layer]
    layers = [layer for layer in layers if layer.blobs]
    if not layers:
        raise messages.broken(0, "no layer has parameters", "give a .caffemodel")
    names = [layer.name for layer in layers]
    if len(set(names)) < len(names) or "" in names:
        raise messages.broken(0, "two layers have one name, or one has none")
    return layers


def parameters_of(layers: list[Layer]) -> dict[tuple[str, int], Parameter]:
    """Return the parameters in the net's order, by layer and number; shared ones are one object."""
    owners: dict[str, Parameter] = {}
    found: dict[tuple[str, int], Parameter] = {}
    for layer in layers:
        specs = zip_longest(layer.blobs, layer.shared, layer.lr_mult, layer.decay_mult)
        for number, (blob, shared, lr_mult, decay_mult) in enumerate(specs):
            if blob is None:
                break  # specifications without a blob
            own = Parameter(
                f"{layer.name}/{number}",
                _shape(layer, number, blob[1]),
                blob[1],
                layer.type == STATISTICS,
                1.0 if lr_mult is None else lr_mult,
                1.0 if decay_mult is None else decay_mult,
            )
            owner = owners.setdefault(shared, own) if shared else own
            if math.prod(owner.shape) != math.prod(own.shape):
                raise own.blob.messages.broken(
                    blob[0].begin, f"{own.name} and {owner.name} share what differs in size"
                )
            found[layer.name, number] = owner
    return found


def rewritten(
    messages: Messages, layers: list[Layer], tensors: dict[tuple[str, int], Stored]
) -> Iterator[Piece]:
    """Yield the net with other tensors, by layer and number; what is not given stays."""
    at = 0
    for layer in layers:
        yield messages, at, layer.place.begin
        pieces: list[Piece] = []
        inside = layer.place.start
        for number, (place, blob) in enumerate(layer.blobs):
            if (stored := tensors.get((layer.name, number))) is not None:
                content = as_blob(stored, blob)
                pieces.append((messages, inside, place.begin))
                pieces += [head_of(layer.numbers.blobs, length_of(content)), *content]
                inside = place.end
        pieces.append((messages, inside, layer.place.end))
        yield head_of(layer.numbers.layer, length_of(pieces))
        yield from pieces
        at = layer.place.end
    yield messages, at, messages.size


def _layer(messages: Messages, place: Field, numbers: _Numbers) -> Layer:
    if place.kind != BYTES:
        raise messages.broken(place.begin, "a layer should be here")
    layer = Layer(place, numbers)
    old = numbers is _OLD
    for inner in messages.fields(place.start, place.end):
        if inner.number == numbers.name:
            layer.name = messages.text(inner)
        elif inner.number == numbers.type:
            layer.type = _OLD_TYPES.get(inner.value, "") if old else messages.text(inner)
        elif inner.number == numbers.blobs:
            layer.blobs.append((inner, read_blob(messages, inner)))
        elif old:
            _add_old(messages, layer, inner)
        elif inner.number == _SPEC:
            _add_spec(messages, layer, inner)
    if not layer.name.isprintable():
        raise messages.broken(place.begin, "a layer's name is unreadable")
    return layer


def _add_old(messages: Messages, layer: Layer, inner: Field) -> None:
    if inner.number == _OLDEST:
        remedy = "run Caffe's upgrade_net_proto_binary on it"
        raise messages.broken(inner.begin, "the net is in the oldest form", remedy)
    if inner.number == _OLD_SHARED:
        layer.shared.append(messages.text(inner))
    elif inner.number == _OLD_LR_MULT:
        layer.lr_mult += messages.floats(inner)
    elif inner.number == _OLD_DECAY_MULT:
        layer.decay_mult += messages.floats(inner)


def _add_spec(messages: Messages, layer: Layer, place: Field) -> None:
    if place.kind != BYTES:
        raise messages.broken(place.begin, "a ParamSpec should be here")
    shared, lr_mult, decay_mult = "", 1.0, 1.0
    for inner in messages.fields(place.start, place.end):
        if inner.number == _SPEC_NAME:
            shared = messages.text(inner)
        elif inner.number in (_LR_MULT, _DECAY_MULT):
            (number, *_) = messages.floats(inner) or (1.0,)
            if inner.number == _LR_MULT:
                lr_mult = number
            else:
                decay_mult = number
    layer.shared.append(shared)
    layer.lr_mult.append(lr_mult)
    layer.decay_mult.append(decay_mult)


def _shape(layer: Layer, number: int, blob: Blob) -> tuple[int, ...]:
    """Return a blob's shape, without the ones that the legacy form puts before it."""
    if not blob.legacy:
        return blob.shape
    if number == 0 and layer.type in _KERNELS:
        return blob.shape
    return squeezed(blob.shape, 2 if number == 0 and layer.type == "InnerProduct" else 1)
