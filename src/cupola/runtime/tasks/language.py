"""Language models: a text -> its continuation."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cupola.errors import BundleError, InputError
from cupola.runtime.tasks.task import BUILDING, Task, register

if TYPE_CHECKING:
    from cupola.bundles import Bundle
    from cupola.runtime.predictor import Predictor


class Language(Task):
    """Causal language models."""

    name = "language"
    models = ("CausalLanguageModel",)
    modules = (*BUILDING, "cupola.runtime.predictors.language_stream")
    page = "language"
    page_rank = 1
    tensor_parallel = True

    def predictor(self, bundle: "Bundle", model: Any) -> "Predictor":
        from cupola.runtime.predictors.language import from_bundle

        return from_bundle(bundle, model)

    def bundle_files(self, checkpoint: Path, options: Mapping[str, Any]) -> dict[str, bytes]:
        """The tokenizer: the option `tokenizer`, or the file beside the weights."""
        folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
        path = Path(options.get("tokenizer") or folder / "tokenizer.json")
        if not path.is_file():
            raise BundleError(
                f"{path}: missing; a language model needs its tokenizer, name it with --tokenizer"
            )
        return {"tokenizer.json": path.read_bytes()}

    def read(self, source: Path) -> Any:
        raise InputError("`cupola predict` is not for language models; use `cupola generate`")


register(Language())
