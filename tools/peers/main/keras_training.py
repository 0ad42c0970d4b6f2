"""Trains a small network with Keras's SGD and saves it in mid-run; goes on from a file of torch's.

In three steps, the second in the environment of the tests:

    python tools/peers/main/keras_training.py start tests/conformance/files
    python tests/keras_network.py tests/conformance/files
    python tools/peers/main/keras_training.py go_on tests/conformance/files

"start" also saves models of many layers, with the names of their variables and what is in each.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"
import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits

LR, BEFORE, AFTER, BATCHES, BATCH = 0.1, 100, 20, 8, 32


def start(folder: Path) -> None:
    """Train, save, go on with a tenth of the learning rate; save the models of many layers."""
    digits = load_digits()
    count = BATCHES * BATCH
    x = digits.images[:count].astype(np.uint8).reshape(BATCHES, BATCH, 8, 8)
    y = digits.target[:count].astype(np.uint8).reshape(BATCHES, BATCH)
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(6, 3, activation="relu"),
            layers.SeparableConv2D(8, 3, depth_multiplier=2, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10),
        ]
    )
    sgd = keras.optimizers.SGD(LR, momentum=0.9, nesterov=True)
    model.compile(sgd, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = train(model, x, y, 0, BEFORE)
    model.save(folder / "keras-training.keras")
    sgd.learning_rate = LR / 10
    after = train(model, x, y, BEFORE, AFTER)
    final = {f"final:{name(v)}": v.numpy() for v in model.trainable_variables}
    recorded = {"before": before, "after": after, "keras": keras.__version__, **final}
    np.savez_compressed(folder / "keras-training.npz", x=x, y=y, **recorded)
    for title, other in (
        ("nested", nested()),
        ("schedule", scheduled()),
        ("float64", dense("float64")),
        ("bfloat16", dense("bfloat16")),
    ):
        save(folder / f"keras-{title}.keras", other)


def go_on(folder: Path) -> None:
    """Go on from the file that torch's training was written to."""
    model = keras.models.load_model(folder / "keras-from-torch.keras")
    data = np.load(folder / "keras-training.npz")
    done = int(model.optimizer.iterations)
    losses = train(model, data["x"], data["y"], done, AFTER)
    final = {f"final:{name(v)}": v.numpy() for v in model.trainable_variables}
    lr = float(model.optimizer.learning_rate)
    np.savez_compressed(folder / "keras-from-torch.npz", after=losses, done=done, lr=lr, **final)


def train(model: Any, x: Any, y: Any, first: int, count: int) -> Any:
    """Take steps on the batches in turn; return the loss of each, before its update."""
    losses = []
    for t in range(first, first + count):
        model.reset_metrics()  # or the mean of all losses since is returned
        batch = x[t % BATCHES, ..., np.newaxis].astype("float32") / 4
        losses.append(model.train_on_batch(batch, y[t % BATCHES].astype("int32")))
    return np.array(losses, np.float64)


def nested() -> Any:
    """Models in a model, a shared and a frozen layer, and layers made in another order."""
    image = layers.Input((6, 6, 2))
    late = layers.Conv2D(3, 2, name="made_first")
    shared = layers.Dense(3, name="shared")
    inner = keras.Sequential(
        [
            layers.Input((6, 6, 2)),
            layers.DepthwiseConv2D(2, depth_multiplier=2),
            layers.BatchNormalization(name="norm", scale=False),
            layers.Conv2DTranspose(3, 2, use_bias=False, name="up"),
            layers.Dense(3, name="frozen", trainable=False),
        ],
        name="inner",
    )
    a = shared(inner(image))
    b = layers.GlobalAveragePooling2D()(late(image))
    c = layers.GlobalAveragePooling2D()(layers.LayerNormalization()(shared(a)))
    out = layers.Dense(2)(layers.Dropout(0.5)(layers.PReLU()(layers.Dense(3)(c + b))))
    model = keras.Model(image, out)
    model.compile(
        keras.optimizers.SGD(
            0.1, momentum=0.9, use_ema=True, gradient_accumulation_steps=2, weight_decay=0.01
        )
    )
    return model


def scheduled() -> Any:
    """A learning rate that is a schedule, and layers of one dimension, in float16."""
    keras.config.set_floatx("float16")
    model = keras.Sequential(
        [
            layers.Input((8,)),
            layers.Embedding(5, 4),
            layers.Conv1D(4, 3, groups=2),
            layers.SeparableConv1D(3, 2),
            layers.EinsumDense("abc,cd->abd", (None, 2), bias_axes="d"),
        ]
    )
    keras.config.set_floatx("float32")
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.5)
    model.compile(keras.optimizers.SGD(schedule, momentum=0.5))
    return model


def dense(dtype: str) -> Any:
    """Return one layer, as small a file as there is."""
    keras.config.set_floatx(dtype)
    model = keras.Sequential([layers.Input((3,)), layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9))
    keras.config.set_floatx("float32")
    return model


def save(path: Path, model: Any) -> None:
    """Save a model with other numbers in every variable, and beside it what these are."""
    sgd = model.optimizer
    sgd.build(model.trainable_variables)
    rng = np.random.default_rng(1)
    for variable in model.weights + sgd.variables:
        if variable.name not in ("iteration", "learning_rate"):
            variable.assign(rng.normal(size=variable.shape))
    sgd.variables[0].assign(7)
    model.save(path)
    saved = {f"parameter:{name(v)}": exact(v) for v in model.weights}
    for variable, momentum in zip(model.trainable_variables, sgd.momentums, strict=True):
        saved[f"momentum:{name(variable)}"] = exact(momentum)
    np.savez_compressed(path.with_suffix(".npz"), **saved)


def exact(variable: Any) -> Any:
    """Return what is in a variable, in a type that numpy stores."""
    return variable.numpy().astype("float32" if variable.dtype == "bfloat16" else variable.dtype)


def name(variable: Any) -> str:
    """Return the path of a variable without the outermost model's name."""
    return re.sub(r"^(sequential|functional)(_\d+)?/", "", variable.path)


{"start": start, "go_on": go_on}[sys.argv[1]](Path(sys.argv[2]))
