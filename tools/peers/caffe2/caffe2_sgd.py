"""Drives Caffe2's operator `MomentumSGDUpdate`, and `SgdOptimizer` of `caffe2.python.optimizer`.

It runs under Python 3.9, for which protocol.py is too new, and so speaks the protocol by itself.
"""

import json
import sys
from importlib.metadata import version
from typing import Any, Dict, List, Optional  # noqa: UP035 - Python 3.9

import numpy as np
from caffe2.python import core, workspace
from caffe2.python.optimizer import SgdOptimizer, WeightDecayBuilder

Case = Dict[str, Any]  # noqa: UP006
Values = Optional[List[float]]  # noqa: UP006, UP045


class Refused(Exception):  # noqa: N818 - an answer, not an error
    """The framework cannot express a case."""


class _Net:
    """A net that takes one step: decay, if any, then the update."""

    def __init__(self, case: Case) -> None:
        if case["dtype"] != "float32":
            raise Refused("parameters are always float32 in this framework")
        if case.get("dampening"):
            raise Refused("dampening is always 0.0 in this framework")
        workspace.ResetWorkspace()
        workspace.FeedBlob("p", np.array(case["p"], "float32"))
        workspace.FeedBlob("g", np.zeros(len(case["p"]), "float32"))
        workspace.FeedBlob("lr", np.zeros(1, "float32"))
        self._init, self._net = core.Net("init"), core.Net("step")
        if case.get("weight_decay"):
            WeightDecayBuilder(case["weight_decay"])(self._net, self._init, "p", "g")
        self._update(case["momentum"][0], nesterov=case.get("nesterov", False))
        workspace.RunNetOnce(self._init)
        workspace.CreateNet(self._net)
        self._momentum = case["momentum"][0]

    def _update(self, momentum: float, *, nesterov: bool) -> None:
        """Add the update to the nets."""
        self._init.ConstantFill("p", "p_momentum", value=0.0)
        self._net.MomentumSGDUpdate(
            ["g", "p_momentum", "lr", "p"],
            ["g", "p_momentum", "p"],
            momentum=momentum,
            nesterov=int(nesterov),
        )

    def step(self, gradient: Any, lr: float, momentum: float) -> None:
        if momentum != self._momentum:  # an argument of the operator: the net is made anew
            (operator,) = (x for x in self._net.Proto().op if x.type == "MomentumSGDUpdate")
            (argument,) = (x for x in operator.arg if x.name == "momentum")
            argument.f = self._momentum = momentum
            workspace.CreateNet(self._net, overwrite=True)
        workspace.FeedBlob("g", gradient)
        workspace.FeedBlob("lr", np.array([lr], "float32"))
        workspace.RunNet(self._net)

    def parameter(self) -> Any:
        return workspace.FetchBlob("p")

    def buffer(self) -> Any:
        return workspace.FetchBlob("p_momentum") if workspace.HasBlob("p_momentum") else None


class _Optimizer(_Net):
    """The Python optimizer; lr is its multiplier, its own base is 1."""

    def _update(self, momentum: float, *, nesterov: bool) -> None:
        optimizer = SgdOptimizer(1.0, momentum=momentum, nesterov=int(nesterov))
        optimizer.add_lr_multiplier(core.BlobReference("lr"))
        optimizer(self._net, self._init, "p", "g")


def gradient(case: Case, t: int, p: Any) -> Any:
    """Return the gradient of step t at p."""
    if case.get("gradients") is not None:
        return np.array(case["gradients"][t], "float32")
    return np.array(case["curvature"], "float32") * (p - np.array(case["center"], "float32"))


def listed(values: Any) -> Values:
    """Return the elements, which must be float32; a float has them exactly."""
    if values is None:
        return None
    assert values.dtype == np.float32
    return [float(x) for x in values]


def drive(case: Case, kind: Any) -> Dict[str, Any]:  # noqa: UP006
    """Return the case's trajectory."""
    told = {"name": case["name"], "dtype": case["dtype"], "p": [], "b": [], "rounded": {}}
    try:
        peer = kind(case)
    except Refused as refusal:
        return {"name": case["name"], "dtype": case["dtype"], "refused": str(refusal)}
    for t, lr in enumerate(case["lr"]):
        peer.step(gradient(case, t, peer.parameter()), lr, case["momentum"][t])
        told["p"].append(listed(peer.parameter()))
        told["b"].append(listed(peer.buffer()))
    return told


output, sys.stdout = sys.stdout, sys.stderr  # what Caffe2 prints is not a trajectory
(row,) = sys.argv[1:]
kind = {"caffe2": _Net, "caffe2-py": _Optimizer}[row]
answers = [drive(case, kind) for case in json.load(sys.stdin)]
json.dump({"versions": {"torch": version("torch")}, "cases": answers}, output)
output.write("\n")
