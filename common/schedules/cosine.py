"""Cosine learning-rate schedules by epoch (Loshchilov and Hutter, 2017, https://arxiv.org/abs/1608.03983).

A schedule is a function of the epoch, counted from 0, to the learning rate of that epoch.
"""

import math
from collections.abc import Callable


def LRCosineDecay(
    initial_lr: float, hold_steps: int, decay_steps: int, end_lr: float
) -> Callable[[int], float]:
    """Hold the initial rate, then fall to `end_lr` along half a cosine, then stay there.

    Args:
        initial_lr: Learning rate of the first `hold_steps` epochs.
        hold_steps: Epochs at the initial rate, >= 0.
        decay_steps: Epochs from `initial_lr` to `end_lr`, >= 1.
        end_lr: Learning rate after that.
    """

    def learning_rate(epoch: int) -> float:
        progress = min(max(epoch - hold_steps, 0) / decay_steps, 1.0)
        return end_lr + (initial_lr - end_lr) * 0.5 * (1.0 + math.cos(math.pi * progress))

    return learning_rate


def LRWarmupCosineDecay(
    initial_lr: float, warmup_steps: int, max_lr: float, hold_steps: int, decay_steps: int, end_lr: float
) -> Callable[[int], float]:
    """Rise linearly from `initial_lr` to `max_lr`, hold it, then fall to `end_lr` along half a cosine.

    Args:
        initial_lr: Learning rate of epoch 0.
        warmup_steps: Epochs of the rise, >= 0.
        max_lr: Learning rate after the rise.
        hold_steps: Epochs at `max_lr`, >= 0.
        decay_steps: Epochs from `max_lr` to `end_lr`, >= 1.
        end_lr: Learning rate after that.
    """
    after_warmup = LRCosineDecay(max_lr, hold_steps, decay_steps, end_lr)

    def learning_rate(epoch: int) -> float:
        if epoch < warmup_steps:
            return initial_lr + (max_lr - initial_lr) * epoch / warmup_steps
        return after_warmup(epoch - warmup_steps)

    return learning_rate
