"""Record what the real frameworks do, each in an environment of its own.

    python tools/record_trajectories.py                  # every row
    python tools/record_trajectories.py keras3 optax     # these

An environment is a folder of tools/peers: `install.sh PREFIX` builds it, where it is not yet built,
and the drivers that rows.json names speak the protocol of protocol.py. Every row is driven through
the same cases, which are written to tests/conformance/inputs.json, and what its framework did to
tests/conformance/ROW.npz. The tests read these files; no framework is needed for them.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 60
SIZE = 2
SEED = 20261122
ROOT = Path(__file__).parents[1]
PEERS = ROOT / "tools" / "peers"
BUILT = ROOT / "build" / "peers"
RECORDS = ROOT / "tests" / "conformance"
DTYPES = ("float64", "float32")


def drivers() -> dict[str, tuple[Path, list[str]]]:
    """Return, by row, the environment's folder and the command to run in it."""
    found: dict[str, tuple[Path, list[str]]] = {}
    for table in sorted(PEERS.glob("*/rows.json")):
        for row, command in json.loads(table.read_text()).items():
            found[row] = (table.parent, command.split())
    return found


def drawn_inputs() -> dict[str, Any]:
    """Return what every optimizer is driven through.

    Points and gradients are float32 numbers, so that both dtypes get the same ones.
    """
    rng = np.random.default_rng(SEED)

    def drawn(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32).astype(float)

    steps = range(STEPS)
    constant = {"lr": [0.1] * STEPS, "momentum": [0.9] * STEPS}
    drop = {**constant, "lr": [0.1 if t < 20 else 0.01 for t in steps]}
    warm_up = {**constant, "lr": [0.01 * min(t, 10) for t in steps]}
    zero_lr = {**constant, "lr": [0.0 if t == 30 else 0.1 for t in steps]}
    moved = [0.9 if t < 20 else 0.5 if t < 40 else 0.0 if t < 45 else 0.9 for t in steps]
    momentum = {**constant, "momentum": moved}
    quadratic = {
        "lr": [0.5 if t < 30 else 0.05 for t in steps],
        "momentum": constant["momentum"],
        "curvature": [1.0, 0.125],
        "center": [2.0, -0.5],
    }
    plain = {**drop, "momentum": [0.0] * STEPS, "weight_decay": 0.05}
    given: dict[str, dict[str, Any]] = {"plain": plain}
    for suffix, nesterov in (("", False), ("-nesterov", True)):
        for name, values in {
            "constant": constant,
            "drop": drop,
            "warm-up": warm_up,
            "zero-lr": zero_lr,
            "momentum": momentum,
            "decay": {**drop, "weight_decay": 0.05},
            "quadratic": quadratic,
        }.items():
            given[name + suffix] = {**values, "nesterov": nesterov}
    given["dampening"] = {**drop, "dampening": 0.5}
    given["dampening-momentum"] = {**momentum, "dampening": 0.5}
    return {
        "p": drawn(SIZE).tolist(),
        "gradients": drawn(STEPS, SIZE).tolist(),  # of the cases that have no curvature
        "cases": [{"name": name, **values} for name, values in given.items()],
    }


def cases(inputs: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the cases as the drivers take them."""
    return [
        {
            **case,
            "dtype": dtype,
            "p": inputs["p"],
            "gradients": None if "curvature" in case else inputs["gradients"],
        }
        for dtype in DTYPES
        for case in inputs["cases"]
    ]


def main() -> None:
    """Record the rows that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", help="all rows without")
    parser.add_argument("--prefix", type=Path, default=BUILT, help="where environments are built")
    arguments = parser.parse_args()
    known = drivers()
    RECORDS.mkdir(exist_ok=True)
    inputs = drawn_inputs()
    (RECORDS / "inputs.json").write_text(json.dumps(inputs) + "\n", "utf-8")
    for row in arguments.rows or known:
        record(row, *known[row], arguments.prefix, cases(inputs))


def record(
    row: str, folder: Path, command: list[str], prefix: Path, inputs: list[dict[str, Any]]
) -> None:
    """Drive the framework of a row through the cases."""
    environment = prefix / folder.name
    if not environment.exists():
        subprocess.run(["bash", str(folder / "install.sh"), str(environment)], check=True)
    answer = subprocess.run(
        [*command, row],
        cwd=folder,
        env={
            **os.environ,
            "PREFIX": str(environment),
            "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
        },
        input=json.dumps(inputs),
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        sys.exit(f"{row}: {answer.stderr}")
    write(row, json.loads(answer.stdout))


def write(row: str, told: dict[str, Any]) -> None:
    """Write one file: the trajectories, and in its member `about` all else as JSON."""
    arrays: dict[str, Any] = {}
    about: dict[str, Any] = {"versions": told["versions"], "cases": {}}
    for case in told["cases"]:
        key = f"{case['name']}/{case['dtype']}"
        if "refused" in case:
            about["cases"][key] = {"refused": case["refused"]}
            print(f"    {key}: {case['refused']}")
            continue
        about["cases"][key] = {"rounded": case["rounded"]}
        absent = [float("nan")] * SIZE  # the framework holds no buffer yet
        buffers = [absent if b is None else b for b in case["b"]]
        arrays[f"{key}/p"] = np.array(case["p"], case["dtype"])
        arrays[f"{key}/b"] = np.array(buffers, case["dtype"])
    arrays["about"] = np.array(json.dumps(about))
    path = RECORDS / f"{row}.npz"
    if not (path.exists() and holds(path, arrays)):  # an archive also holds the time of day
        np.savez_compressed(path, **arrays)
    print(f"{row}: {len(arrays) // 2} trajectories of {told['versions']}")


def holds(path: Path, arrays: dict[str, Any]) -> bool:
    """Whether a file has these very members."""
    with np.load(path, allow_pickle=False) as file:
        return set(file.files) == set(arrays) and all(
            file[name].dtype == value.dtype and file[name].tobytes() == value.tobytes()
            for name, value in arrays.items()
        )


if __name__ == "__main__":
    main()
