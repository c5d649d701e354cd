"""Writes the diagrams of docs/architecture.md: `python scripts/diagrams.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
COLUMN, ROW, WIDTH, HEIGHT, MARGIN = 178, 104, 146, 58, 16  # pixels

STYLE = """
rect.code { fill: #fdf1ea; stroke: #c2622d; } rect.file { fill: #eef2f5; stroke: #6b7f8c; }
text { font: 12px sans-serif; fill: #333; text-anchor: middle; } text.name { font-weight: bold; }
path { fill: none; stroke: #666; stroke-width: 1.4; marker-end: url(#arrow); }
path.requests { stroke-dasharray: 5 4; }
"""


@dataclass(frozen=True)
class Box:
    """A box in a cell of the grid; `kind` is "code" or "file"."""

    column: float
    row: float
    name: str
    about: str = ""
    kind: str = "code"

    @property
    def x(self) -> float:
        return MARGIN + self.column * COLUMN + WIDTH / 2

    @property
    def y(self) -> float:
        return MARGIN + self.row * ROW + HEIGHT / 2

    def svg(self) -> str:
        left, top = self.x - WIDTH / 2, self.y - HEIGHT / 2
        lines = [f'<text class="name" x="{self.x}" y="{self.y - 4}">{self.name}</text>']
        for i, line in enumerate(self.about.split("\n")):
            lines.append(f'<text x="{self.x}" y="{self.y + 11 + 13 * i}">{line}</text>')
        return "\n".join(
            [
                f'<rect class="{self.kind}" x="{left}" y="{top}" width="{WIDTH}" '
                f'height="{HEIGHT}" rx="6"/>',
                *lines,
            ]
        )


def right(a: Box, b: Box, label: str = "") -> str:
    """A straight arrow from a to its neighbor on the right; dashed if it has a label."""
    middle = (a.x + b.x) / 2
    lines = label.split("\n") if label else []
    texts = [
        f'<text x="{middle}" y="{a.y - 7 - 13 * i}">{line}</text>'
        for i, line in enumerate(reversed(lines))
    ]
    ends = [(a.x + WIDTH / 2, a.y), (b.x - WIDTH / 2, b.y)]
    return "\n".join([_path(ends, "requests" if label else "flow"), *texts])


def left(a: Box, b: Box) -> str:
    """A straight arrow from a to its neighbor on the left."""
    return _path([(a.x - WIDTH / 2, a.y), (b.x + WIDTH / 2, b.y)])


def down(a: Box, b: Box, dx: float = 0) -> str:
    """An arrow from the bottom of a to the top of b, with one bend between the rows."""
    middle = b.y - ROW / 2
    return _path(
        [
            (a.x + dx, a.y + HEIGHT / 2),
            (a.x + dx, middle),
            (b.x + dx, middle),
            (b.x + dx, b.y - HEIGHT / 2),
        ]
    )


def up(a: Box, b: Box, dx: float = 0) -> str:
    """An arrow from the top of a to the bottom of b, which is straight above."""
    return _path([(a.x + dx, a.y - HEIGHT / 2), (b.x + dx, b.y + HEIGHT / 2)])


def right_then_up(a: Box, b: Box, dx: float) -> str:
    """An arrow from the right of a to the bottom of b."""
    return _path([(a.x + WIDTH / 2, a.y), (b.x + dx, a.y), (b.x + dx, b.y + HEIGHT / 2)])


def _path(points: Sequence[tuple[float, float]], kind: str = "flow") -> str:
    return f'<path class="{kind}" d="M{" L".join(f"{x:g} {y:g}" for x, y in points)}"/>'


def drawing(boxes: Sequence[Box], arrows: Sequence[str]) -> str:
    """A whole SVG file."""
    width = max(b.x for b in boxes) + WIDTH / 2 + MARGIN
    height = max(b.y for b in boxes) + HEIGHT / 2 + MARGIN
    marker = (
        '<marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" '
        'style="fill:#666;stroke:none;marker-end:none"/></marker>'
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}">',
            f"<style>{STYLE}</style>",
            f"<defs>{marker}</defs>",
            f'<rect width="{width:g}" height="{height:g}" fill="#fff"/>',
            *arrows,
            *(box.svg() for box in boxes),
            "</svg>\n",
        ]
    )


def data_flow() -> str:
    """From files to a model, a bundle and a server."""
    config_file = Box(0, 0, "config file", ".py, .json, .yaml, .toml", "file")
    config = Box(1, 0, "config", "files to dicts,\nnever executed")
    registry = Box(2, 0, "registry", "dicts to objects,\nbuild record")
    models = Box(3, 0, "models", "nn, ops, structures,\nparallel, generation")
    inspect = Box(4, 0, "inspect", "shapes, FLOPs,\nsource, web page")
    checkpoint = Box(0, 1, "checkpoint", "safetensors, .pth", "file")
    weights = Box(1, 1, "weights", "safe reading, dialects,\nresharding")
    dataset = Box(0, 2, "dataset", "COCO, nuScenes,\nnetCDF, generated", "file")
    data = Box(1, 2, "data", "datasets, transforms,\ngenerators")
    train = Box(2, 2, "train", "loop, schedules,\ncheckpoints")
    metrics = Box(2, 3, "metrics", "AP, nuScenes, RMSE,\nperplexity")
    bundle = Box(3, 2, "bundle", "config + weights\n+ card + example", "file")
    runtime = Box(4, 2, "runtime", "Predictor, tasks,\noptimizations")
    exported = Box(4, 3, "exported model", "ONNX, torch.export", "file")
    serve = Box(5, 2, "serve", "HTTP, processes,\nprotocols")
    boxes = [
        *(config_file, config, registry, models, inspect, checkpoint, weights, dataset, data),
        *(train, metrics, bundle, runtime, exported, serve),
    ]
    arrows = [
        *(right(config_file, config), right(config, registry), right(registry, models)),
        *(right(models, inspect), right(checkpoint, weights), right(dataset, data)),
        *(right(data, train), right(train, bundle), right(bundle, runtime)),
        *(right(runtime, serve), up(metrics, train), down(runtime, exported)),
        *(right_then_up(weights, models, -20), down(models, train, 20), down(models, runtime, 40)),
    ]
    return drawing(boxes, arrows)


def processes() -> str:
    """The processes of a server: solid arrows start processes, dashed ones carry requests."""
    master = Box(3, 0, "master", "signals, supervision;\nno traffic, no tensors")
    clients = Box(0, 1, "clients", "browsers, SDKs,\ncurl", "file")
    workers = Box(1.5, 1, "workers", "accept, validate,\nforward, respond")
    runners = Box(3, 1, "runners", "decode, batch,\nexecute")
    zygote = Box(4.2, 1, "zygote", "has imported torch,\nforks the runners")
    cache = Box(5.3, 1, "cache processes", "manager and loader\nof the response cache")
    boxes = [master, clients, workers, runners, zygote, cache]
    arrows = [
        *(down(master, child) for child in (workers, zygote, cache)),
        left(zygote, runners),
        right(clients, workers, "HTTP"),
        right(workers, runners, "frames over\nUnix sockets"),
    ]
    return drawing(boxes, arrows)


DIAGRAMS = {"data-flow.svg": data_flow, "processes.svg": processes}


def main() -> None:
    for name, draw in DIAGRAMS.items():
        (DOCS / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
