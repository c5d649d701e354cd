"""Reading files from untrusted sources: bounded, inside their folder, never executed."""

from cupola.files.guard import guarded
from cupola.files.pickles import Placeholder, RestrictedUnpickler, load_plain_pickle

__all__ = ["Placeholder", "RestrictedUnpickler", "guarded", "load_plain_pickle"]
