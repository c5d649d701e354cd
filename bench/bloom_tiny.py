"""bloom-tiny against n-gram models: held-out loss of the bundle, of a bigram and of longer ones.

All see the same tokens of the same training part; the loss is that of the held-out part.

    cupola data text work_dirs/text
    python bench/bloom_tiny.py work_dirs/text [BUNDLE]
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cupola.data.text import PackedText
from cupola.metrics import NGram
from cupola.runtime import Predictor

WINDOW = 128


def bundle_loss(bundle: str, folder: Path) -> float:
    """Mean nats a token of the bundle's model, in windows as it was trained on."""
    predictor: Any = Predictor.load(bundle)
    windows = PackedText(folder, "val", WINDOW)
    nats = tokens = 0.0
    for start in range(0, len(windows), 16):
        samples = [windows[i] for i in range(start, min(start + 16, len(windows)))]
        for found in predictor.model.predict(windows.collate(samples)):
            nats, tokens = nats + found["nats"], tokens + found["tokens"]
    return nats / tokens


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("work_dirs/text"), help="the prepared text"
    )
    parser.add_argument("bundle", nargs="?", help="a shipped bundle or a folder")
    options = parser.parse_args()
    if not (options.folder / "about.json").is_file():
        print(f"{options.folder} is not there; write it with `cupola data text {options.folder}`")
        return
    about = json.loads((options.folder / "about.json").read_text())["val"]
    train, held_out = (np.load(options.folder / f"{part}.npy") for part in ("train", "val"))
    vocabulary = int(max(train.max(), held_out.max())) + 1
    losses = {
        f"{order}-gram": NGram(order, vocabulary).fit(train).nats_per_token(held_out)
        for order in (1, 2, 3, 4)
    }
    if options.bundle:
        with torch.inference_mode():
            losses[options.bundle] = bundle_loss(options.bundle, options.folder)
    print(f"{'model':<16} nats/token  perplexity  bits/byte")
    for name, nats in losses.items():
        bits = nats * about["tokens"] / about["bytes"] / math.log(2)
        print(f"{name:<16} {nats:10.4f}  {math.exp(nats):10.2f}  {bits:9.4f}")


if __name__ == "__main__":
    main()
