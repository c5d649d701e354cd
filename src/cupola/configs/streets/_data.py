# driving-streets: drives of twelve frames, two a second, six images of 96 x 160 each.
class_names = ["car", "truck", "pedestrian", "traffic_cone"]
cache = "work_dirs/streets"  # rendered drives, 3.3 GB
train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    sampler=dict(type="SequenceSampler"),
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
bundle = dict(
    task="detection3d",
    labels=class_names,
    license="Apache-2.0",
    preprocess=dict(
        size=[96, 160],
        mean=[110.0, 118.0, 122.0],
        std=[52.0, 50.0, 58.0],
        channel_order="rgb",
        divisor=32,
        cameras=6,
    ),
    postprocess=dict(threshold=0.3),
    examples=dict(type="DrivingStreets", split="val", seed=1),
)
