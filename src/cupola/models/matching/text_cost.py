"""The cost of matching a prediction with an object that a text names.

Q queries, N objects of one image, W logits of tokens; leading dimensions are kept.
"""

from dataclasses import dataclass

from torch import Tensor

from cupola.models.matching.costs import FocalLossCost, MatchInputs
from cupola.registry import TASK_UTILS


@dataclass(frozen=True, kw_only=True)
class TextMatchInputs(MatchInputs):
    """Predictions and objects of one image whose logits [..., Q, W] are of tokens.

    positive_map [N, W] is 1 at the tokens of an object's name, text_mask [W] True at tokens.
    """

    positive_map: Tensor
    text_mask: Tensor


@TASK_UTILS.register_module()
class BinaryFocalLossCost(FocalLossCost):
    """The focal loss of an object's name, summed over the text's tokens. -> [..., Q, N]

    Source: mmdet/models/task_modules/assigners/match_cost.py.
    """

    def __call__(self, match: MatchInputs) -> Tensor:
        if not isinstance(match, TextMatchInputs):
            raise ValueError("BinaryFocalLossCost compares tokens of a text, and there is none")
        hit, miss = self._terms(match.logits[..., match.text_mask])
        wanted = match.positive_map[:, match.text_mask].to(hit.dtype)
        return (hit @ wanted.T + miss @ (1 - wanted.T)) * self.weight
