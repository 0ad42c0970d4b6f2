"""PyTorch Lightning: a schedule and its monitor, checkpoints that resume to the bits, clipping."""

import sys
from tempfile import TemporaryDirectory
from typing import Any

import torch
from digits import accuracy, distance, network, same_bits, train
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

import sgdm

seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
folder = TemporaryDirectory()


class Digits(LightningModule):
    """The network, with an optimizer of these settings."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.network = network(seed)
        self.settings = settings

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Lightning calls zero_grad, backward and step, the last with a closure."""
        x, y = batch
        return torch.nn.functional.cross_entropy(self.network(x), y)

    def configure_optimizers(self) -> Any:
        """An optimizer, and a schedule that Lightning steps once an epoch."""
        optimizer = sgdm.SGD(
            self.parameters(), lr=0.1, momentum=0.9, nesterov=True, **self.settings
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
        return [optimizer], [schedule]


def fit(module: Digits, *callbacks: Any, resume: str | None = None, **arguments: Any) -> Trainer:
    """Train for four epochs; the order of the images depends on the seed and the epoch alone."""
    order = DistributedSampler[Any](train, num_replicas=1, rank=0, seed=seed)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=4,
        callbacks=list(callbacks),
        logger=CSVLogger(folder.name),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
        log_every_n_steps=1,
        **arguments,
    )
    trainer.fit(module, DataLoader(train, 64, sampler=order, drop_last=True), ckpt_path=resume)
    return trainer


monitor = LearningRateMonitor("epoch", log_momentum=True)
checkpoints = ModelCheckpoint(f"{folder.name}/kept", "{epoch}", save_top_k=-1)
whole, resumed = Digits(), Digits()
first = fit(whole, monitor, checkpoints)
print("test accuracy:", f"{accuracy(whole.network):.4f}")
print("learning rates that the monitor saw:", *(f"{lr:.4f}" for lr in monitor.lrs["lr-SGD"]))
print("momentum that it saw:", monitor.last_momentum_values["lr-SGD-momentum"])

second = fit(resumed, resume=f"{folder.name}/kept/epoch=1.ckpt")
print("resumed after two epochs, the same parameters:", same_bits(whole, resumed))
print("and the same buffers:", same_bits(first.optimizers[0], second.optimizers[0]))

by_lightning, by_sgdm = Digits(), Digits(max_grad_norm=0.3)
fit(by_lightning, gradient_clip_val=0.3)
fit(by_sgdm)
print("distance, clipped by Lightning and by sgdm:", f"{distance(by_lightning, by_sgdm):.0e}")
print("distance, clipped and not clipped:", f"{distance(whole, by_sgdm):.0e}")

look_ahead = Digits(convention="sutskever")  # needs the closure that Lightning gives to step()
fit(look_ahead)
print("test accuracy with sutskever:", f"{accuracy(look_ahead.network):.4f}")
folder.cleanup()
