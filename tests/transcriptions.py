"""The published update of every convention that could not be recorded, written down literally.

They stand in for frameworks that cannot be installed, and were read from the sources that the rows
name. float64, out of place, one function a rule: `(p, b, g, s) -> (p, b)`, with b as that framework
stores it, None before its first step. They share no code with the package.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = Any


class Settings(NamedTuple):
    """What a step is run with; `t` counts steps from 0."""

    t: int
    lr: float
    mu: float
    wd: float
    tau: float
    nesterov: bool


Rule = Callable[[Array, Array | None, Array, Settings], tuple[Array, Array | None]]


def zeros(p, b):
    return np.zeros_like(p) if b is None else b


def caffe(p, b, g, s):
    """ComputeUpdateValue: history = lr*diff + momentum*history; Nesterov interpolates."""
    old = zeros(p, b)
    new = s.lr * (g + s.wd * p) + s.mu * old
    return p - (((1 + s.mu) * new - s.mu * old) if s.nesterov else new), new


def negated(p, b, g, s):
    new = s.mu * zeros(p, b) - (g + s.wd * p)
    return p + s.lr * new, new


def sutskever(p, b, g, s):
    new = s.mu * zeros(p, b) - s.lr * (g + s.wd * p)
    return p + new, new


def libtorch_old(p, b, g, s):
    """sgd.cpp: buffer.mul_(momentum).add_(grad, iteration == 0 ? 1 : 1 - dampening)."""
    d = g + s.wd * p
    new = s.mu * zeros(p, b) + d * (1 if s.t == 0 else 1 - s.tau)
    return p - s.lr * (d + s.mu * new if s.nesterov else new), new


def torch7(p, b, g, s):
    """sgd.lua: dfdx is cloned the first time, else mul(mom):add(1-damp, dfdx)."""
    d = g + s.wd * p
    if s.mu == 0:
        return p - s.lr * d, b
    new = d if b is None else s.mu * b + (1 - s.tau) * d
    return p - s.lr * (d + s.mu * new if s.nesterov else new), new


def torch7_old(p, b, g, s):
    if s.mu == 0:
        return p - s.lr * s.wd * p - s.lr * g, b
    new = g if b is None else s.mu * b + (1 - s.mu) * g
    return p - s.lr * s.wd * p - s.lr * new, new


def apex(p, b, g, s):
    """multi_tensor_sgd_kernel.cu, first_run apart; wd before momentum."""
    return torch7(p, b, g, s)


def cntk(p, b, g, s):
    """Matrix::MomentumSGDUpdate: returns early with a learning rate of 0."""
    if s.lr == 0:
        return p, b
    d = g + s.wd * p
    unit = 1 - s.mu
    new = s.mu * zeros(p, b) + unit * s.lr * d
    return p - (s.mu * new + unit * s.lr * d if s.nesterov else new), new


def keras_like(p, b, g, s):
    """neon: velocity = momentum*velocity - lr*grad; param += momentum*velocity - lr*grad."""
    step = s.lr * (g + s.wd * p)
    new = s.mu * zeros(p, b) - step
    return p + (s.mu * new - step if s.nesterov else new), new


def dl4j(p, b, g, s):
    """NesterovsUpdater: the update momentum*vPrev - (1+momentum)*v is subtracted."""
    old = zeros(p, b)
    new = s.mu * old - s.lr * (g + s.wd * p)
    return p - (s.mu * old - (1 + s.mu) * new), new


def kaldi_nnet3(p, b, g, s):
    """nnet-training.cc: UpdateNnetWithMaxChange adds (1-m)*delta, then ScaleNnet(m, delta)."""
    delta = zeros(p, b) - s.lr * (g + s.wd * p)
    return p + (1 - s.mu) * delta, s.mu * delta


def kaldi_nnet1(p, b, g, s):
    new = g + s.mu * zeros(p, b)
    return (1 - s.lr * s.wd) * p - s.lr * new, new


def cuda_convnet(p, b, g, s):
    if s.lr == 0:
        return p, b
    new = s.mu * zeros(p, b) - s.wd * s.lr * p - s.lr * g
    return p + new, new


def burn(p, b, g, s):
    d = g + s.wd * p
    new = d if b is None else s.mu * b + (1 - s.tau) * d
    return p - s.lr * (d + s.mu * new if s.nesterov else new), new


def oneflow(p, b, g, s):
    """sgd.py: without momentum the kernel of plain SGD, and dampening is ignored."""
    d = g + s.wd * p
    if s.mu == 0:
        return p - s.lr * d, b
    new = s.mu * zeros(p, b) + (1 - s.tau) * d
    return p - s.lr * (d + s.mu * new if s.nesterov else new), new


def optimisers_momentum(p, b, g, s):
    """rules.jl: mvel = rho*mvel + eta*dx; dx' = mvel."""
    new = s.mu * zeros(p, b) + s.lr * (g + s.wd * p)
    return p - new, new


def optimisers_nesterov(p, b, g, s):
    """rules.jl: newdx = -rho^2*vel + (1+rho)*eta*dx, with the old vel; vel = rho*vel - eta*dx."""
    d, vel = g + s.wd * p, zeros(p, b)
    new_dx = -(s.mu**2) * vel + (1 + s.mu) * s.lr * d
    return p - new_dx, s.mu * vel - s.lr * d


# ROW: its update. What is recorded needs none.
RULES: dict[str, Rule] = {
    "apex": apex,
    "burn": burn,
    "caffe": caffe,
    "cntk": cntk,
    "cuda-convnet": cuda_convnet,
    "dl4j": dl4j,
    "ensmallen": keras_like,
    "kaldi-nnet1": kaldi_nnet1,
    "kaldi-nnet3": kaldi_nnet3,
    "libtorch-old": libtorch_old,
    "negated": negated,
    "neon": keras_like,
    "oneflow": oneflow,
    "optimisers-momentum": optimisers_momentum,
    "optimisers-nesterov": optimisers_nesterov,
    "torch7": torch7,
    "torch7-old": torch7_old,
}


# Methods that have letters of their own, and the 'qhm' that each is while they are constant.


class Named(NamedTuple):
    """A published method: a start, and a step of all that it stores; the first entry is Θ."""

    start: Callable[[Array], tuple[Array, ...]]
    step: Callable[[tuple[Array, ...], Array], tuple[Array, ...]]
    qhm: dict[str, float]


def triple_momentum(a=0.05, b=0.6, g=0.3) -> Named:
    """ξ' = (1+b) ξ - b ξ_old - a ∇f(y), y = (1+g) ξ - g ξ_old."""

    def step(state, d):
        _, xi, xi_old = state
        new = (1 + b) * xi - b * xi_old - a * d
        return (1 + g) * new - g * xi, new, xi

    return Named(
        lambda p: (p, p, p),
        step,
        {"lr": a / (1 - b), "momentum": b, "nu": 1 - g * (1 - b) / b},
    )


def linear_coupling(a=0.3, e=0.1, t=0.25) -> Named:
    """x = t z + (1-t) y, y' = x - e d, z' = z - a d."""

    def step(state, d):
        x, _, z = state
        y, z = x - e * d, z - a * d
        return t * z + (1 - t) * y, y, z

    return Named(lambda p: (p, p, p), step, {"lr": a, "momentum": 1 - t, "nu": 1 - e / a})


def accsgd(a=0.9, e=0.05, k=0.8, z=0.7) -> Named:
    """v = a v + (1-a)(θ - k d), θ = z (θ - e d) + (1-z) v."""

    def step(state, d):
        p, v = state
        v = a * v + (1 - a) * (p - k * d)
        return z * (p - e * d) + (1 - z) * v, v

    lr = (1 - a) * (z * e + (1 - z) * k) / (1 - a * z)
    return Named(lambda p: (p, p), step, {"lr": lr, "momentum": a * z, "nu": 1 - e / lr})


def pid(a=0.8, r=0.05, k=0.1) -> Named:
    """V = a V - r d, D = a D + (1-a)(d - d_old), θ = θ + V + k D."""

    def step(state, d):
        p, v, derivative, old = state
        v = a * v - r * d
        derivative = a * derivative + (1 - a) * (d - old)
        return p + v + k * derivative, v, derivative, d

    return Named(
        lambda p: (p, np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)),
        step,
        {"lr": r / (1 - a), "momentum": a, "nu": 1 + k * (1 - a) ** 2 / (a * r)},
    )


def schedule_free(e=0.1, c=0.2, beta=0.9) -> Named:
    """z = z - e d, θ = (1-c) θ + c z - e (1 - beta (1-c)) d, with the old z."""

    def step(state, d):
        p, z = state
        return (1 - c) * p + c * z - e * (1 - beta * (1 - c)) * d, z - e * d

    return Named(lambda p: (p, p), step, {"lr": e, "momentum": 1 - c, "nu": beta})


NAMED: dict[str, Callable[[], Named]] = {
    "accsgd": accsgd,
    "linear-coupling": linear_coupling,
    "pid": pid,
    "schedulefree": schedule_free,
    "triple-momentum": triple_momentum,
}
