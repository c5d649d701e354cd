"""Training detectors that search for a text, on data with classes: their names are the text."""

from pathlib import Path
from typing import Any

from cupola.bundles.text_tokenizer import find_tokenizer, tokenizer_files
from cupola.errors import BuildError
from cupola.files.wordpiece import read_bert_tokenizer


def use_texts(model: Any, dataset: Any, load_from: Any = None) -> None:
    """Gives a model that searches for a text the classes of the data, and its tokenizer.

    The tokenizer is looked for beside the checkpoint that the training starts from, then by the
    name of the language model. BuildError for data without classes, BundleError.
    """
    if not hasattr(model, "text_search"):
        return
    names = getattr(dataset, "names", None)
    if not names:
        raise BuildError(
            f"{type(model).__name__} searches for a text, and {type(dataset).__name__} has no "
            "names of classes to make one of"
        )
    path = _tokenizer(model, load_from)
    model.text_search.set_tokenizer(read_bert_tokenizer(path), str(path))
    model.text_search.text = list(names)
    model.text_search.encode([model.text_search.text])  # says at once if it is too long


def files_for_texts(model: Any, load_from: Any = None) -> dict[str, bytes]:
    """The tokenizer's files for a bundle; none for other models."""
    if not hasattr(model, "text_search"):
        return {}
    path = _tokenizer(model, load_from)
    return tokenizer_files(path, model.language_model.name, path)


def _tokenizer(model: Any, load_from: Any) -> Path:
    beside = Path(load_from) if isinstance(load_from, str | Path) else None
    folders = [beside if beside.is_dir() else beside.parent] if beside else []
    return find_tokenizer(model.language_model.name, folders)
