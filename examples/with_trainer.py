"""Hugging Face Trainer: its schedule, its checkpoints, resuming to the bits, clipping."""

import sys
from tempfile import TemporaryDirectory

import torch
import transformers
from digits import accuracy, distance, network, same_bits, train
from torch import Tensor, nn

import sgdm

seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
STEPS = 4 * 22  # four epochs of 22 batches


class Digits(nn.Module):
    """The network as the Trainer wants it: named arguments, and the loss among what it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network(seed)

    def forward(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Compute the loss and the scores."""
        logits = self.network(pixels)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def collate(images: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Make a batch."""
    pixels, labels = zip(*images, strict=True)
    return {"pixels": torch.stack(pixels), "labels": torch.stack(labels)}


def fit(
    folder: str, *, clip: float = 0, max_grad_norm: float | None = None, resume: bool = False
) -> tuple[Digits, sgdm.SGD, list[dict[str, float]]]:
    """Train for four epochs, or resume after two; the Trainer clips, or sgdm does."""
    model = Digits()
    optimizer = sgdm.SGD(model.parameters(), lr=0.1, momentum=0.9, max_grad_norm=max_grad_norm)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, STEPS // 10, STEPS)
    arguments = transformers.TrainingArguments(
        folder,
        seed=seed,
        use_cpu=True,
        num_train_epochs=4,
        per_device_train_batch_size=64,
        dataloader_drop_last=True,
        max_grad_norm=clip,  # 1.0 unless told otherwise; 0 leaves it to the optimizer
        save_strategy="epoch",
        logging_steps=STEPS // 4,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = transformers.Trainer(
        model, arguments, collate, train, optimizers=(optimizer, schedule)
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train(f"{folder}/checkpoint-{STEPS // 2}" if resume else None)
    return model, optimizer, trainer.state.log_history


with TemporaryDirectory() as folder:
    whole, optimizer, log = fit(folder, max_grad_norm=0.5)
    resumed, resumed_optimizer, _ = fit(folder, max_grad_norm=0.5, resume=True)
    by_trainer, _, _ = fit(f"{folder}/clipped", clip=0.5)
    unclipped, _, _ = fit(f"{folder}/unclipped")

rates = [entry["learning_rate"] for entry in log if "learning_rate" in entry]
print("test accuracy:", f"{accuracy(whole.network):.4f}")
print("learning rates that the Trainer logged:", *(f"{rate:.4f}" for rate in rates))
print("resumed after two epochs, the same parameters:", same_bits(whole, resumed))
print("and the same buffers:", same_bits(optimizer, resumed_optimizer))
print("distance, clipped by the Trainer and by sgdm:", f"{distance(by_trainer, whole):.0e}")
print("distance, clipped and not clipped:", f"{distance(unclipped, whole):.0e}")
