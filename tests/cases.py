"""The case tables: the seed's rules beside their literal twins, and every rule there is."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, NamedTuple

import reference
from reference import Literal
from sgdm import Convention, Hyperparameters, get_convention, list_conventions
from sgdm.convention import DESCRIPTION


class Case(NamedTuple):
    """A convention with the options that select one published equation."""

    convention: str
    literal: Literal | None
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

    @property
    def twin(self) -> Literal:
        assert self.literal is not None
        return self.literal

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

# What a row says of itself and checks, and not what its steps are.
_BESIDE = {*DESCRIPTION, "nesterov", "nesterov_check", "sparse"}


def variants(row: Convention) -> Iterator[Case]:
    """The row as it is, and with what it can be asked for."""
    options = {"nu": 0.7} if row.look_ahead == "nu" else {}
    yield Case(row.name, None, options)
    if row.nesterov == "optional":
        yield Case(row.name, None, {**options, "nesterov": True})
    if row.gain == "1-dampening":
        yield Case(row.name, None, {**options, "dampening": 0.3})


def place(case: Case) -> tuple[Any, ...]:
    """Where a case stands on the axes; cases in one place step by the same code."""
    row, asked = case.row, case.options
    stands = tuple(getattr(row, f.name) for f in fields(row) if f.name not in _BESIDE)
    looks_ahead = row.nesterov == "always" or bool(asked.get("nesterov"))
    return (*stands, looks_ahead, bool(asked.get("dampening")))


# One case for every place on the axes where the table stands; the seed's first.
EVERY_RULE = tuple(
    {
        place(case): case
        for case in reversed(
            [*CASES, *(case for row in list_conventions() if row.runs for case in variants(row))]
        )
    }.values()
)[::-1]
