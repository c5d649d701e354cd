# retinanet-digits: a RetinaNet with 0.5 M parameters that finds handwritten digits.
# Trained from scratch in minutes on one processor core.
_base_ = "./faster_rcnn_digits.py"
width = 48
model = dict(
    _delete_=True,
    type="RetinaNet",
    backbone=dict(
        type="ResNet",
        depth=18,
        base_channels=16,
        stem_channels=16,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(0, 1, 2),  # strides 4, 8 and 16
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
        style="pytorch",
    ),
    neck=dict(type="FPN", in_channels=[16, 32, 64], out_channels=width, num_outs=3),
    bbox_head=dict(
        type="RetinaHead",
        num_classes=10,
        in_channels=width,
        feat_channels=width,
        stacked_convs=2,
        anchor_generator=dict(
            type="AnchorGenerator",
            octave_base_scale=4,
            scales_per_octave=2,
            ratios=[1.0, 1.8],
            strides=[4, 8, 16],
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[1.0] * 4),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(
            type="MaxIoUAssigner",
            pos_iou_thr=0.5,
            neg_iou_thr=0.4,
            min_pos_iou=0,
            ignore_iof_thr=-1,
        ),
        sampler=dict(type="PseudoSampler"),  # focal loss does not need sampled anchors
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=300,
        min_bbox_size=0,
        score_thr=0.02,
        nms=dict(type="nms", iou_threshold=0.5),
        max_per_img=50,
    ),
)
