"""A network spread over processes: a copy in each (DDP), or a part of every parameter (FSDP2).

Either way the gradients are averaged over the processes.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

__all__ = ["parts_of", "spread"]


def spread(model: nn.Module, example: Tensor, *, shard: bool) -> nn.Module:
    """Return what is called in place of the model, whose parameters become those of this process.

    Args:
        model: The same in all processes; it holds parts of its parameters afterwards, if sharded.
        example: Input for it.
        shard: Whether its parameters are spread, and not copied.
    """
    device = example.device
    if device.type == "cuda":
        torch.cuda.set_device(device)  # NCCL and FSDP2 work on the current one
    return _shard(model, device.type) if shard else _copy(model, example)


def _copy(model: nn.Module, example: Tensor) -> nn.Module:
    copied = DistributedDataParallel(model)
    # DDP arranges its buckets anew after its first gradients, and an element is summed in an order
    # that depends on its place there. These are its first gradients: so a run that goes on has the
    # bits of one that was never stopped.
    copied(example[:0]).sum().backward()
    model.zero_grad()
    return copied


def _shard(model: nn.Module, device: str) -> nn.Module:
    from torch.distributed.fsdp import fully_shard  # noqa: PLC0415 - a second, for those who shard

    mesh = init_device_mesh(device, (dist.get_world_size(),))
    for layer in model.children():
        if any(True for _ in layer.parameters()):
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    # Without it the outermost module keeps what it has gathered: a step in between is not seen.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    return model


def parts_of(
    model: nn.Module, weights: dict[str, Any], optimizer: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Cut whole state dicts, of the model and of its optimizer, as the model's parameters are."""
    from torch.distributed.tensor import DTensor, distribute_tensor  # noqa: PLC0415 - as above

    def part(whole: Any, param: Tensor) -> Any:
        if not isinstance(whole, Tensor):
            return whole
        assert isinstance(param, DTensor)
        mesh, placements = param.device_mesh, param.placements
        return distribute_tensor(whole, mesh, placements, src_data_rank=None)

    named = dict(model.named_parameters())
    state = {
        index: {key: part(value, param) for key, value in optimizer["state"][index].items()}
        for index, param in enumerate(named.values())
        if index in optimizer["state"]
    }
    return (
        {name: part(value, named[name]) for name, value in weights.items()},
        {**optimizer, "state": state},
    )
