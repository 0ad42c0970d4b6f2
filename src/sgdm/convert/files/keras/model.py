"""What a Keras model's config.json says of its variables.

Keras names its variables in memory only. A file has layers/<class>_<n>/vars/<k>, numbered in the
order of the model's layers, and optimizer/vars/<i> in the order of the trainable variables, which
is that of the layers too. So the classes of the layers tell what is what.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sgdm.convert.layout import Layout
from sgdm.convert.not_understood import NotUnderstood

__all__ = ["Variable", "list_variables"]


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of a layer.

    Attributes:
        name: As Keras has it, without the model's: "conv2d/kernel".
        place: In the HDF5 file: "layers/conv2d/vars/0".
        layout: Of the file.
        trainable: Whether the optimizer has it; None where that is not known.
    """

    name: str
    place: str
    layout: Layout
    trainable: bool | None


@dataclass(frozen=True, slots=True)
class _Kind:
    """A variable that a class of layers has, where its configuration says `when`."""

    name: str
    layout: Layout = "torch"
    when: str | None = None
    trainable: bool = True


_BIAS = _Kind("bias", when="use_bias")
_KERNEL = (_Kind("kernel", "kernel"), _BIAS)
_SEPARABLE = (
    _Kind("depthwise_kernel", "depthwise"),
    _Kind("pointwise_kernel", "kernel"),
    _BIAS,
)
_NORM = (_Kind("gamma", when="scale"), _Kind("beta", when="center"))

_LAYERS: dict[str, tuple[_Kind, ...]] = {
    **dict.fromkeys(("Dense", "Conv1D", "Conv2D", "Conv3D"), _KERNEL),
    # Their kernels have output channels before input channels, and so do torch's the other way.
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), _KERNEL),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), (_Kind("kernel", "depthwise"), _BIAS)),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _SEPARABLE),
    "EinsumDense": (_Kind("kernel"), _Kind("bias", when="bias_axes")),
    "Embedding": (_Kind("embeddings"),),
    "BatchNormalization": (
        *_NORM,
        _Kind("moving_mean", trainable=False),
        _Kind("moving_variance", trainable=False),
        _Kind("moving_stddev", when="renorm", trainable=False),
        _Kind("renorm_mean", when="renorm", trainable=False),
        _Kind("renorm_stddev", when="renorm", trainable=False),
    ),
    "LayerNormalization": _NORM,
    "GroupNormalization": _NORM,
    "RMSNormalization": (_Kind("scale"),),
    "PReLU": (_Kind("alpha"),),
    "Normalization": tuple(_Kind(name, trainable=False) for name in ("mean", "variance", "count")),
}
_LONGEST_NAME = 1000  # which nested models make of the names of each other's layers
_UNKNOWN = "convert the layer's weights by hand, or put a layer of a known class in its place"


def list_variables(model: Mapping[str, Any] | None, datasets: Collection[str]) -> list[Variable]:
    """Return the variables of a model's layers, those that are trainable in the optimizer's order.

    Args:
        model: The content of config.json; None if there is none. Then the names are the places,
            and which of them the optimizer has, in which order, stays unknown.
        datasets: The paths in the HDF5 file.

    Raises:
        NotUnderstood: If there are layers of a class that is not known here, or the file's
            variables are not those of the model.
    """
    held = {path for path in datasets if not path.startswith(("optimizer/", "metrics/"))}
    if model is None:
        found = list(_by_place(held))
    else:
        found = list(_of_model(model, "", "", Counter(path.rpartition("/")[0] for path in held)))
    if len({variable.name for variable in found}) < len(found):
        raise NotUnderstood("two of its layers have one name", "take an intact copy")
    if left := sorted(held - {variable.place for variable in found}):
        raise NotUnderstood(
            f"{left[0]} is of no layer, in a Sequential or functional model, that is known here",
            _UNKNOWN,
        )
    return found


def _of_model(
    model: Mapping[str, Any], name: str, place: str, stored: Counter[str]
) -> Iterator[Variable]:
    counts = Counter[str]()
    for layer in model["config"].get("layers", ()):
        kind, config = layer["class_name"], layer["config"]
        if len(name) + len(place) + len(kind) + len(config["name"]) > _LONGEST_NAME:
            problem = f"the name of a layer in {name[:100]!r} has more than {_LONGEST_NAME} letters"
            raise NotUnderstood(problem, "give it a shorter one")
        own = _snake(kind)
        its_name = f"{name}{config['name']}"
        its_place = f"{place}layers/{own}{f'_{counts[own]}' if counts[own] else ''}"
        counts[own] += 1
        if "layers" in config:
            yield from _of_model(layer, f"{its_name}/", f"{its_place}/", stored)
        elif count := stored[f"{its_place}/vars"]:
            yield from _of_layer(kind, config, its_name, its_place, count)


def _of_layer(
    kind: str, config: Mapping[str, Any], name: str, place: str, stored: int
) -> Iterator[Variable]:
    if kind not in _LAYERS:
        raise NotUnderstood(f"the layer {name!r} is a {kind}, which is not known here", _UNKNOWN)
    if config.get("lora_rank"):
        raise NotUnderstood(
            f"the layer {name!r} has LoRA, whose factors are the ones that are trained",
            "load its weights, which are saved merged, into the model without LoRA, and save that",
        )
    kinds = [each for each in _LAYERS[kind] if each.when is None or config.get(each.when)]
    if len(kinds) != stored:
        raise NotUnderstood(
            f"the layer {name!r}, a {kind}, has {stored} variables, expected {len(kinds)}",
            "save it without quantization and adapters",
        )
    for i, each in enumerate(kinds):
        trainable = each.trainable and config.get("trainable") is not False
        yield Variable(f"{name}/{each.name}", f"{place}/vars/{i}", each.layout, trainable)


def _by_place(held: Collection[str]) -> Iterator[Variable]:
    stored = Counter(path.rpartition("/")[0] for path in held)
    for place in sorted(held, key=_natural):
        match = re.fullmatch(r"((?:layers/\w+/)*layers/([a-z0-9_]+?)(?:_\d+)?/vars)/(\d)", place)
        kinds = _CLASSES.get(match[2], ()) if match else ()
        if match and (number := int(match[3])) < len(kinds):
            of_layer = stored[match[1]]
            statistic = number >= of_layer - _statistics(kinds, of_layer)
            yield Variable(place, place, kinds[number].layout, False if statistic else None)


def _statistics(kinds: tuple[_Kind, ...], stored: int) -> int:
    """Return how many of a layer's variables are statistics, which are the last ones."""
    always = sum(not kind.trainable and kind.when is None for kind in kinds)
    at_times = sum(not kind.trainable and kind.when is not None for kind in kinds)
    return always + (at_times if stored > len(kinds) - at_times else 0)


def _natural(path: str) -> str:
    return re.sub(r"\d+", lambda number: number[0].zfill(10), path)


def _snake(name: str) -> str:
    """Return a class's name as Keras puts it into paths: SeparableConv2D is separable_conv2d."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=.)(?=[A-Z][a-z])", "_", name).lower()


_CLASSES = {_snake(name): kinds for name, kinds in _LAYERS.items()}  # by their name in paths
