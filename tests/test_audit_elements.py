"""Cases of elements: each catches what it is for, and nothing else does."""

import pytest
import torch
from packaging.version import Version

from clean_sgd import CleanSGD
from examining import (
    CASE,
    accusations,
    caught_alone,
    failures,
    subject,
)
from sgdm.audit.cases.elements import CASES
from stepping import STEP_CASES, false_accusations, step_failures


class SkipsSingleElements(CleanSGD):
    def update(self, p, g, group):
        if p.numel() > 1 or p.dtype == torch.float64:
            super().update(p, g, group)


class DoublesTheTail(CleanSGD):
    """Of one element, behind registers of four."""

    def move(self, p, d, group):
        if p.dim() == 1 and p.numel() % 4 == 1:
            d = torch.cat([d[:-1], 2 * d[-1:]])
        super().move(p, d, group)


class HalvesBfloat16(CleanSGD):
    def move(self, p, d, group):
        super().move(p, d / 2 if p.dtype == torch.bfloat16 else d, group)


class ReadsGradientsInMemoryOrder(CleanSGD):
    def update(self, p, g, group):
        if p.is_contiguous() and p.dim() == 2:
            g = g.as_strided(p.shape, p.stride())
        super().update(p, g, group)


class TakesParametersForContiguous(CleanSGD):
    def move(self, p, d, group):
        rows = torch.empty(p.shape).stride()
        super().move(p, d if p.is_contiguous() else d.as_strided(p.shape, rows), group)


class TakesGradientsForChannelsLast(CleanSGD):
    """Where the parameter is."""

    def update(self, p, g, group):
        last = p.dim() == 4 and p.is_contiguous(memory_format=torch.channels_last)
        if last and not p.is_contiguous():
            g = g.as_strided(p.shape, p.stride())
        super().update(p, g, group)


def has_gaps(p):
    return p.dim() == 2 and not p.is_contiguous() and not p.mT.is_contiguous()


class StumblesOverGaps(CleanSGD):
    def move(self, p, d, group):
        super().move(p, d.flip(0) if has_gaps(p) else d, group)


class WritesIntoGaps(CleanSGD):
    def move(self, p, d, group):
        super().move(p, d, group)
        if has_gaps(p):
            p.as_strided((1,), (1,), p.storage_offset() + 1).zero_()


class ReplacesMemory(CleanSGD):
    def move(self, p, d, group):
        p.data = p - group["lr"] * d


class DividesBySize(CleanSGD):
    def direction(self, p, g, group):
        return super().direction(p, g, group) * (p.numel() / p.numel())


class SkipsScalars(CleanSGD):
    def update(self, p, g, group):
        if p.dim():
            super().update(p, g, group)


PLANTED = [
    (SkipsSingleElements, "every-element-moves", "0 of 1 elements moved"),
    (DoublesTheTail, "equal-elements-stay-equal", "5 equal elements became -0.888 to -0.444"),
    (
        HalvesBfloat16,
        "sixteen-bits-step-alike",
        "what goes 0.24 in float32 is 0.12 off in torch.bfloat16",
    ),
    (
        ReadsGradientsInMemoryOrder,
        "gradient-strides-are-heeded",
        "a transposed gradient of the same values makes another step",
    ),
    (
        TakesParametersForContiguous,
        "parameter-strides-are-heeded",
        "a transposed parameter with its gradient takes another step",
    ),
    (
        TakesGradientsForChannelsLast,
        "memory-formats-are-heeded",
        "a parameter and its gradient in different memory formats make another step",
    ),
    (
        StumblesOverGaps,
        "gaps-are-heeded",
        "every second column of a matrix takes another step than a matrix of its own",
    ),
    (
        WritesIntoGaps,
        "memory-beside-is-left-alone",
        "1 elements beside the parameter were changed",
    ),
    (ReplacesMemory, "a-view-is-written-through", "the parameter was given other memory"),
    (DividesBySize, "empty-tensors-are-no-trouble", "ZeroDivisionError: division by zero"),
    (
        SkipsScalars,
        "scalars-move",
        "a tensor without dimensions does not move, one of one element does",
    ),
]


test_caught_by_its_case_alone_and_shown_by_its_script = caught_alone(PLANTED, step_failures)


def test_every_planted_defect_has_its_case():
    assert {name for _, name, _ in PLANTED} == {case.name for case in CASES}


def test_what_an_empty_tensor_does_to_the_next_is_caught():
    class EndsAtEmptyTensors(CleanSGD):
        def update(self, p, g, group):
            if all(q.numel() for q in group["params"]):
                super().update(p, g, group)

    found = accusations(subject(EndsAtEmptyTensors, lr=0.1), CASES)
    assert found == {
        "empty-tensors-are-no-trouble": "1 becomes 0.8 alone, and 1 behind an empty tensor"
    }


@pytest.mark.parametrize("lr", [0.1, 1e-6])
def test_fused_sgd_of_torch(lr):
    """pytorch issue 191763, mended after 2.13; and strides and gaps that it takes no notice of."""
    found = accusations(subject(torch.optim.SGD, lr=lr, momentum=0.9, fused=True), CASES)
    sixteen_bits = {
        "every-element-moves": "0 of 16 elements moved",
        "equal-elements-stay-equal": "17 equal elements became -0.443 to 0.0001",
        "sixteen-bits-step-alike": "what goes 0.24 in float32 is 0.24 off in torch.bfloat16",
    }
    mended = Version(torch.__version__) >= Version("2.14")
    assert found == ({} if mended else sixteen_bits) | {
        "gradient-strides-are-heeded": PLANTED[3][2],
        "memory-formats-are-heeded": PLANTED[5][2],
        "gaps-are-heeded": PLANTED[6][2],
        "memory-beside-is-left-alone": "2 elements beside the parameter were changed",
    }


def test_what_stops_after_a_chunk_is_caught():
    class StopsAfterAChunk(CleanSGD):
        def move(self, p, d, group):
            super().move(p[:65536], d[:65536], group) if p.dim() else super().move(p, d, group)

    assert accusations(subject(StopsAfterAChunk, lr=0.1), STEP_CASES) == {
        "every-element-moves": "65536 of 100003 elements moved",
        "equal-elements-stay-equal": "100003 equal elements became -0.21 to 0.0001",
    }


@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
def test_a_gradient_in_another_order_than_its_parameter_is_caught(order):
    class ReadsMemoryInOneOrder(CleanSGD):
        def update(self, p, g, group):
            if p.dim() == 4 and p.is_contiguous(memory_format=order):
                g = g.as_strided(p.shape, p.stride())
            super().update(p, g, group)

    case = CASE["memory-formats-are-heeded"]
    found = failures(subject(ReadsMemoryInOneOrder, lr=0.1), [case])
    assert found[case.name].setting["own"] == order


def test_decay_that_16_bits_do_not_have_is_caught():
    class DecaysWideOnesOnly(CleanSGD):
        def direction(self, p, g, group):
            decay = group["weight_decay"] if p.dtype.itemsize > 2 else 0.0
            return super().direction(p, g, {**group, "weight_decay": decay})

    found = accusations(subject(DecaysWideOnesOnly, lr=0.1, momentum=0.9), STEP_CASES)
    assert found == {
        "sixteen-bits-step-alike": "what goes 0.51 in float32 is 0.268 off in torch.bfloat16"
    }


def test_nobody_is_accused_falsely():
    assert false_accusations(CASES) == {}
