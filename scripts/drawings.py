"""Writes the drawings of the tours from real objects and data: `python scripts/drawings.py`.

Those in COMPUTED run a shipped model, whose last digits depend on the processor; the tests compare
the others with what this script draws.
"""

import base64
import html
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
TOURS = ROOT / "docs/tour"
SHIPPED = ROOT / "src/cupola/bundles/shipped"
COLORS = ("#c2622d", "#2f6f8f", "#5a8f3c", "#8a5aa8", "#b08a1e", "#7a7a7a")
STYLE = (
    "text { font: 12px sans-serif; fill: #333; } .b { font-weight: bold; } .s { font-size: 10px; }"
    " .m { text-anchor: middle; } .e { text-anchor: end; } .c { font-family: monospace; }"
    " .l { fill: none; stroke: #666; } .f { fill: none; stroke: #bbb; }"
)


def text(x: float, y: float, said: object, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{html.escape(str(said))}</text>'


def box(x: float, y: float, width: float, height: float, fill: str = "none", more: str = "") -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}" {more}/>'


def line(*points: tuple[float, float], color: str = "#666", more: str = "") -> str:
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{color}" {more}/>'


def picture(path: Path, x: float, y: float, width: float, height: float) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<image x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
        f'href="data:image/png;base64,{data}" style="image-rendering: pixelated"/>'
    )


def drawing(width: int, height: int, parts: Sequence[str]) -> str:
    """A whole SVG file on white, for light and dark pages."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
    arrow = (
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#666"/></marker></defs>'
    )
    page = box(0, 0, width, height, "#fff")
    return "\n".join([head, f"<style>{STYLE}</style>", arrow, page, *parts, "</svg>\n"])


def matching() -> str:
    """DETR's matching on the example of detr-digits: boxes, and the total cost of every pair."""
    import cupola
    from cupola.models.matching import HungarianAssigner, MatchInputs
    from cupola.structures.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh

    folder = SHIPPED / "detr-digits/example"
    truth = json.loads((folder / "truth.json").read_text())
    model = cupola.Predictor.load("detr-digits")
    sample = model.sample(str(folder / "image.png"))
    with torch.no_grad():
        output = model.model(sample.pixels[None])
    targets = torch.tensor(truth["boxes"]) / 128
    match = MatchInputs(
        output.logits[-1, 0].float(),
        output.boxes[-1, 0].float(),
        torch.tensor(truth["labels"]),
        xyxy_to_cxcywh(targets),
        (128, 128),
    )
    assigner = HungarianAssigner(
        [
            {"type": "ClassificationCost", "weight": 1.0},
            {"type": "BBoxL1Cost", "weight": 5.0, "box_format": "xywh"},
            {"type": "IoUCost", "iou_mode": "giou", "weight": 2.0},
        ]
    )
    cost, (chosen,) = assigner.cost(match), assigner.assign([match])
    parts = [picture(folder / "image.png", 20, 40, 320, 320)]
    parts.append(text(20, 24, "objects (white) and the queries matched with them", "b"))
    for query, found in enumerate(cxcywh_to_xyxy(match.boxes).tolist()):
        x0, y0, x1, y1 = (round(320 * value) for value in found)
        at = int(chosen[query])
        look = "#999" if at < 0 else COLORS[at]
        width = "1" if at < 0 else "3"
        more = f'stroke="{look}" stroke-width="{width}"' + (' opacity="0.5"' if at < 0 else "")
        parts.append(box(20 + x0, 40 + y0, x1 - x0, y1 - y0, more=more))
        if at >= 0:
            parts.append(text(24 + x0, 52 + y0, f"q{query}", "b s"))
    for x0, y0, x1, y1 in truth["boxes"]:
        more = 'stroke="#fff" stroke-dasharray="4 3"'
        parts.append(box(20 + 2.5 * x0, 40 + 2.5 * y0, 2.5 * (x1 - x0), 2.5 * (y1 - y0), more=more))
    parts.append(text(400, 24, "total cost of each pair; outlined: the assignment", "b"))
    low, high = float(cost.min()), float(cost.max())
    for at, label in enumerate(truth["labels"]):
        parts.append(text(470 + 80 * at, 44, f"digit {label}", "m s"))
    for query, row in enumerate(cost.tolist()):
        y = 50 + 13 * query
        parts.append(text(425, y + 10, f"q{query}", "e s"))
        for at, value in enumerate(row):
            dark = 1 - (value - low) / (high - low)
            parts.append(box(432 + 80 * at, y, 76, 12, f"rgba(47,111,143,{0.75 * dark:.2f})"))
            parts.append(text(470 + 80 * at, y + 10, f"{value:.1f}", "m s"))
            if int(chosen[query]) == at:
                more = f'stroke="{COLORS[at]}" stroke-width="2.5"'
                parts.append(box(432 + 80 * at, y, 76, 12, more=more))
    return drawing(770, 390, parts)


def projection() -> str:
    """The centers of two cars of detr3d-scenes in the cameras that see them, and from above."""
    from cupola.models.detr3d.feature_sampling import Cameras

    folder = SHIPPED / "detr3d-scenes/example"
    cameras = json.loads((folder / "sample.json").read_text())["cameras"]
    response = json.loads((folder / "response.json").read_text())["outputs"]
    boxes = torch.tensor(next(each["data"] for each in response if each["name"] == "boxes"))
    points = boxes.view(-1, 9)[:3, :3] + torch.tensor([0.0, 0.0, 0.8])  # from bottom to center
    size = torch.tensor(
        [[_size(folder / cameras[0]["file"])[1], _size(folder / cameras[0]["file"])[0]]]
    )
    matrices = torch.tensor([each["lidar2img"] for each in cameras])[None]
    seen = Cameras(matrices, size).project(points[None])
    width, height = 200.0, 200.0 * float(size[0, 0]) / float(size[0, 1])
    order = [
        "CAM_FRONT_LEFT",
        "CAM_FRONT",
        "CAM_FRONT_RIGHT",
        "CAM_BACK_LEFT",
        "CAM_BACK",
        "CAM_BACK_RIGHT",
    ]
    parts = [text(16, 20, "reference points, projected by lidar2img and divided by depth", "b")]
    for number, camera in enumerate(cameras):
        place = order.index(camera["name"])
        x, y = 16 + (width + 8) * (place % 3), 32 + (height + 22) * (place // 3)
        parts.append(picture(folder / camera["file"], x, y, width, height))
        parts.append(text(x, y + height + 13, camera["name"], "s"))
        for at, (u, v) in enumerate(seen.uv[0, number].tolist()):
            if bool(seen.visible[0, number, at]):
                more = 'stroke="#fff" stroke-width="2"'
                parts.append(
                    f'<circle cx="{x + u * width:.1f}" cy="{y + v * height:.1f}" r="6" '
                    f'fill="{COLORS[at]}" {more}/>'
                )
    left = 16 + 3 * (width + 8) + 16
    span, middle = 2 * height + 22, (left + height + 11, 32 + height + 11)
    parts.append(text(left, 20, "from above, 50 m across; x to the right", "b"))
    parts.append(box(left, 32, span, span, "#eef2f5"))
    parts.append(box(middle[0] - 4, middle[1] - 8, 8, 16, "#666"))
    for at, (x, y, _) in enumerate(points.tolist()):
        px, py = middle[0] + x / 50 * span, middle[1] - y / 50 * span
        parts.append(
            line(middle, (round(px, 1), round(py, 1)), color=COLORS[at], more='opacity="0.5"')
        )
        parts.append(f'<circle cx="{px:.1f}" cy="{py:.1f}" r="6" fill="{COLORS[at]}"/>')
    return drawing(int(left + span + 16), int(span + 52), parts)


def _size(path: Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(path) as image:
        return image.size


def columns() -> str:
    """The frequencies of 90 x 180 tokens that four rules of AFNO keep."""
    from cupola.models.afno.modes import RULES

    parts = []
    cases = [("fourcastnet", 1.0), ("fourcastnet", 0.5), ("transformer", 0.5), ("lowpass", 0.5)]
    for number, (name, fraction) in enumerate(cases):
        x = 50 + 190 * number
        kept = RULES[name](90, 180, fraction)
        parts.append(text(x, 22, f'"{name}", {fraction:g}', "b"))
        parts.append(box(x, 32, 164, 162, "#eef2f5", 'stroke="#6b7f8c"'))
        for start, stop in kept.rows:
            parts.append(
                box(x, 32 + 1.8 * start, 1.8 * kept.columns, 1.8 * (stop - start), COLORS[0])
            )
        parts.append(text(x, 210, f"{kept.height} of 90 rows, {kept.columns} of 91 columns", "s"))
    for y, row in ((40, "0"), (112, "± 45"), (192, "- 1")):
        parts.append(text(44, y, row, "e s"))
    return drawing(830, 222, parts)


def alibi() -> str:
    """Attention weights of equal scores under ALiBi, for four of eight heads."""
    from cupola.models.bloom.alibi import alibi_slopes

    parts = []
    for number, head in enumerate((0, 2, 4, 7)):
        slope, x = float(alibi_slopes(8)[head]), 20 + 190 * number
        parts.append(text(x, 22, f"head {head}: slope 1/{1 / slope:g}", "b"))
        for query in range(12):
            for key in range(12):
                where = (x + 14 * key, 32 + 14 * query, 13, 13)
                if key > query:
                    parts.append(box(*where, "#eef2f5"))
                else:
                    dark = math.exp(slope * (key - query))  # relative to the nearest key
                    parts.append(box(*where, "#c2622d", f'opacity="{dark:.2f}"'))
    parts.append(text(20, 216, "rows: queries, columns: keys; gray: the future, masked", "s"))
    return drawing(780, 226, parts)


def shards() -> str:
    """The matrices of an MLP on four ranks, from the layers themselves."""
    from cupola.parallel import ColumnParallelLinear, Group, RowParallelLinear

    parts = []
    for rank in range(4):
        group = Group("tensor", (0, 1, 2, 3), rank)
        first = ColumnParallelLinear(8, 32, group=group).weight.shape
        second = RowParallelLinear(32, 8, group=group).weight.shape
        y, color = 60 + 4 * first[0] * rank, COLORS[rank]
        parts.append(text(20, y + 20, f"rank {rank}", "b"))
        parts.append(text(80, y + 20, "x [8]", "c s"))
        parts.append(line((115, y + 16), (140, y + 16), more='marker-end="url(#arrow)"'))
        parts.append(box(145, y, 6 * first[1], 4 * first[0] - 2, color, 'opacity="0.8"'))
        parts.append(text(200, y + 20, f"{list(first)} GELU", "c s"))
        parts.append(line((285, y + 16), (310, y + 16), more='marker-end="url(#arrow)"'))
        x = 320 + 6 * second[1] * rank
        parts.append(box(320, 60, 192, 126, "none", 'stroke="#bbb"'))
        parts.append(box(x, 60, 6 * second[1] - 2, 126, color, 'opacity="0.8"'))
        parts.append(line((520, y + 16), (580, 122), more='marker-end="url(#arrow)"'))
        parts.append(text(x + 22, 200, list(second), "m c s"))
    parts.append(text(145, 40, "first: rows of W", "b"))
    parts.append(text(320, 40, "second: columns of W", "b"))
    parts.append(text(590, 118, "all-reduce: the only", "s"))
    parts.append(text(590, 131, "communication; + bias", "s"))
    parts.append(text(20, 22, "y = W2 GELU(W1 x) with W1 [32, 8], W2 [8, 32] on p = 4 ranks", "b"))
    return drawing(720, 215, parts)


def dictionaries() -> str:
    """The attributes of a batch norm: in torch's tables alone, and as attributes as well."""
    from cupola import nn

    theirs, ours = torch.nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    parts = [
        text(20, 22, "torch.nn.BatchNorm1d(2).__dict__", "b c"),
        text(480, 22, "cupola.nn.BatchNorm1d(2).__dict__", "b c"),
    ]
    tables = ("_parameters", "_buffers", "_modules")
    plain = [name for name in theirs.__dict__ if name not in tables]
    for number, name in enumerate(tables):
        y = 40 + 74 * number
        parts += [
            box(20, y, 130, 60, "#eef2f5", 'stroke="#6b7f8c"'),
            text(30, y + 20, name, "b c s"),
        ]
        parts.append(line((150, y + 30), (186, y + 30), more='marker-end="url(#arrow)"'))
        parts.append(box(190, y, 200, 60, "#fdf1ea", 'stroke="#c2622d"'))
        members = list(getattr(theirs, name)) or ["(empty)"]
        parts += [text(200, y + 17 + 15 * at, each, "c s") for at, each in enumerate(members)]
    parts.append(
        text(20, 280, f"and {len(plain)} other attributes: hook tables, training, eps ...", "s")
    )
    members = [*ours._parameters, *ours._buffers]
    parts.append(box(480, 40, 170, 205, "#fdf1ea", 'stroke="#c2622d"'))
    for at, name in enumerate([*members, "eps", "momentum", "training", "..."]):
        parts.append(text(490, 58 + 20 * at, name, "c s"))
    for number, name in enumerate(tables):
        y = 40 + 74 * number
        parts.append(line((686, y + 30), (654, y + 30), more='marker-end="url(#arrow)"'))
        parts.append(box(690, y, 186, 60, "#eef2f5", 'stroke="#6b7f8c"'))
        keys = list(getattr(ours, name)) or ["(empty)"]
        parts.append(text(698, y + 14, name, "b c s"))
        parts += [text(698, y + 27 + 13 * at, each, "c s") for at, each in enumerate(keys)]
    return drawing(896, 296, parts)


def signals() -> str:
    """The table of signals: from the command to the master's flag, and what the worker gets."""
    from cupola.serve.ipc.signals import TABLE

    parts = [
        text(20, 22, "cupola signal", "b"),
        text(140, 22, "signal", "b"),
        text(240, 22, "flag of the master", "b"),
        text(580, 22, "processes", "b"),
    ]
    for number, row in enumerate(TABLE):
        y = 44 + 20 * number
        parts.append(text(20, y, row.command or "-", "c s"))
        parts.append(text(140, y, row.signal.name, "c s"))
        parts.append(line((205, y - 4), (234, y - 4), more='marker-end="url(#arrow)"'))
        parts.append(text(240, y, row.flag, "c s"))
        parts.append(text(340, y, row.meaning, "s"))
    places = {
        "master": (640, 60),
        "worker": (580, 150),
        "zygote": (690, 150),
        "cache manager": (790, 150),
        "runner": (690, 240),
    }
    for child, parent in (
        ("worker", "master"),
        ("zygote", "master"),
        ("cache manager", "master"),
        ("runner", "zygote"),
    ):
        (x0, y0), (x1, y1) = places[parent], places[child]
        parts.append(line((x0 + 45, y0 + 32), (x1 + 45, y1), more='marker-end="url(#arrow)"'))
    for name, (x, y) in places.items():
        parts.append(box(x, y, 90, 32, "#fdf1ea", 'stroke="#c2622d"'))
        parts.append(text(x + 45, y + 20, name, "m b s"))
    sent = sorted({row.worker for row in TABLE if row.worker})
    parts += [text(580, 200 + 13 * at, word, "c s") for at, word in enumerate(["gets:", *sent])]
    return drawing(900, 290, parts)


def stair() -> str:
    """The order in which detr3d-scenes was built, from its record, indented by level."""
    record = json.loads((SHIPPED / "detr3d-scenes/build_record.json").read_text())["parts"]
    others = (".layers.1", ".layers.2", ".layers.3", ".ffns.0.")  # like the first layer
    steps = [
        part
        for part in record
        if part["registry"]
        and part["name"] != "BN"
        and not any(at in part["path"] for at in others)
    ]
    parts = [text(20, 22, "built from top to bottom; inside what it is indented under", "b")]
    for number, part in enumerate(steps):
        inside = [each["path"] for each in steps if part["path"].startswith(f"{each['path']}.")]
        depth = len(inside) + bool(part["path"])
        x, y = 20 + 44 * depth, 36 + 19 * number
        color = COLORS[depth % len(COLORS)]
        parts.append(box(x, y, 8, 15, color))
        parts.append(text(x + 14, y + 12, part["name"], "b s"))
        made_by = (part["made_by"] or "").rpartition(".")[2]
        parts.append(text(390, y + 12, part["path"] or "(model)", "c s"))
        parts.append(text(735, y + 12, f"made by {made_by}" if made_by else "", "s"))
    return drawing(950, 46 + 19 * len(steps), parts)


DRAWINGS: dict[str, Callable[[], str]] = {
    "columns.svg": columns,
    "alibi.svg": alibi,
    "shards.svg": shards,
    "dictionaries.svg": dictionaries,
    "signals.svg": signals,
    "stair.svg": stair,
}
COMPUTED: dict[str, Callable[[], str]] = {"matching.svg": matching, "projection.svg": projection}


def main() -> None:
    for name, draw in (DRAWINGS | COMPUTED).items():
        (TOURS / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
