"""Drives `pybrain.auxiliary.GradientDescent`, which ascends: it is handed -g."""

import importlib.util
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from protocol import Array, Case, Refused, main

# The package itself is Python 2; this file of it is both.
package = importlib.util.find_spec("pybrain")
assert package is not None
assert package.origin is not None
path = Path(package.origin).parent / "auxiliary" / "gradientdescent.py"
spec = importlib.util.spec_from_file_location("gradientdescent", path)
assert spec is not None
assert spec.loader is not None
gradientdescent = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gradientdescent)


class _PyBrain:
    def __init__(self, case: Case) -> None:
        case.refuse_unless(dampening=0.0, weight_decay=0.0, nesterov=False)
        if case.dtype != "float64":
            raise Refused("momentumvector is always float64 in this framework")
        self.rounded: dict[str, str] = {}
        self._descent = gradientdescent.GradientDescent()
        self._descent.alpha = case.lr[0]
        self._descent.momentum = case.momentum[0]
        self._descent.init(case.start())

    def step(self, gradient: Array, lr: float, momentum: float) -> None:
        self._descent.alpha = lr
        self._descent.momentum = momentum
        self._descent(-gradient)

    def parameter(self) -> Array:
        return self._descent.values

    def buffer(self) -> Array | None:
        return self._descent.momentumvector


main({"PyBrain": version("PyBrain")}, {"pybrain": _PyBrain})
