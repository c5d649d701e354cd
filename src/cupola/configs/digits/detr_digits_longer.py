# The second training run of detr-digits: continues from detr_digits.py on new images,
# with digits squeezed as in photographs that are not square. One CPU core, about an hour.
_base_ = "./detr_digits.py"
load_from = dict(_delete_=True, path="work_dirs/detr_digits/latest.pth")
train_dataloader = dict(dataset=dict(seed=1, style=dict(max_squeeze=1.5)))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.02, begin=0, end=100, by_epoch=False),
    dict(type="CosineAnnealingLR", eta_min=3e-6, by_epoch=False),
]
train_cfg = dict(max_iters=9000, val_interval=1500)
randomness = dict(seed=1)
