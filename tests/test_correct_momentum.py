"""Goyal's momentum correction: rules with ε in the buffer go on as those without."""

import copy
from typing import Any

import pytest
import torch

import sgdm
from driving import buffer_of, parameter, step_with
from sgdm import Convention, list_conventions
from sgdm.convention import with_momentum_correction
from sgdm.errors import InvalidValueError

WARM_UP = [0.0, 0.0, 0.01, 0.05, 0.1, 0.1, 0.0, 0.1, 0.01, 0.01, 0.001, 0.5]
INSIDE = [row for row in list_conventions() if row.runs and row.lr == "inside"]


def follow(lrs, **arguments):
    """Step through learning rates, each with its own gradient; return the parameters."""
    generator = torch.Generator().manual_seed(5)
    p = torch.nn.Parameter(torch.ones(7))
    given: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, **arguments}
    optimizer = sgdm.SGD([p], **given)
    path = []
    for lr in lrs:
        optimizer.param_groups[0]["lr"] = lr
        p.grad = torch.randn(7, generator=generator)
        optimizer.step()
        path.append(p.detach().clone())
    return torch.stack(path)


@pytest.mark.parametrize("nesterov", [False, True])
def test_corrected_keras_is_torch_to_the_bit(nesterov):
    """Warm-up from 0, a step with lr = 0, drops: the sign of the buffer is all that is left."""
    keras = follow(WARM_UP, convention="keras", nesterov=nesterov, correct_momentum=True)
    assert torch.equal(keras, follow(WARM_UP, nesterov=nesterov))
    assert not torch.equal(keras, follow(WARM_UP, convention="keras", nesterov=nesterov))


def test_it_is_the_multiplication_that_others_do():
    """Horovod's callback and Chainer multiply the buffer by ε/ε_{t-1}, where there is an ε."""
    lrs = [0.1, 0.1, 0.05, 0.05, 0.01, 0.2, 0.2]
    corrected = follow(lrs, convention="keras", correct_momentum=True)
    generator = torch.Generator().manual_seed(5)
    p = torch.nn.Parameter(torch.ones(7))
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, convention="keras")
    for t, lr in enumerate(lrs):
        if t:
            buffer_of(optimizer, p).mul_(lr / lrs[t - 1])
        optimizer.param_groups[0]["lr"] = lr
        p.grad = torch.randn(7, generator=generator)
        optimizer.step()
        assert torch.allclose(p, corrected[t], atol=1e-6)


@pytest.mark.parametrize("row", INSIDE, ids=lambda row: row.name)
def test_every_corrected_rule_is_the_rule_with_its_buffer_multiplied(row):
    """By ε/ε_{t-1}, from outside; with what decides a step by 0 left alone."""
    if not row.correctable:
        with pytest.raises(InvalidValueError, match="correct_momentum must be False for conv"):
            with_momentum_correction(row)
        return
    lrs = [0.1, 0.1, 0.05, 0.07, 0.01, 0.2, 0.2]
    for nesterov in {"never": [False], "always": [True]}.get(row.nesterov, [False, True]):
        asked = nesterov and row.nesterov == "optional"
        given: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "nesterov": asked, "weight_decay": 0.1}
        ends = []
        for correct in (True, False):
            p = parameter(1.0, -2.0)
            optimizer = sgdm.SGD([p], convention=row.name, correct_momentum=correct, **given)
            closure = closure_of(p)
            for t, lr in enumerate(lrs):
                optimizer.param_groups[0]["lr"] = lr
                if t and not correct:
                    buffer_of(optimizer, p).mul_(lr / lrs[t - 1])
                optimizer.step(closure)
            ends.append(p.detach().clone())
        assert torch.allclose(*ends, rtol=1e-12)


def closure_of(p):
    def closure():
        p.grad = torch.sin(3 * p.detach()) + 0.5
        return torch.tensor(0.0)

    return closure


def test_the_buffer_has_no_learning_rate():
    """So there is nothing to divide by, and nothing to do at a change."""
    p = parameter(1.0)
    optimizer = sgdm.SGD([p], lr=0.5, momentum=0.9, convention="keras", correct_momentum=True)
    step_with(optimizer, 3.0)
    assert buffer_of(optimizer, p).item() == -3.0
    assert p.item() == -0.5


def test_a_late_group_can_be_corrected_alone():
    first, second = parameter(1.0), parameter(1.0)
    optimizer = sgdm.SGD([first], lr=0.5, momentum=0.9, convention="keras")
    optimizer.add_param_group({"params": [second], "correct_momentum": True})
    step_with(optimizer, 1.0, 1.0)
    optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.05
    step_with(optimizer, 0.0, 0.0)
    assert first.item() == pytest.approx(1 - 0.5 - 0.45)
    assert second.item() == pytest.approx(1 - 0.5 - 0.045)


def test_state_of_the_other_scale_is_refused():
    p = parameter(1.0)
    saved = sgdm.SGD([p], convention="keras", momentum=0.9, correct_momentum=True)
    step_with(saved, 1.0)
    plain = sgdm.SGD([parameter(1.0)], convention="keras", momentum=0.9)
    with pytest.raises(InvalidValueError) as caught:
        plain.load_state_dict(saved.state_dict())
    assert str(caught.value) == (
        "correct_momentum must be False in a state dict for this optimizer, got True; its buffers "
        "have another scale; load sgdm.convert_state_dict(state_dict, to='keras3', "
        "correct_momentum=False)"
    )
    made = sgdm.convert_state_dict(saved.state_dict(), to="keras3", correct_momentum=False)
    plain.load_state_dict(made)
    again = sgdm.SGD([parameter(1.0)], convention="keras3", momentum=0.9, correct_momentum=True)
    again.load_state_dict(saved.state_dict())
    assert again.param_groups[0]["correct_momentum"] is True


def test_torch_state_goes_into_a_corrected_rule_of_its_sign():
    """Corrected, Caffe's buffer is torch's; Keras's has the other sign, and is refused."""
    ends = []
    for convention in (None, "caffe"):
        p = torch.nn.Parameter(torch.ones(2))
        optimizer = torch.optim.SGD([p], lr=0.1, momentum=0.9)
        step_with(optimizer, 1.0)
        if convention is not None:
            saved = optimizer.state_dict()
            optimizer = sgdm.SGD([p], convention=convention, correct_momentum=True)
            optimizer.load_state_dict(saved)
        optimizer.param_groups[0]["lr"] = 0.01
        step_with(optimizer, 1.0)
        ends.append(p.detach().clone())
        saved = optimizer.state_dict()
    assert torch.equal(*ends)
    p = torch.nn.Parameter(torch.ones(2))
    torchs = torch.optim.SGD([p], lr=0.1, momentum=0.9)
    step_with(torchs, 1.0)
    keras = sgdm.SGD([p], convention="keras", correct_momentum=True)
    with pytest.raises(InvalidValueError, match="whose buffer is not torch's"):
        keras.load_state_dict(torchs.state_dict())


def test_fairseq_forgets_at_lr_zero(seed):
    """Its buffer is ε times the one here: after a step with ε = 0 it is empty."""
    p = parameter(1.0)
    optimizer = sgdm.SGD([p], lr=0.1, momentum=0.9, convention="fairseq")
    step_with(optimizer, 1.0)
    optimizer.param_groups[0]["lr"] = 0.0
    before = p.item()
    step_with(optimizer, 1.0)
    assert buffer_of(optimizer, p).item() == 0.0
    assert p.item() == before


def test_darknet_decays_by_the_momentum_of_the_step_before(seed):
    """Also in a state dict: what the group remembers goes with it."""
    p = parameter(0.0)
    optimizer = sgdm.SGD([p], lr=1.0, momentum=0.5, convention="darknet")
    step_with(optimizer, 1.0)
    optimizer.param_groups[0]["momentum"] = 0.25
    q = parameter(p.item())
    loaded = sgdm.SGD([q], lr=1.0, momentum=0.9, convention="darknet")
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one in (optimizer, loaded):
        step_with(one, 0.0)
        step_with(one, 0.0)
    assert p.item() == q.item() == -(1 + 0.5 + 0.125)


def test_a_frozen_group_of_lr_zero_keeps_its_buffer():
    """CNTK returns early, cuda-convnet skips the parameter."""
    for name in ("cntk", "cuda-convnet"):
        p = parameter(1.0)
        optimizer = sgdm.SGD([p], lr=0.5, momentum=0.5, convention=name)
        step_with(optimizer, 1.0)
        held, stands = buffer_of(optimizer, p).item(), p.item()
        optimizer.param_groups[0]["lr"] = 0.0
        step_with(optimizer, 1.0)
        assert (buffer_of(optimizer, p).item(), p.item()) == (held, stands)


def test_a_rule_of_ones_own_is_corrected(monkeypatch):
    from sgdm import frameworks

    monkeypatch.setattr(frameworks, "_BY_NAME", dict(frameworks._BY_NAME))
    row = Convention(name="own", title="", lr="inside", sign="gradient", nesterov="optional")
    sgdm.register_convention(row)
    own = follow(WARM_UP, convention="own", nesterov=True, correct_momentum=True)
    assert torch.equal(own, follow(WARM_UP, nesterov=True))


def test_the_momentum_of_the_step_before_is_kept_by_identity(seed):
    """So that the rules are not worked out anew at every step, also with an int."""
    for momentum in (0.9, 0):
        p = parameter(1.0)
        optimizer = sgdm.SGD([p], lr=0.1, momentum=momentum, convention="darknet")
        step_with(optimizer, 1.0)
        step_with(optimizer, 1.0)
        rules = optimizer._known_rules.of(optimizer.param_groups[0])
        step_with(optimizer, 1.0)
        assert optimizer._known_rules.of(optimizer.param_groups[0]) is rules


def test_a_skipped_step_does_not_move_what_is_remembered():
    p = parameter(0.0)
    optimizer = sgdm.SGD([p], lr=1.0, momentum=0.5, convention="darknet", nonfinite="skip")
    step_with(optimizer, 1.0)
    optimizer.param_groups[0]["momentum"] = 0.25
    step_with(optimizer, float("inf"))
    assert optimizer.param_groups[0]["last_momentum"] == 0.5
