"""Published methods that are no framework's: what one buffer holds, and what stands for others.

m, e, a, b, c, g and k below are hyperparameters by the letters of their papers.
"""

from sgdm.convention import Convention

__all__ = ["ROWS"]

ROWS = (
    Convention(
        name="ema",
        title="unit gain: an average of the gradients",
        aliases=("unit-gain",),
        lr="outside",
        sign="gradient",
        gain="1-momentum",
        equations=("v = μ·v + (1-μ)·d", "θ = θ - ε·v"),
        source="Polyak momentum with unit gain; optax.ema(debias=False)",
        proof="recorded",
    ),
    Convention(
        name="qhm",
        title="quasi-hyperbolic momentum",
        lr="outside",
        sign="gradient",
        gain="1-momentum",
        nesterov="always",
        look_ahead="nu",
        equations=("v = μ·v + (1-μ)·d", "θ = θ - ε·((1-ν)·d + ν·v)"),
        source="Ma and Yarats 2019, Quasi-hyperbolic momentum and Adam, eq. (3)",
        quirks=("ν = 0 is plain SGD, ν = 1 is 'ema', ν = μ is Nesterov's method at ε·(1-μ)",),
        proof="recorded",
    ),
    Convention(
        name="previous-iterate",
        title="Polyak's heavy ball, the last θ stored",
        aliases=("polyak",),
        lr="inside",
        sign="step",
        equations=("θ' = θ - ε·d + μ·(θ - v)", "v = θ", "θ = θ'"),
        source="Polyak 1964, Some methods of speeding up the convergence of iteration methods",
        obstacle="a buffer of positions loses the digits that θ has before the difference; "
        "'sutskever' is the same recurrence and keeps the difference",
    ),
    Convention(
        name="triple-momentum",
        title="the triple momentum method",
        aliases=("tmm",),
        lr="inside",
        sign="step",
        nesterov="always",
        equations=("v = b·v - a·d", "θ = θ + v", "Θ = θ + g·v, where d is taken"),
        source="Van Scoy, Freeman, Lynch 2018, The fastest known globally convergent method",
        proof="transcribed",
        obstacle="it has hyperparameters of its own, a, b and g; while they are constant it is "
        "'qhm' with lr = a/(1-b), momentum = b, nu = 1 - g·(1-b)/b",
    ),
    Convention(
        name="linear-coupling",
        title="linear coupling",
        lr="inside",
        sign="step",
        equations=("v = v - a·d", "θ = (1-t)·(θ - e·d) + t·v"),
        source="Allen-Zhu and Orecchia 2017, Linear coupling, section 3",
        proof="transcribed",
        obstacle="it stores a position and has hyperparameters of its own, a, e and t; while they "
        "are constant it is 'qhm' with lr = a, momentum = 1-t, nu = 1 - e/a",
    ),
    Convention(
        name="accsgd",
        title="accelerated SGD",
        lr="inside",
        sign="step",
        nesterov="always",
        equations=("v = a·v + (1-a)·(θ - k·d)", "θ = z·(θ - e·d) + (1-z)·v"),
        source="Jain et al. 2018, Accelerating stochastic gradient descent, algorithm 1",
        proof="recorded",
        obstacle="it stores a position and has hyperparameters of its own, a, e, k and z; while "
        "they are constant it is 'qhm' with momentum = a·z, lr = (1-a)·(z·e + (1-z)·k)/(1-a·z), "
        "nu = 1 - e/lr",
    ),
    Convention(
        name="pid",
        title="the PID optimizer",
        lr="inside",
        sign="step",
        equations=("v = a·v - r·d", "D = a·D + (1-a)·(d - d_old)", "θ = θ + v + k·D"),
        source="An et al. 2018, A PID controller approach for stochastic optimization, eq. (14)",
        proof="transcribed",
        obstacle="it keeps three tensors and has hyperparameters of its own, a, r and k; while "
        "they are constant it is 'qhm' with lr = r/(1-a), momentum = a, nu = 1 + k·(1-a)²/(a·r)",
    ),
    Convention(
        name="optimistic",
        title="optimistic gradient descent",
        lr="inside",
        sign="gradient",
        equations=("θ = θ - 2·ε·d + ε·v", "v = d"),
        source="Daskalakis et al. 2018, Training GANs with optimism, eq. (6)",
        obstacle="its buffer is the last gradient with weight -ε: it retains nothing, so no "
        "momentum stands for it",
    ),
)
