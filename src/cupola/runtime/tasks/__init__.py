"""The tasks: one module for each kind of model, which declares and registers it.

Importing this package loads no torch.
"""

from cupola.runtime.tasks import detection, detection3d, forecast, language
from cupola.runtime.tasks.task import Answer, Task, find, model_names, names, register, task_of

__all__ = [
    "Answer",
    "Task",
    "detection",
    "detection3d",
    "find",
    "forecast",
    "language",
    "model_names",
    "names",
    "register",
    "task_of",
]
