"""Which entries of a model's state_dict are parameters: those that an optimizer steps."""

import torch

__all__ = ["PARAMETER_DTYPES", "is_parameter"]

PARAMETER_DTYPES = (
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
)

# torch's BatchNorm and InstanceNorm keep them among the weights.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def is_parameter(name: str, dtype: torch.dtype) -> bool:
    """Whether an entry is stepped: a floating-point one that is no running statistic."""
    return dtype in PARAMETER_DTYPES and name.rpartition(".")[2] not in _STATISTICS
