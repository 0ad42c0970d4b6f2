"""A sweep with Optuna: one grid of learning rate and momentum under three conventions."""

import sys

import optuna
import torch
from digits import accuracy, batches, network, test
from torch import nn
from torch.nn.functional import cross_entropy

import sgdm

seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
GRID = {"lr": [0.02, 0.05, 0.1, 0.2, 0.5, 1.0], "momentum": [0.5, 0.8, 0.9]}


def train(convention: str, lr: float, momentum: float, *, drop: float = 1) -> nn.Module:
    """Train for three epochs in float64; `drop` multiplies lr for the last."""
    model = network(seed).double()
    optimizer = sgdm.SGD(model.parameters(), lr=lr, momentum=momentum, convention=convention)
    for epoch in range(3):
        if epoch == 2:
            optimizer.param_groups[0]["lr"] = drop * lr
        for x, y in batches(64, seed + epoch):
            optimizer.zero_grad()
            cross_entropy(model(x.double()), y).backward()
            optimizer.step()
    return model


@torch.no_grad()
def loss(model: nn.Module) -> float:
    """The loss on the test images."""
    x, y = test.tensors
    return cross_entropy(model(x.double()), y).item()


def search(convention: str) -> tuple[dict[str, float], float]:
    """Try the whole grid; return the best settings and their loss."""

    def objective(trial: optuna.Trial) -> float:
        lr, momentum = (trial.suggest_categorical(name, values) for name, values in GRID.items())
        return loss(train(convention, lr, momentum))

    study = optuna.create_study(sampler=optuna.samplers.GridSampler(GRID, seed=seed))
    study.optimize(objective)
    return study.best_params, study.best_value


optuna.logging.set_verbosity(optuna.logging.WARNING)
found = {convention: search(convention) for convention in ("torch", "caffe", "cntk")}
for convention, (settings, value) in found.items():
    print(f"best of {convention}: {settings}, loss {value:.6f}")

best, lowest = found["torch"]
print("test accuracy:", f"{accuracy(train('torch', **best).float()):.4f}")
print("difference of torch and caffe, lr constant:", f"{abs(lowest - found['caffe'][1]):.0e}")
torch_loss, caffe_loss = (loss(train(name, **best, drop=0.1)) for name in ("torch", "caffe"))
print("difference of torch and caffe, lr dropped tenfold:", f"{abs(torch_loss - caffe_loss):.0e}")

# cntk's buffer is a mean of gradients, not a sum: its lr is another number for the same step.
ported = sgdm.port_hyperparameters(
    source="torch", to="cntk", lr=best["lr"], momentum=best["momentum"]
)
print(f"torch's best in cntk's numbers: lr {ported.lr:g}, momentum {ported.momentum:g}")
cntk_loss = loss(train("cntk", ported.lr, ported.momentum))
print("difference of torch and cntk with them:", f"{abs(lowest - cntk_loss):.0e}")
