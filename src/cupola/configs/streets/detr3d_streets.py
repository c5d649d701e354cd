# detr3d-streets: detr3d-scenes' model, which sees single frames, on the data of stream-petr-streets.
_base_ = ["../detr3d/detr3d_scenes.py"]
cache = "work_dirs/streets"
train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    dataset=dict(
        _delete_=True, type="DrivingStreets", split="train", seed=0, count=1000, cache=cache
    ),
)
val_dataloader = dict(
    batch_size=20,
    dataset=dict(_delete_=True, type="DrivingStreets", split="val", seed=0, count=20, cache=cache),
)
test_dataloader = dict(
    batch_size=20,
    dataset=dict(_delete_=True, type="DrivingStreets", split="val", seed=1, count=40, cache=cache),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.02, begin=0, end=150, by_epoch=False),
    dict(type="CosineAnnealingLR", eta_min=6e-6, by_epoch=False),
]
train_cfg = dict(max_iters=4000, val_interval=2000)
bundle = dict(
    name="detr3d-streets", examples=dict(_delete_=True, type="DrivingStreets", split="val", seed=1)
)
