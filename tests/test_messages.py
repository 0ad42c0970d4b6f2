"""The wording of every error: name, requirement, value, remedy; torch's text where it has one."""

import math
import pickle
from typing import Any

import pytest
import torch

import sgdm
from sgdm.convention import _CONTRADICTIONS
from sgdm.errors import InvalidTypeError, InvalidUseError, InvalidValueError, SgdmError


def param() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.ones(2))


CONSTRUCTION = [
    (
        {"lr": -0.1},
        InvalidValueError,
        "Invalid learning rate: -0.1: lr must be a finite number >= 0, got -0.1; "
        "pass a step size such as lr=0.1",
    ),
    (
        {"lr": math.nan},
        InvalidValueError,
        "Invalid learning rate: nan: lr must be a finite number >= 0, got nan; "
        "pass a step size such as lr=0.1",
    ),
    (
        {"lr": torch.tensor(math.inf)},
        InvalidValueError,
        "Invalid learning rate: inf: lr must be a finite number >= 0, got inf; "
        "pass a step size such as lr=0.1",
    ),
    (
        {"lr": torch.tensor([0.1, 0.2])},
        InvalidValueError,
        "Tensor lr must be 1-element: lr must be a tensor of one element, got '2 elements'; "
        "one group has one value; give each group its own",
    ),
    (
        {"lr": "0.1"},
        InvalidTypeError,
        "lr must be a number or a one-element tensor, got '0.1'; convert it first: lr=float(...)",
    ),
    (
        {"lr": 1j},
        InvalidTypeError,
        "lr must be a number or a one-element tensor, got 1j; convert it first: lr=float(...)",
    ),
    (
        {"momentum": -0.5},
        InvalidValueError,
        "Invalid momentum value: -0.5: momentum must be a finite number >= 0, got -0.5; "
        "pass a factor such as momentum=0.9, or 0 for plain SGD",
    ),
    (
        {"momentum": 10**400},
        InvalidValueError,
        "Invalid momentum value: inf: momentum must be a finite number >= 0, got inf; "
        "pass a factor such as momentum=0.9, or 0 for plain SGD",
    ),
    (
        {"dampening": math.nan},
        InvalidValueError,
        "Invalid dampening value: nan: dampening must be a finite number, got nan; "
        "pass a factor such as dampening=0.5, or 0 for none",
    ),
    (
        {"weight_decay": -1},
        InvalidValueError,
        "Invalid weight_decay value: -1: weight_decay must be a finite number >= 0, got -1; "
        "pass a factor such as weight_decay=1e-4, or 0 for none",
    ),
    (
        {"weight_decay_mode": "decoupled"},
        InvalidValueError,
        "weight_decay_mode must be None or one of 'coupled', 'lr', 'lr/lr0', 'lr^2/lr0', "
        "'absolute', got 'decoupled'; None takes the convention's own way",
    ),
    (
        {"weight_decay_mode": "lr/lr0", "lr": 0, "weight_decay": 0.1},
        InvalidValueError,
        "lr must be > 0 at construction with weight_decay_mode='lr/lr0', which divides by it, got "
        "0.0; give the peak lr here and let a scheduler warm up from 0",
    ),
    (
        {"convention": "adam"},
        InvalidValueError,
        "convention must be the name of a convention, got 'adam'; `sgdm conventions` lists them",
    ),
    (
        {"convention": "sgdw"},
        InvalidValueError,
        "convention must be the name of a convention, got 'sgdw'; four scalings of the decay have "
        "that name: 'timm' keeps 1 - ε·λ, 'timm-corrected' 1 - (ε²/ε_0)·λ, 'composer' "
        "1 - (ε/ε_0)·λ, and weight_decay_mode='absolute' 1 - λ",
    ),
    (
        {"convention": "detectron"},
        InvalidUseError,
        "convention 'detectron' is not run by SGD: it corrects the momentum where ε moves by more "
        "than a tenth only; take 'caffe' with correct_momentum=True, which also corrects a slow "
        "warm-up",
    ),
    (
        {"correct_momentum": True},
        InvalidValueError,
        "correct_momentum must be False for convention 'torch', got True; its buffer holds no ε, "
        "so multiplying it by ε/ε_{t-1}, as some ports of Detectron to PyTorch do, would be wrong; "
        "what the correction is for is so already",
    ),
    (
        {"correct_momentum": True, "convention": "fairseq"},
        InvalidValueError,
        "correct_momentum must be False for convention 'fairseq', got True; it corrects its "
        "momentum by itself",
    ),
    (
        {"nu": 0.7},
        InvalidValueError,
        "nu must be None for convention 'torch', which has no ν, got 0.7; take convention='qhm'",
    ),
    (
        {"convention": "qhm"},
        InvalidValueError,
        "nu must be a number for convention 'qhm', got None; pass the buffer's share of the move, "
        "such as nu=0.7",
    ),
    (
        {"convention": "qhm", "nu": math.nan},
        InvalidValueError,
        "nu must be a finite number, got nan; pass the buffer's share of the move, such as nu=0.7",
    ),
    (
        {"convention": "Bengo"},
        InvalidValueError,
        "convention must be the name of a convention, got 'Bengo'; did you mean 'bengio'? `sgdm "
        "conventions` lists them",
    ),
    (
        {"engine": "cuda"},
        InvalidValueError,
        "engine must be one of 'auto', 'native', 'triton', 'eager', got 'cuda'; "
        "'auto' takes the fastest that serves the tensors",
    ),
    (
        {"nesterov": True},
        InvalidValueError,
        "Nesterov momentum requires a momentum and zero dampening: got momentum=0, dampening=0 "
        "with nesterov=True; pass a momentum such as 0.9 and no dampening",
    ),
    (
        {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
        InvalidValueError,
        "Nesterov momentum requires a momentum and zero dampening: got momentum=0.9, "
        "dampening=0.1 with nesterov=True; pass a momentum such as 0.9 and no dampening",
    ),
    (
        {"nesterov": True, "momentum": 0.9, "convention": "negated"},
        InvalidValueError,
        "nesterov must be False for convention 'negated', which has no Nesterov form, got True; "
        "take 'torch', 'caffe', 'sutskever' or 'bengio'",
    ),
    (
        {"dampening": 0.5, "momentum": 0.9, "convention": "caffe"},
        InvalidValueError,
        "dampening must be 0 for convention 'caffe', whose gain is one, got 0.5; "
        "take convention='torch', or multiply lr by 1 - dampening",
    ),
    (
        {"fused": True, "differentiable": True},
        InvalidUseError,
        "`fused` does not support `differentiable`: both are True; pass one of them",
    ),
    (
        {"fused": True, "foreach": True},
        InvalidUseError,
        "`fused` and `foreach` cannot be `True` together. They name two paths: pass one, or "
        "neither",
    ),
]


@pytest.mark.parametrize(
    ("arguments", "error", "text"), CONSTRUCTION, ids=[str(c[0])[:60] for c in CONSTRUCTION]
)
def test_construction(arguments, error, text):
    with pytest.raises(error) as caught:
        sgdm.SGD([param()], **arguments)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("arguments", "error"),
    [case[:2] for case in CONSTRUCTION if not {"nesterov", "fused", "engine"} & case[0].keys()],
    ids=lambda value: str(value)[:60],
)
def test_a_group_is_checked_as_the_constructor_is(arguments, error):
    optimizer = sgdm.SGD([param()])
    with pytest.raises(error):
        optimizer.add_param_group({"params": [param()], **arguments})
    assert len(optimizer.param_groups) == 1


def test_torch_begins_the_same_way():
    """Code that matches torch's text goes on matching."""
    cases: list[dict[str, Any]] = [
        {"lr": -0.1},
        {"momentum": -0.5},
        {"weight_decay": -1},
        {"nesterov": True},
        {"fused": True, "foreach": True},
    ]
    for arguments in cases:
        with pytest.raises((ValueError, RuntimeError), match=" ") as theirs:
            torch.optim.SGD([param()], **arguments)
        with pytest.raises(type(theirs.value), match=" ") as mine:
            sgdm.SGD([param()], **arguments)
        assert str(mine.value).startswith(str(theirs.value))


def test_from_torch_takes_torchs_sgd_only():
    with pytest.raises(TypeError, match=r"^optimizer must be a torch.optim.SGD, got Adam"):
        sgdm.SGD.from_torch(torch.optim.Adam([param()]))  # pyright: ignore[reportArgumentType]


def test_a_group_that_is_no_dict_is_torchs_error():
    with pytest.raises(TypeError, match="param_group must be a dict"):
        sgdm.SGD([param()]).add_param_group([param()])  # pyright: ignore[reportArgumentType]


def test_one_family_that_is_also_the_built_in():
    for error, built_in in (
        (InvalidValueError, ValueError),
        (InvalidTypeError, TypeError),
        (InvalidUseError, RuntimeError),
    ):
        assert issubclass(error, SgdmError)
        assert issubclass(error, built_in)


def test_an_error_carries_its_evidence_through_pickling():
    error = InvalidValueError.of("lr", ">= 0", -1, "raise it")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "lr must be >= 0, got -1; raise it"
    assert (again.name, again.requirement, again.value) == ("lr", ">= 0", -1)


def test_a_long_value_is_cut():
    assert str(InvalidValueError.of("x", "short", "y" * 300, "cut it")) == (
        f"x must be short, got '{'y' * 196}...; cut it"
    )


CONTRADICTIONS = [
    ({"momentum": "next"}, "momentum='next' contradicts nesterov='never'"),
    (
        {"momentum": "next", "nesterov": "always", "stores": "iterate"},
        "momentum='next' contradicts stores='iterate'",
    ),
    (
        {"momentum": "next", "nesterov": "always", "momentum_zero": "freeze"},
        "momentum='next' contradicts momentum_zero='freeze'",
    ),
    ({"stores": "iterate"}, "stores='iterate' contradicts nesterov='never'"),
    (
        {"momentum": "next", "nesterov": "always", "gain": "1-momentum"},
        "momentum='next' contradicts gain='1-momentum'",
    ),
    (
        {"momentum": "next", "nesterov": "always", "look_ahead": "two steps"},
        "momentum='next' contradicts look_ahead='two steps'",
    ),
    (
        {"momentum": "previous", "nesterov": "optional"},
        "momentum='previous' contradicts nesterov='optional'",
    ),
    (
        {"momentum": "previous", "momentum_zero": "freeze"},
        "momentum='previous' contradicts momentum_zero='freeze'",
    ),
    (
        {"stores": "iterate", "nesterov": "always", "look_ahead": "two steps"},
        "stores='iterate' contradicts look_ahead='two steps'",
    ),
    ({"look_ahead": "two steps"}, "look_ahead='two steps' contradicts nesterov='never'"),
    (
        {"look_ahead": "nu", "nesterov": "always"},
        "look_ahead='nu' contradicts lr='inside'",
    ),
    ({"nesterov_check": True}, "nesterov_check=True contradicts nesterov='never'"),
    ({"gain_at": "move"}, "gain_at='move' contradicts gain='one'"),
    (
        {"gain_at": "move", "gain": "1-momentum", "nesterov": "optional"},
        "gain_at='move' contradicts nesterov='optional'",
    ),
    ({"weight_decay": "buffer"}, "weight_decay='buffer' contradicts nesterov='never'"),
    (
        {"weight_decay": "late", "nesterov": "always", "stores": "iterate"},
        "weight_decay='late' contradicts stores='iterate'",
    ),
    (
        {"weight_decay": "late", "nesterov": "always", "look_ahead": "two steps"},
        "weight_decay='late' contradicts look_ahead='two steps'",
    ),
    (
        {"weight_decay": "late", "nesterov": "always", "momentum": "next"},
        "weight_decay='late' contradicts momentum='next'",
    ),
    (
        {"weight_decay": "buffer", "nesterov": "always", "gain": "1-momentum"},
        "weight_decay='buffer' contradicts gain='1-momentum'",
    ),
    ({"lr_zero": "forget", "first": "copy"}, "lr_zero='forget' contradicts first='copy'"),
    (
        {"weight_decay": "late", "nesterov": "always", "lr": "outside"},
        "weight_decay='late' contradicts lr='outside'",
    ),
    (
        {"weight_decay": "late", "nesterov": "always", "gain": "1-dampening"},
        "weight_decay='late' contradicts gain='1-dampening'",
    ),
]


@pytest.mark.parametrize(("axes", "message"), CONTRADICTIONS)
def test_contradicting_axes_are_named(axes, message):
    given: dict[str, Any] = {"name": "mine", "title": "", "lr": "inside", "sign": "step"}
    with pytest.raises(InvalidValueError, match=f"convention 'mine': {message}: .*; change one"):
        sgdm.Convention(**given | axes)


def test_what_would_divide_by_zero_is_refused_before_anything_is_written():
    p = param()
    optimizer = sgdm.SGD([p], lr=2.0, momentum=0.5, weight_decay=1.0, convention="mxnet-nag")
    p.grad = torch.ones(2)
    with pytest.raises(InvalidValueError) as caught:
        optimizer.step()
    assert str(caught.value) == (
        "weight_decay must be such that ε·λ·μ is not 1 with convention 'mxnet-nag-1.6', got 1.0; "
        "make lr, weight_decay or momentum smaller"
    )
    assert torch.equal(p, torch.ones(2))
    assert not optimizer.state
    optimizer = sgdm.SGD([p], lr=0.0, weight_decay=0.0, weight_decay_mode="lr/lr0")
    optimizer.param_groups[0].update(lr=0.1, weight_decay=0.1)
    with pytest.raises(InvalidValueError, match="lr must be > 0 at construction with weight_deca"):
        optimizer.step()
    assert torch.equal(p, torch.ones(2))


@pytest.mark.parametrize(
    ("convention", "key", "value", "message"),
    [
        ("qhm", "nu", math.nan, "nu must be a finite number, got nan"),
        ("qhm", "nu", None, "nu must be a number for convention 'qhm', got None"),
        ("darknet", "last_momentum", math.nan, "last_momentum must be a finite number >= 0"),
    ],
)
def test_what_is_written_into_a_group_is_checked_at_the_step(convention, key, value, message):
    p = param()
    nu = 0.7 if key == "nu" else None
    optimizer = sgdm.SGD([p], momentum=0.9, convention=convention, nu=nu)
    optimizer.param_groups[0][key] = value
    p.grad = torch.ones(2)
    with pytest.raises(InvalidValueError, match=message):
        optimizer.step()
    assert torch.equal(p, torch.ones(2))
    if key == "last_momentum":
        other = sgdm.SGD([param()], momentum=0.9, convention=convention)
        with pytest.raises(InvalidValueError, match=message):
            other.load_state_dict(optimizer.state_dict())


def test_a_look_ahead_that_autograd_does_not_see_is_refused():
    optimizer = sgdm.SGD(
        [param()], convention="sutskever", momentum=0.9, nesterov=True, differentiable=True
    )
    with pytest.raises(InvalidUseError) as caught:
        optimizer.step(lambda: torch.tensor(0.0))
    assert str(caught.value) == (
        "differentiable must be False with convention 'sutskever' and nesterov=True, whose way to "
        "θ + μ·v is not recorded, got True; use convention='bengio', which stores that point"
    )


def test_a_convention_is_a_name():
    with pytest.raises(InvalidTypeError, match=r"convention must be a name, got 5; `sgdm conven"):
        sgdm.SGD([param()], convention=5)  # pyright: ignore[reportArgumentType]


def test_every_contradiction_is_tested():
    assert len(CONTRADICTIONS) == len(_CONTRADICTIONS)


def test_an_unknown_axis_value_is_named():
    with pytest.raises(
        InvalidValueError, match="lr must be 'outside' or 'inside' or 'corrected', got 'middle'"
    ):
        sgdm.Convention(name="x", title="", lr="middle", sign="step")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["", "Mine", " mine"])
def test_a_name_that_cannot_be_typed_is_refused(name):
    with pytest.raises(InvalidValueError, match="name must be a word in lower case"):
        sgdm.Convention(name=name, title="", lr="inside", sign="step")


def test_a_name_is_given_once(monkeypatch):
    from sgdm import frameworks

    monkeypatch.setattr(frameworks, "_BY_NAME", dict(frameworks._BY_NAME))
    monkeypatch.setattr(frameworks, "_ALIASES", dict(frameworks._ALIASES))
    row = sgdm.Convention(name="mine", title="", lr="inside", sign="step")
    sgdm.register_convention(row)
    sgdm.register_convention(row)
    optimizer = sgdm.SGD([param()], convention="mine")
    assert optimizer.param_groups[0]["convention"] == "mine"
    for name, aliases in (("torch", ()), ("keras", ()), ("sgdw", ()), ("other", ("mlx",))):
        other = sgdm.Convention(name=name, aliases=aliases, title="", lr="inside", sign="step")
        with pytest.raises(InvalidValueError, match="name must be one that no other convention"):
            sgdm.register_convention(other)


@pytest.mark.parametrize("engine", ["auto", "native", "eager"])
def test_a_tensor_that_does_not_fit_is_refused_before_the_first_write(engine):
    from sgdm.engines.plan import Part, Rule, StepPlan
    from sgdm.running import run

    h = sgdm.Hyperparameters(lr=0.1, momentum=0.9)
    rule = Rule(sgdm.coefficients(sgdm.get_convention("torch"), h, first=False), average_weight=0.1)
    fitting = torch.ones(2)
    for tensors, message in (
        (
            (torch.ones(3), fitting, fitting),
            "gradient must be of shape (2,) on cpu, as its parameter is, got '(3,) on cpu'; "
            "compute it for this parameter",
        ),
        (
            (torch.ones(2, device="meta"), fitting, fitting),
            "gradient must be of shape (2,) on cpu, as its parameter is, got '(2,) on meta'; "
            "compute it for this parameter",
        ),
        (
            (fitting, torch.ones(1), fitting),
            "momentum_buffer must be of shape (2,) on cpu, as its parameter is, got '(1,) on cpu'; "
            "load the state of this very model",
        ),
        (
            (fitting, None, fitting),
            "momentum_buffer must be a tensor, got None; remove the key where there is none yet",
        ),
        (
            (fitting, fitting.to(torch.complex64), fitting),
            "momentum_buffer must be of a dtype that fits torch.float32, got torch.complex64; load "
            "the state of this very model",
        ),
        (
            (fitting, fitting, torch.ones(2, 1)),
            "average must be of shape (2,) on cpu, as its parameter is, got '(2, 1) on cpu'; "
            "load the state of this very model",
        ),
    ):
        written = [[torch.ones(2), torch.ones(2)], [torch.ones(2)], [torch.ones(2)]]
        given: list[Any] = [x if x is None else x.clone() for x in tensors]
        gradient, buffer, average = given
        part = Part(rule, written[0], [torch.ones(2), gradient])
        part.buffers, part.averages = [*written[1], buffer], [*written[2], average]
        with pytest.raises((InvalidValueError, InvalidTypeError)) as caught:
            run(StepPlan(parts=[part]), engine=engine)
        assert str(caught.value) == message
        assert all(torch.equal(x, torch.ones(2)) for tensors in written for x in tensors)


def test_an_engine_is_used_or_refused_never_replaced():
    from sgdm.engines.plan import StepPlan
    from sgdm.running import run

    with pytest.raises(InvalidValueError, match="engine must be one of"):
        run(StepPlan(), engine="abacus")
    optimizer = sgdm.SGD([param()])
    optimizer.engine = "abacus"
    with pytest.raises(InvalidValueError, match="engine must be one of"):
        optimizer.step()
