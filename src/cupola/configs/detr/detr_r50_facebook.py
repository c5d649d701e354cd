# DETR-R50 as facebookresearch/detr trains and publishes it: 91 COCO category ids and the
# background (the logits are indexed by category id), no top-k and no clamping at the end.
_base_ = "detr_r50.py"

model = dict(
    bbox_head=dict(num_classes=91),
    test_cfg=dict(max_per_img=None, clamp=False),
)
train_cfg = dict(max_epochs=300, val_interval=1)
param_scheduler = [
    dict(type="MultiStepLR", begin=0, end=300, by_epoch=True, milestones=[200], gamma=0.1)
]
