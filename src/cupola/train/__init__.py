"""Training: the loop, optimizers, schedules, checkpoints."""

from cupola.train.trainer import Trainer

__all__ = ["Trainer"]
