# driving-streets: drives of twelve frames, two a second, six images of 96 x 160 each.
class_names = ["car", "truck", "pedestrian", "traffic_cone"]
cache = "work_dirs/streets"  # rendered drives, 3.3 GB
train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    dataset=dict(type="DrivingStreets", split="train", seed=0, count=1000, cache=cache),
)
val_dataloader = dict(
    batch_size=20,
    dataset=dict(type="DrivingStreets", split="val", seed=0, count=20, cache=cache),
)
test_dataloader = dict(
    batch_size=20,
    dataset=dict(type="DrivingStreets", split="val", seed=1, count=40, cache=cache),
)
val_evaluator = dict(type="NuScenesMetric", names=class_names)
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=6e-4, weight_decay=0.01),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.02, begin=0, end=150, by_epoch=False),
    dict(type="CosineAnnealingLR", eta_min=6e-6, by_epoch=False),
]
train_cfg = dict(max_iters=4000, val_interval=2000)
ema = dict(decay=0.998)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=500, save_best="mAP"))
randomness = dict(seed=0)
