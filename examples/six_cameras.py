"""Find objects around a car in the images of six calibrated cameras.

cupola data driving-scenes streets --scenes 1 --frames 1
python examples/six_cameras.py streets/sample street.png

A sample folder contains the images and sample.json with a 4 x 4 matrix `lidar2img` per camera,
from meters in the frame of the car (x right, y ahead, z up) to pixels.
"""

import argparse
import math
from pathlib import Path

import cupola
from cupola.runtime.io.drawing3d import draw_sample
from cupola.runtime.io.sample_folder import read_sample


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sample", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bundle", default="detr3d-scenes")
    parser.add_argument("--threshold", type=float, default=0.3)
    args = parser.parse_args()

    predictor = cupola.Predictor.load(args.bundle)
    images, lidar2img = read_sample(args.sample)
    sample = predictor.sample(images, lidar2img)
    found = predictor.predict(sample, args.threshold)
    for row in found.to_list():
        right, ahead, _ = row["bottom"]
        length, width, height = row["size"]
        print(
            f"{row['name']:12} {row['score']:.2f}  {math.hypot(right, ahead):5.1f} m away  "
            f"{length:.1f} x {width:.1f} x {height:.1f} m"
        )
    draw_sample(sample.images, sample.lidar2img, found).save(args.out)


if __name__ == "__main__":
    main()
