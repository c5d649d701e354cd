"""TextDetectionPredictor: images and a text -> boxes of what the text names."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cupola.bundles import Bundle
from cupola.bundles.text_tokenizer import find_tokenizer
from cupola.errors import InputError
from cupola.files.wordpiece import read_bert_tokenizer
from cupola.models.grounding.prompts import EXAMPLE, Text
from cupola.runtime.predictor import TensorSpec
from cupola.runtime.predictors.detection import DetectionPredictor, Sample, make


@dataclass(frozen=True)
class TextSample(Sample):
    """A Sample, and what is searched for in it."""

    text: Text


@dataclass
class TextDetectionPredictor(DetectionPredictor):
    """A detector that searches for what a text names.

    `text` is what images are searched for where a call or request has none, by default the names
    of `labels`; models/grounding/prompts.py has the forms of a text.

    `predictor(image, text="cat . dog .")` -> Detections.
    """

    text: Text | None = None

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return (*super().inputs, TensorSpec("text", "BYTES", (-1,), optional=True))

    @property
    def details(self) -> Mapping[str, Any]:
        """The threshold and the text that apply where a request has none."""
        text = self.text if self.text is not None else list(self.labels)
        return {**super().details, "text": text if isinstance(text, str) else _joined(text)}

    def __call__(self, image: Any, threshold: float | None = None, text: Text | None = None) -> Any:
        """As DetectionPredictor, with the text of all images."""
        if text is None:
            return super().__call__(image, threshold)
        return self._searching(text)(image, threshold)

    def sample(self, image: Any) -> TextSample:
        """Reads, resizes and normalizes one image, which is searched for the predictor's text."""
        text = self._checked(None)
        found = super().sample(image)
        return TextSample(found.pixels, found.original, text)

    def decode(self, tensors: Mapping[str, Any], parameters: Mapping[str, Any]) -> list[Sample]:
        """One sample per image; `text` is a parameter, or a tensor with one text for each image."""
        images = {key: value for key, value in tensors.items() if key != "text"}
        if "text" not in tensors:
            return self._searching(parameters.get("text")).images(images)
        texts = [_decoded(each) for each in np.asarray(tensors["text"], dtype=object).reshape(-1)]
        if len(texts) == 1:
            return self._searching(texts[0]).images(images)
        checked = [self._checked(text) for text in texts]
        samples = replace(self, text=checked[0] if checked else None).images(images)
        if len(texts) != len(samples):
            raise InputError(
                f"text: {len(texts)} texts for {len(samples)} images; send one, or one each"
            )
        return [replace(each, text=text) for each, text in zip(samples, checked, strict=True)]

    def images(self, tensors: Mapping[str, Any]) -> list[Any]:
        """One sample per image of a request, all searched for the predictor's text."""
        return super().decode(tensors, {})

    def _searching(self, text: Any) -> "TextDetectionPredictor":
        """The same predictor with another text, if there is one."""
        return replace(self, text=self._checked(text))

    def bucket(self, sample: Sample) -> Hashable:
        """Images of one shape, searched for the same text."""
        return super().bucket(sample), repr(sample.text) if isinstance(sample, TextSample) else ""

    def further(self, samples: Sequence[Any]) -> dict[str, Any]:
        return {"texts": [sample.text for sample in samples]}

    def _checked(self, text: Any) -> Text:
        """The text, or the one that applies without; InputError if the model cannot read it."""
        if text is None:
            text = self.text if self.text is not None else list(self.labels)
        if not text:
            raise InputError(f"{self.name} searches for a text, and there is none; {EXAMPLE}")
        self.model.text_search.encode([text])
        checked: Text = text
        return checked


def _joined(names: Any) -> str:
    return " . ".join(names) if isinstance(names, list) else ""


def _decoded(text: Any) -> str:
    try:
        return text.decode() if isinstance(text, bytes) else str(text)
    except UnicodeDecodeError:
        raise InputError("text: is not UTF-8") from None


def from_bundle(bundle: Bundle, model: Any) -> DetectionPredictor:
    """The predictor of a bundle whose model searches for a text."""
    set_tokenizer(model, bundle)
    about = (bundle.name, bundle.version, model, bundle.config, bundle.labels)
    return make(*about, TextDetectionPredictor)


def set_tokenizer(model: Any, bundle: Bundle) -> None:
    """Gives the model its tokenizer: that of the bundle, or of the language model it names."""
    weights = bundle.weights_path
    folders = [bundle.path, weights if weights.is_dir() else weights.parent]
    path = find_tokenizer(model.language_model.name, folders, bundle.offline)
    model.text_search.set_tokenizer(read_bert_tokenizer(path), str(path))
