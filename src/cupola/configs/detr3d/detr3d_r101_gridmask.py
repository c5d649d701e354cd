# DETR3D, ResNet-101 with deformable convolutions: the model and recipe of arXiv 2110.06922 as
# MMDetection3D's project publishes them, 24 epochs. Six images of 900 x 1600, padded to 928.
# Every key is the project's, so overrides for the project work here.
point_cloud_range = [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]  # meters; contains all reference points
voxel_size = [0.2, 0.2, 8]  # from earlier point-cloud models; not used here
class_names = [
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
]
# Caffe's ResNet was trained on BGR values with the mean subtracted and no division.
images = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)

self_attention = dict(type="MultiheadAttention", embed_dims=256, num_heads=8, dropout=0.1)
cross_attention = dict(
    type="Detr3DCrossAtten", pc_range=point_cloud_range, num_points=1, embed_dims=256
)
model = dict(
    type="DETR3D",
    use_grid_mask=True,
    data_preprocessor=dict(type="Det3DDataPreprocessor", pad_size_divisor=32, **images),
    img_backbone=dict(
        type="ResNet",
        depth=101,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        frozen_stages=1,
        norm_cfg=dict(type="BN2d", requires_grad=False),
        norm_eval=True,
        style="caffe",
        dcn=dict(type="DCNv2", deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, False, True, True),
    ),
    img_neck=dict(
        type="FPN",
        in_channels=[256, 512, 1024, 2048],
        out_channels=256,
        start_level=1,
        add_extra_convs="on_output",
        num_outs=4,
        relu_before_extra_convs=True,
    ),
    pts_bbox_head=dict(
        type="DETR3DHead",
        num_query=900,
        num_classes=10,
        in_channels=256,
        sync_cls_avg_factor=True,
        with_box_refine=True,
        as_two_stage=False,
        transformer=dict(
            type="Detr3DTransformer",
            decoder=dict(
                type="Detr3DTransformerDecoder",
                num_layers=6,
                return_intermediate=True,
                transformerlayers=dict(
                    type="DetrTransformerDecoderLayer",
                    attn_cfgs=[self_attention, cross_attention],
                    feedforward_channels=512,
                    ffn_dropout=0.1,
                    operation_order=("self_attn", "norm", "cross_attn", "norm", "ffn", "norm"),
                ),
            ),
        ),
        bbox_coder=dict(
            type="NMSFreeCoder",
            post_center_range=[-61.2, -61.2, -10.0, 61.2, 61.2, 10.0],
            pc_range=point_cloud_range,
            max_num=300,
            voxel_size=voxel_size,
            num_classes=10,
        ),
        positional_encoding=dict(  # built and never used, as in the original
            type="SinePositionalEncoding", num_feats=128, normalize=True, offset=-0.5
        ),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0),
        loss_bbox=dict(type="L1Loss", loss_weight=0.25),
        loss_iou=dict(type="GIoULoss", loss_weight=0.0),
    ),
    train_cfg=dict(
        pts=dict(
            grid_size=[512, 512, 1],
            voxel_size=voxel_size,
            point_cloud_range=point_cloud_range,
            out_size_factor=4,
            assigner=dict(
                type="HungarianAssigner3D",
                cls_cost=dict(type="FocalLossCost", weight=2.0),
                reg_cost=dict(type="BBox3DL1Cost", weight=0.25),
                iou_cost=dict(type="IoUCost", weight=0.0),  # configured, never used
                pc_range=point_cloud_range,
            ),
        )
    ),
)

dataset = dict(
    type="NuScenesDataset",
    data_root="data/nuscenes/",
    metainfo=dict(classes=class_names),
    point_cloud_range=point_cloud_range,
    images=dict(scale=(1600, 900), pad_size_divisor=32, channel_order="bgr", **images),
)
distortion = dict(type="MultiViewWrapper", transforms=[dict(type="PhotoMetricDistortion3D")])
train_dataloader = dict(
    batch_size=1,
    num_workers=4,
    dataset=dict(dataset, ann_file="nuscenes_infos_train.pkl", pipeline=[distortion]),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    dataset=dict(dataset, ann_file="nuscenes_infos_val.pkl", test_mode=True),
)
val_evaluator = dict(type="NuScenesMetric", names=class_names)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=2e-4, weight_decay=0.01),
    paramwise_cfg=dict(custom_keys=dict(img_backbone=dict(lr_mult=0.1))),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1.0 / 3, by_epoch=False, begin=0, end=500),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=0, end=24, T_max=24, eta_min_ratio=1e-3),
]
train_cfg = dict(max_epochs=24, val_interval=2)
# FCOS3D's detector, as the paper starts; from ImageNet alone mAP is some five points lower.
load_from = "ckpts/fcos3d.pth"
