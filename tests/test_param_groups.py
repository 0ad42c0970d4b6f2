"""`sgdm.param_groups`: what selects, what is multiplied, what is refused, what is printed."""

import copy
import math
import pickle
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import lr_scheduler

import sgdm
import transcriptions
from caffe_definition import NetParameter
from sgdm.convert.checkpoint import Times
from sgdm.convert.files import caffe
from sgdm.errors import InvalidTypeError, InvalidUseError, InvalidValueError


def names(group: dict[str, Any]) -> list[str]:
    return [name for name, _ in group["params"]]


def selected(model: nn.Module, selector: Any) -> list[str]:
    """The names of what does not decay."""
    groups = sgdm.param_groups(model, weight_decay=0.5, no_decay=selector)
    return [name for group in groups if group["weight_decay"] == 0 for name in names(group)]


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Linear(4, 2))


# ---- the groups ----


def test_the_usual_call():
    model = network()
    groups = sgdm.param_groups(model, weight_decay=5e-4, no_decay=("norm", "bias"))
    assert [group.keys() for group in groups] == [{"params", "weight_decay"}] * 2
    assert [group["weight_decay"] for group in groups] == [5e-4, 0.0]
    assert names(groups[0]) == ["0.weight", "2.weight", "3.weight"]
    assert names(groups[1]) == ["0.bias", "1.weight", "1.bias", "2.bias", "3.bias"]
    given = dict(model.named_parameters())
    assert all(param is given[name] for group in groups for name, param in group["params"])


@pytest.mark.parametrize("optimizer", [sgdm.SGD, torch.optim.SGD, torch.optim.AdamW])
def test_an_optimizer_keeps_the_names_and_the_numbers(optimizer):
    groups = sgdm.param_groups(
        network(), lr=0.25, lr_mult={"bias": 2}, weight_decay=0.5, no_decay="norm"
    )
    expected = [(names(group), group["lr"], group["weight_decay"]) for group in groups]
    built = optimizer(groups, lr=9.0, weight_decay=9.0)
    assert [(g["param_names"], g["lr"], g["weight_decay"]) for g in built.param_groups] == expected
    assert [row[1:] for row in expected] == [(0.25, 0.5), (0.5, 0.5), (0.25, 0.0), (0.5, 0.0)]


def test_without_selectors_there_is_one_group():
    model = network()
    (group,) = sgdm.param_groups(model)
    assert group.keys() == {"params"}
    assert names(group) == [name for name, _ in model.named_parameters()]
    (group,) = sgdm.param_groups(model, lr=0.1, weight_decay=0, lr_mult={}, decay_mult={})
    assert (group["lr"], group["weight_decay"]) == (0.1, 0.0)


def test_the_group_without_multipliers_is_first_and_the_others_follow_the_model():
    groups = sgdm.param_groups(network(), lr=1.0, lr_mult={"0.*": 0.5, "3.*": 0.25})
    assert [group["lr"] for group in groups] == [1.0, 0.5, 0.25]
    groups = sgdm.param_groups(network(), lr=1.0, lr_mult={"*": 2, "1.*": 3})
    assert [group["lr"] for group in groups] == [2.0, 6.0]


def test_the_numbers_do_not_change_which_groups_there_are():
    shapes = [
        [
            names(group)
            for group in sgdm.param_groups(
                network(), lr=lr, lr_mult={"bias": 2}, weight_decay=decay, no_decay="norm"
            )
        ]
        for lr, decay in ((0.1, 5e-4), (0.0, 0.0), (1e-9, 1.0))
    ]
    assert shapes[0] == shapes[1] == shapes[2]


# ---- what selects ----


class TwoScaleNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2, 2))
        self.mix = nn.Linear(2, 2)


class ScaleNorm2d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(2))


class Derived(ScaleNorm2d):
    pass


class Normalizer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(2))


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(2),
        nn.BatchNorm2d(2),
        nn.BatchNorm3d(2),
        nn.SyncBatchNorm(2),
        nn.InstanceNorm1d(2, affine=True),
        nn.InstanceNorm2d(2, affine=True),
        nn.InstanceNorm3d(2, affine=True),
        nn.GroupNorm(1, 2),
        nn.LayerNorm(2),
        nn.RMSNorm(2),
        ScaleNorm2d(),
        Derived(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_norm_is_every_normalization_layer(layer):
    model = nn.Sequential(nn.Linear(2, 2), layer)
    assert selected(model, "norm") == [f"1.{name}" for name, _ in layer.named_parameters()]


def test_norm_is_the_layer_alone_and_not_a_name_like_it():
    model = nn.Sequential(TwoScaleNorm(), Normalizer())
    assert selected(model, "norm") == ["0.scale"]


def test_bias_is_what_torch_calls_so():
    attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
    assert selected(attention, "bias") == ["in_proj_bias", "bias_k", "bias_v", "out_proj.bias"]
    lstm = nn.LSTM(2, 3, bidirectional=True, num_layers=2)
    of_lstm = [name for name, _ in lstm.named_parameters() if "bias_" in name]
    assert len(of_lstm) == 8
    assert selected(lstm, "bias") == of_lstm
    assert selected(nn.GRUCell(2, 3), "bias") == ["bias_ih", "bias_hh"]
    biased = nn.ModuleDict({"bias": nn.Linear(2, 2)})  # a layer's name is not its own
    assert selected(biased, "bias") == ["bias.bias"]
    table = nn.Module()
    table.relative_position_bias_table = nn.Parameter(torch.ones(3, 2))
    table.q_bias = nn.Parameter(torch.ones(2))
    assert selected(table, "bias") == ["q_bias"]


def test_embedding_is_torchs_two():
    model = nn.Sequential(nn.Embedding(3, 2), nn.EmbeddingBag(3, 2), nn.Linear(2, 2))
    assert selected(model, "embedding") == ["0.weight", "1.weight"]


def test_1d_and_bias_are_timms_rule():
    """timm: `param.ndim <= 1 or name.endswith(".bias")`."""
    model = nn.Sequential(network(), nn.Linear(3, 2), TwoScaleNorm(), nn.PReLU())
    model.temperature = nn.Parameter(torch.tensor(1.0))
    by_timm = [
        name
        for name, param in model.named_parameters()
        if param.ndim <= 1 or name.endswith(".bias")
    ]
    assert selected(model, ("1d", "bias")) == by_timm
    assert "temperature" in selected(model, "1d")


def test_a_class_is_its_modules_with_all_that_is_in_them():
    layer = nn.TransformerEncoderLayer(4, 2, 8)
    model = nn.Sequential(layer, nn.LayerNorm(4))
    of_norms = [n for n, _ in model.named_parameters() if n.startswith(("0.norm", "1."))]
    assert selected(model, nn.LayerNorm) == of_norms
    assert selected(model, nn.TransformerEncoderLayer) == [
        f"0.{name}" for name, _ in layer.named_parameters()
    ]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("0.weight", ["0.weight"]),
        ("*.weight", ["0.weight", "1.weight", "2.weight", "3.weight"]),
        ("[02].*", ["0.weight", "0.bias", "2.weight", "2.bias"]),
        ("?.b*s", ["0.bias", "1.bias", "2.bias", "3.bias"]),
        ("*", [f"{i}.{kind}" for i in range(4) for kind in ("weight", "bias")]),
        (re.compile(r"(?!0\.).*\.bias"), ["1.bias", "2.bias", "3.bias"]),
        (re.compile(r"0\.BIAS", re.IGNORECASE), ["0.bias"]),
        (("0.bias", re.compile("1.bias"), nn.Linear), ["0.bias", "1.bias", "3.weight", "3.bias"]),
        (["bias", "bias", "*.bias"], ["0.bias", "1.bias", "2.bias", "3.bias"]),
    ],
)
def test_globs_and_regular_expressions_match_the_whole_name(selector, expected):
    assert selected(network(), selector) == expected


@pytest.mark.parametrize(
    "selector", ["weight", "0", "0.", "*.Weight", re.compile("weight"), re.compile(r"\.bias$")]
)
def test_a_part_of_a_name_does_not_match(selector):
    with pytest.raises(InvalidValueError, match="no_decay must be made of what selects"):
        selected(network(), selector)


def test_a_star_goes_over_dots():
    model = nn.ModuleDict({"layer1": nn.Sequential(network()), "layer10": network()})
    assert selected(model, "layer1.*.bias") == [f"layer1.0.{i}.bias" for i in range(4)]


def test_parametrized_tensors_are_those_of_their_layer():
    model = nn.ModuleDict({"a": nn.Embedding(3, 2), "b": nn.Linear(2, 2), "c": nn.LayerNorm(2)})
    for key, tensor in (("a", "weight"), ("b", "bias"), ("c", "weight")):
        nn.utils.parametrize.register_parametrization(model[key], tensor, nn.Identity())
    assert selected(model, "embedding") == ["a.parametrizations.weight.original"]
    assert selected(model, "bias") == ["b.parametrizations.bias.original", "c.bias"]
    assert selected(model, "norm") == ["c.bias", "c.parametrizations.weight.original"]


# ---- tied, frozen, without data ----


def tied() -> nn.ModuleDict:
    model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "head": nn.Linear(3, 5)})
    model["head"].weight = model["embed"].weight
    return model


@pytest.mark.parametrize("selector", ["head.weight", "embed.*", nn.Linear, "embedding"])
def test_a_tied_parameter_is_one_and_any_of_its_names_selects_it(selector):
    groups = sgdm.param_groups(tied(), weight_decay=0.5, no_decay=selector)
    assert sorted(name for group in groups for name in names(group)) == [
        "embed.weight",
        "head.bias",
    ]
    assert "embed.weight" in selected(tied(), selector)


def test_a_multiplier_that_fits_two_names_of_a_parameter_counts_once():
    groups = sgdm.param_groups(tied(), lr=1.0, lr_mult={"*.weight": 3})
    assert [(group["lr"], names(group)) for group in groups] == [
        (1.0, ["head.bias"]),
        (3.0, ["embed.weight"]),
    ]


def test_a_layer_that_is_used_twice_is_one():
    layer = nn.Linear(2, 2)
    model = nn.ModuleDict({"first": layer, "second": layer})
    assert selected(model, "second.bias") == ["first.bias"]


def test_what_is_frozen_is_left_out_and_still_matched():
    model = network()
    model[1].requires_grad_(False)
    groups = sgdm.param_groups(model, weight_decay=0.5, no_decay="norm")  # no error
    assert [names(group) for group in groups] == [
        [f"{i}.{kind}" for i in (0, 2, 3) for kind in ("weight", "bias")]
    ]
    assert groups.frozen == ("1.weight", "1.bias")


def test_what_is_frozen_afterwards_is_skipped_until_it_is_not():
    model = nn.Linear(2, 2)
    optimizer = sgdm.SGD(sgdm.param_groups(model, weight_decay=0.5, no_decay="bias"), lr=0.1)
    model.weight.requires_grad_(False)
    before = model.weight.clone()
    for moves in (False, True):
        model.weight.requires_grad_(moves)
        optimizer.zero_grad()
        model(torch.ones(2)).sum().backward()
        optimizer.step()
        assert torch.equal(model.weight, before) is not moves


def test_only_names_layers_and_shapes_are_looked_at():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(1 << 20, 1 << 20), nn.LayerNorm(1 << 20))
    groups = sgdm.param_groups(model, weight_decay=0.5, no_decay=("norm", "1d"))
    assert [names(group) for group in groups] == [["0.weight"], ["0.bias", "1.weight", "1.bias"]]
    assert "1,099,511,627,776" in str(groups)


SHARDED = """
import torch, sgdm
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
mesh = distributed.init_device_mesh("cpu", (4,))
with torch.device("meta"):
    model = nn.Sequential(nn.Embedding(8, 8), nn.Linear(8, 8), nn.RMSNorm(8))
for module in (*model, model):
    fully_shard(module, mesh=mesh)
for no_decay in (("norm", "bias"), ("embedding", "1d"), (nn.Linear, nn.RMSNorm)):
    groups = sgdm.param_groups(model, weight_decay=0.5, no_decay=no_decay)
    params = [param for group in groups for _, param in group["params"]]
    assert all(isinstance(param, DTensor) and param.is_meta for param in params)
    print(*(sum(p.numel() for _, p in group["params"]) for group in groups))
    print(*(",".join(name for name, _ in group["params"]) for group in groups))
distributed.destroy_process_group()
"""


def test_a_model_of_fully_shard_stays_as_it_is():
    """One rank of four that are not there, on the meta device; elements are those of all ranks."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SHARDED], capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "128 16",
        "0.weight,1.weight 1.bias,2.weight",
        "64 80",
        "1.weight 0.weight,1.bias,2.weight",
        "64 80",
        "0.weight 1.weight,1.bias,2.weight",
    ]


# ---- multipliers ----


def test_multipliers_are_multiplied_in_any_order():
    rules = {"bias": 2, "0.*": 10, nn.Conv2d: 0.5}
    expected = {"0.weight": 5.0, "0.bias": 10.0, "2.weight": 0.5, "2.bias": 1.0, "3.bias": 2.0}
    for given_ in (rules, dict(reversed(rules.items()))):
        groups = sgdm.param_groups(network(), lr=1.0, lr_mult=given_)
        lr = {name: group["lr"] for group in groups for name in names(group)}
        assert expected.items() <= lr.items()


def test_no_decay_holds_whatever_else_multiplies():
    groups = sgdm.param_groups(
        network(), weight_decay=0.5, no_decay="bias", decay_mult={"0.*": 4, "1.bias": 0}
    )
    decay = {name: group["weight_decay"] for group in groups for name in names(group)}
    assert (decay["0.weight"], decay["0.bias"], decay["1.bias"]) == (2.0, 0.0, 0.0)
    again = sgdm.param_groups(
        network(), weight_decay=0.5, no_decay="bias", decay_mult={"0.*": 4, "bias": 0}
    )
    assert [names(group) for group in again] == [names(group) for group in groups]


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda optimizer: lr_scheduler.StepLR(optimizer, 2, 0.1),
        lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [1, 3], 0.1),
        lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.9),
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda t: 1 / (1 + t)),
        lambda optimizer: lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4),
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 6),
        lambda optimizer: lr_scheduler.OneCycleLR(
            optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=6
        ),
    ],
)
def test_schedulers_keep_the_ratio(scheduler):
    model = network()
    groups = sgdm.param_groups(model, lr=0.1, lr_mult={"bias": 2, "3.*": 10})
    optimizer = sgdm.SGD(groups, momentum=0.9)
    schedule, seen = scheduler(optimizer), set()
    for _ in range(5):
        optimizer.step()
        schedule.step()
        base, *others = [group["lr"] for group in optimizer.param_groups]
        assert [lr / base for lr in others] == pytest.approx([2, 10, 20], rel=1e-12)
        seen.add(base)
    assert len(seen) > 1


def caffe_net(shapes):
    """{1, 1, 2, 0} in every layer, and ten times as fast in the last: the fine-tuning recipe."""
    message = NetParameter(name="net")
    for layer in dict.fromkeys(name.partition("/")[0] for name in shapes):
        added = message.layer.add(name=layer, type="InnerProduct")
        faster = 10 if layer == "fc8" else 1
        added.param.add(lr_mult=faster, decay_mult=1)
        added.param.add(lr_mult=2 * faster, decay_mult=0)
        for name, shape in shapes.items():
            if name.startswith(f"{layer}/"):
                blob = added.blobs.add()
                blob.data.extend([1.0] * math.prod(shape))
                blob.shape.dim.extend(shape)
    return message


@pytest.mark.parametrize("nesterov", [False, True])
def test_caffes_multipliers_in_one_line_move_as_caffe_does(nesterov, seed, tmp_path):
    """Against Caffe's own lines, with the multipliers that a .caffemodel has, under its "step"."""
    model = nn.ModuleDict({"fc7": nn.Linear(3, 4), "fc8": nn.Linear(4, 2)}).double()
    groups = sgdm.param_groups(
        model, lr=0.01, lr_mult={"bias": 2, "fc8.*": 10}, weight_decay=0.5, decay_mult={"bias": 0}
    )

    params = dict(model.named_parameters())
    blobs = {"weight": "0", "bias": "1"}
    name_of = {f"{n.partition('.')[0]}/{blobs[n.partition('.')[2]]}": n for n in params}
    path = tmp_path / "a.caffemodel"
    shapes = {blob: tuple(params[name].shape) for blob, name in name_of.items()}
    path.write_bytes(caffe_net(shapes).SerializeToString())
    with caffe.read(path) as read:
        own = {name_of[slot.name]: slot.own for slot in read.slots}
    assert own["fc7.weight"] == {}
    assert own["fc8.bias"] == {"lr": Times(20), "weight_decay": Times(0)}

    optimizer = sgdm.SGD(groups, momentum=0.9, nesterov=nesterov, convention="caffe")
    schedule = lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.1)
    points = {name: param.detach().numpy().copy() for name, param in params.items()}
    history: dict[str, Any] = dict.fromkeys(params)
    rng = np.random.default_rng(seed)
    for t in range(8):
        for name, param in params.items():
            g = rng.standard_normal(tuple(param.shape))
            param.grad = torch.from_numpy(g)
            settings = transcriptions.Settings(
                t=t,
                lr=0.01 * 0.1 ** (t // 3) * own[name].get("lr", Times(1)).factor,
                mu=0.9,
                wd=0.5 * own[name].get("weight_decay", Times(1)).factor,
                tau=0.0,
                nesterov=nesterov,
            )
            points[name], history[name] = transcriptions.caffe(
                points[name], history[name], g, settings
            )
        optimizer.step()
        schedule.step()
        for name, param in params.items():
            assert np.allclose(param.detach().numpy(), points[name], rtol=1e-13, atol=1e-14)


# ---- the property ----

LAYERS = {
    "linear": lambda: nn.Linear(2, 2),
    "bare": lambda: nn.Linear(2, 2, bias=False),
    "norm": lambda: nn.LayerNorm(2),
    "embed": lambda: nn.Embedding(3, 2),
    "rnn": lambda: nn.GRU(2, 2),
}
KINDS: dict[Any, Any] = {
    "bias": lambda name, _: "bias" in name.rpartition(".")[2],
    "norm": lambda name, _: ".norm" in name,
    "embedding": lambda name, _: ".embed" in name,
    "1d": lambda _, param: param.ndim == 1,
    nn.Linear: lambda name, _: ".linear" in name or ".bare" in name,
}


def literally(selector: Any, name: str, param: torch.Tensor) -> bool:
    if isinstance(selector, re.Pattern):
        return selector.fullmatch(name) is not None
    if selector in KINDS:
        return KINDS[selector](name, param)
    return fnmatchcase(name, selector)


SELECTORS = st.one_of(
    st.sampled_from(list(KINDS)),
    st.sampled_from(["*", "0.*", "1.*", "*.linear*", "?.norm.bias", "[01].embed.weight"]),
    st.sampled_from([re.compile(r"0\..*"), re.compile(r".*(norm|rnn).*"), re.compile(r"\d.*_l0")]),
)
FACTORS = st.sampled_from([0, 0.1, 0.5, 1, 2, 10.0])


@st.composite
def models(draw) -> nn.Sequential:
    kinds = st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, unique=True)
    torch.manual_seed(draw(st.integers(0, 99)))
    model = nn.Sequential(
        *(
            nn.ModuleDict({k: LAYERS[k]() for k in draw(kinds)})
            for _ in range(draw(st.integers(1, 3)))
        )
    )
    places = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if len(places) > 1 and draw(st.booleans()):
        places[-1].weight = places[0].weight
    for param in model.parameters():
        param.requires_grad_(draw(st.integers(0, 4)) > 0)
    next(model.parameters()).requires_grad_()
    return model


@given(
    models(),
    st.dictionaries(SELECTORS, FACTORS, max_size=4),
    st.dictionaries(SELECTORS, FACTORS, max_size=4),
    st.lists(SELECTORS, max_size=3),
)
def test_every_trainable_parameter_is_in_one_group_and_moves_as_by_hand(
    model, lr_mult, decay_mult, no_decay
):
    every: dict[nn.Parameter, list[str]] = {}
    for name, param in model.named_parameters(remove_duplicate=False):
        every.setdefault(param, []).append(name)

    def fits(selector, param):
        return any(literally(selector, name, param) for name in every[param])

    def there(selector):
        return any(fits(selector, param) for param in every)

    lr_mult = {it: x for it, x in lr_mult.items() if there(it)}
    no_decay = [it for it in no_decay if there(it)]
    decay_mult = {it: x for it, x in decay_mult.items() if there(it) and it not in no_decay}
    made = sgdm.param_groups(
        model,
        lr=0.125,
        lr_mult=lr_mult,
        weight_decay=0.03,
        no_decay=no_decay,
        decay_mult=decay_mult,
    )

    trainable = [param for param in every if param.requires_grad]
    grouped = [param for group in made for _, param in group["params"]]
    assert len(grouped) == len(trainable)
    assert set(grouped) == set(trainable)
    assert set(made.frozen) == {every[p][0] for p in every if not p.requires_grad}

    never = dict.fromkeys(no_decay, 0.0)

    def product(factors, param):
        return math.prod(float(x) for it, x in factors.items() if fits(it, param))

    by_hand = [
        {
            "params": [param],
            "lr": 0.125 * product(lr_mult, param),
            "weight_decay": 0.03 * product(never, param) * product(decay_mult, param),
        }
        for param in trainable
    ]

    for make in (sgdm.SGD, torch.optim.SGD):
        # Dicts of their own: an optimizer writes into those it gets.
        ends = [
            steps(make([dict(group) for group in groups], lr=9.0, momentum=0.9), trainable)
            for groups in (made, by_hand)
        ]
        assert all(map(torch.equal, *ends))


def steps(optimizer, params) -> list[torch.Tensor]:
    """Where three steps end; the parameters are put back."""
    start = [param.detach().clone() for param in params]
    for t in range(3):
        for i, param in enumerate(params):
            param.grad = torch.cos(param.detach() * (i + t + 1))
        optimizer.step()
    end = [param.detach().clone() for param in params]
    for param, value in zip(params, start, strict=True):
        param.data.copy_(value)
    return end


# ---- what is refused ----

BY_NAME: Any = nn.ModuleDict({"layer1": network(), "head": nn.Linear(2, 2)})
LAZY = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3))
FROZEN = nn.Linear(2, 2).requires_grad_(requires_grad=False)
CLOSEST = "no_decay must be made of what selects a parameter, got "
KNOWN = (
    "no_decay must be made of globs, patterns of re.compile, module classes, and words ('bias', "
    "'norm', 'embedding', '1d'), got {}; write a name as a string, a kind of layer as its class"
)
REFUSED: list[tuple[nn.Module, dict[str, Any], type[Exception], str]] = [
    # what selects nothing
    (
        BY_NAME,
        {"weight_decay": 1, "no_decay": "layer1.3.bais"},
        InvalidValueError,
        f"{CLOSEST}'layer1.3.bais'; the nearest names are layer1.3.bias, layer1.2.bias, "
        "layer1.1.bias; correct it, or leave it out",
    ),
    (
        BY_NAME,
        {"weight_decay": 1, "no_decay": ("bias", "head")},
        InvalidValueError,
        f"{CLOSEST}'head'; the nearest names are head.*, head.bias, head.weight; correct it, or "
        "leave it out",
    ),
    (
        BY_NAME,
        {"weight_decay": 1, "no_decay": re.compile(r"head\.\d+")},
        InvalidValueError,
        f"{CLOSEST}re.compile('head\\\\.\\\\d+'); the nearest names are head.*, head.bias, "
        "head.weight; correct it, or leave it out",
    ),
    (
        BY_NAME,
        {"lr": 1, "lr_mult": {nn.BatchNorm1d: 2}},
        InvalidValueError,
        "lr_mult must be made of what selects a parameter, got <class "
        "'torch.nn.modules.batchnorm.BatchNorm1d'>; the nearest layers are BatchNorm2d, Linear, "
        "Conv2d; correct it, or leave it out",
    ),
    (
        nn.Linear(2, 2),
        {"weight_decay": 1, "no_decay": ("norm", "bias")},
        InvalidValueError,
        f"{CLOSEST}'norm'; the nearest layers are Linear; correct it, or leave it out",
    ),
    (
        nn.Embedding(2, 2),
        {"weight_decay": 1, "decay_mult": {"bias": 0.5}},
        InvalidValueError,
        "decay_mult must be made of what selects a parameter, got 'bias'; the nearest names are "
        "weight; correct it, or leave it out",
    ),
    # selectors of another type
    (BY_NAME, {"weight_decay": 1, "no_decay": None}, InvalidTypeError, KNOWN.format("None")),
    (
        BY_NAME,
        {"weight_decay": 1, "no_decay": [["bias"]]},
        InvalidTypeError,
        KNOWN.format("['bias']"),
    ),
    (BY_NAME, {"weight_decay": 1, "no_decay": (dict,)}, InvalidTypeError, KNOWN.format(dict)),
    (
        BY_NAME,
        {"weight_decay": 1, "no_decay": (nn.ReLU(),)},
        InvalidTypeError,
        KNOWN.format("ReLU()"),
    ),
    (
        BY_NAME,
        {"weight_decay": 1, "no_decay": re.compile(b"bias")},
        InvalidTypeError,
        KNOWN.format("re.compile(b'bias')"),
    ),
    (
        BY_NAME,
        {"lr": 1, "lr_mult": ["bias", 2]},
        InvalidTypeError,
        "lr_mult must be a mapping of selectors to multipliers, got ['bias', 2]; such as "
        "{'bias': 2}",
    ),
    # multipliers
    (
        BY_NAME,
        {"lr": 1, "lr_mult": {"bias": -2}},
        InvalidValueError,
        "lr_mult['bias'] must be a finite number >= 0, got -2; 1 changes nothing, 0 switches off",
    ),
    (
        BY_NAME,
        {"weight_decay": 1, "decay_mult": {nn.Linear: math.nan}},
        InvalidValueError,
        "decay_mult[Linear] must be a finite number >= 0, got nan; 1 changes nothing, 0 switches "
        "off",
    ),
    (
        BY_NAME,
        {"weight_decay": 1, "decay_mult": {re.compile("head.*"): math.inf}},
        InvalidValueError,
        "decay_mult['head.*'] must be a finite number >= 0, got inf; 1 changes nothing, 0 "
        "switches off",
    ),
    (
        BY_NAME,
        {"lr": 1, "lr_mult": {"bias": 10**309}},
        InvalidValueError,
        f"lr_mult['bias'] must be a finite number >= 0, got 1{'0' * 196}...; 1 changes nothing, 0 "
        "switches off",
    ),
    (
        BY_NAME,
        {"lr": 1, "lr_mult": {"bias": "2"}},
        InvalidTypeError,
        "lr_mult['bias'] must be a number, got '2'; 1 changes nothing, 0 switches off",
    ),
    (
        BY_NAME,
        {"lr": 1, "lr_mult": {"bias": 1e200, "head.*": 1e200}},
        InvalidValueError,
        "Invalid learning rate: inf: lr must be a finite number >= 0, got inf; pass a step size "
        "such as lr=0.1",
    ),
    (
        BY_NAME,
        {"weight_decay": 1, "no_decay": ("norm", "bias"), "decay_mult": {"bias": 0.5}},
        InvalidValueError,
        "decay_mult['bias'] must be 0 for what is in no_decay, got 0.5; give it in one of the two",
    ),
    # what is multiplied
    (
        BY_NAME,
        {"lr_mult": {"bias": 2}},
        InvalidValueError,
        "lr must be given with lr_mult, got None; pass lr=..., of which each group gets its "
        "multiple",
    ),
    (
        BY_NAME,
        {"no_decay": "bias"},
        InvalidValueError,
        "weight_decay must be given with no_decay, got None; pass weight_decay=..., of which each "
        "group gets its multiple",
    ),
    (
        BY_NAME,
        {"decay_mult": {"bias": 0}},
        InvalidValueError,
        "weight_decay must be given with decay_mult, got None; pass weight_decay=..., of which "
        "each group gets its multiple",
    ),
    (
        BY_NAME,
        {"lr": -1},
        InvalidValueError,
        "Invalid learning rate: -1: lr must be a finite number >= 0, got -1; pass a step size "
        "such as lr=0.1",
    ),
    (
        BY_NAME,
        {"weight_decay": math.nan},
        InvalidValueError,
        "Invalid weight_decay value: nan: weight_decay must be a finite number >= 0, got nan; "
        "pass a factor such as weight_decay=1e-4, or 0 for none",
    ),
    (
        BY_NAME,
        {"lr": torch.tensor(0.5)},
        InvalidTypeError,
        "lr must be a number, of which each group gets its own, got tensor(0.5000); pass "
        "lr=float(...)",
    ),
    # models
    (
        nn.ReLU(),
        {},
        InvalidValueError,
        "model must be a module with trainable parameters, got 'ReLU with 0 parameters, 0 of them "
        "trainable'; set requires_grad of what is to be trained",
    ),
    (
        FROZEN,
        {},
        InvalidValueError,
        "model must be a module with trainable parameters, got 'Linear with 2 parameters, 0 of "
        "them trainable'; set requires_grad of what is to be trained",
    ),
    (
        LAZY,
        {},
        InvalidUseError,
        "model must have parameters with shapes, got uninitialized ones of lazy modules "
        "(1.weight, 1.bias); run a batch through it first",
    ),
]


@pytest.mark.parametrize(("model", "arguments", "error", "message"), REFUSED)
def test_what_is_wrong_is_named(model, arguments, error, message):
    with pytest.raises(error) as caught:
        sgdm.param_groups(model, **arguments)
    assert str(caught.value) == message


def test_parameters_in_place_of_the_model_are_refused():
    params: Any = []
    with pytest.raises(InvalidTypeError) as caught:
        sgdm.param_groups(params, weight_decay=0.1)
    assert str(caught.value) == (
        "model must be an nn.Module, got []; pass the model itself: its layers are looked at"
    )


def test_a_wrapper_that_renames_its_parameters_is_refused():
    """As torch's CheckpointWrapper does: the layers are not where the names say."""

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network()

        def named_parameters(self, *arguments: Any, **options: Any) -> Any:
            for name, param in super().named_parameters(*arguments, **options):
                yield name.removeprefix("body."), param

    with pytest.raises(InvalidUseError) as caught:
        selected(Wrapper(), "norm")
    assert str(caught.value) == (
        "model must have its parameters by the names of its modules, got '0.weight' of a Wrapper, "
        "which has no module '0'; give the model that it wraps"
    )
    assert selected(Wrapper().body, "norm") == ["1.weight", "1.bias"]


def test_a_lazy_model_is_grouped_after_a_batch():
    model = nn.Sequential(nn.LazyLinear(2), nn.LazyBatchNorm1d())
    model(torch.ones(3, 2))
    assert selected(model, "norm") == ["1.weight", "1.bias"]


# ---- the list, and the table ----


def test_it_is_a_list_that_is_copied_and_pickled():
    groups = sgdm.param_groups(network(), weight_decay=0.5, no_decay="bias")
    assert isinstance(groups, list)
    assert len(groups) == 2
    for again in (copy.deepcopy(groups), pickle.loads(pickle.dumps(groups))):
        assert type(again) is sgdm.ParamGroups
        assert str(again) == str(groups)
        assert again.frozen == groups.frozen


def test_the_table():
    model = BY_NAME
    model["layer1"][0].requires_grad_(False)
    try:
        groups = sgdm.param_groups(
            model, lr=0.01, lr_mult={"bias": 2, "head.*": 10}, weight_decay=5e-4, no_decay="bias"
        )
        text = str(groups)
    finally:
        model["layer1"][0].requires_grad_(True)
    assert text.splitlines() == [
        "group    lr  weight decay  tensors  elements  parameters",
        "    0  0.01        0.0005        3       156  layer1.1.weight, layer1.2.weight, "
        "layer1.3.weight",
        "    1  0.02             0        3        10  layer1.1.bias, layer1.2.bias, layer1.3.bias",
        "    2   0.1        0.0005        1         4  head.weight",
        "    3   0.2             0        1         2  head.bias",
        "left out, since requires_grad is False: layer1.0.weight, layer1.0.bias",
    ]


def test_the_table_shows_the_optimizers_numbers_once_it_has_the_groups():
    groups = sgdm.param_groups(network(), weight_decay=0.5, no_decay="bias")
    assert [line.split()[1] for line in str(groups).splitlines()[1:]] == ["optimizer's"] * 2
    optimizer = sgdm.SGD(groups, lr=0.25)
    assert [line.split()[1] for line in str(groups).splitlines()[1:]] == ["0.25"] * 2
    optimizer.param_groups[0]["lr"] = 1e-5
    assert str(groups).splitlines()[1].split()[1] == "1e-05"
    optimizer.load_state_dict(optimizer.state_dict())
    assert str(sgdm.ParamGroups(optimizer.param_groups)) == str(groups)


def test_many_names_are_counted_by_what_they_have_in_common():
    blocks = [nn.ModuleDict({"conv1": nn.Conv2d(2, 2, 1), "bn1": nn.BatchNorm2d(2)}) for _ in "12"]
    model = nn.ModuleDict({f"layer{i}": nn.Sequential(*blocks) for i in (1, 2)})
    model["layer2"] = copy.deepcopy(model["layer1"])
    model["unusually_long_name_of_the_last_layer_of_a_network"] = nn.Linear(2, 2)
    groups = sgdm.param_groups(model, lr=1, lr_mult={"layer2.*": 0.5})
    lines = [line.split(maxsplit=5)[5] for line in str(groups).splitlines()[1:]]
    assert lines == [
        "layer1.*.conv1.weight (2), layer1.*.conv1.bias (2) and 6 more",
        "layer2.*.conv1.weight (2), layer2.*.conv1.bias (2) and 4 more",
    ]


def test_one_name_is_written_whole_however_long():
    name = "a" * 200
    groups = sgdm.param_groups(nn.ModuleDict({name: nn.Linear(2, 2), "b": nn.Linear(2, 2)}))
    assert str(groups).splitlines()[1].endswith(f"  {name}.weight and 3 more")


def test_an_empty_list_is_a_table_without_rows():
    assert str(sgdm.ParamGroups()) == "group  lr  weight decay  tensors  elements  parameters"
