"""GLIP's keys, stages, predictions and losses against plain formulas."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.errors import InputError
from cupola.models.boxes import InclusiveOverlaps
from cupola.models.glip import DeltaXYWHBBoxCoderForGLIP
from cupola.models.glip.dynamic_conv import DynamicConv
from cupola.models.grounding.fusion import BiAttention
from cupola.models.grounding.search import with_tokens_of_names
from cupola.ops.deform_conv import deform_conv2d
from cupola.ops.nms import nms
from cupola.registry import build
from cupola.structures.boxes import giou
from models.grounding.small import glip, small_tokenizer

SIZE = (64, 96)
NAMES = ["cat", "traffic light", "dogs"]
TOKENS = [[1], [3, 4], [6, 7]]
BODY = "language_model.language_backbone.body.model"


def detector(**options: Any) -> Any:
    torch.manual_seed(0)
    model = build(glip(**options))
    for name, parameter in model.named_parameters():
        if "bbox_head" in name:
            parameter.data += torch.randn_like(parameter) * 0.1
    model.text_search.set_tokenizer(small_tokenizer(), "words")
    return model.eval()


def batch(texts: list[Any]) -> dict[str, Any]:
    pixels = torch.randn(len(texts), 3, *SIZE, generator=torch.Generator().manual_seed(1))
    return {"pixels": pixels, "image_sizes": [SIZE] * len(texts), "texts": texts}


def linear(*names: str) -> list[str]:
    return [f"{name}.{part}" for name in names for part in ("weight", "bias")]


def dynamic(name: str) -> list[str]:
    keys = []
    for i in range(3):
        keys += linear(f"{name}.dyconvs.{i}.conv", f"{name}.dyconvs.{i}.bn")
    return keys + linear(*(f"{name}.{p}" for p in ("attnconv.1", "relu.fc.0", "relu.fc.2")))


def fused(name: str, layer: str) -> list[str]:
    keys = [f"{name}.b_attn.gamma_v", f"{name}.b_attn.gamma_l"]
    keys += linear(f"{name}.b_attn.layer_norm_v", f"{name}.b_attn.layer_norm_l")
    parts = ("v_proj", "l_proj", "values_v_proj", "values_l_proj", "out_v_proj", "out_l_proj")
    keys += linear(*(f"{name}.b_attn.attn.{part}" for part in parts))
    keys += linear(*(f"{layer}.attention.self.{part}" for part in ("query", "key", "value")))
    keys += linear(f"{layer}.attention.output.dense", f"{layer}.attention.output.LayerNorm")
    return (
        keys
        + linear(*(f"{layer}.{p}" for p in ("intermediate.dense", "output.dense")))
        + linear(f"{layer}.output.LayerNorm")
    )


@pytest.mark.parametrize("early", [False, True])
def test_keys_in_their_order(early: bool) -> None:
    with nn.on_meta():
        state = build(glip(early_fuse=early)).state_dict()
    found = [key for key in state if key.startswith("bbox_head.")]
    head = "bbox_head.head"
    wanted = [f"{head}.{name}" for name in ("log_scale", "bias_lang", "bias0")]
    for block in range(2):
        place = 3 * block if early else block
        tower = f"{head}.dyhead_tower"
        if early:
            wanted += fused(f"{tower}.{place}", f"{tower}.{place + 1}")
            place += 2
        wanted += dynamic(f"{tower}.{place}") + linear(f"{tower}.{place}.offset")
    wanted += linear(f"{head}.bbox_pred", f"{head}.centerness")
    wanted += linear(f"{head}.dot_product_projection_text")
    assert found == wanted + [f"{head}.scales.{i}.scale" for i in range(5)]
    first = next(key for key in state if key.startswith("language_model."))
    assert first == f"{BODY}.embeddings.word_embeddings.weight"
    assert list(state).index(first) > list(state).index(found[-1])


def test_coder() -> None:
    coder = DeltaXYWHBBoxCoderForGLIP(target_stds=[0.1, 0.1, 0.2, 0.2])
    anchors = torch.tensor([[0.0, 0, 64, 32], [10, 10, 20, 40]])
    deltas = torch.randn(2, 4)
    wanted = []
    for (x1, y1, x2, y2), delta in zip(anchors.tolist(), deltas.tolist(), strict=True):
        width, height = x2 - x1, y2 - y1
        x = (x1 + x2 - 1) / 2 + delta[0] * 0.1 * width
        y = (y1 + y2 - 1) / 2 + delta[1] * 0.1 * height
        w, h = width * math.exp(delta[2] * 0.2), height * math.exp(delta[3] * 0.2)
        wanted.append([x - (w - 1) / 2, y - (h - 1) / 2, x + (w - 1) / 2, y + (h - 1) / 2])
    expected = torch.tensor(wanted)
    torch.testing.assert_close(coder.decode(anchors, deltas), expected)
    limits = torch.tensor([29.0, 19, 29, 19])
    clipped = expected.clamp(min=0).minimum(limits)
    torch.testing.assert_close(coder.decode(anchors, deltas, (20, 30)), clipped)
    wild = coder.decode(anchors, torch.full((2, 4), 100.0))
    assert torch.isfinite(wild).all()


def test_overlaps_with_the_last_pixel() -> None:
    a = torch.tensor([[0.0, 0, 9, 9], [20, 20, 29, 39]])
    b = torch.tensor([[5.0, 0, 14, 9], [20, 20, 29, 39], [9, 9, 9, 9]])
    found = InclusiveOverlaps()(a, b)
    torch.testing.assert_close(found, torch.tensor([[50 / 150, 0.0, 1 / 100], [0.0, 1.0, 0.0]]))


@torch.no_grad()
def test_attention_between_image_and_text() -> None:
    """Two heads, one image after the other, token by token."""
    torch.manual_seed(0)
    block = BiAttention(6, 10, 8, 2, init_values=0.5).eval()
    image, text = torch.randn(2, 7, 6), torch.randn(2, 4, 10)
    padded = torch.zeros(2, 7, dtype=torch.bool)
    padded[1, 5:] = True
    words = torch.tensor([[True] * 4, [True, True, False, False]])
    found = block(image, text, padded, words)
    normed, named = block.layer_norm_v(image), block.layer_norm_l(text)
    for i in range(2):
        cells, tokens = ~padded[i], words[i]
        parts: tuple[list[Tensor], list[Tensor]] = ([], [])
        for head in (slice(0, 4), slice(4, 8)):
            query = block.attn.v_proj(normed[i])[:, head] / 2
            key = block.attn.l_proj(named[i])[:, head]
            scores = query @ key.T
            values = block.attn.values_l_proj(named[i])[tokens][:, head]
            parts[0].append(scores[:, tokens].softmax(-1) @ values)
            values = block.attn.values_v_proj(normed[i])[cells][:, head]
            parts[1].append(scores.T[:, cells].softmax(-1) @ values)
        of_image = normed[i] + 0.5 * block.attn.out_v_proj(torch.cat(parts[0], -1))
        of_text = named[i] + 0.5 * block.attn.out_l_proj(torch.cat(parts[1], -1))
        torch.testing.assert_close(found[0][i], of_image, rtol=0, atol=1e-5)
        torch.testing.assert_close(found[1][i], of_text, rtol=0, atol=1e-5)


@torch.no_grad()
def test_dynamic_convolutions() -> None:
    torch.manual_seed(0)
    layer = DynamicConv(16, 16, dynamic=True)
    for parameter in layer.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    maps = [torch.randn(2, 16, 8, 12), torch.randn(2, 16, 4, 6)]

    def convolve(number: int, x: Tensor, offsets: Tensor, masks: Tensor) -> Tensor:
        part, stride = layer.dyconvs[number], 2 if number == 2 else 1
        h, w = (-(-side // stride) for side in x.shape[2:])
        # the kernel reads numbers one after the other, whatever the size of their map
        offsets, masks = (
            torch.stack([row.flatten()[: n * h * w].view(n, h, w) for row in each])
            for each, n in ((offsets, 18), (masks, 9))
        )
        y = deform_conv2d(x, offsets, part.conv.weight, part.conv.bias, stride, 1, mask=masks)
        return F.group_norm(y, 16, part.bn.weight, part.bn.bias)

    for i, (x, found) in enumerate(zip(maps, layer(maps), strict=True)):
        numbers = layer.offset(x)
        moves = (numbers[:, :18], numbers[:, 18:].sigmoid())
        parts = [convolve(1, x, *moves)]
        if i == 0:
            coarse = convolve(0, maps[1], *moves)
            parts.append(F.interpolate(coarse, (8, 12), mode="bilinear", align_corners=True))
        else:
            parts.append(convolve(2, maps[0], *moves))
        conv = layer.attnconv[1]
        weights = [F.hardsigmoid(F.relu(conv(part.mean((2, 3), keepdim=True)))) for part in parts]
        mean = sum(p * w for p, w in zip(parts, weights, strict=True)) / len(parts)
        fc = layer.relu.fc
        hidden = F.hardsigmoid(fc[2](F.relu(fc[0](mean.mean((2, 3))))))
        a1, b1, a2, b2 = hidden[..., None, None].split(16, 1)
        first = mean * ((a1 - 0.5) * 2 + 1) + (b1 - 0.5)
        wanted = torch.max(first, mean * ((a2 - 0.5) * 2) + (b2 - 0.5))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("early", [False, True])
def test_similarity_of_cells_and_tokens(early: bool) -> None:
    model = detector(early_fuse=early)
    given = batch([NAMES, "cat"])
    search = model.text_search
    tokens = search.tokens(search.whole_prompts(given))
    assert tokens.ids.shape == (2, 40)
    maps, head = model.maps(given["pixels"]), model.bbox_head.head
    text = model.language_model(tokens)
    features, words = list(maps), text.hidden if early else text.embedded
    tower = list(head.dyhead_tower)
    for number in range(2):
        if early:
            fusion, language = tower[3 * number].b_attn, tower[3 * number + 1]
            cells = torch.cat([x.flatten(2).mT for x in features], 1)
            cells, words = fusion(cells, words, None, tokens.mask)
            sizes = [x.shape[2] * x.shape[3] for x in features]
            features = [
                part.mT.reshape(x.shape)
                for part, x in zip(cells.split(sizes, 1), features, strict=True)
            ]
            words = language(words, tokens.mask[:, None])
        features = tower[(3 * number + 2) if early else number](features)
    words = words / words.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    projected = head.dot_product_projection_text(words / 2)
    bias = words @ head.bias_lang + head.bias0
    found = model(given["pixels"], tokens=tokens)
    assert len(found.logits) == 5
    for level, x in enumerate(features):
        wanted = torch.einsum("bchw,btc->bhwt", x, projected) / head.log_scale.exp()
        wanted = wanted.flatten(1, 2) + bias[:, None]
        torch.testing.assert_close(found.logits[level], wanted, rtol=0, atol=1e-4)
        deltas = head.bbox_pred(x) * head.scales[level].scale
        torch.testing.assert_close(found.boxes[level], deltas, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.qualities[level], head.centerness(x), rtol=0, atol=1e-5)


def anchors() -> Tensor:
    """Of all levels of a 64 x 96 image."""
    rows = []
    for stride in (8, 16, 32, 64, 128):
        for y in range(-(-64 // stride)):
            for x in range(-(-96 // stride)):
                cx, cy, half = (x + 0.5) * stride, (y + 0.5) * stride, 4 * stride
                rows.append([cx - half, cy - half, cx + half, cy + half])
    return torch.tensor(rows)


def flat(levels: Any, width: int) -> Tensor:
    """Predictions [1, width, h, w] of all levels -> [S, width]."""
    return torch.cat([x[0].permute(1, 2, 0).reshape(-1, width) for x in levels])


@torch.no_grad()
def test_predictions_follow_the_original() -> None:
    model = detector()
    model.bbox_head.head.bias0.data.fill_(-3)  # some scores above the threshold, some below
    given = {**batch([NAMES]), "scale_factors": [(0.5, 2.0)]}
    (found,) = model.predict(given)
    tokens = model.text_search.tokens(model.text_search.whole_prompts(given))
    output = model(given["pixels"], tokens=tokens)
    logits = torch.cat([x[0] for x in output.logits]).sigmoid()
    scores = torch.stack([logits[:, tokens].mean(-1) for tokens in TOKENS], 1)
    central = flat(output.qualities, 1).sigmoid()
    rows, labels = (scores > 0.05).nonzero(as_tuple=True)
    values = (scores * central).sqrt()[rows, labels]
    coder = model.bbox_head.bbox_coder
    boxes = coder.decode(anchors()[rows], flat(output.boxes, 4)[rows], SIZE)
    boxes = boxes / torch.tensor([0.5, 2.0, 0.5, 2.0])
    large = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
    boxes, values, labels = boxes[large], values[large], labels[large]
    keep = nms(boxes, values, 0.6, labels)[:100]
    assert len(keep) > 20 and len(rows) < 0.9 * scores.numel()
    boxes[:, 2:] += 1
    torch.testing.assert_close(found.scores, values[keep], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.boxes, boxes[keep], rtol=0, atol=1e-3)
    assert torch.equal(found.labels, labels[keep]) and found.names == tuple(NAMES)


def objects() -> list[dict[str, Tensor]]:
    """A traffic light and dogs in the first image, nothing in the second."""
    boxes = torch.tensor([[4.0, 4, 40, 50], [30, 10, 90, 60]])
    return [
        {"boxes": boxes, "labels": torch.tensor([1, 2])},
        {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.int64)},
    ]


@torch.no_grad()
def test_losses() -> None:
    model = detector(train=True)
    given = {**batch([NAMES, "cat . dog"]), "targets": objects()}
    losses = model.loss(given)
    search, head = model.text_search, model.bbox_head
    prompts = search.whole_prompts(given)
    tokens = search.tokens(prompts)
    output = model(given["pixels"], tokens=tokens)
    targets = with_tokens_of_names(objects(), prompts, tokens.mask, 40)
    shorter = anchors() - torch.tensor([0.0, 0, 1, 1])
    counts = [x.shape[2] * x.shape[3] for x in output.boxes]
    owner = head.assigner(shorter, targets[0]["boxes"], counts).objects
    positive = owner >= 0
    assert positive.sum() > 3
    goal = torch.zeros(2, len(shorter), 40)
    for anchor in positive.nonzero()[:, 0]:
        goal[0, anchor, TOKENS[int(owner[anchor]) + 1]] = 1
    logits = torch.cat(output.logits, 1)
    score = logits.sigmoid()
    each = torch.where(
        goal > 0, -0.25 * (1 - score) ** 2 * score.log(), -0.75 * score**2 * (1 - score).log()
    )
    count = int(positive.sum()) + 1  # an image without objects counts as one
    wanted = each[tokens.mask[:, None].expand_as(each)].sum() / count
    torch.testing.assert_close(losses["loss_cls"], wanted)
    boxes = targets[0]["boxes"][owner[positive]]
    ends = shorter[positive]
    cx, cy = (ends[:, 0] + ends[:, 2]) / 2, (ends[:, 1] + ends[:, 3]) / 2
    left, top, right, bottom = (
        cx - boxes[:, 0],
        cy - boxes[:, 1],
        boxes[:, 2] - cx,
        boxes[:, 3] - cy,
    )
    central = (
        torch.minimum(left, right)
        / torch.maximum(left, right)
        * torch.minimum(top, bottom)
        / torch.maximum(top, bottom)
    ).sqrt()
    first = [x[:1] for x in output.boxes]
    decoded = head.bbox_coder.decode(anchors()[positive], flat(first, 4)[positive])
    wanted = 2 * ((1 - giou(decoded, boxes)) * central).sum() / central.sum().clamp(min=1)
    torch.testing.assert_close(losses["loss_bbox"], wanted)
    quality = flat([x[:1] for x in output.qualities], 1)[positive, 0]
    wanted = F.binary_cross_entropy_with_logits(quality, central, reduction="sum") / count
    torch.testing.assert_close(losses["loss_centerness"], wanted)


def test_training_has_gradients_everywhere() -> None:
    model = detector(train=True).train()
    losses = model.loss({**batch([NAMES, "cat . dog"]), "targets": objects()})
    sum(losses.values()).backward()
    unused = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert not {name for name in unused if not name.startswith("backbone.")}
    nothing = model.loss({**batch(["cat"]), "targets": objects()[1:]})
    assert all(torch.isfinite(value) for value in nothing.values())


def test_wrong_settings() -> None:
    with pytest.raises(ValueError, match="one anchor a cell"):
        config = glip()
        generator = {**config["bbox_head"]["anchor_generator"], "ratios": [0.5, 1.0]}
        build(glip(anchor_generator=generator))
    with pytest.raises(ValueError, match="needs use_sigmoid"):
        build(glip(loss_cls={"type": "CrossEntropyLoss"}))
    with pytest.raises(InputError, match="needs the tokens of a text"):
        detector()(torch.zeros(1, 3, *SIZE))
