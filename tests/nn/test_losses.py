"""Losses against torch's, in every reduction."""

from typing import Any

import pytest
import torch

from cupola import nn

LOGITS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
OTHER = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
CLASSES = torch.tensor([0, 2, 1, 2])
BITS = torch.tensor([[0.0, 1, 0], [1, 1, 0], [0, 0, 0], [1, 0, 1]])
SIGNS = BITS * 2 - 1
WEIGHT = torch.tensor([0.5, 1.0, 2.0])

CASES: list[tuple[str, dict[str, Any], tuple[torch.Tensor, ...]]] = [
    ("L1Loss", {}, (LOGITS, OTHER)),
    ("MSELoss", {}, (LOGITS, OTHER)),
    ("SmoothL1Loss", {"beta": 0.5}, (LOGITS, OTHER)),
    ("HuberLoss", {"delta": 0.5}, (LOGITS, OTHER)),
    ("CrossEntropyLoss", {"weight": WEIGHT, "label_smoothing": 0.1}, (LOGITS, CLASSES)),
    ("CrossEntropyLoss", {"ignore_index": 2}, (LOGITS, CLASSES)),
    ("NLLLoss", {"weight": WEIGHT}, (LOGITS.log_softmax(1), CLASSES)),
    ("BCELoss", {}, (LOGITS.sigmoid(), BITS)),
    ("BCEWithLogitsLoss", {"pos_weight": WEIGHT}, (LOGITS, BITS)),
    ("KLDivLoss", {"log_target": True}, (LOGITS.log_softmax(1), OTHER.log_softmax(1))),
    ("PoissonNLLLoss", {"full": True}, (LOGITS, BITS)),
    ("GaussianNLLLoss", {}, (LOGITS, OTHER, torch.ones(4, 3))),
    ("HingeEmbeddingLoss", {}, (LOGITS, SIGNS)),
    ("SoftMarginLoss", {}, (LOGITS, SIGNS)),
    ("MultiLabelMarginLoss", {}, (LOGITS, torch.tensor([[0, -1, 1]] * 4))),
    ("MultiLabelSoftMarginLoss", {"weight": WEIGHT}, (LOGITS, BITS)),
    ("MultiMarginLoss", {"p": 2, "margin": 0.5}, (LOGITS, CLASSES)),
    ("CosineEmbeddingLoss", {"margin": 0.1}, (LOGITS, OTHER, SIGNS[:, 0])),
    ("MarginRankingLoss", {"margin": 0.1}, (LOGITS, OTHER, SIGNS)),
    ("TripletMarginLoss", {"swap": True}, (LOGITS, OTHER, LOGITS.flip(0))),
    ("TripletMarginWithDistanceLoss", {}, (LOGITS, OTHER, LOGITS.flip(0))),
]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("name", "kwargs", "inputs"), CASES, ids=lambda v: str(v)[:25])
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")
def test_a_loss_is_torchs(
    name: str, kwargs: dict[str, Any], inputs: tuple[torch.Tensor, ...], reduction: str
) -> None:
    ours = getattr(nn, name)(**kwargs, reduction=reduction)
    theirs = getattr(torch.nn, name)(**kwargs, reduction=reduction)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    torch.testing.assert_close(ours(*inputs), theirs(*inputs))


def test_arguments_may_be_named() -> None:
    for name, inputs in (
        ("MSELoss", {"input": LOGITS, "target": OTHER}),
        ("PoissonNLLLoss", {"log_input": LOGITS, "target": BITS}),
        ("MarginRankingLoss", {"input1": LOGITS, "input2": OTHER, "target": SIGNS}),
    ):
        ours, theirs = getattr(nn, name)(), getattr(torch.nn, name)()
        torch.testing.assert_close(ours(**inputs), theirs(**inputs))


def test_ctc_loss_is_torchs() -> None:
    log_probs = torch.randn(6, 2, 4).log_softmax(2)
    rest = (torch.tensor([[1, 2], [3, 1]]), torch.tensor([6, 6]), torch.tensor([2, 2]))
    torch.testing.assert_close(nn.CTCLoss()(log_probs, *rest), torch.nn.CTCLoss()(log_probs, *rest))


@pytest.mark.filterwarnings("ignore:size_average and reduce:UserWarning")
def test_the_old_way_to_name_a_reduction() -> None:
    assert nn.MSELoss(size_average=False).reduction == "sum"
    assert nn.MSELoss(reduce=False).reduction == "none"


def test_huber_loss_wants_a_number() -> None:
    with pytest.raises(TypeError, match="delta must be a float or int"):
        nn.HuberLoss(delta=1j)  # type: ignore[arg-type]
