"""Optimizers that end or hold up the process they run in, for some tensors."""

import os
import sys
import time

import torch

from clean_sgd import CleanSGD


class Crashing(CleanSGD):
    def update(self, p, g, group):
        if p.dtype == torch.float16:
            os.abort()
        super().update(p, g, group)


class Leaving(CleanSGD):
    def update(self, p, g, group):
        if p.dtype == torch.float16:
            print("no memory", file=sys.stderr)
            os._exit(3)
        super().update(p, g, group)


class Hanging(CleanSGD):
    def update(self, p, g, group):
        if p.dtype == torch.float16 and p.numel() == 1:
            time.sleep(3600)
        super().update(p, g, group)


class AlwaysHanging(CleanSGD):
    def update(self, p, g, group):
        time.sleep(3600)


class Unable(CleanSGD):
    def update(self, p, g, group):
        raise TypeError("not today")


class Noisy(CleanSGD):
    """What it prints goes nowhere near the answers."""

    def update(self, p, g, group):
        print("stepping")
        super().update(p, g, group)
