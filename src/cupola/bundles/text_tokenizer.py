"""Where the tokenizer of a detector that searches for a text is found.

Importing this module loads no torch.
"""

from collections.abc import Iterable
from pathlib import Path

from cupola.bundles import hub
from cupola.errors import BundleError, InputError


def find_tokenizer(name: str, folders: Iterable[Path], offline: bool = False) -> Path:
    """tokenizer.json or vocab.txt in the first folder that has one, else of the model `name`.

    `name` is a folder or a model on the hub, such as bert-base-uncased; of those the cache is
    asked first. BundleError says what to do where there is none.
    """
    for folder in (*folders, Path(name)):
        for file in hub.TOKENIZERS:
            if (folder / file).is_file():
                return folder / file
    try:
        return hub.tokenizer_file(name, offline)
    except BundleError as error:
        raise BundleError(
            f"the model reads texts with the tokenizer of {name}, which is not here: {error}. Put "
            "its vocab.txt or tokenizer.json next to the weights, or name its folder with "
            "--set model.language_model.name=FOLDER"
        ) from None


def tokenizer_files(chosen: Path | None, name: str, checkpoint: Path) -> dict[str, bytes]:
    """The files of a bundle with the tokenizer `chosen`, or that of the language model `name`."""
    from cupola.files.opening import read_bytes
    from cupola.files.wordpiece import read_bert_tokenizer

    if chosen is not None and not chosen.is_file():
        raise InputError(f"{chosen}: no such file; --tokenizer names tokenizer.json or vocab.txt")
    beside = checkpoint if checkpoint.is_dir() else checkpoint.parent
    path = chosen or find_tokenizer(name, [beside])
    read_bert_tokenizer(path)
    files = {"tokenizer.json" if path.suffix == ".json" else "vocab.txt": read_bytes(path)}
    settings = path.with_name("tokenizer_config.json")
    if path.suffix != ".json" and settings.is_file():
        files[settings.name] = read_bytes(settings, 8 * 2**20)
    return files
