"""Trains a shipped model again, as its card says: `python scripts/retrain.py detr-digits`.

Data is made or fetched first where the recipe needs it. Everything is written to the current
folder, the bundle to its work_dirs. `--steps N` shortens every training, to try the recipe.
"""

import argparse
import subprocess
import sys

# The commands of `cupola` that lead to each bundle, in order.
RECIPES: dict[str, list[list[str]]] = {
    "afno-era5-week": [["data", "real-fields", "."], ["train", "afno-era5-week"]],
    "afno-navier-stokes": [
        ["train", "afno-navier-stokes"],
        ["train", "afno-navier-stokes-finetune"],
    ],
    "bloom-tiny": [["data", "text", "work_dirs/text"], ["train", "bloom-tiny"]],
    "detr-digits": [
        ["train", "pretrain-backbone"],
        ["train", "detr-digits"],
        ["train", "detr-digits-longer"],
    ],
    "detr3d-scenes": [["train", "detr3d-scenes"]],
    "dino-digits": [["train", "dino-digits"]],
    "rtmdet-digits": [["train", "rtmdet-digits"]],
    "rep-detr3d-streets": [["train", "rep-detr3d-streets"]],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", choices=sorted(RECIPES))
    parser.add_argument("--steps", type=int, help="steps of each training instead of the recipe's")
    parser.add_argument("--dry-run", action="store_true", help="only print the commands")
    args = parser.parse_args()

    for command in RECIPES[args.bundle]:
        shorter = [f"--set=train_cfg.max_iters={args.steps}"] if args.steps else []
        arguments = [*command, *(shorter if command[0] == "train" else [])]
        print("cupola", *arguments, flush=True)
        if not args.dry_run:
            subprocess.run([sys.executable, "-m", "cupola", *arguments], check=True)


if __name__ == "__main__":
    main()
