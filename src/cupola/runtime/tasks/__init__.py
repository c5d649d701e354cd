"""The tasks: what each kind of model is for, and how every command deals with it.

Importing this package loads no torch. Each module here declares and registers one task.
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
