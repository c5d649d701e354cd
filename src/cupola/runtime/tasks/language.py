"""Language models: a text -> its continuation."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cupola.errors import BundleError, InputError
from cupola.files.adapters import base_folder, is_adapter
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

        if self.build_options(bundle):
            from cupola.runtime.optimize.language import compute_in_float32

            compute_in_float32(model)
        return from_bundle(bundle, model)

    def build_options(self, bundle: "Bundle") -> dict[str, Any]:
        """The type of weights in sixteen bits, which stay so, where the config names none."""
        if bundle.model_config.get("dtype") or bundle.model_config.get("torch_dtype"):
            return {}
        from cupola.weights.stored_type import sixteen_bit_type

        found = sixteen_bit_type(bundle.weights_path)
        return {"dtype": found} if found else {}

    def bundle_files(self, checkpoint: Path, options: Mapping[str, Any]) -> dict[str, bytes]:
        """The tokenizer: the option `tokenizer`, the file beside the weights, or an adapter's
        base's."""
        folder = checkpoint if checkpoint.is_dir() else checkpoint.parent
        path = Path(options.get("tokenizer") or folder / "tokenizer.json")
        if not path.is_file() and not options.get("tokenizer") and is_adapter(folder):
            path = base_folder(folder) / "tokenizer.json"
        if not path.is_file():
            raise BundleError(
                f"{path}: missing; a language model needs its tokenizer, name it with --tokenizer"
            )
        return {"tokenizer.json": path.read_bytes()}

    def read(self, source: Path) -> Any:
        raise InputError("`cupola predict` is not for language models; use `cupola generate`")


register(Language())
