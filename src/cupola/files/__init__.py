"""Reading files from untrusted sources: bounded, inside their folder, never executed."""

from cupola.files.guard import guarded
from cupola.files.opening import (
    check_regular,
    content_of,
    locate,
    open_regular,
    read_json,
    read_settings,
    read_text,
)
from cupola.files.pickles import Placeholder, RestrictedUnpickler, load_plain_pickle

__all__ = [
    "Placeholder",
    "RestrictedUnpickler",
    "check_regular",
    "content_of",
    "guarded",
    "load_plain_pickle",
    "locate",
    "open_regular",
    "read_json",
    "read_settings",
    "read_text",
]
