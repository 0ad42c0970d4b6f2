"""Trains a network of flax with optax, stops, and goes on; so too from a file that sgdm wrote.

    PYTHONPATH=src python tools/peers/main/flax_training.py tests/conformance/files

runs in this folder's environment and writes there

    flax-trained.msgpack      the train state at the stop
    flax-from-torch.msgpack   one that torch trained and sgdm wrote, with the former as a template
    flax-training.npz         the batches, and the losses of flax going on from either
    flax-variants.npz         the bytes of small files, one of each way to nest and to wrap states
"""

import sys
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import linen, nnx, serialization
from flax.training.train_state import TrainState

from sgdm.convert.checkpoint import Checkpoint, Slot, Stored
from sgdm.convert.files.optax import prepare, read

_BEFORE, _AFTER = 30, 20
_LR, _MOMENTUM = 0.1, 0.9

Batches = list[tuple[np.ndarray, np.ndarray]]


class _Network(linen.Module):
    @linen.compact
    def __call__(self, x: Any) -> Any:
        x = linen.tanh(linen.Conv(4, (3, 3))(x))
        x = linen.tanh(linen.Conv(8, (3, 3), feature_group_count=4)(x))
        return linen.Dense(3)(x.mean((1, 2)))


def _torch_network() -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1),
        torch.nn.Tanh(),
        torch.nn.Conv2d(4, 8, 3, padding=1, groups=4),
        torch.nn.Tanh(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 3),
    )


_NAMES = {
    f"{module}/{flax_name}": f"{number}.{torch_name}"
    for module, number in (("Conv_0", 0), ("Conv_1", 2), ("Dense_0", 6))
    for flax_name, torch_name in (("kernel", "weight"), ("bias", "bias"))
}


def _start(example: np.ndarray) -> TrainState:
    network = _Network()
    rule = optax.inject_hyperparams(optax.sgd)(_LR, _MOMENTUM, nesterov=True)
    parameters = network.init(jax.random.key(0), example)["params"]
    return TrainState.create(apply_fn=network.apply, params=parameters, tx=rule)


@jax.jit
def _step(state: TrainState, x: Any, y: Any) -> tuple[TrainState, Any]:
    def loss_of(parameters: Any) -> Any:
        logits = state.apply_fn({"params": parameters}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    loss, gradients = jax.value_and_grad(loss_of)(state.params)
    return state.apply_gradients(grads=gradients), loss


def _run(state: TrainState, batches: Batches, steps: range) -> tuple[TrainState, list[float]]:
    losses: list[float] = []
    for i in steps:
        state, loss = _step(state, *batches[i % len(batches)])
        losses.append(float(loss))
    return state, losses


def _go_on(data: bytes, batches: Batches) -> list[float]:
    """Restore a file into a fresh train state, and go on with a tenth of the learning rate."""
    state: Any = serialization.from_bytes(_start(batches[0][0]), data)
    if state.step != _BEFORE or state.opt_state.count != _BEFORE:
        raise AssertionError(f"restored {state.step} and {state.opt_state.count} steps")
    state.opt_state.hyperparams["learning_rate"] = jnp.float32(_LR / 10)
    return _run(state, batches, range(_BEFORE, _BEFORE + _AFTER))[1]


def _train_torch(folder: Path, batches: Batches) -> bytes:
    """Train in torch, and write the result with sgdm, by a template of flax."""
    torch.manual_seed(0)
    network = _torch_network()
    optimizer = torch.optim.SGD(network.parameters(), _LR, _MOMENTUM, nesterov=True)
    for i in range(_BEFORE):
        x, y = (torch.from_numpy(array) for array in batches[i % len(batches)])
        optimizer.zero_grad()
        logits = network(x.permute(0, 3, 1, 2))
        torch.nn.functional.cross_entropy(logits, y.long()).backward()
        optimizer.step()

    def stored(tensor: torch.Tensor) -> Stored:
        return Stored(tuple(tensor.shape), tensor.dtype, lambda: tensor.detach().clone())

    parameters = dict(network.named_parameters())
    slots = [
        Slot(
            name=name,
            parameter=stored(parameters[mine]),
            buffer=stored(optimizer.state[parameters[mine]]["momentum_buffer"]),
        )
        for name, mine in _NAMES.items()
    ]
    checkpoint = Checkpoint(
        convention="optax", slots=slots, hyperparameters={"lr": _LR}, steps=_BEFORE
    )
    path = folder / "flax-from-torch.msgpack"
    prepare(path, checkpoint, folder / "flax-trained.msgpack")()
    return path.read_bytes()


def _variants(folder: Path) -> dict[str, bytes]:
    """Return files in which the trace is p + 1 after a step."""
    parameters = {
        "Dense_0": {
            "kernel": jnp.arange(6, dtype=jnp.float32).reshape(3, 2),
            "bias": jnp.arange(2, dtype=jnp.float32),
        }
    }
    labels = {"Dense_0": {"kernel": "trained", "bias": "frozen"}}
    sgd: Any = optax.sgd
    schedule = optax.constant_schedule(0.1)
    rules: dict[str, Any] = {
        "plain": sgd(0.1, 0.9),
        "no-momentum": sgd(0.1),
        "chain": optax.chain(optax.add_decayed_weights(0.0), sgd(schedule, 0.9)),
        "injected": optax.inject_hyperparams(sgd)(0.1, 0.9),
        "injected-schedule": optax.inject_hyperparams(sgd)(schedule, 0.9),
        "multi-steps": optax.MultiSteps(sgd(0.1, 0.9), 1),
        "apply-if-finite": optax.apply_if_finite(sgd(0.1, 0.9), 3),
        "partly": optax.multi_transform(
            {"trained": sgd(0.1, 0.9), "frozen": optax.set_to_zero()}, labels
        ),
        "ema": optax.chain(optax.ema(0.9), optax.scale(-0.1)),
        "adam": optax.adam(0.1),
    }

    def after_a_step(rule: Any, parameters: Any) -> dict[str, Any]:
        gradients = jax.tree.map(lambda p: p + 1, parameters)
        _, state = rule.update(gradients, rule.init(parameters), parameters)
        return {"step": 1, "params": parameters, "opt_state": state}

    files = {
        name: serialization.to_bytes(after_a_step(rule, parameters)) for name, rule in rules.items()
    }
    plain = after_a_step(rules["plain"], parameters)
    files["state-alone"] = serialization.to_bytes(plain["opt_state"])
    files["parameters-alone"] = serialization.to_bytes(parameters)
    statistics = {"BatchNorm_0": {"mean": jnp.zeros(2), "count": jnp.int32(7)}}
    files["inside"] = serialization.to_bytes(
        {"model": {**plain, "batch_stats": statistics}, "epoch": 3, "notes": ["a", 1.5, None, 1j]}
    )
    for dtype in ("bfloat16", "float16"):
        narrow = jax.tree.map(lambda p, dtype=dtype: p.astype(dtype), parameters)
        files[dtype] = serialization.to_bytes(after_a_step(rules["plain"], narrow))
    boxed = {
        "Dense_0": {
            "kernel": linen.Partitioned(parameters["Dense_0"]["kernel"], names=("in", "out")),
            "bias": parameters["Dense_0"]["bias"],
        }
    }
    files["boxed"] = serialization.to_bytes(after_a_step(rules["plain"], boxed))
    traces = {"Dense_0": {**plain["opt_state"][0].trace["Dense_0"], "bias": None}}
    files["none"] = serialization.to_bytes(
        {**plain, "opt_state": (optax.TraceState(traces), optax.EmptyState())}
    )
    files["nnx"] = _nnx(in_lists=False)
    files["nnx-integer-keys"] = _nnx(in_lists=True)
    (limit, serialization.MAX_CHUNK_SIZE) = (serialization.MAX_CHUNK_SIZE, 8)
    files["chunked"] = serialization.to_bytes(plain)
    serialization.MAX_CHUNK_SIZE = limit
    _check_reads_ours(folder, files)
    return files


def _nnx(*, in_lists: bool) -> bytes:
    """Return a module with statistics beside its parameters, and its optimizer."""

    class Network(nnx.Module):
        def __init__(self) -> None:
            self.layers = nnx.List([nnx.Linear(3, 2, rngs=nnx.Rngs(0))])
            self.norm = nnx.BatchNorm(2, rngs=nnx.Rngs(0))

        def __call__(self, x: Any) -> Any:
            return self.norm(self.layers[0](x))

    network = Network()
    network.layers[0].kernel[...] = jnp.arange(6, dtype=jnp.float32).reshape(3, 2)
    optimizer = nnx.Optimizer(network, optax.sgd(0.1, 0.9), wrt=nnx.Param)
    gradients = jax.tree.map(lambda p: p + 1, nnx.state(network, nnx.Param))
    before = nnx.to_pure_dict(nnx.state(network))
    optimizer.update(network, gradients)
    state = {"model": before, "optimizer": nnx.to_pure_dict(nnx.state(optimizer))}
    return serialization.msgpack_serialize(state) if in_lists else serialization.to_bytes(state)


def _check_reads_ours(folder: Path, files: dict[str, bytes]) -> None:
    """Have flax restore what sgdm writes without a template, and each file copied by itself."""
    path, copy = folder / "before.tmp", folder / "after.tmp"
    for name, data in files.items():
        if name in {"ema", "adam", "parameters-alone"}:
            continue
        path.write_bytes(data)
        for template in (path, None):
            with read(path) as checkpoint:
                prepare(copy, checkpoint, template)()
            restored = serialization.msgpack_restore(copy.read_bytes())
            expected = serialization.msgpack_restore(data)
            if template is None and name in {"plain", "none", "bfloat16", "float16"}:
                expected["opt_state"]["1"] = {}
            elif template is None:
                continue
            jax.tree.map(np.testing.assert_array_equal, restored, expected)
    path.unlink()
    copy.unlink()


def _main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 8, 6, 6, 1)).astype(np.float32)
    y = rng.integers(0, 3, size=(4, 8)).astype(np.int32)
    batches = list(zip(x, y, strict=True))
    state, before = _run(_start(x[0]), batches, range(_BEFORE))
    trained = serialization.to_bytes(state)
    (folder / "flax-trained.msgpack").write_bytes(trained)
    from_torch = _train_torch(folder, batches)
    np.savez_compressed(
        folder / "flax-training.npz",
        x=x,
        y=y,
        before=before,
        after=_go_on(trained, batches),
        after_torch=_go_on(from_torch, batches),
        versions=f"flax {flax.__version__}, optax {optax.__version__}, jax {jax.__version__}",
    )
    np.savez_compressed(
        folder / "flax-variants.npz",
        **{name: np.frombuffer(data, np.uint8) for name, data in _variants(folder).items()},
    )


_main()
