"""What every test gets: a seed that a failure prints, and strict settings."""

import gc
import os
import zlib
from collections.abc import Iterator

# One thread a process, and in the processes that tests start: several that each use every core
# wait for each other at every barrier (measured: 60 times slower on two cores).
os.environ["OMP_NUM_THREADS"] = "1"

import hypothesis
import pytest
import torch

pytest.register_assert_rewrite("examining")

from world import World

# Without a GPU the kernels for it run in Triton's interpreter, which Triton asks for when it is
# loaded: torch has not done so yet.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

hypothesis.settings.register_profile(
    "sgdm", deadline=None, print_blob=True, derandomize="SGDM_SEED" not in os.environ
)
hypothesis.settings.load_profile("sgdm")
torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def only_objects_of_this_module() -> None:
    """Take what is there before out of every look at all objects, tests and loaded modules.

    An optimizer whose parameter has no gradient looks for the network at its first step. That took
    a tenth of a second with ten thousand tests in memory, and takes a thousandth.
    """
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of this test: its own, or SGDM_SEED; printed with a failure."""
    name = request.node.nodeid.encode()
    value = int(os.environ.get("SGDM_SEED", zlib.crc32(name)))
    print(f"seed: SGDM_SEED={value}")
    torch.manual_seed(value)
    return value


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Processes that run functions together."""
    world = World(tmp_path_factory.mktemp("world"))
    yield world
    world.close()
