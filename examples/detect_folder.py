"""Detect objects in every image of a folder; writes drawn images and one JSON file.

python examples/detect_folder.py photos/ found/ --bundle detr-digits --threshold 0.5
"""

import argparse
import json
from pathlib import Path

import cupola
from cupola.errors import InputError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bundle", default="detr-digits", help="shipped name or bundle folder")
    parser.add_argument("--threshold", type=float, default=0.5)
    args = parser.parse_args()

    predictor = cupola.Predictor.load(args.bundle)
    args.out.mkdir(parents=True, exist_ok=True)
    results = {}
    for path in sorted(p for p in args.images.iterdir() if p.suffix.lower() in SUFFIXES):
        try:
            found = predictor(path, threshold=args.threshold)
        except InputError as error:
            print(f"skipped: {error}")
            continue
        found.draw().save(args.out / f"{path.stem}.png")
        results[path.name] = found.to_list()
        print(f"{path.name}: {len(found)} objects")
    (args.out / "detections.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
