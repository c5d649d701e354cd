"""BertModel: the language model of Grounding DINO and GLIP.

Letters: B texts, T tokens, C channels.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.errors import BuildError
from cupola.models.bert.encoder import Bert
from cupola.models.bert.settings import BertSettings
from cupola.models.bert.tokens import TextFeatures, Tokens, sub_sentence_mask
from cupola.registry import MODELS


class BertBody(nn.Module):
    """A Bert under the key that checkpoints have it."""

    def __init__(self, settings: BertSettings, pooler: bool) -> None:
        super().__init__()
        self.model = Bert(settings, pooler)

    def forward(self, ids: Tensor, sees: Tensor, positions: Tensor | None) -> list[Tensor]:
        states: list[Tensor] = self.model(ids, sees, positions)
        return states


@MODELS.register_module()
class BertModel(nn.Module):
    """Tokens -> TextFeatures.

    `name` is a published model (bert-base-uncased) or the folder of one; `config` holds other
    sizes, as config.json does. Texts have at most `max_tokens`, to which they are padded with
    `pad_to_max`. With `use_sub_sentence_represent` a token sees its own sub-sentence only, which
    ends with one of `special_tokens_list`. The mean of the last `num_layers_of_embedded` layers is
    divided by their number again, as in the original.
    Source: mmdet/models/language_models/bert.py; state keys
    language_backbone.body.model, then those of transformers.
    """

    def __init__(
        self,
        name: str = "bert-base-uncased",
        max_tokens: int = 256,
        pad_to_max: bool = True,
        use_sub_sentence_represent: bool = False,
        special_tokens_list: Sequence[str] | None = None,
        add_pooling_layer: bool = False,
        num_layers_of_embedded: int = 1,
        use_checkpoint: bool = False,
        config: Mapping[str, Any] | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__()
        if use_sub_sentence_represent and not special_tokens_list:
            raise BuildError(
                "language_model: use_sub_sentence_represent needs special_tokens_list, the tokens "
                "that end a sub-sentence, such as ['[CLS]', '[SEP]', '.', '?']"
            )
        self.init_cfg = init_cfg
        self.name = name
        self.settings = BertSettings.of(name, config)
        if not 1 <= num_layers_of_embedded <= self.settings.num_hidden_layers:
            raise BuildError(
                f"language_model: num_layers_of_embedded is {num_layers_of_embedded}, and the "
                f"model has {self.settings.num_hidden_layers} layers"
            )
        if max_tokens > self.settings.max_position_embeddings:
            raise BuildError(
                f"language_model: max_tokens is {max_tokens}, and the model has "
                f"{self.settings.max_position_embeddings} positions"
            )
        self.max_tokens, self.pad_to_max = max_tokens, pad_to_max
        self.by_sub_sentence = use_sub_sentence_represent
        self.special_tokens = tuple(special_tokens_list or ())
        self.num_layers_of_embedded = num_layers_of_embedded
        body = BertBody(self.settings, add_pooling_layer)
        self.language_backbone = nn.Sequential(OrderedDict(body=body))

    @property
    def channels(self) -> int:
        """C."""
        return self.settings.hidden_size

    def forward(self, tokens: Tokens) -> TextFeatures:
        """Tokens [B, T] -> features [B, T, C]."""
        attention, positions = None, None
        if self.by_sub_sentence:
            attention, positions = sub_sentence_mask(tokens.separators)
        sees = tokens.mask[:, None] if attention is None else attention
        states = self.language_backbone[0](tokens.ids, sees, positions)
        embedded = torch.stack(states[-self.num_layers_of_embedded :]).mean(0)
        embedded = embedded / self.num_layers_of_embedded
        if attention is None:
            embedded = embedded * tokens.mask[..., None]
        return TextFeatures(embedded, states[-1], tokens.mask, attention, positions)
