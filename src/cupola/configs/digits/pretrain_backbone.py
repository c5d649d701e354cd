# Pretrains the small backbone of detr-digits: class and box for every feature cell.
# From random weights, DETR stays for a long time where every query predicts the average image. The
# original avoids that with ImageNet weights, this config with a few minutes on a dense task.
_base_ = "./_data.py"
model = dict(
    type="DensePretrainer",
    num_classes=10,
    channels=128,
    backbone=dict(
        type="SmallResNet", stem_channels=32, channels=(48, 96, 128, 128), strides=(2, 2, 1, 2)
    ),
)
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=1e-4), clip_grad=dict(max_norm=1.0)
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.02, begin=0, end=50, by_epoch=False),
    dict(type="CosineAnnealingLR", eta_min=2e-5, by_epoch=False),
]
train_cfg = dict(max_iters=2200)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=200))
channels_last = True
randomness = dict(seed=0)
