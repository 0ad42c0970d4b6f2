"""What Triton makes of the kernels: compiled for Hopper, so that no GPU is needed."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

COMPILE = """
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from sgdm.engines.triton import kernels, prepared

POINTERS = {"addresses": "*i64", "gradients": "*i64", "facts": "*i64", "blocks": "*i32",
            "numbers": "*fp64", "squares": "*fp64", "nonfinite": "*i32", "ticket": "*i32",
            "results": "*fp64", "n": "i32", "blocks_in_all": "i32",
            "grad_scale": "*fp32", "found_inf": "*fp32"}

def ptx(kernel, **constants):
    names = kernel.arg_names
    types = {n: "constexpr" if n in constants else POINTERS[n] for n in names}
    fixed = {(names.index(n),): value for n, value in constants.items()}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if types[n][0] == "*"}
    source = ASTSource(kernel, types, fixed, aligned)
    target = GPUTarget("cuda", 90, 32)
    return compile(source, target=target, options=prepared._COMPILED).asm["ptx"]

for kind in KINDS:
    print("kind", kind)
    print(ptx(kernels.step_kernel, kinds=(kind,), results=None, grad_scale=None, found_inf=None,
              is_decided=False))
    print(ptx(kernels.norm_kernel, kinds=(kind,), grad_scale=None, found_inf=None))

print("kind all")
print(ptx(kernels.norm_kernel, kinds=KINDS))
print(ptx(kernels.decide_kernel))
print(ptx(kernels.decide_kernel, grad_scale=None))
print(ptx(kernels.step_kernel, kinds=KINDS, is_decided=True))
print(ptx(kernels.step_kernel, kinds=KINDS, is_decided=False))
"""
KINDS = (
    # The dtypes, those of the arithmetic, how many fmas an element takes, the widest access.
    ("(tl.float32, tl.float32, tl.float32, tl.float32)", "f32", 6, "v4.b32"),
    ("(tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.float32)", "f32", 6, "v4.b32"),
    ("(tl.float16, tl.float16, tl.float32, None)", "f32", 4, "v4.b32"),
    ("(tl.float64, tl.float64, tl.float64, None)", "f64", 4, "v2.b64"),
)


# What flushes to zero, is contracted, or approximated.
INEXACT = re.compile(r"\.ftz|mad\.f|\.approx|\.full\.|fma\.(?!rn)")


def printed_by(program: str, cache: Path) -> str:
    """Run a program in a Python in which Triton compiles, and interprets nothing."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(cache)}
    environment.pop("TRITON_INTERPRET", None)
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> list[str]:
    """Of each kind both kernels, and at last those of all kinds with all that can be asked."""
    kinds = ", ".join(kind for kind, *_ in KINDS)
    program = COMPILE.replace("KINDS", f"({kinds})")
    return printed_by(program, tmp_path_factory.mktemp("cache")).split("\nkind ")


def test_all_kernels_are_compiled(compiled):
    entries = re.findall(r"\.entry (\w+)\(", compiled[-1])
    assert entries == ["norm_kernel", *2 * ["decide_kernel"], *2 * ["step_kernel"]]
    assert not INEXACT.search(compiled[-1])


@pytest.mark.parametrize("i", range(len(KINDS)), ids=[kind for kind, *_ in KINDS])
def test_the_compiled_kernel_rounds_as_it_is_written(compiled, i):
    """Each thread has 8 elements, and there are two copies: for whole blocks, and for the last."""
    _, arithmetic, fmas, widest = KINDS[i]
    found = Counter(re.findall(r"\b((?:ld|st|fma|mul|add|sub|div|sqrt)\.[\w.:]+)", compiled[i]))
    assert not INEXACT.search(compiled[i])
    expected = Counter({"fma.rn.f64": 8})  # the squares of the norm
    expected[f"fma.rn.{arithmetic}"] += 2 * 8 * fmas
    assert {name: count for name, count in found.items() if name.startswith("fma")} == expected
    assert found[f"ld.global.{widest}"] >= 3
    assert found[f"st.global.{widest}"] >= 2
    assert found["div.rn.f64"] == found["sqrt.rn.f64"] == 1


CACHED = """
import os
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

class Hopper:  # enough of one to compile for
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)

driver.set_active(Hopper())
import sgdm
from sgdm.engines.triton import kernels

class CompiledOnly:
    def __init__(self, kernel):
        self.kernel = kernel
    def __getitem__(self, grid):
        return lambda *args, **more: self.kernel.run(*args, grid=grid, warmup=True, **more)
    def __len__(self):
        return sum(len(cache[0]) for cache in self.kernel.device_caches.values())

kernels.step_kernel = CompiledOnly(kernels.step_kernel)
kernels.norm_kernel = CompiledOnly(kernels.norm_kernel)
os.environ["TRITON_INTERPRET"] = "1"  # Triton is loaded: it compiles, for tensors that are here
counts = []
for tensors in (1, 2, 16, 17):
    params = [torch.nn.Parameter(torch.ones(5)) for _ in range(tensors)]
    optimizer = sgdm.SGD(params, lr=0.1, momentum=0.9, max_grad_norm=1.0, engine="triton")
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.7)
    for t in range(3):
        for p in params:
            p.grad = torch.ones(5)
        optimizer.param_groups[0]["momentum"] = 0.5 + 0.1 * t
        optimizer.max_grad_norm = 1.0 + t
        optimizer.step()
        scheduler.step()
        counts.append((len(kernels.step_kernel), len(kernels.norm_kernel)))
print({*counts})
"""


def test_one_compilation_serves_any_hyperparameters_and_number_of_tensors(tmp_path):
    """Compiled for Hopper and not run, so that no GPU is needed."""
    assert printed_by(CACHED, tmp_path) == "{(1, 1)}\n"
