"""Caffe's `.caffemodel`: the parameters of a net, in its order, which is that of the history."""

import math
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import NamedTuple

from sgdm.convert.checkpoint import Stored
from sgdm.convert.files.caffe.blob import Blob, read_blob, squeezed, write_pieces
from sgdm.convert.files.caffe.wire import BYTES, Field, Messages, head_of
from sgdm.convert.raw import Patch

__all__ = [
    "MOST_BLOBS",
    "MOST_OF_LAYER",
    "Layer",
    "Parameter",
    "parameters_of",
    "patches_of",
    "read_layers",
]

STATISTICS = "BatchNorm"  # a layer whose blobs are no parameters, though they have a history


class _Numbers(NamedTuple):
    """What caffe.proto calls the fields of a layer by, and two of its types."""

    layer: int
    name: int
    type: int
    blobs: int
    inner_product: int


_NEW = _Numbers(layer=100, name=1, type=2, blobs=7, inner_product=117)
_OLD = _Numbers(layer=2, name=4, type=5, blobs=6, inner_product=17)  # V1LayerParameter
_OLDEST = 1  # V0LayerParameter, within the latter
_OLD_TYPES = {4: "Convolution", 14: "InnerProduct", 39: "Deconvolution"}
_SPEC, _SPEC_NAME, _LR_MULT, _DECAY_MULT = 6, 1, 3, 4
_OLD_SHARED, _OLD_LR_MULT, _OLD_DECAY_MULT = 1001, 7, 8
_TRANSPOSE = 6  # of InnerProductParameter
_KERNELS = ("Convolution", "Deconvolution")

# Nets have some thousand blobs, layers a few.
MOST_BLOBS = 50_000
MOST_OF_LAYER = 100


@dataclass(slots=True)
class Layer:
    """A layer, with its blobs.

    Attributes:
        place: Where it lies.
        name: Its name.
        type: Its type, such as "Convolution".
        blobs: Its tensors.
        transposed: Whether it is an InnerProduct whose weight has inputs before outputs.
        shared: The name that each is shared by with other layers; "" for none.
        lr_mult: What each multiplies the learning rate by.
        decay_mult: The same of the weight decay.
    """

    place: Field
    name: str = ""
    type: str = ""
    blobs: list[Blob] = field(default_factory=list[Blob])
    transposed: bool = False
    shared: list[str] = field(default_factory=list[str])
    lr_mult: list[float] = field(default_factory=list[float])
    decay_mult: list[float] = field(default_factory=list[float])


class Parameter(NamedTuple):
    """A learnable blob.

    Attributes:
        name: Such as "conv1/0".
        shape: As stored, without the ones that the legacy form puts before it.
        transposed: Whether torch's layout has its two axes the other way around.
        blob: Where it lies.
        statistic: Whether it is one of BatchNorm's.
        lr_mult: What it multiplies the learning rate by.
        decay_mult: The same of the weight decay.
    """

    name: str
    shape: tuple[int, ...]
    transposed: bool
    blob: Blob
    statistic: bool
    lr_mult: float
    decay_mult: float

    @property
    def stepped(self) -> bool:
        """Whether the solver changes it."""
        return not self.statistic and self.lr_mult != 0


def read_layers(messages: Messages) -> list[Layer]:
    """Return the layers of a net that have blobs.

    Raises:
        FileError: If it is no net of Caffe's, or one older than `V1LayerParameter`.
    """
    found: dict[int, list[Layer]] = {_NEW.layer: [], _OLD.layer: []}
    blobs = 0
    for it in messages.fields(0, messages.size):
        if it.number in found and (layer := _layer(messages, it)).blobs:
            found[it.number].append(layer)
            blobs += len(layer.blobs)
            if blobs > MOST_BLOBS:
                raise messages.broken(it.begin, f"there are more than {MOST_BLOBS} blobs")
    layers = found[_NEW.layer] or found[_OLD.layer]
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
                _shape(layer, number, blob),
                layer.transposed and number == 0,
                blob,
                layer.type == STATISTICS,
                1.0 if lr_mult is None else lr_mult,
                1.0 if decay_mult is None else decay_mult,
            )
            owner = owners.setdefault(shared, own) if shared else own
            if math.prod(owner.shape) != math.prod(own.shape):
                raise own.blob.messages.broken(
                    blob.place.begin, f"{own.name} and {owner.name} share what differs in size"
                )
            found[layer.name, number] = owner
    return found


def patches_of(
    layers: list[Layer], tensors: dict[tuple[str, int], Stored]
) -> tuple[list[Patch], int]:
    """Return what puts other tensors in their places, and by how much the net becomes longer.

    Args:
        layers: Of the net.
        tensors: By layer and number, as stored; what is not given stays.
    """
    patches: list[Patch] = []
    longer = 0
    for layer in layers:
        grown = 0
        for number, blob in enumerate(layer.blobs):
            if (stored := tensors.get((layer.name, number))) is not None:
                of_blob, more = blob.patches(stored)
                patches += of_blob
                grown += more
        place = layer.place
        head = head_of(place.number, place.end - place.start + grown)
        patches.append(Patch(place.begin, place.start, partial(write_pieces, [head])))
        longer += grown + len(head) - (place.start - place.begin)
    return patches, longer


def _layer(messages: Messages, place: Field) -> Layer:
    if place.kind != BYTES:
        raise messages.broken(place.begin, "a layer should be here")
    layer = Layer(place)
    for inner in messages.fields(place.start, place.end):
        _add_field(messages, layer, inner)
        if max(map(len, (layer.blobs, layer.shared, layer.lr_mult, layer.decay_mult))) > (
            MOST_OF_LAYER
        ):
            raise messages.broken(inner.begin, f"a layer has more than {MOST_OF_LAYER} blobs")
    if not layer.name.isprintable():
        raise messages.broken(place.begin, "a layer's name is unreadable")
    return layer


def _add_field(messages: Messages, layer: Layer, inner: Field) -> None:
    old = layer.place.number == _OLD.layer
    numbers = _OLD if old else _NEW
    if inner.number == numbers.name:
        layer.name = messages.text(inner)
    elif inner.number == numbers.type:
        layer.type = _OLD_TYPES.get(inner.value, "") if old else messages.text(inner)
    elif inner.number == numbers.blobs:
        layer.blobs.append(read_blob(messages, inner))
    elif inner.number == numbers.inner_product:
        layer.transposed = _is_transposed(messages, inner)
    elif old:
        _add_old(messages, layer, inner)
    elif inner.number == _SPEC:
        _add_spec(messages, layer, inner)


def _is_transposed(messages: Messages, place: Field) -> bool:
    if place.kind != BYTES:
        raise messages.broken(place.begin, "an InnerProductParameter should be here")
    fields = messages.fields(place.start, place.end)
    return any([inner.value for inner in fields if inner.number == _TRANSPOSE][-1:])


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
