"""Fine-tune the shipped detector on a COCO folder with any classes; the result is a bundle.

python examples/finetune_coco.py mydata/ --steps 2000
cupola predict work_dirs/finetune/my-detector photo.jpg --out drawn.png

mydata/ contains instances.json and images/.
"""

import argparse
import json
from pathlib import Path

import cupola
from cupola.train.bundling import bundle_run
from cupola.train.recipe import find_config
from cupola.train.trainer import Trainer
from cupola.weights import read_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/finetune"))
    args = parser.parse_args()

    categories = json.loads((args.data / "instances.json").read_text())["categories"]
    labels = [c["name"] for c in sorted(categories, key=lambda c: c["id"])]
    dataset = {"type": "CocoDataset", "data_root": str(args.data)}
    dataset["pipeline"] = [{"type": "Resize", "scale": (128, 128), "keep_ratio": False}]
    loader = {"batch_size": 8, "dataset": dataset, "_delete_": True}
    test_loader = {**loader, "dataset": {**dataset, "test_mode": True}}
    cfg = cupola.Config.load(find_config("detr-digits")).override(
        {
            "model.training_groups": 1,  # as in the shipped weights
            "model.bbox_head.num_classes": len(labels),
            "load_from": None,
            "train_dataloader": loader,
            "val_dataloader": test_loader,  # use images of their own for a real model
            "test_dataloader": test_loader,
            "optim_wrapper.optimizer.lr": 3e-5,  # a tenth of the rate for training from scratch
            "train_cfg": {"max_iters": args.steps, "val_interval": max(1, args.steps // 4)},
            "bundle.name": "my-detector",
            "bundle.labels": labels,
            "bundle.examples": None,
            "bundle.description": f"detr-digits, fine-tuned on {args.data.name}.",
        }
    )
    trainer = Trainer(cfg.to_dict(), args.work_dir)
    own = trainer.model.state_dict()
    weights = read_checkpoint(cupola.Bundle.load("detr-digits").weights_path)
    fitting = {key: value for key, value in weights.items() if value.shape == own[key].shape}
    print(cupola.load_weights(trainer.model, fitting, strict=False))
    metrics = trainer.run()
    print(f"AP50 {metrics['AP50']:.3f}, bundle: {bundle_run(trainer).path}")


if __name__ == "__main__":
    main()
