"""TensorFlow, Keras, JAX and what stands on them."""

from sgdm.convention import Convention

__all__ = ["ROWS"]

ROWS = (
    Convention(
        name="tf1",
        title="tf.compat.v1.train.MomentumOptimizer",
        aliases=("tensorflow-v1",),
        lr="outside",
        sign="gradient",
        nesterov="optional",
        versions="TensorFlow 1 and 2",
        source="tensorflow/python/training/momentum.py; ApplyMomentum in "
        "tensorflow/core/kernels/training_ops.cc",
        quirks=("no weight decay of its own: coupled here, as an L2 term of the loss is",),
        proof="recorded",
    ),
    Convention(
        name="tf-keras",
        title="tf_keras SGD, Keras 2",
        aliases=("keras2",),
        lr="inside",
        sign="step",
        nesterov="optional",
        weight_decay="lr",
        versions="TensorFlow >= 2.11, tf_keras",
        source="tf_keras/optimizers/sgd.py; ApplyKerasMomentum in "
        "tensorflow/core/kernels/training_ops.cc",
        proof="recorded",
    ),
    Convention(
        name="keras3",
        title="keras.optimizers.SGD, Keras 3",
        aliases=("keras",),
        lr="inside",
        sign="step",
        nesterov="optional",
        momentum_zero="freeze",
        weight_decay="lr",
        equations=("θ = θ - ε·λ·θ", "v = μ·v - ε·g", "θ = θ + v", "Nesterov: Θ = Θ + μ·v - ε·g"),
        versions="Keras >= 3.0",
        source="keras/src/optimizers/sgd.py, base_optimizer.py",
        quirks=(
            "with momentum = 0 at construction it has no buffers, and a later μ fails",
            "with gradient accumulation it evaluates a schedule once for every micro-step",
            "clipnorm clips each tensor by itself; max_grad_norm is its global_clipnorm",
        ),
        proof="recorded",
    ),
    Convention(
        name="tfjs",
        title="TensorFlow.js tf.train.momentum",
        aliases=("tensorflow.js",),
        lr="outside",
        sign="gradient",
        nesterov="optional",
        versions="TensorFlow.js 4",
        source="tfjs-core/src/optimizers/momentum_optimizer.ts",
        quirks=("no weight decay of its own: coupled here, as an L2 term of the loss is",),
        proof="recorded",
    ),
    Convention(
        name="optax",
        title="optax.sgd, optax.trace",
        aliases=("nnx", "flax"),
        lr="outside",
        sign="gradient",
        nesterov="optional",
        versions="optax >= 0.1",
        source="optax/transforms/_accumulation.py, optax/_src/alias.py",
        quirks=(
            "decay is chain(add_decayed_weights(λ), sgd(...)), coupled; the other order makes the "
            "weights grow",
            "the step is made from the new buffer before it is cast to accumulator_dtype",
        ),
        proof="recorded",
    ),
    Convention(
        name="optax-ema",
        title="optax.ema, then scale(-ε)",
        lr="outside",
        sign="gradient",
        gain="1-momentum",
        equations=("v = μ·v + (1-μ)·d", "θ = θ - ε·v/(1 - μ^t)"),
        versions="optax >= 0.1",
        source="optax/transforms/_accumulation.py",
        proof="recorded",
        obstacle="its step is divided by 1 - μ^t, which differs from step to step; 'ema' is the "
        "rule with debias=False, and the same once μ^t has faded",
    ),
    Convention(
        name="jax-example",
        title="jax.example_libraries' optimizers",
        aliases=("jax",),
        lr="outside",
        sign="gradient",
        nesterov="optional",
        versions="JAX >= 0.2.25",
        source="jax/example_libraries/optimizers.py",
        quirks=("no weight decay of its own: coupled here, as an L2 term of the loss is",),
        proof="recorded",
    ),
)
