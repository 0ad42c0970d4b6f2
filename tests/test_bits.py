"""`sgdm.SGD` has the bits of `torch.optim.SGD(foreach=False)`: 2,400 drawn configurations.

A failure prints the seed of its configuration: `SGDM_BITS=123 pytest tests/test_bits.py` runs that
one alone.
"""

import os
import random
import warnings
from typing import Any

import pytest
import torch

import sgdm

CONFIGURATIONS = 2400
CHUNKS = 12
STEPS = 9
SIZES = (0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129)
DTYPES = (torch.float32, torch.float32, torch.float64, torch.complex64, torch.complex128)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal to the last bit: -0 is not 0, and one NaN is like another only bit by bit."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    plain = [x.detach().resolve_conj().resolve_neg().contiguous() for x in (a, b)]
    real = [torch.view_as_real(x) if x.is_complex() else x for x in plain]
    integers = torch.int32 if real[0].dtype == torch.float32 else torch.int64
    return torch.equal(*(x.view(integers) for x in real))


def drawn_shape(draw: random.Random) -> tuple[int, ...]:
    kind = draw.randrange(5)
    if kind == 0:
        return ()
    if kind == 1:
        return (draw.choice(SIZES), draw.randrange(1, 5))
    if kind == 2:
        return (2, draw.randrange(1, 4), 3, draw.randrange(1, 4))
    return (draw.choice(SIZES),)


def drawn_values(draw: random.Random, shape, dtype) -> torch.Tensor:
    """Values of many magnitudes, some of them zero, infinite or not a number.

    Never all zero: a first step with lr = 0 and no gradient is how checkpoint libraries ask for the
    state, and gets no decay (test_optimizer.py), while torch puts it into the buffer.
    """
    x = torch.randn(shape, dtype=dtype) * 10.0 ** draw.uniform(-4, 3)
    if x.numel() > 1 and draw.random() < 0.1:
        x.reshape(-1)[draw.randrange(x.numel())] = draw.choice([0.0, -0.0, 1e30, 1e-40])
    if x.numel() and draw.random() < 0.02:
        x.reshape(-1)[draw.randrange(x.numel())] = draw.choice([float("inf"), float("nan")])
    return x


def drawn_layout(draw: random.Random, x: torch.Tensor, *, written: bool) -> torch.Tensor:
    """The same shape and dtype in another layout; a written tensor must not overlap itself."""
    layouts = [lambda: x, lambda: x]
    if x.dim() >= 1:
        layouts.append(lambda: torch.stack([x, x], dim=-1)[..., 0])
    if x.dim() >= 2:
        layouts.append(lambda: x.transpose(0, 1).contiguous().transpose(0, 1))
    if x.dim() == 4:
        layouts.append(lambda: x.contiguous(memory_format=torch.channels_last))
    if x.dim() == 1 and x.numel():
        layouts.append(lambda: torch.cat([x[:1], x])[1:])  # off the vector's alignment
    if not written:
        layouts.append(lambda: torch._neg_view(-x))
        if x.dim() >= 1 and x.numel():
            layouts.append(lambda: x[:1].expand(x.shape))
        if x.is_complex():
            layouts.append(x.conj)
    return draw.choice(layouts)()


def drawn_arguments(draw: random.Random) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "lr": draw.choice([0.0, 1.0, draw.uniform(0, 0.5), 10 ** draw.uniform(-6, 0)])
    }
    if draw.random() < 0.15:
        arguments["lr"] = torch.tensor(arguments["lr"], dtype=draw.choice(DTYPES[1:3]))
        if draw.random() < 0.5:
            arguments["lr"] = arguments["lr"].reshape(1)
    if draw.random() < 0.8:
        arguments["momentum"] = draw.choice([0.0, 0.9, 1.0, draw.uniform(0, 1.2)])
    if draw.random() < 0.5:
        arguments["weight_decay"] = 10 ** draw.uniform(-5, 0)
        if draw.random() < 0.2:
            arguments["weight_decay"] = torch.tensor(arguments["weight_decay"])
    if draw.random() < 0.4:
        arguments["dampening"] = draw.choice([0.0, 0.5, draw.uniform(-1, 2)])
    if arguments.get("momentum", 0) > 0 and not arguments.get("dampening"):
        arguments["nesterov"] = draw.random() < 0.5
    arguments["maximize"] = draw.random() < 0.2
    return arguments


def parameters(draw: random.Random) -> list[tuple[torch.Tensor, torch.Tensor]]:
    pairs = []
    for _ in range(draw.randrange(1, 5)):
        shape, dtype = drawn_shape(draw), draw.choice(DTYPES)
        x = drawn_layout(draw, drawn_values(draw, shape, dtype), written=True)
        y = torch.empty_strided(x.shape, x.stride(), dtype=dtype).copy_(x)
        pairs.append((torch.nn.Parameter(x), torch.nn.Parameter(y)))
    return pairs


def change_hyperparameters(draw: random.Random, groups: list[tuple[dict, dict]]) -> None:
    """What schedulers and users do between steps, alike on both sides."""
    key = draw.choice(["lr", "momentum", "momentum", "weight_decay", "dampening"])
    value = draw.choice([0, 0.9, 10 ** draw.uniform(-3, 0)])
    for mine, theirs in groups:
        mine[key] = theirs[key] = value


def exchange_states(draw: random.Random, mine, theirs, arguments):
    """Each goes on from the other's state dict."""
    fresh_torch = torch.optim.SGD(theirs.param_groups[0]["params"], **arguments, foreach=False)
    fresh_sgdm = sgdm.SGD(mine.param_groups[0]["params"], **arguments)
    for group in theirs.param_groups[1:]:
        fresh_torch.add_param_group({"params": group["params"]})
    for group in mine.param_groups[1:]:
        fresh_sgdm.add_param_group({"params": group["params"]})
    mine_state, torch_state = mine.state_dict(), theirs.state_dict()
    fresh_torch.load_state_dict(mine_state)
    fresh_sgdm.load_state_dict(torch_state)
    return fresh_sgdm, fresh_torch


def compare_one(seed: int) -> None:
    """Run one configuration on both optimizers; compare parameters and buffers at every step."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    arguments, pairs = drawn_arguments(draw), parameters(draw)
    split = draw.randrange(len(pairs) + 1)
    mine_params, torch_params = [p for p, _ in pairs], [q for _, q in pairs]
    mine = sgdm.SGD(mine_params[:split] or mine_params, **arguments)
    theirs = torch.optim.SGD(torch_params[:split] or torch_params, **arguments, foreach=False)
    if 0 < split < len(pairs):
        group = {"lr": draw.uniform(0, 1), "momentum": draw.choice([0, 0.5])}
        mine.add_param_group({"params": mine_params[split:], **group})
        theirs.add_param_group({"params": torch_params[split:], **group})
    late = [draw.randrange(4) if draw.random() < 0.3 else 0 for _ in pairs]

    for t in range(STEPS):
        kept = []
        for (p, q), start in zip(pairs, late, strict=True):
            p.grad = q.grad = None
            if t >= start and draw.random() > 0.1:
                g = drawn_layout(draw, drawn_values(draw, p.shape, p.dtype), written=False)
                kept.append((g, g.clone()))
                p.grad = q.grad = g
        mine.step()
        assert all(same_bits(*pair) for pair in kept), f"seed {seed}, step {t}: gradient written"
        theirs.step()
        for i, (p, q) in enumerate(pairs):
            assert same_bits(p, q), f"seed {seed}, step {t}: parameter {i}"
            ours, torchs = (
                o.state.get(x, {}).get("momentum_buffer") for o, x in ((mine, p), (theirs, q))
            )
            assert (ours is None) == (torchs is None), f"seed {seed}, step {t}: buffer {i}"
            assert ours is None or same_bits(ours, torchs), f"seed {seed}, step {t}: buffer {i}"
        if draw.random() < 0.3:
            change_hyperparameters(
                draw, list(zip(mine.param_groups, theirs.param_groups, strict=True))
            )
        if draw.random() < 0.15:
            mine, theirs = exchange_states(draw, mine, theirs, arguments)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_bits_of_torch(chunk):
    if "SGDM_BITS" in os.environ:
        seeds = [int(os.environ["SGDM_BITS"])] if chunk == 0 else []
    else:
        seeds = range(chunk, CONFIGURATIONS, CHUNKS)
    with warnings.catch_warnings():
        # Resizing and lr-tensor notices of torch's own, alike on both sides.
        warnings.simplefilter("ignore")
        for seed in seeds:
            try:
                compare_one(seed)
            except Exception as error:
                error.add_note(f"configuration seed: SGDM_BITS={seed}")
                raise
