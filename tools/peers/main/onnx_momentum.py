"""Drives the operator `ai.onnx.preview.training.Momentum` in ONNX's `ReferenceEvaluator`."""

import sys
from pathlib import Path

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

sys.path.insert(0, str(Path(__file__).parents[1]))
from protocol import Array, Case, main

DOMAIN = "ai.onnx.preview.training"


class _Onnx:
    def __init__(self, case: Case) -> None:
        # The attributes of an operator are float32; R is an input.
        self.rounded = dict.fromkeys(("momentum", "dampening", "weight_decay"), "float32")
        self._attributes = {
            "beta": 1 - case.dampening,
            "mode": "nesterov" if case.nesterov else "standard",
            "norm_coefficient": case.weight_decay,
        }
        self._t = np.int64(0)
        self._p = case.start()
        self._v = np.zeros_like(self._p)

    def step(self, gradient: Array, lr: float, momentum: float) -> None:
        node = onnx.helper.make_node(
            "Momentum", "RTXGV", ("Y", "W"), domain=DOMAIN, alpha=momentum, **self._attributes
        )
        given = {
            "R": np.array(lr, self._p.dtype),
            "T": np.array(self._t),
            "X": self._p,
            "G": gradient,
            "V": self._v,
        }
        self._p, self._v = ReferenceEvaluator(_model(node, given)).run(None, given)
        self._t += 1

    def parameter(self) -> Array:
        return self._p

    def buffer(self) -> Array | None:
        return self._v


def _model(node: onnx.NodeProto, given: dict[str, Array]) -> onnx.ModelProto:
    def value(name: str, like: Array) -> onnx.ValueInfoProto:
        element = onnx.helper.np_dtype_to_tensor_dtype(like.dtype)
        return onnx.helper.make_tensor_value_info(name, element, like.shape)

    inputs = [value(name, array) for name, array in given.items()]
    outputs = [value(name, given["X"]) for name in node.output]
    graph = onnx.helper.make_graph([node], "step", inputs, outputs)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid(DOMAIN, 1)])


main({"onnx": onnx.__version__, "numpy": np.__version__}, {"onnx": _Onnx})
