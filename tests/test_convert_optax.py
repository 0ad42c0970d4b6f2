"""optax's state in flax's files: what flax wrote is read, what is written flax goes on from."""

import io
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sgdm
from in_memory import slot, stored
from live import recorded_or_live
from mutations import check_reader, mutations
from peak_memory import measures_memory, peak_growth
from sgdm.convert.checkpoint import Checkpoint, Slot, Stored
from sgdm.convert.files.optax import prepare, read
from sgdm.convert.files.optax import writer as msgpack_writer
from sgdm.convert.job import Job, convert_file
from sgdm.errors import FileError, InvalidValueError

FIXTURES = Path(__file__).parent / "conformance" / "files"
RECORDED = np.load(FIXTURES / "flax-training.npz")
VARIANTS = {name: data.tobytes() for name, data in np.load(FIXTURES / "flax-variants.npz").items()}
KERNEL = torch.tensor([[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]])
BIAS = torch.tensor([0.0, 1.0])
UNSAID = "weight_decay: the file does not say it"


def checkpoint(*tensors, steps=None, **hyperparameters):
    """Of (name, parameter, buffer)."""
    slots = [slot(*tensor) for tensor in tensors]
    return Checkpoint(convention="optax", slots=slots, steps=steps, hyperparameters=hyperparameters)


def content(path, weights=None) -> dict[str, Any]:
    """(parameter, buffer), by name."""
    with read(path, weights) as found:
        return {
            slot.name: (
                slot.parameter and slot.parameter.read(),
                slot.buffer and slot.buffer.read(),
            )
            for slot in found.slots
        }


def read_all(path):
    content(path)


@pytest.fixture
def variant(tmp_path):
    def file(name):
        path = tmp_path / f"{name}.msgpack"
        path.write_bytes(VARIANTS[name])
        return path

    return file


# Going on


STOP = 30
LAYOUTS = {"kernel": "HWIO -> OIHW", "bias": ""}
TORCH_NAMES = {"Conv_0": "0", "Conv_1": "2", "Dense_0": "6", "kernel": "weight", "bias": "bias"}


def go_on(path, scale=1.0):
    """The losses of torch after the stop, with a tenth of the learning rate and buffers scaled."""
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1),
        torch.nn.Tanh(),
        torch.nn.Conv2d(4, 8, 3, padding=1, groups=4),
        torch.nn.Tanh(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 3),
    )
    with read(path) as found:
        assert found.convention == "optax"
        lr, momentum = found.hyperparameters["lr"], found.hyperparameters["momentum"]
        assert (round(lr, 6), round(momentum, 6), found.steps) == (0.1, 0.9, STOP)
        assert {slot.name: slot.layout for slot in found.slots} == {
            **{f"Conv_{i}/{leaf}": at for i in (0, 1) for leaf, at in LAYOUTS.items()},
            "Dense_0/kernel": "IO -> OI",
            "Dense_0/bias": "",
        }
    optimizer = sgdm.SGD(network.parameters(), lr / 10, momentum, nesterov=True, convention="optax")
    parameters = dict(network.named_parameters())
    for name, (parameter, buffer) in content(path).items():
        mine = parameters[".".join(TORCH_NAMES[key] for key in name.split("/"))]
        mine.data.copy_(parameter)
        optimizer.state[mine]["momentum_buffer"] = buffer * scale
    batches = list(zip(RECORDED["x"], RECORDED["y"], strict=True))
    losses = []
    for i in range(STOP, STOP + 20):
        x, y = (torch.from_numpy(array) for array in batches[i % len(batches)])
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(x.permute(0, 3, 1, 2)), y.long())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.fixture(scope="module", params=["recorded", "live"])
def trained(request, tmp_path_factory):
    """The folder in which flax has trained, and gone on from torch."""
    program = ("tools/peers/main/flax_training.py",)
    return recorded_or_live(request, tmp_path_factory, "flax", program)


def test_torch_goes_on_as_flax_did(trained):
    after = np.load(trained / "flax-training.npz")["after"]
    np.testing.assert_allclose(go_on(trained / "flax-trained.msgpack"), after, rtol=0, atol=1e-5)


def test_flax_went_on_from_what_was_written_as_torch_does(trained, tmp_path):
    path = trained / "flax-from-torch.msgpack"
    after = np.load(trained / "flax-training.npz")["after_torch"]
    np.testing.assert_allclose(go_on(path), after, rtol=0, atol=1e-5)
    again = tmp_path / "again.msgpack"
    with read(path) as found:
        prepare(again, found, trained / "flax-trained.msgpack")()
    assert again.read_bytes() == path.read_bytes()


def test_the_recordings_can_tell_a_wrong_buffer():
    for path, name in (("flax-trained", "after"), ("flax-from-torch", "after_torch")):
        losses = go_on(FIXTURES / f"{path}.msgpack", scale=0.9)
        assert np.abs(RECORDED[name] - losses).max() > 1e-4


# What flax writes


@pytest.mark.parametrize(
    ("name", "hyperparameters", "steps", "remarks"),
    [
        ("plain", {}, 1, []),
        ("chain", {}, 1, ["what acts before the momentum, such as clipping or decay: opt_state/0"]),
        ("injected", {"lr": 0.1, "momentum": 0.9}, 1, []),
        (
            "injected-schedule",
            {"momentum": 0.9},
            1,
            ["lr: a schedule sets it; that of the last step was 0.1"],
        ),
        (
            "multi-steps",
            {},
            1,
            [
                "left out: opt_state/mini_step, opt_state/acc_grads/Dense_0/bias, "
                "opt_state/acc_grads/Dense_0/kernel"
            ],
        ),
        (
            "apply-if-finite",
            {},
            1,
            ["left out: opt_state/notfinite_count, opt_state/total_notfinite"],
        ),
        ("inside", {}, 1, ["left out: model/batch_stats/BatchNorm_0/mean"]),
        ("boxed", {}, 1, []),
        ("chunked", {}, 1, []),
        ("state-alone", {}, None, []),
        ("bfloat16", {}, 1, []),
        ("float16", {}, 1, []),
        ("partly", {}, 1, ["taken for frozen, without a trace: Dense_0/bias"]),
        ("none", {}, 1, []),
        ("no-momentum", {}, 1, []),
    ],
)
def test_the_trace_is_found_wherever_optax_puts_it(variant, name, hyperparameters, steps, remarks):
    with read(variant(name)) as found:
        assert found.convention == "optax"
        assert found.hyperparameters == pytest.approx(hyperparameters)
        assert found.steps == steps
        assert sorted(found.remarks) == sorted([UNSAID, *remarks])
        assert [slot.name for slot in found.slots if not slot.stepped] == (
            ["Dense_0/bias"] if name == "partly" else []
        )
    tensors = content(variant(name))
    dtype = getattr(torch, name, torch.float32) if "float" in name else torch.float32
    absent = {"partly": {"bias"}, "none": {"bias"}, "no-momentum": {"bias", "kernel"}}
    assert set(tensors) == {"Dense_0/kernel", "Dense_0/bias"}
    for leaf, value in (("kernel", KERNEL), ("bias", BIAS)):
        parameter, buffer = tensors[f"Dense_0/{leaf}"]
        if name == "state-alone":
            assert parameter is None
        else:
            assert torch.equal(parameter, value.to(dtype))
            assert parameter.is_contiguous()
            assert parameter.dtype == dtype
        if leaf in absent.get(name, set()):
            assert buffer is None
        else:
            assert torch.equal(buffer, (value + 1).to(dtype))
            assert buffer.dtype == dtype


@pytest.mark.parametrize("name", ["nnx", "nnx-integer-keys"])
def test_an_nnx_module_and_its_optimizer(variant, name):
    """Its statistics lie among its parameters, and have no trace."""
    with read(variant(name)) as found:
        assert found.steps == 1
        assert found.remarks == [UNSAID, "left out: model/norm/mean, model/norm/var"]
    tensors = content(variant(name))
    assert list(tensors) == ["layers/0/bias", "layers/0/kernel", "norm/bias", "norm/scale"]
    parameter, buffer = tensors["layers/0/kernel"]
    assert torch.equal(parameter, KERNEL)
    assert torch.equal(buffer, KERNEL + 1)


@pytest.mark.parametrize("weights", ["parameters-alone", "plain", "inside"])
def test_weights_of_another_file(variant, weights):
    tensors = content(variant("state-alone"), variant(weights))
    assert {name: (p is None, b is None) for name, (p, b) in tensors.items()} == {
        "Dense_0/kernel": (False, False),
        "Dense_0/bias": (False, False),
    }
    assert torch.equal(tensors["Dense_0/kernel"][0], KERNEL)
    assert torch.equal(tensors["Dense_0/kernel"][1], KERNEL + 1)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "ema",
            "opt_state/0/ema: it is a state of optax.ema, and the file does not say whether its "
            "steps were divided by 1 - μ^t (debias); convert a run of optax.sgd",
        ),
        (
            "adam",
            "opt_state/0/mu/Dense_0/bias: it is the state of another rule than SGD with momentum; "
            "convert a run of optax.sgd",
        ),
        (
            "parameters-alone",
            'as a whole: it has neither a momentum ("trace") nor parameters ("params"); save the '
            "train state, or its opt_state",
        ),
    ],
)
def test_another_rule_is_refused(variant, name, text):
    path = variant(name)
    with pytest.raises(FileError) as caught, read(path):
        pass
    assert str(caught.value) == f"{path}: {text}"


def test_weights_of_another_model_are_refused(variant, tmp_path):
    other = tmp_path / "other.msgpack"
    prepare(other, checkpoint(("Dense_1/kernel", KERNEL, None)))()
    path = variant("state-alone")
    with pytest.raises(FileError) as caught, read(path, other):
        pass
    assert str(caught.value) == (
        f"{path}: 0/trace/Dense_0/bias: there is no parameter of this name; give the weights that "
        "were trained"
    )
    prepare(other, checkpoint(("Dense_0/kernel", KERNEL.T, None), ("Dense_0/bias", BIAS, None)))()
    with pytest.raises(FileError) as caught, read(path, other):
        pass
    assert str(caught.value) == (
        f"{path}: 0/trace/Dense_0/kernel: its shape is (3, 2), its parameter's (2, 3); give the "
        "weights that were trained"
    )


def test_two_runs_in_a_file_are_refused(tmp_path):
    path = tmp_path / "gan.msgpack"
    one = {"params": {"w": stored(BIAS)}, "opt_state": {"0": {"trace": {"w": stored(BIAS)}}}}
    pack(path, {"generator": one, "discriminator": one})
    with pytest.raises(FileError) as caught, read(path):
        pass
    assert str(caught.value) == (
        f"{path}: discriminator/params: it has parameters in another place, too; save one train "
        "state in a file"
    )
    pack(path, {"0": one["opt_state"], "1": one["opt_state"]})
    with pytest.raises(FileError) as caught, read(path):
        pass
    assert str(caught.value) == (
        f"{path}: 1/0/trace/w: there is another trace of it, 0/0/trace/w; save one optimizer in a "
        "file"
    )


def pack(path, tree):
    with path.open("wb") as file:
        msgpack_writer.write_content(file, tree)


# What the rule is, by what stands where. States of these rules are written here as optax 0.2.8 has
# them: without what has no fields, and none says what it is.


IN_FILE = KERNEL.T.contiguous()


def of_parameters():
    return {"l": {"kernel": stored(IN_FILE), "bias": stored(BIAS)}}


def trace(leaves=None):
    return {"trace": of_parameters() if leaves is None else leaves}


SGD = {"0": trace(), "1": {}}
NUMBER = stored(torch.tensor(0.5))
COUNT = stored(torch.tensor(3, dtype=torch.int32))
MASKED_KERNEL = {"l": {"kernel": {}, "bias": stored(BIAS)}}
MASKED_BIAS = {"l": {"kernel": stored(IN_FILE), "bias": {}}}


def run_of(tmp_path, opt_state, **more):
    """A file of a train state with this optimizer."""
    path = tmp_path / "run.msgpack"
    pack(path, {"step": 3, "params": of_parameters(), "opt_state": opt_state, **more})
    return path


def injected(inner, **hyperparameters):
    values = {name: stored(torch.tensor(value)) for name, value in hyperparameters.items()}
    return {
        "count": COUNT,
        "hyperparams": values,
        "hyperparams_states": {},
        "inner_state": inner,
    }


ANOTHER = "it is the state of another rule than SGD with momentum; convert a run of optax.sgd"
LAST = "no rule follows it, so that its steps are not those of optax.sgd"


@pytest.mark.parametrize(
    ("opt_state", "text"),
    [
        pytest.param(
            {"0": {"nu": of_parameters()}, "1": {}, "2": trace()},
            "0/nu/l/kernel: " + ANOTHER,
            id="rmsprop",
        ),
        pytest.param(
            {"0": {}, "1": {"inner_state": {}}, "2": {}, "3": trace()},
            "3/trace: " + LAST,
            id="lars",
        ),
        pytest.param({"0": {}, "1": trace()}, "1/trace: " + LAST, id="scale, trace"),
        pytest.param({"0": {}, "1": {"0": {}, "1": trace()}}, "1/1/trace: " + LAST, id="deeper"),
        pytest.param(trace(), "trace: " + LAST, id="trace alone"),
        pytest.param(
            {
                "0": {"count": COUNT, "mu": of_parameters(), "nu": of_parameters()},
                "1": trace(),
                "2": {},
            },
            "0/mu/l/kernel: " + ANOTHER,
            id="scale_by_adam, trace",
        ),
        pytest.param(
            {
                "b1": NUMBER,
                "weight_sum": NUMBER,
                "step_count": COUNT,
                "max_lr": NUMBER,
                "base_optimizer_state": SGD,
                "z": of_parameters(),
            },
            "b1: " + ANOTHER,
            id="schedule_free",
        ),
        pytest.param(
            {"0": SGD, "1": {"count": COUNT, "ema": of_parameters()}},
            "1/ema: it is a state of optax.ema, and steps that are averaged are not those of SGD",
            id="sgd, ema",
        ),
        pytest.param(
            {
                "inner_states": {
                    "a": {"inner_state": {"0": trace(MASKED_BIAS), "1": {}}},
                    "b": {"inner_state": {"0": {"mu": MASKED_KERNEL}, "1": {}}},
                }
            },
            "inner_states/b/inner_state/0/mu/l/bias: " + ANOTHER,
            id="adam for some",
        ),
        pytest.param(
            {"0": {"trace": stored(torch.zeros(8))}, "1": {}},
            "0/trace: it is one array and no map of the parameters, as optax.flatten makes it; "
            "restore it, take it apart with jax.flatten_util.ravel_pytree(params)[1]",
            id="flatten",
        ),
    ],
)
def test_a_trace_does_not_make_it_sgd(tmp_path, opt_state, text):
    path = run_of(tmp_path, opt_state)
    with pytest.raises(FileError) as caught, read(path):
        pass
    assert str(caught.value).startswith(f"{path}: opt_state/{text}")


def test_averages_outside_the_optimizer_are_left_out(tmp_path):
    average = {"count": COUNT, "ema": of_parameters()}
    for opt_state in (SGD, {"0": {}, "1": {}}):
        path = run_of(tmp_path, opt_state, average=average, ema_params=of_parameters())
        with read(path) as found:
            assert found.remarks[-1] == (
                "left out: ema_params/l/kernel, ema_params/l/bias, average/ema"
            )


@pytest.mark.parametrize(
    ("opt_state", "remark"),
    [
        ({"0": SGD, "1": {}}, "after the momentum, besides the scaling by lr: opt_state/0/1, op"),
        ({"0": trace(), "1": {}, "2": {}}, "after the momentum, besides the scaling by lr: opt_st"),
        ({"0": {}, "1": SGD}, "before the momentum, such as clipping or decay: opt_state/0"),
    ],
)
def test_rules_without_a_name_are_remarked(tmp_path, opt_state, remark):
    with read(run_of(tmp_path, opt_state)) as found:
        assert len(found.remarks) == 2
        assert found.remarks[0] == UNSAID
        assert found.remarks[1].startswith(f"what acts {remark}")


MAY_NOT = "weight_decay: it is 0.25, and may not act on every gradient"


@pytest.mark.parametrize(
    ("opt_state", "said"),
    [
        pytest.param(injected({"0": {}, "1": SGD}, weight_decay=0.25), True, id="decay, sgd"),
        pytest.param(
            {"0": injected({}, weight_decay=0.25), "1": SGD}, True, id="injected decay, sgd"
        ),
        pytest.param(injected({"0": SGD, "1": {}}, weight_decay=0.25), False, id="sgd, decay"),
        pytest.param(
            {"0": SGD, "1": injected({}, weight_decay=0.25)}, False, id="sgd, injected decay"
        ),
        pytest.param(
            injected({"0": {"inner_state": {}}, "1": SGD}, weight_decay=0.25), False, id="masked"
        ),
        pytest.param(
            {"0": injected({"inner_state": {}}, weight_decay=0.25), "1": SGD},
            False,
            id="injected, masked",
        ),
        pytest.param(injected(SGD, weight_decay=0.25), False, id="nowhere"),
        pytest.param(
            {
                "0": injected({}, weight_decay=0.25),
                "1": injected({}, weight_decay=0.25),
                "2": SGD,
            },
            False,
            id="twice",
        ),
    ],
)
def test_a_decay_is_that_of_the_gradients_only_where_its_place_says_so(tmp_path, opt_state, said):
    path = run_of(tmp_path, opt_state)
    with read(path) as found:
        assert found.hyperparameters == ({"weight_decay": 0.25} if said else {})
        assert (MAY_NOT in found.remarks) is not said
    given = checkpoint(("l/kernel", KERNEL, KERNEL), weight_decay=0.5)
    if said:
        prepare(tmp_path / "out", given, path)()
        with read(tmp_path / "out") as found:
            assert found.hyperparameters == {"weight_decay": 0.5}
        return
    with pytest.raises(FileError, match=r"hyperparams/weight_decay: it may not act on every gradi"):
        prepare(tmp_path / "out", given, path)


def partitioned(**rules):
    return {"inner_states": {name: {"inner_state": rule} for name, rule in rules.items()}}


def test_hyperparameters_of_some_parameters_are_their_own(tmp_path):
    one = injected({"0": trace(MASKED_BIAS), "1": {}}, learning_rate=0.5, momentum=0.75)
    other = injected({"0": trace(MASKED_KERNEL), "1": {}}, learning_rate=0.25, momentum=0.75)
    path = run_of(tmp_path, partitioned(a=one, b=other))
    with read(path) as found:
        assert found.hyperparameters == {"lr": 0.5, "momentum": 0.75}
        assert {slot.name: slot.own for slot in found.slots} == {
            "l/kernel": {},
            "l/bias": {"lr": 0.25},
        }
        assert found.remarks == [UNSAID]
        found.hyperparameters["lr"] = 2.0
        found.slots[1] = replace(found.slots[1], own={"lr": 4.0})
        prepare(tmp_path / "out", found, path)()
    with read(tmp_path / "out") as found:
        assert found.hyperparameters == {"lr": 2.0, "momentum": 0.75}
        assert found.slots[1].own == {"lr": 4.0}
        together = run_of(tmp_path, injected(SGD, learning_rate=0.5))
        with pytest.raises(FileError, match="learning_rate: it is one for parameters whose lr dif"):
            prepare(tmp_path / "out", found, together)
        prepare(tmp_path / "new", found)
        assert found.remarks[-1] == (
            "lr=2.0, momentum=0.75: not held by the file, to be set in optax"
        )


def test_a_decay_in_a_chain_of_some_parameters_is_theirs(tmp_path):
    decayed = {"0": injected({}, weight_decay=0.25), "1": {"0": trace(MASKED_BIAS), "1": {}}}
    other = {"0": trace(MASKED_KERNEL), "1": {}}
    for first in (True, False):
        rules = {"a": decayed, "b": other} if first else {"b": other, "c": decayed}
        with read(run_of(tmp_path, partitioned(**rules))) as found:
            own = {slot.name: slot.own for slot in found.slots}
            assert found.hyperparameters == ({"weight_decay": 0.25} if first else {})
            assert own["l/kernel"] == ({} if first else {"weight_decay": 0.25})
            assert own["l/bias"] == ({"weight_decay": 0.0} if first else {})


def test_hyperparameters_that_some_parameters_do_not_have_are_remarked(tmp_path):
    rules = ({"0": trace(masked), "1": {}} for masked in (MASKED_BIAS, MASKED_KERNEL))
    with read(run_of(tmp_path, partitioned(**dict(zip("ab", rules, strict=True))))) as found:
        assert found.remarks[1].startswith("lr and momentum: the file does not say those of each")


def test_parameters_without_a_trace(tmp_path):
    """Frozen, unless a rule without momentum is there for them."""
    masked = {"0": trace(MASKED_BIAS), "1": {}}
    for opt_state in ({"inner_state": masked}, partitioned(a=masked, b={})):
        with read(run_of(tmp_path, opt_state)) as found:
            assert [(slot.stepped, slot.own) for slot in found.slots] == [(True, {}), (False, {})]
            assert found.remarks[1] == "taken for frozen, without a trace: l/bias"
            prepare(tmp_path / "out", found)
            assert found.remarks[-1] == "not stepped, and among the params: l/bias"
    with read(run_of(tmp_path, partitioned(a=masked, b={"0": {}, "1": {}}))) as found:
        assert [slot.stepped for slot in found.slots] == [True, True]
        assert found.slots[1].own == {"momentum": 0.0}
        assert found.remarks[1] == (
            "taken for without momentum, by opt_state/inner_states/b: l/bias"
        )


def test_a_narrower_accumulator_is_remarked(tmp_path):
    narrow = {"l": {"kernel": stored(IN_FILE.bfloat16()), "bias": stored(BIAS.bfloat16())}}
    with read(run_of(tmp_path, {"0": trace(narrow), "1": {}})) as found:
        assert found.remarks[1:] == [
            "the accumulator's dtype, bfloat16 for float32: it is rounded after every step"
        ]


def test_gradients_that_are_accumulated_are_named(tmp_path):
    def several(mini_step):
        step = stored(torch.tensor(mini_step, dtype=torch.int32))
        return run_of(
            tmp_path,
            {
                "mini_step": step,
                "gradient_step": COUNT,
                "inner_opt_state": SGD,
                "acc_grads": of_parameters(),
                "skip_state": {},
            },
        )

    lost = (
        "gradients that MultiSteps has accumulated: opt_state/mini_step is 1, and 0 between steps"
    )
    given = checkpoint(("l/kernel", KERNEL, KERNEL))
    for mini_step in (0, 1):
        with read(several(mini_step)) as found:
            assert (lost in found.remarks) is bool(mini_step)
            assert found.steps == 3
    with pytest.raises(FileError, match="opt_state/mini_step: it is 1: MultiSteps has accumulated"):
        prepare(tmp_path / "out", given, several(1))
    prepare(tmp_path / "out", given, several(0))()


def test_whether_it_was_nesterovs_has_to_be_said(tmp_path):
    opt_state = injected(SGD, learning_rate=0.5, momentum=0.75)
    job = Job(
        source=run_of(tmp_path, opt_state),
        target=tmp_path / "x.pt",
        source_format="optax",
        target_format="torch",
    )
    with pytest.raises(InvalidValueError, match=r"nesterov must be given .* pass --nesterov or --"):
        convert_file(job)
    for nesterov in (False, True):
        made = convert_file(replace(job, hyperparameters={"nesterov": nesterov}))
        assert UNSAID in made.remarks
        (group,) = torch.load(tmp_path / "x.pt", weights_only=True)["optimizer"]["param_groups"]
        assert (group["nesterov"], group["lr"], group["momentum"]) == (nesterov, 0.5, 0.75)


@pytest.mark.parametrize("kind", ["parameters", "another rule", "momenta"])
def test_a_great_many_small_things(tmp_path, kind):
    """Under a long path, which every name has in it: what is quadratic would take minutes."""
    tensor = stored(torch.zeros(()))
    many: Any = {f"{i}": tensor for i in range(18_000)}
    if kind == "momenta":
        many = {f"{i}": {"trace": {f"{i}": tensor}} for i in range(6_000)}
    for depth in range(55):
        many = {f"{depth:02}" + "x" * 12: many}
    path = tmp_path / "many"
    tree: dict[str, Any] = {"params": {"a": stored(BIAS)}, "opt_state": {}}
    pack(path, tree | {"params" if kind == "parameters" else "opt_state": many})
    tracemalloc.start()
    started = time.monotonic()
    if kind == "parameters":
        with read(path) as found:
            assert len(found.slots) == 18_000
    else:
        with pytest.raises(FileError, match=r"of another rule|no rule follows it"), read(path):
            pass
    took, grown = time.monotonic() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert took < 30
    assert grown < 100e6


# Writing


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
)
@pytest.mark.parametrize("with_template", [False, True])
def test_a_round_trip_to_the_bit(tmp_path, seed, dtype, with_template):
    """Every length of msgpack's heads, every pattern of bits, nothing, one number, five axes."""
    shapes = {
        "a/kernel": (3, 5, 7, 2),
        "a/bias": (3,),
        "b/c/kernel": (2, 3),
        "b/embedding": (40, 50),
        "b/kernel": (3, 4, 2, 2, 2),
        "kernel": (7,),
        "one": (),
        "none": (0, 3),
        "wide": (70_000 // dtype.itemsize,),
        **{f"many/{i}": (i,) for i in range(70)},
    }

    def drawn(shape):
        count = int(np.prod(shape)) * dtype.itemsize
        return torch.randint(0, 256, (count,), dtype=torch.uint8).view(dtype).reshape(shape)

    def draw():
        return [(name, drawn(shape), drawn(shape)) for name, shape in shapes.items()]

    path, template, given = tmp_path / "out", tmp_path / "template", draw()
    prepare(template, checkpoint(*draw(), steps=1))()
    prepare(path, checkpoint(*given, steps=2**40), template if with_template else None)()
    with read(path) as found:
        assert found.steps == 2**40
    tensors = content(path)
    assert list(tensors) == list(shapes)
    for name, *before in given:
        for mine, its in zip(before, tensors[name], strict=True):
            assert (its.dtype, its.shape) == (dtype, mine.shape)
            assert bits(its) == bits(mine)


def bits(tensor):
    """Its bytes: in them NaN is NaN."""
    return tensor.reshape(-1).view(torch.uint8).tolist()


@pytest.mark.parametrize("name", sorted(VARIANTS.keys() - {"ema", "adam", "parameters-alone"}))
def test_a_copy_of_what_flax_wrote_is_the_same_bytes(variant, tmp_path, monkeypatch, name):
    """Also flax's own pieces of a large array, which are small ones in this recording."""
    if name == "chunked":
        monkeypatch.setattr(msgpack_writer, "_LARGEST_PIECE", 8)
    path = tmp_path / "copy"
    with read(variant(name)) as found:
        prepare(path, found, variant(name))()
    assert path.read_bytes() == VARIANTS[name]


def test_a_template_may_be_the_target(variant):
    path = variant("plain")
    prepare(path, checkpoint(("Dense_0/kernel", KERNEL * 2, KERNEL * 3)), path)()
    parameter, buffer = content(path)["Dense_0/kernel"]
    assert torch.equal(parameter, KERNEL * 2)
    assert torch.equal(buffer, KERNEL * 3)
    assert torch.equal(content(path)["Dense_0/bias"][0], BIAS), "what is not given stays"


def test_counts_and_hyperparameters_of_a_template(variant, tmp_path):
    path = tmp_path / "out"
    given = checkpoint(("Dense_0/kernel", KERNEL, KERNEL), steps=7, lr=0.25, momentum=0.5)
    prepare(path, given, variant("injected"))()
    with read(path) as found:
        assert found.hyperparameters == {"lr": 0.25, "momentum": 0.5}
        assert found.steps == 7
    prepare(path, checkpoint(("Dense_0/kernel", KERNEL, KERNEL)), variant("injected"))()
    with read(path) as found:
        assert found.hyperparameters == pytest.approx({"lr": 0.1, "momentum": 0.9})
        assert found.steps == 1


def test_absent_buffers(variant, tmp_path):
    """None in a file of its own; zeros, which are the same to optax, in place of an array."""
    path = tmp_path / "out"
    given = checkpoint(("Dense_0/kernel", KERNEL, None), ("Dense_0/bias", BIAS, BIAS))
    prepare(path, given)()
    assert content(path)["Dense_0/kernel"][1] is None
    assert torch.equal(content(path)["Dense_0/bias"][1], BIAS)
    prepare(path, given, variant("plain"))()
    assert torch.equal(content(path)["Dense_0/kernel"][1], torch.zeros(2, 3))
    prepare(path, given, variant("none"))()
    assert torch.equal(content(path)["Dense_0/bias"][1], BIAS)
    prepare(path, checkpoint(("Dense_0/bias", BIAS, None)), variant("partly"))()
    assert content(path)["Dense_0/bias"][1] is None


def test_an_optimizer_alone(tmp_path):
    path = tmp_path / "out"
    prepare(path, checkpoint(("Dense_0/kernel", None, KERNEL), ("Dense_0/bias", None, None)))()
    assert path.read_bytes().startswith(b"\x82\xa10\x81\xa5trace\x81\xa7Dense_0\x82")
    tensors = content(path)
    assert tensors["Dense_0/bias"] == (None, None)
    assert torch.equal(tensors["Dense_0/kernel"][1], KERNEL)


def test_narrow_counts_of_a_template_are_named(variant, tmp_path):
    with pytest.raises(FileError, match=r"opt_state/count: its type cannot hold 4294967296; take"):
        prepare(tmp_path / "out", checkpoint(steps=2**32), variant("injected"))()


@pytest.mark.parametrize(
    ("tensors", "template", "text"),
    [
        (
            [("Dense_1/kernel", KERNEL, None)],
            "plain",
            "{template}: Dense_1/kernel: it is not in the template; give one of the same model",
        ),
        (
            [("Dense_0/kernel", KERNEL, KERNEL)],
            "no-momentum",
            "{template}: Dense_0/kernel: trace: the template has none; make one with "
            "optax.sgd(..., momentum=...) that trains this parameter",
        ),
        (
            [("Dense_0/kernel", KERNEL.T, None)],
            "plain",
            "{template}: params/Dense_0/kernel: its shape in torch's layout is (2, 3), and what is "
            "to be written has (3, 2); give a template of the same model",
        ),
        (
            [("Dense_0/bias", BIAS, KERNEL)],
            "plain",
            "{template}: opt_state/0/trace/Dense_0/bias: its shape in torch's layout is (2,), and "
            "what is to be written has (2, 3); give a template of the same model",
        ),
        (
            [("a", BIAS, None), ("b", None, BIAS)],
            None,
            "{path}: b: has no weights where others have; give all or none",
        ),
        (
            [("a", BIAS, None), ("a/b", BIAS, None)],
            None,
            "{path}: a/b: a part of this name is another parameter; rename one",
        ),
        (
            [("a/b", BIAS, None), ("a", BIAS, None)],
            None,
            "{path}: a: there is a parameter or module of this name; rename one",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_written(variant, tmp_path, tensors, template, text):
    path, other = tmp_path / "out", template and variant(template)
    with pytest.raises(FileError) as caught:
        prepare(path, checkpoint(*tensors), other)()
    assert str(caught.value) == text.format(path=path, template=other)
    assert not path.exists()


def test_steps_that_cannot_be(tmp_path):
    with pytest.raises(FileError, match="out: step: it cannot be -1; count from 0"):
        prepare(tmp_path / "out", checkpoint(steps=-1))()


def test_a_failure_while_reading_leaves_no_target(tmp_path):
    def fail():
        raise FileError("source: broken")

    given = checkpoint(("a", BIAS, None), ("b", BIAS, None))
    given.slots.append(Slot(name="c", parameter=Stored((2,), torch.float32, fail)))
    with pytest.raises(FileError, match="source: broken"):
        prepare(tmp_path / "out", given)()
    assert list(tmp_path.iterdir()) == []


@measures_memory
def test_memory(tmp_path):
    """Two of the largest tensor: as read, and in the other layout."""
    grown = peak_growth(
        """
        from sgdm.convert.checkpoint import Checkpoint, Slot, Stored
        from sgdm.convert.files.optax import prepare, read
        shape = (5000, 5000)  # 100 MB
        drawn = Stored(shape, torch.float32, lambda: torch.ones(shape))
        slots = [Slot(name=f"{i}/kernel", parameter=drawn, buffer=drawn) for i in range(2)]
        torch.ones(2, 2).T.contiguous()
        """,
        """
        path, copy = paths
        prepare(path, Checkpoint(convention="optax", slots=slots))()
        with read(path) as found:
            prepare(copy, found, path)()
        """,
        tmp_path / "a",
        tmp_path / "b",
    )
    assert 90e6 < grown < (2.2 * 100 + 30) * 2**20
    assert (tmp_path / "a").stat().st_size > 4e8


# Broken files


@pytest.mark.parametrize("name", ["injected", "chunked", "inside"])
@mutations(10_000)
def test_mutations(tmp_path, seed, name, count):
    path = tmp_path / "x.msgpack"
    refused = check_reader(read_all, VARIANTS[name], path, seed=seed, count=count)
    print(f"{name}: {refused} refused")
    assert refused > count // 2


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "x.msgpack"
    data = VARIANTS["inside"]
    for count in range(len(data)):
        path.write_bytes(data[:count])
        with pytest.raises(FileError, match=r"x\.msgpack"):
            read_all(path)


W = b"\x81\xa6params\x81\xa1w"
SIZE = b"\xcf\x7f" + b"\xff" * 7  # 2**63 - 1


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "byte 0: 1 bytes should follow, and 0 do"),
        (b"\x93\x01", "byte 1: 3 bytes should follow, and 1 do"),
        (b"\xc0", "byte 1: it is no map"),
        (b"\x80\xc0", "byte 1: 1 bytes follow the end"),
        (b"\xc1", "byte 1: msgpack has no byte 0xc1 here"),
        (b"\xdf\xff\xff\xff\xff", "byte 5: 4294967295 bytes should follow, and 0 do"),
        (W + b"\xc6\xff\xff\xff\xff", "params/w, byte 16: 4294967295 bytes should follow"),
        (W + b"\xc9\xff\xff\xff\xff\x01\x93", "params/w, byte 17: 4294967295 bytes should follow"),
        (
            W + b"\xc7\x19\x01\x93\x91" + SIZE + b"\xa7float32\xc4\x04abcd",
            "params/w, byte 35: an array claims the shape (9223372036854775807,)",
        ),
        (
            W + b"\xc7\x16\x01\x93\x92\x00" + SIZE + b"\xa7float32\xc4\x00",
            "params/w, byte 36: an array claims the shape (0, 9223372036854775807)",
        ),
        (
            W + b"\xc7\x11\x01\x93\x91\x02\xa7float32\xc4\x04abcd",
            "params/w, byte 27: an array of shape (2,) and torch.float32 has 4 bytes",
        ),
        (
            W + b"\xc7\x10\x01\x93\x91\x01\xa7float32\xc4\x04abcd",
            "params/w, byte 27: an array's bytes do not end where the array does",
        ),
        (W + b"\xc7\x03\x01\x93\x91\xff", "params/w, byte 17: a size is -1"),
        (W + b"\xc7\x02\x01\x92\x91", "params/w, byte 15: an array should be three things"),
        (W + b"\xc7\x02\x01\xc0\x91", "an array should be here, and there is a constant"),
        (W + b"\xc7\x05\x01\x93\xdc\xff\xff\x01", "a shape has more than 32 sizes"),
        (b"\x82\xa1a\xc0\xa1a\xc0", "byte 6: it has two entries 'a'"),
        (b"\x81\xc0\xc0", "byte 2: a name should be here, and there is a constant"),
        (b"\x81\xa1\xff\xc0", "byte 3: a name is not valid UTF-8"),
        (b"\x81\xda\x04\x00" + b"a" * 1024 + b"\xc0", "a path is longer than 1000 characters"),
        (b"\x81\xa1a" * 100 + b"\xc0", "maps lie in one another more than 64 deep"),
        (b"\x81\xa1a\xdd\x00\x04\x00\x00" + b"\xc0" * 2**18, "it has more than 20000 entries"),
        (
            b"\x81\xa10\x81\xa5trace\x81\xa1w\xa5peace",
            "0/trace/w: it is text, and should be a floating-point array",
        ),
        (
            b"\x83\xb9__msgpack_chunked_array__\xc3\xa5shape\x81\xa10\x01\xa6chunks\x80",
            "an array in pieces should have a shape and arrays of one type",
        ),
    ],
)
def test_broken_files_say_what_and_where(tmp_path, data, text):
    path = tmp_path / "x.msgpack"
    path.write_bytes(data)
    with pytest.raises(FileError) as caught:
        read_all(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert text in str(caught.value)


def test_a_file_that_is_none(tmp_path):
    for path, reason in (
        (tmp_path / "none", "No such file or directory"),
        (tmp_path, "Is a directory"),
    ):
        with pytest.raises(FileError) as caught:
            read_all(path)
        assert str(caught.value) == (
            f"{path}: file: cannot be opened ({reason}); give a file of flax's"
        )


def test_a_file_that_becomes_shorter(variant):
    path = variant("plain")
    with read(path) as found:
        path.write_bytes(b"")
        for slot in found.slots:
            assert slot.parameter is not None
            with pytest.raises(FileError, match="it has become shorter"):
                slot.parameter.read()


def test_numbers_are_as_short_as_flax_writes_them():
    for number, data in (
        (0x7F, "7f"),
        (0x80, "cc80"),
        (0x100, "cd0100"),
        (0x10000, "ce00010000"),
        (2**32, "cf0000000100000000"),
        (1.5, "cb3ff8000000000000"),
    ):
        file = io.BytesIO()
        msgpack_writer.write_content(file, number)
        assert file.getvalue().hex() == data
