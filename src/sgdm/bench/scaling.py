"""The cost model: bytes, messages and seconds of a step, from one core to thousands of GPUs.

Nothing here is measured, and nothing runs: `docs/scaling.md` has the formulas in the same symbols,
and compares what they say of this machine with what was measured on it.
"""

import math
from dataclasses import dataclass

from sgdm.bench.networks import NETWORKS

__all__ = [
    "GPU",
    "GPUS_PER_NODE",
    "GPU_FABRIC",
    "GPU_FLOPS",
    "GPU_MEMORY",
    "MODELS",
    "Device",
    "Fabric",
    "Group",
    "Hops",
    "Layout",
    "Model",
    "all_reduce_seconds",
    "bucket_count",
    "checkpoint_bytes",
    "communication_seconds",
    "examples_for_share",
    "norm_seconds",
    "ring_seconds",
    "sent_bytes",
    "state_bytes",
    "step_seconds",
    "tree_seconds",
]

_ITEM = 4  # w: bytes of a float32, in memory and on the wire
_MIB = 2**20
_FIRST_BUCKET, _BUCKET = 1 * _MIB, 25 * _MIB  # of DistributedDataParallel, torch 2.13
_NORM = 16  # bytes: the sum of the squares, and how many processes have a gradient not finite


@dataclass(frozen=True, slots=True)
class Model:
    """What is trained.

    Attributes:
        name: As published.
        elements: P, the number of parameters.
        tensors: n, in which they are held.
        modules: L, on which `fully_shard` is called: every block, and the whole.
        flops: Of forward and backward for one example: an image, or a token.
    """

    name: str
    elements: int
    tensors: int
    modules: int
    flops: float


@dataclass(frozen=True, slots=True)
class Device:
    """What steps parameters.

    Attributes:
        bandwidth: M, bytes a second between it and its memory.
        bytes_per_element: m, that a step moves.
        per_step: c0, seconds before the first tensor.
        per_tensor: c, seconds for a tensor however small.
    """

    bandwidth: float
    bytes_per_element: int
    per_step: float
    per_tensor: float


@dataclass(frozen=True, slots=True)
class Hops:
    """What a message waits for, in seconds, whatever its size.

    Attributes:
        first: α0, once a collective.
        inner: α1, a hop within a node.
        outer: α2, a hop between nodes.
    """

    first: float
    inner: float
    outer: float


@dataclass(frozen=True, slots=True)
class Fabric:
    """What joins processes.

    Attributes:
        large: The hops of messages that fill the links.
        small: The hops of messages of a few bytes.
        inner: Bytes a second that a process sends within its node.
        outer: Bytes a second that a process sends to other nodes.
    """

    large: Hops
    small: Hops
    inner: float
    outer: float


@dataclass(frozen=True, slots=True)
class Group:
    """Processes that run a collective.

    Attributes:
        size: N, how many there are.
        per_node: How many of them share a node.
    """

    size: int = 1
    per_node: int = 1

    @property
    def nodes(self) -> int:
        """On how many nodes they are."""
        return math.ceil(self.size / self.per_node)

    def bandwidth(self, fabric: Fabric) -> float:
        """Return β, the bytes a second that go round a ring of them.

        There are as many rings as processes on a node, each with its own way out of it.
        """
        if self.nodes == 1:
            return fabric.inner
        return min(fabric.inner, self.per_node * fabric.outer)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the parameters are.

    Attributes:
        name: What users call it.
        shards: The processes that hold a shard of each parameter: S of them.
        replicas: The processes that hold the same shard: R of them.
    """

    name: str
    shards: Group
    replicas: Group

    @property
    def processes(self) -> int:
        """N = R·S."""
        return self.shards.size * self.replicas.size


def _llama(name: str, width: int, layers: int, inner: int, keys: int) -> Model:
    """Return a Llama 2: embedding, last layer and norm; in a layer 7 matrices and 2 norms."""
    layer = 2 * width * width + 2 * width * keys + 3 * width * inner + 2 * width
    elements = 2 * 32000 * width + width + layers * layer
    return Model(name, elements, 9 * layers + 3, layers + 1, 6.0 * elements)


_RESNET50, _GPT2 = (
    next(network for network in NETWORKS if network.name == name) for name in ("resnet50", "gpt2")
)

MODELS = (
    # 4.1 G multiplications forward (He et al.: 3.8 without the shortcuts), twice that backward.
    Model("ResNet-50", _RESNET50.elements, _RESNET50.tensors, 17, 3 * 2 * 4.1e9),
    Model("GPT-2", _GPT2.elements, _GPT2.tensors, 13, 6.0 * _GPT2.elements),
    _llama("Llama 2 7B", 4096, 32, 11008, 4096),
    _llama("Llama 2 70B", 8192, 80, 28672, 1024),
)

# NVIDIA's data sheets of the H100 SXM (80 GB at 3.35 TB/s; NVLink 900 GB/s, half of it each way;
# 989 TFLOP/s in bfloat16 without sparsity) and of the DGX H100 (a ConnectX-7 of 400 Gb/s a GPU).
GPU_MEMORY = 80e9
GPU_FLOPS = 0.4 * 989e12  # what large runs report to reach
GPUS_PER_NODE = 8
# The eager engine: b *= μ; b += g; p -= εb. Three kernels a tensor, which the host starts in about
# 5 us each (assumed).
GPU = Device(3.35e12, 4 * (2 + 3 + 3), 20e-6, 3 * 5e-6)
# The constants of NCCL's own model, src/graph/tuning.cc: ring with protocol Simple for large
# messages, tree with protocol LL for small ones.
GPU_FABRIC = Fabric(
    large=Hops(8.4e-6, 3.4e-6, 14e-6), small=Hops(6.8e-6, 0.6e-6, 5e-6), inner=450e9, outer=50e9
)


def step_seconds(device: Device, model: Model, shards: int = 1) -> float:
    """Return c0 + c·n + m·P/(S·M): what a step takes, on each process."""
    moved = device.bytes_per_element * model.elements / shards
    return device.per_step + device.per_tensor * model.tensors + moved / device.bandwidth


def ring_seconds(hops: Hops, bandwidth: float, group: Group, size: float, passes: int) -> float:
    """Return what a ring takes: each pass is N-1 messages of 1/N of the bytes.

    Args:
        hops: α.
        bandwidth: β.
        group: The processes.
        size: V, the bytes of the whole tensor.
        passes: 2 to add up and tell all; 1 to add up (reduce-scatter) or to tell (all-gather).
    """
    if group.size == 1:
        return 0.0
    outer = passes * (group.nodes - 1)
    inner = passes * (group.size - 1) - outer
    sent = passes * size * (group.size - 1) / group.size
    return hops.first + inner * hops.inner + outer * hops.outer + sent / bandwidth


def tree_seconds(hops: Hops, bandwidth: float, group: Group, size: float) -> float:
    """Return what an all-reduce up and down a tree of nodes takes, with a chain in each node."""
    if group.size == 1:
        return 0.0
    depth = math.ceil(math.log2(group.nodes))
    waits = (group.per_node - 1) * hops.inner + depth * hops.outer
    return hops.first + 2 * waits + 2 * size / bandwidth


def all_reduce_seconds(fabric: Fabric, group: Group, size: float) -> float:
    """Return what the faster of ring and tree takes to add up a large tensor."""
    bandwidth = group.bandwidth(fabric)
    ring = ring_seconds(fabric.large, bandwidth, group, size, passes=2)
    return min(ring, tree_seconds(fabric.large, bandwidth, group, size))


def norm_seconds(fabric: Fabric, group: Group) -> float:
    """Return what the one message takes that clipping needs."""
    return tree_seconds(fabric.small, group.bandwidth(fabric), group, _NORM)


def bucket_count(model: Model) -> int:
    """Return K, the all-reduces of DistributedDataParallel at most: it cuts no tensor."""
    rest = _ITEM * model.elements - _FIRST_BUCKET
    return min(model.tensors, 1 + max(0, math.ceil(rest / _BUCKET)))


def sent_bytes(layout: Layout, model: Model) -> float:
    """Return what each process sends in a step of training, and receives."""
    shards, replicas = layout.shards.size, layout.replicas.size
    size = _ITEM * model.elements
    within = 3 * size * (shards - 1) / shards  # gathered forward and backward, and scattered
    return within + 2 * size / shards * (replicas - 1) / replicas


def communication_seconds(fabric: Fabric, layout: Layout, model: Model) -> float:
    """Return what the collectives of a step of training take where nothing overlaps."""
    if layout.shards.size == 1:
        count = bucket_count(model)
        bucket = _ITEM * model.elements / count
        return count * all_reduce_seconds(fabric, layout.replicas, bucket)
    module = _ITEM * model.elements / model.modules
    bandwidth = layout.shards.bandwidth(fabric)
    one = ring_seconds(fabric.large, bandwidth, layout.shards, module, passes=1)
    added = all_reduce_seconds(fabric, layout.replicas, module / layout.shards.size)
    return (3 * model.modules - 1) * one + model.modules * added


def state_bytes(layout: Layout, model: Model) -> float:
    """Return what a process holds: parameters, gradients and buffers in float32."""
    return 3 * _ITEM * model.elements / layout.shards.size


def checkpoint_bytes(layout: Layout, model: Model) -> float:
    """Return what a process writes of parameters and buffers, each element written once."""
    return 2 * _ITEM * model.elements / layout.processes


def examples_for_share(device: Device, model: Model, shards: int, share: float) -> float:
    """Return how many examples a GPU takes for the step to be this share of their flops' time."""
    return step_seconds(device, model, shards) / share * GPU_FLOPS / model.flops
