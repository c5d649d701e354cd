"""One image through the shipped detectors: the time of each relative to detr-digits.

From an image of 128 x 128 pixels to boxes, labels and scores, with preparation and
post-processing, batch 1, float32, batch norms folded as the server does.
    python bench/digits.py [--rounds 101] [--threads 1]
"""

import argparse
from functools import partial

import torch
from PIL import Image

from cupola.bundles import Bundle
from cupola.runtime import Predictor
from cupola.runtime.optimize.folding import fold_batch_norms
from ratio import alternate, machine

BASE = "detr-digits"
OTHERS = ("rtmdet-digits", "dino-digits")


def load(name: str) -> Predictor:
    """A shipped predictor with folded batch norms."""
    predictor = Predictor.load(name)
    predictor.model = fold_batch_norms(predictor.model)
    return predictor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    print(f"{machine()}; {args.threads} threads")
    with Image.open(Bundle.load(BASE).path / "example/image.png") as file:
        image = file.convert("RGB")
    base = load(BASE)
    for name in OTHERS:
        other = load(name)
        ours, peer = alternate(partial(other, image), partial(base, image), args.rounds)
        print(f"{name}: {1e3 * ours:.2f} ms, {BASE} {1e3 * peer:.2f} ms, ratio {ours / peer:.2f}")


if __name__ == "__main__":
    main()
