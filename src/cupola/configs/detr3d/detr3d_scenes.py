# detr3d-scenes: a DETR3D of 1.5 M parameters for six images of 96 x 160, trained on generated
# streets (`cupola data driving-scenes`). The model's keys are those of the published configs.
class_names = ["car", "truck", "pedestrian", "traffic_cone"]
pc_range = [-35.0, -35.0, -3.0, 35.0, 35.0, 3.0]
channels = 96

model = dict(
    type="DETR3D",
    img_backbone=dict(
        type="ResNet",
        depth=18,
        stem_channels=16,
        base_channels=16,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
    ),
    img_neck=dict(
        type="FPN",
        in_channels=[16, 32, 64, 128],
        out_channels=channels,
        start_level=1,
        num_outs=3,
    ),
    pts_bbox_head=dict(
        type="DETR3DHead",
        num_query=100,
        num_classes=4,
        in_channels=channels,
        sync_cls_avg_factor=True,
        with_box_refine=True,
        # Places and headings are what this model is late to learn; sizes and heights come early.
        code_weights=[2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 0.2, 0.2],
        transformer=dict(
            type="Detr3DTransformer",
            decoder=dict(
                type="Detr3DTransformerDecoder",
                num_layers=4,
                return_intermediate=True,
                transformerlayers=dict(
                    type="DetrTransformerDecoderLayer",
                    attn_cfgs=[
                        dict(
                            type="MultiheadAttention",
                            embed_dims=channels,
                            num_heads=6,
                            dropout=0.0,
                        ),
                        dict(
                            type="Detr3DCrossAtten",
                            pc_range=pc_range,
                            num_points=1,
                            num_levels=3,
                            embed_dims=channels,
                            dropout=0.0,
                        ),
                    ],
                    feedforward_channels=2 * channels,
                    ffn_dropout=0.0,
                    operation_order=("self_attn", "norm", "cross_attn", "norm", "ffn", "norm"),
                ),
            ),
        ),
        bbox_coder=dict(
            type="NMSFreeCoder",
            pc_range=pc_range,
            post_center_range=[-40.0, -40.0, -5.0, 40.0, 40.0, 5.0],
            max_num=60,
            num_classes=4,
        ),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0),
        loss_bbox=dict(type="L1Loss", loss_weight=0.25),
    ),
    train_cfg=dict(
        pts=dict(
            assigner=dict(
                type="HungarianAssigner3D",
                cls_cost=dict(type="FocalLossCost", weight=2.0),
                reg_cost=dict(type="BBox3DL1Cost", weight=0.25),
                pc_range=pc_range,
            )
        )
    ),
)

# Streets are not mirrored: in a mirror traffic keeps to the left, and the side of the road would no
# longer tell which way a far car is heading.
train_dataloader = dict(
    batch_size=8,
    dataset=dict(type="DrivingScenes", split="train", seed=0, count=4000, keep=True),
)
val_dataloader = dict(
    batch_size=10,
    dataset=dict(type="DrivingScenes", split="val", seed=0, count=100, keep=True),
)
val_evaluator = dict(type="NuScenesMetric", names=class_names)
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=6e-4, weight_decay=0.01),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.02, begin=0, end=100, by_epoch=False),
    dict(type="CosineAnnealingLR", eta_min=6e-6, by_epoch=False),
]
train_cfg = dict(max_iters=3600, val_interval=900)
ema = dict(decay=0.998)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=200, save_best="mAP"))
randomness = dict(seed=0)
test_dataloader = dict(
    batch_size=10, dataset=dict(type="DrivingScenes", split="val", seed=1, count=100)
)
bundle = dict(
    name="detr3d-scenes",
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
    examples=dict(type="DrivingScenes", split="val", seed=1),
    description="""A small DETR3D that finds cars, trucks, pedestrians and traffic cones in generated streets, from
six calibrated images of 96 x 160.

- **Model**: ResNet-18 of a quarter of the usual width, FPN with three levels of 96 channels, four
  decoder layers, 100 queries; `training.json` holds the whole config, `log.jsonl` the curves.
- **Data**: driving-scenes, drawn by `cupola data driving-scenes`: streets of shaded boxes with
  textured ground, shadows, occlusion and cameras that are mounted a little differently each time.
  Validation and test streets come from other random streams than training.
- **Measures**: nuScenes' (mAP over 0.5, 1, 2 and 4 m; NDS), within 50 m for vehicles, 40 m for
  pedestrians, 30 m for cones, on 100 streets that chose nothing.
- **Baselines** on these streets (`bench/driving_baselines.py`): always predicting the training
  streets' mean layout gives mAP 0.001; being told the class and outline of everything in each
  image, and taking the distance from the class's mean height, gives 0.345.
- **Recipe**: `cupola train detr3d-scenes`; one CPU core for less than an hour.
- **Limits**: far things are vague, since a pixel is more than two meters from 20 m on. Speeds are
  hardly better than a guess: one moment shows no motion. Real photographs were never shown to it.""",
)
