# faster-rcnn-digits: a Faster R-CNN with 0.76 M parameters that finds handwritten digits.
# Trained from scratch in minutes on one processor core.
_base_ = "./_data.py"
norm = dict(type="BN", requires_grad=True)
width = 48
model = dict(
    type="FasterRCNN",
    backbone=dict(
        type="ResNet",
        depth=18,
        base_channels=16,
        stem_channels=16,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(0, 1, 2),  # strides 4, 8 and 16
        norm_cfg=norm,
        norm_eval=False,
        style="pytorch",
    ),
    neck=dict(type="FPN", in_channels=[16, 32, 64], out_channels=width, num_outs=3),
    rpn_head=dict(
        type="RPNHead",
        in_channels=width,
        feat_channels=width,
        anchor_generator=dict(
            type="AnchorGenerator", scales=[4], ratios=[1.0, 1.8], strides=[4, 8, 16]
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[1.0] * 4),
        loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0),
    ),
    roi_head=dict(
        type="StandardRoIHead",
        bbox_roi_extractor=dict(
            type="SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=2),
            out_channels=width,
            featmap_strides=[4, 8],
            finest_scale=20,  # digits of more than 40 pixels from stride 8
        ),
        bbox_head=dict(
            type="Shared2FCBBoxHead",
            in_channels=width,
            fc_out_channels=192,
            roi_feat_size=7,
            num_classes=10,
            bbox_coder=dict(
                type="DeltaXYWHBBoxCoder",
                target_means=[0.0] * 4,
                target_stds=[0.1, 0.1, 0.2, 0.2],
            ),
            reg_class_agnostic=True,
            loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
            loss_bbox=dict(type="L1Loss", loss_weight=1.0),
        ),
    ),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                type="MaxIoUAssigner",
                pos_iou_thr=0.7,
                neg_iou_thr=0.3,
                min_pos_iou=0.3,
                match_low_quality=True,
                ignore_iof_thr=-1,
            ),
            sampler=dict(
                type="RandomSampler",
                num=64,
                pos_fraction=0.5,
                neg_pos_ub=-1,
                add_gt_as_proposals=False,
            ),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        rpn_proposal=dict(
            nms_pre=200, max_per_img=60, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0
        ),
        rcnn=dict(
            assigner=dict(
                type="MaxIoUAssigner",
                pos_iou_thr=0.5,
                neg_iou_thr=0.5,
                min_pos_iou=0.5,
                match_low_quality=False,
                ignore_iof_thr=-1,
            ),
            sampler=dict(
                type="RandomSampler",
                num=48,
                pos_fraction=0.5,
                neg_pos_ub=-1,
                add_gt_as_proposals=True,
            ),
            pos_weight=-1,
            debug=False,
        ),
    ),
    test_cfg=dict(
        rpn=dict(
            nms_pre=200, max_per_img=60, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0
        ),
        rcnn=dict(score_thr=0.02, nms=dict(type="nms", iou_threshold=0.5), max_per_img=50),
    ),
)
train_dataloader = dict(batch_size=8)
learning_rate = 2e-3
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=learning_rate, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0),
    clip_grad=dict(max_norm=10),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, begin=0, end=100, by_epoch=False),
    dict(type="CosineAnnealingLR", eta_min=learning_rate * 0.02, by_epoch=False),
]
train_cfg = dict(max_iters=3000, val_interval=1000)
val_evaluator = test_evaluator = dict(type="CocoMetric", metric="bbox")
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=500, save_best="AP"))
channels_last = True
randomness = dict(seed=0)
