"""Accelerate: prepare, accumulate gradients, save and load the state, resume to the bits."""

import sys
from tempfile import TemporaryDirectory

from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import set_seed
from digits import accuracy, batches, network, same_bits
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR

import sgdm

seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
EPOCHS = 4


class Run:
    """A training run: 44 batches of 32 an epoch, a step after every second."""

    def __init__(self) -> None:
        set_seed(seed)
        self.accelerator = Accelerator(
            cpu=True,
            gradient_accumulation_steps=2,
            # The order of an epoch then depends on the seed and the epoch alone.
            dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
        )
        model = network(seed)
        optimizer = sgdm.SGD(
            model.parameters(), lr=0.1, momentum=0.9, max_grad_norm=0.5, ema_decay=0.95
        )
        schedule = CosineAnnealingLR(optimizer, EPOCHS * 22)
        self.model, self.optimizer, self.loader, self.schedule = self.accelerator.prepare(
            model, optimizer, batches(32, seed), schedule
        )

    def train(self, epoch: int) -> None:
        """Train for an epoch."""
        self.loader.set_epoch(epoch)
        for x, y in self.loader:
            with self.accelerator.accumulate(self.model):  # step and zero_grad wait for the second
                loss = cross_entropy(self.model(x), y)
                self.accelerator.backward(loss)  # divides by two
                self.optimizer.step()
                self.schedule.step()
                self.optimizer.zero_grad()


with TemporaryDirectory() as folder:
    whole = Run()
    for epoch in range(EPOCHS):
        if epoch == 2:
            whole.accelerator.save_state(folder)
        whole.train(epoch)

    resumed = Run()
    resumed.accelerator.load_state(folder)
    for epoch in (2, 3):
        resumed.train(epoch)

optimizer = whole.optimizer.optimizer  # prepare() wraps it; what only sgdm has is inside
print("test accuracy:", f"{accuracy(whole.model):.4f}")
print("learning rate at the end:", f"{optimizer.param_groups[0]['lr']:.4f}")
print("norm of the last gradient, before it was clipped:", f"{optimizer.last_grad_norm:.4f}")
print("resumed after two epochs, the same parameters:", same_bits(whole.model, resumed.model))
print("and the same buffers and averages:", same_bits(whole.optimizer, resumed.optimizer))
with optimizer.averaged():
    print("test accuracy of the average:", f"{accuracy(whole.model):.4f}")
