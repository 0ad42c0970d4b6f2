"""Where the axes of a kernel lie: torch puts output channels first, Keras and flax last."""

from typing import Literal

from torch import Tensor

__all__ = ["Layout", "described", "from_torch", "shape_in_torch", "to_torch"]

# "torch": as torch has it. "kernel": spatial axes, then input, then output channels, or (input,
# output) of a dense layer. "depthwise": spatial axes, channels, multiplier.
Layout = Literal["torch", "kernel", "depthwise"]


def shape_in_torch(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    """Return the shape that a stored shape has in torch's layout."""
    if layout == "kernel" and len(shape) >= 2:
        *spatial, inputs, outputs = shape
        return (outputs, inputs, *spatial)
    if layout == "depthwise" and len(shape) >= 2:
        *spatial, channels, multiplier = shape
        return (channels * multiplier, 1, *spatial)
    return shape


def to_torch(tensor: Tensor, layout: Layout) -> Tensor:
    """Return a stored tensor in torch's layout, contiguous."""
    n = tensor.dim()
    if layout == "kernel" and n >= 2:
        return tensor.permute(n - 1, n - 2, *range(n - 2)).contiguous()
    if layout == "depthwise":
        moved = tensor.permute(n - 2, n - 1, *range(n - 2)).contiguous()
        return moved.reshape(shape_in_torch(tuple(tensor.shape), layout))
    return tensor.contiguous()


def from_torch(tensor: Tensor, layout: Layout, shape: tuple[int, ...]) -> Tensor:
    """Return a tensor of torch's layout as a file of that layout stores it, contiguous.

    Args:
        tensor: In torch's layout.
        layout: The file's.
        shape: What it is to have there; a depthwise kernel does not tell its multiplier.
    """
    n = len(shape)
    if layout == "kernel" and n >= 2:
        return tensor.permute(*range(2, n), 1, 0).contiguous()
    if layout == "depthwise":
        split = tensor.reshape(shape[-2], shape[-1], *shape[:-2])
        return split.permute(*range(2, n), 0, 1).contiguous()
    return tensor.contiguous()


def described(layout: Layout, rank: int) -> str:
    """Say what brings a stored tensor of that rank into torch's layout; "" for nothing."""
    if layout == "depthwise":
        return "HWCM -> (CM)1HW" if rank == 4 else "depthwise"
    if layout == "kernel" and rank >= 2:
        return {2: "IO -> OI", 3: "WIO -> OIW", 4: "HWIO -> OIHW", 5: "DHWIO -> OIDHW"}.get(
            rank, "transposed"
        )
    return ""
