"""Averages of the weights: torch's AveragedModel, SWALR and update_bn, and sgdm's ema_decay."""

import sys
from copy import deepcopy

import torch
from digits import accuracy, batches, network
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn

import sgdm

seed = int(sys.argv[1]) if len(sys.argv) > 1 else 0
EPOCHS, SWA_START = 8, 4

model = network(seed, batch_norm=True)
optimizer = sgdm.SGD(model.parameters(), lr=0.1, momentum=0.9, ema_decay=0.95)
swa = AveragedModel(model)  # the plain mean of what update_parameters sees
ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.95))
schedule = SWALR(optimizer, swa_lr=0.05, anneal_epochs=SWA_START)

for epoch in range(EPOCHS):
    for x, y in batches(64, seed + epoch):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()  # keeps sgdm's average in the same pass over memory
        ema.update_parameters(model)  # torch's is a pass of its own
    schedule.step()
    if epoch >= SWA_START:
        swa.update_parameters(model)

print("learning rate at the end:", optimizer.param_groups[0]["lr"])
print("test accuracy:", f"{accuracy(model):.4f}")
update_bn(batches(64, seed), swa)  # the statistics are those of the model, not of its average
print("test accuracy of SWA:", f"{accuracy(swa):.4f}")

with optimizer.averaged():
    averaged = deepcopy(model)  # a model of its own, for the statistics of the average
same = zip(averaged.parameters(), ema.parameters(), strict=True)
print("the same bits as torch's EMA:", all(torch.equal(p, q) for p, q in same))
update_bn(batches(64, seed), averaged)
print("test accuracy of the EMA:", f"{accuracy(averaged):.4f}")
