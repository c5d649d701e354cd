"""Training: the loop, optimisers, schedules, checkpoints."""

from cupola.train.trainer import Trainer

__all__ = ["Trainer"]
