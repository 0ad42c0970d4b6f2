"""Trains scikit-learn's MLP on its digits, pickles it at the stop, and records how it goes on.

    python tools/peers/main/sklearn_training.py tests/conformance/files

writes, for float64 and float32, `sklearn-DTYPE.pickle`, and `sklearn-DTYPE.npz` with what is in the
pickle, the batches after it, and the loss of scikit-learn on each, before its update.
"""

import pickle
import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

BEFORE, AFTER, BATCH = 30, 20, 50

folder = Path(sys.argv[1])
pixels, digits = load_digits(return_X_y=True)
pixels = pixels[:, 18:46] / 16  # the middle rows: the files stay small
batches = [
    np.arange(start, start + BATCH) % len(digits)
    for start in range(0, (BEFORE + AFTER) * BATCH, BATCH)
]
for dtype in ("float64", "float32"):
    x = pixels.astype(dtype)
    network = MLPClassifier(
        (12,),
        solver="sgd",
        nesterovs_momentum=True,
        momentum=0.9,
        learning_rate_init=0.1,
        alpha=0.05,
        shuffle=False,
        random_state=0,
    )
    for batch in batches[:BEFORE]:
        network.partial_fit(x[batch], digits[batch], classes=np.arange(10))
    (folder / f"sklearn-{dtype}.pickle").write_bytes(pickle.dumps(network, protocol=4))
    held = {
        **{f"coefs_/{i}": array.copy() for i, array in enumerate(network.coefs_)},
        **{f"intercepts_/{i}": array.copy() for i, array in enumerate(network.intercepts_)},
    }
    velocities = [array.copy() for array in network._optimizer.velocities]  # noqa: SLF001
    losses = []
    for batch in batches[BEFORE:]:
        network.partial_fit(x[batch], digits[batch])
        losses.append(network.loss_)
    np.savez_compressed(
        folder / f"sklearn-{dtype}.npz",
        pixels=np.stack([x[batch] for batch in batches[BEFORE:]]),
        digits=np.stack([digits[batch] for batch in batches[BEFORE:]]),
        losses=np.array(losses),
        **held,
        **{f"velocity/{name}": array for name, array in zip(held, velocities, strict=True)},
    )
