"""The case table: every rule that runs, beside its literal twin."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import reference
from reference import Literal
from sgdm import Convention, Hyperparameters, get_convention


class Case(NamedTuple):
    """A convention with the options that select one published equation."""

    convention: str
    literal: Literal
    options: Mapping[str, Any] = MappingProxyType({})

    @property
    def row(self) -> Convention:
        return get_convention(self.convention)

    @property
    def needs_closure(self) -> bool:
        return self.convention == "sutskever" and bool(self.options.get("nesterov"))

    def hyperparameters(self, t: int, eps, mu, **more: Any) -> Hyperparameters:
        """What step t is run with; rules of the next momentum are fed one ahead."""
        ahead = self.row.momentum == "next"
        return Hyperparameters(lr=eps(t), momentum=mu(t + ahead), **self.options, **more)

    def __str__(self) -> str:
        return "-".join([self.convention, *self.options])


TORCH = Case("torch", reference.equation_1)
TORCH_DAMPENED = Case("torch", reference.dampened(0.3), {"dampening": 0.3})
TORCH_NESTEROV = Case("torch", reference.torch_nesterov(), {"nesterov": True})
NEGATED = Case("negated", reference.equation_2)
CAFFE = Case("caffe", reference.equation_3)
CAFFE_NESTEROV = Case("caffe", reference.caffe_nesterov(), {"nesterov": True})
SUTSKEVER = Case("sutskever", reference.equation_3_prime)
SUTSKEVER_NESTEROV = Case("sutskever", reference.equations_6_7, {"nesterov": True})
NAG = Case("nag", reference.equations_4_5)
BENGIO = Case("bengio", reference.equation_8)
BENGIO_LR_OUTSIDE = Case("bengio-lr-outside", reference.equations_9_10)

CASES = (
    TORCH,
    TORCH_DAMPENED,
    TORCH_NESTEROV,
    NEGATED,
    CAFFE,
    CAFFE_NESTEROV,
    SUTSKEVER,
    SUTSKEVER_NESTEROV,
    NAG,
    BENGIO,
    BENGIO_LR_OUTSIDE,
)
