"""Grounding DINO's predictions, targets and losses against plain formulas."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.errors import InputError
from cupola.models.detr.set_head import DETROutput
from cupola.models.grounding.search import with_tokens_of_names
from cupola.models.grounding_dino.head import ContrastiveEmbed
from cupola.models.losses import FocalLoss
from cupola.models.matching import BinaryFocalLossCost, TextMatchInputs
from cupola.registry import build
from cupola.structures.boxes import cxcywh_to_xyxy
from models.grounding.small import grounding_dino, small_tokenizer

SIZE = (64, 96)
NAMES = ["cat", "traffic light", "dogs"]
TOKENS = [[1], [3, 4], [6, 7]]  # of the names in "[CLS] cat . traffic light . dog ##s . [SEP]"


def detector(**options: Any) -> Any:
    torch.manual_seed(0)
    model = build({**grounding_dino({"log_scale": "auto", "bias": True}), **options})
    for name, parameter in model.named_parameters():
        if "reg_branches" in name or "gamma" in name:
            parameter.data += torch.randn_like(parameter) * 0.1
    model.text_search.set_tokenizer(small_tokenizer(), "words")
    return model.eval()


@pytest.fixture(scope="module")
def model() -> Any:
    return detector()


def batch(texts: list[Any]) -> dict[str, Any]:
    pixels = torch.randn(len(texts), 3, *SIZE, generator=torch.Generator().manual_seed(1))
    sizes = [SIZE] * len(texts)
    return {"pixels": pixels, "image_sizes": sizes, "texts": texts}


@torch.no_grad()
def test_predictions_follow_the_original(model: Any) -> None:
    given = {**batch([NAMES]), "scale_factors": [(0.5, 2.0)]}
    (found,) = model.predict(given)
    (chunks,) = model.text_search.encode([NAMES])
    output = model(given["pixels"], None, model.text_search.tokens(chunks))
    logits, boxes = output.logits[-1, 0], output.boxes[-1, 0]
    scores = torch.stack([logits.sigmoid()[:, tokens].mean(-1) for tokens in TOKENS], 1)
    best, index = scores.view(-1).topk(9)
    corners = cxcywh_to_xyxy(boxes[index // 3]) * torch.tensor([96.0, 64.0, 96.0, 64.0])
    corners[:, 0::2] = corners[:, 0::2].clamp(0, 96)
    corners[:, 1::2] = corners[:, 1::2].clamp(0, 64)
    torch.testing.assert_close(found.scores, best)
    torch.testing.assert_close(found.labels, index % 3)
    torch.testing.assert_close(found.boxes, corners / torch.tensor([0.5, 2.0, 0.5, 2.0]))
    assert found.names == tuple(NAMES)


@torch.no_grad()
def test_an_image_is_searched_for_its_own_text(model: Any) -> None:
    """Neither the text of another image nor the padding of a longer one changes an answer."""
    texts = ["cat .", NAMES, {"caption": "the red cat", "tokens_positive": -1}]
    together = model.predict(batch(texts))
    for i, text in enumerate(texts):
        one = batch(texts)
        one = {"pixels": one["pixels"][i : i + 1], "image_sizes": [SIZE], "texts": [text]}
        (alone,) = model.predict(one)
        assert alone.names == together[i].names
        torch.testing.assert_close(alone.scores, together[i].scores, rtol=0, atol=1e-5)
        torch.testing.assert_close(alone.boxes, together[i].boxes, rtol=0, atol=1e-3)
    assert together[2].names == ("the red cat",) and len(together[2]) == 7


def test_an_image_takes_a_bounded_number_of_searches() -> None:
    chunked = detector(test_cfg={"max_per_img": 9, "chunked_size": 1})
    with pytest.raises(InputError, match="65 searches, 1 names each; an image may take 64"):
        chunked.text_search.encode([["cat"] * 65])


@torch.no_grad()
def test_chunks_of_names(model: Any) -> None:
    chunked = detector(test_cfg={"max_per_img": 9, "chunked_size": 2})
    given = batch([NAMES, "dog ."])
    found, other = chunked.predict(given)
    parts = [model.predict(batch([part, "dog ."]))[0] for part in (NAMES[:2], NAMES[2:])]
    assert len(found) == sum(map(len, parts)) and found.names == tuple(NAMES)
    assert other.names == ("dog",)
    scores = torch.cat([each.scores for each in parts])
    torch.testing.assert_close(found.scores, scores.sort(descending=True).values)
    assert set(found.labels.tolist()) == {0, 1, 2}


def test_what_is_missing_is_said(model: Any) -> None:
    with pytest.raises(InputError, match="searches for a text, and there is none"):
        model.predict({**batch(["cat"]), "texts": None})
    with pytest.raises(InputError, match="needs the tokens of a text"):
        model(torch.zeros(1, 3, *SIZE))
    with pytest.raises(InputError, match="has no tokenizer"):
        build(grounding_dino()).eval().predict(batch(["cat ."]))
    with pytest.raises(InputError, match="19 tokens, but the language model has 10"):
        config = grounding_dino()
        config["language_model"]["config"] = {
            **config["language_model"]["config"],
            "vocab_size": 10,
        }
        build(config).text_search.set_tokenizer(small_tokenizer(), "words")


def test_similarity() -> None:
    queries, text = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    words = torch.ones(2, 5, dtype=torch.bool)
    words[1, 3:] = False
    plain = torch.einsum("bqc,btc->bqt", queries, text)
    for options, wanted in (
        ({}, plain),
        ({"log_scale": "auto", "bias": True}, plain / math.sqrt(8) - math.log(99)),
        ({"log_scale": 0.5}, plain * math.exp(0.5)),
    ):
        found = ContrastiveEmbed(7, **options)(queries, text, words)
        assert found.shape == (2, 3, 7) and found[:, :, 5:].isneginf().all()
        assert found[1, :, 3:].isneginf().all()
        torch.testing.assert_close(found[:, :, :5][:, :, :3], wanted[:, :, :3])
    with pytest.raises(ValueError, match="log_scale is 'auto'"):
        ContrastiveEmbed(7, log_scale="car")
    with pytest.raises(ValueError, match="max_text_len is 1 to 4096 tokens"):
        ContrastiveEmbed(10**9)


def focal(logits: Tensor, target: Tensor) -> Tensor:
    """The focal loss of every logit, alpha 0.25, gamma 2."""
    score = logits.sigmoid()
    hit = -0.25 * (1 - score) ** 2 * score.log()
    miss = -0.75 * score**2 * (1 - score).log()
    return torch.where(target > 0, hit, miss)


def test_focal_loss_of_binary_targets() -> None:
    logits, target = torch.randn(40), (torch.rand(40) < 0.3).float()
    found = FocalLoss(loss_weight=2.0)(logits, target, avg_factor=3.0)
    torch.testing.assert_close(found, 2 * focal(logits, target).sum() / 3)
    weight = torch.rand(40)
    found = FocalLoss()(logits, target, weight, avg_factor=3.0)
    torch.testing.assert_close(found, (weight * focal(logits, target)).sum() / 3)


def test_cost_of_a_name() -> None:
    logits = torch.randn(2, 4, 6)
    maps = torch.tensor([[0.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0]])
    mask = torch.tensor([True] * 5 + [False])
    logits[..., 5] = -math.inf
    boxes, labels = torch.rand(2, 4, 4), torch.arange(2)
    match = TextMatchInputs(
        logits, boxes, labels, torch.rand(2, 4), positive_map=maps, text_mask=mask
    )
    found = BinaryFocalLossCost(weight=2.0)(match)
    wanted = torch.stack(
        [focal(logits, row.expand_as(logits))[..., :5].sum(-1) * 2 for row in maps], -1
    )
    torch.testing.assert_close(found, wanted)
    plain = match.__class__.__mro__[1](logits, boxes, labels, torch.rand(2, 4))
    with pytest.raises(ValueError, match="there is none"):
        BinaryFocalLossCost()(plain)


def objects() -> list[dict[str, Tensor]]:
    """A traffic light and dogs in the first image, nothing in the second."""
    boxes = torch.tensor([[4.0, 4, 40, 30], [50, 20, 90, 60]])
    return [
        {"boxes": boxes, "labels": torch.tensor([1, 2])},
        {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.int64)},
    ]


@torch.no_grad()
def test_losses_of_a_layer(model: Any) -> None:
    given = batch([NAMES, "cat . dog ."])
    prompts = model.text_search.whole_prompts(given)
    text = model.read(model.text_search.tokens(prompts))
    targets = with_tokens_of_names(objects(), prompts, text.mask, 40)
    assert targets[0]["positive_map"].nonzero().tolist() == [[0, 3], [0, 4], [1, 6], [1, 7]]
    output, chosen = model.answer(model.maps(given["pixels"]), None, text)
    sizes = given["image_sizes"]
    losses = model.loss({**given, "targets": objects()})
    head = model.bbox_head
    assert "dn_loss_cls" not in losses
    proposed = DETROutput(chosen.logits[None], chosen.boxes.sigmoid()[None])
    for name, layer in (("", output), ("enc_", proposed)):
        (last,) = head.layer_targets(
            DETROutput(layer.logits[-1:], layer.boxes[-1:]), targets, sizes
        )
        assert last.positive.sum(1).tolist() == [2, 0]
        wanted = torch.zeros(2, 7, 40)
        queries = last.positive[0].nonzero()[:, 0]
        for query, label in zip(queries, last.labels[0][queries], strict=True):
            wanted[0, query, TOKENS[int(label) + 1]] = 1
        real = text.mask[:, None].expand(-1, 7, -1)
        logits = layer.logits[-1][..., : text.mask.shape[1]]
        loss = focal(logits[real], wanted[..., : text.mask.shape[1]][real]).sum() / 2
        torch.testing.assert_close(losses[f"{name}loss_cls"], loss)
        placed = layer.boxes[-1, 0][last.positive[0]]
        torch.testing.assert_close(
            losses[f"{name}loss_bbox"],
            5 * (placed - last.boxes[0][last.positive[0]]).abs().sum() / 2,
        )


def test_training_learns_names_and_has_denoising_losses() -> None:
    model = detector().train()
    given = {**batch([NAMES, "cat . dog ."]), "targets": objects()}
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    torch.manual_seed(0)
    values = []
    for _ in range(8):
        losses = model.loss(given)
        total = sum(value for name, value in losses.items() if "loss" in name)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        values.append(float(total.detach()))
    assert {"dn_loss_cls", "d0.dn_loss_iou", "enc_loss_cls", "d0.loss_cls"} <= set(losses)
    assert values[-1] < 0.8 * values[0] and math.isfinite(values[-1])
    unused = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not {name for name in unused if not name.startswith("backbone.")}


def test_denoising_targets_have_the_tokens_of_their_object() -> None:
    model = detector().train()
    given = batch([NAMES, "cat . dog ."])
    prompts = model.text_search.whole_prompts(given)
    mask = model.read(model.text_search.tokens(prompts)).mask
    targets = with_tokens_of_names(objects(), prompts, mask, 40)
    sizes = given["image_sizes"]
    denoising = model.dn_query_generator(targets, sizes)
    M = denoising.count
    torch.manual_seed(1)
    output = DETROutput(torch.randn(1, 2, M, 40), torch.rand(1, 2, M, 4))
    losses = model.bbox_head.text_denoising_loss(output, denoising, targets, sizes)
    wanted = torch.zeros(2, M, 40)
    for group in range(denoising.groups):
        for number in range(2):
            wanted[0, group * 4 + number, TOKENS[number + 1]] = 1
    real = F.pad(mask, (0, 40 - mask.shape[1]))[:, None].expand(-1, M, -1)
    loss = focal(output.logits[0][real], wanted[real]).sum() / (2 * denoising.groups)
    torch.testing.assert_close(losses["dn_loss_cls"], loss)


def test_labels_are_those_of_the_text() -> None:
    given = {**batch(["cat .", "dog ."]), "targets": objects()}
    with pytest.raises(InputError, match="label 2, but the text has 1 names"):
        detector().loss(given)


def test_without_objects() -> None:
    model = detector().train()
    nothing = [objects()[1]] * 2
    losses = model.loss({**batch([NAMES, "cat ."]), "targets": nothing})
    assert all(torch.isfinite(value) for value in losses.values())
