# mask-rcnn-digits: the Faster R-CNN of digits-in-photos with a mask head: 0.81 M parameters.
# Trained from scratch in minutes on one processor core.
_base_ = "./faster_rcnn_digits.py"
width = 48
model = dict(
    type="MaskRCNN",
    roi_head=dict(
        mask_roi_extractor=dict(
            type="SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=14, sampling_ratio=2),
            out_channels=width,
            featmap_strides=[4],  # strokes are thin: the finest level for all
        ),
        mask_head=dict(
            type="FCNMaskHead",
            num_convs=2,
            in_channels=width,
            conv_out_channels=width,
            num_classes=10,
            class_agnostic=True,  # ink looks alike in all digits
            loss_mask=dict(type="CrossEntropyLoss", use_mask=True, loss_weight=1.0),
        ),
    ),
    train_cfg=dict(rcnn=dict(mask_size=28)),
    test_cfg=dict(rcnn=dict(mask_thr_binary=0.5)),
)
train_dataloader = dict(batch_size=4, dataset=dict(with_mask=True))
val_dataloader = dict(dataset=dict(with_mask=True))
test_dataloader = dict(dataset=dict(with_mask=True))
train_cfg = dict(max_iters=3000, val_interval=1500)
val_evaluator = test_evaluator = dict(type="CocoMetric", metric=["bbox", "segm"])
default_hooks = dict(checkpoint=dict(save_best="mask_AP"))
