# rtmdet-digits: an RTMDet with 0.6 M parameters that finds handwritten digits in photographs.
# Trained from scratch; made for a GPU and seven processes that draw the images.
_base_ = "./_data.py"
norm = dict(type="BN", momentum=0.03, eps=0.001)
act = dict(type="SiLU", inplace=True)
width = 64
model = dict(
    type="RTMDet",
    backbone=dict(
        type="CSPNeXt",
        # channels in and out, blocks, shortcuts, no pyramid pooling
        arch_ovewrite=[
            [16, 32, 1, True, False],
            [32, 64, 2, True, False],
            [64, 128, 2, False, False],
        ],
        out_indices=(2, 3),  # strides 8 and 16
        expand_ratio=0.5,
        channel_attention=True,
        norm_cfg=norm,
        act_cfg=act,
    ),
    neck=dict(
        type="CSPNeXtPAFPN",
        in_channels=[64, 128],
        out_channels=width,
        num_csp_blocks=1,
        expand_ratio=0.5,
        norm_cfg=norm,
        act_cfg=act,
    ),
    bbox_head=dict(
        type="RTMDetSepBNHead",
        num_classes=10,
        in_channels=width,
        feat_channels=width,
        stacked_convs=1,
        anchor_generator=dict(type="MlvlPointGenerator", offset=0, strides=[8, 16]),
        bbox_coder=dict(type="DistancePointBBoxCoder"),
        loss_cls=dict(type="QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
        with_objectness=False,
        exp_on_reg=True,
        share_conv=True,
        pred_kernel_size=1,
        norm_cfg=norm,
        act_cfg=act,
    ),
    train_cfg=dict(assigner=dict(type="DynamicSoftLabelAssigner", topk=13), allowed_border=-1),
    test_cfg=dict(
        nms_pre=300,
        min_bbox_size=0,
        score_thr=0.02,
        nms=dict(type="nms", iou_threshold=0.6),
        max_per_img=50,
    ),
)
train_dataloader = dict(
    batch_size=64,
    num_workers=7,
    dataset=dict(style=dict(max_squeeze=1.5)),  # as in images that are not square
)
learning_rate = 2e-3
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=learning_rate, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0, bias_decay_mult=0, bypass_duplicate=True),
    clip_grad=dict(max_norm=35),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, begin=0, end=300, by_epoch=False),
    dict(type="CosineAnnealingLR", eta_min=learning_rate * 0.02, by_epoch=False),
]
train_cfg = dict(max_iters=5000, val_interval=1000)
val_evaluator = dict(type="CocoMetric")
custom_hooks = [
    dict(type="EMAHook", ema_type="ExpMomentumEMA", momentum=1e-3, gamma=500, update_buffers=True)
]
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=500, save_best="AP"))
channels_last = True
randomness = dict(seed=0)
bundle = dict(
    name="rtmdet-digits",
    task="detection",
    labels=["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
    license="Apache-2.0",
    preprocess=dict(resize=dict(exact=[128, 128])),  # the shape it was trained on
    postprocess=dict(threshold=0.5),
    examples=dict(type="DigitsInPhotos", split="val", seed=31, size=128),
    description="""A small RTMDet that finds handwritten digits in photographs.

- **Model**: CSPNeXt and CSPNeXtPAFPN with maps of stride 8 and 16, one shared convolution per branch
  of the head, width 64; 0.61 M parameters. `training.json` contains the full config with the seed,
  `log.jsonl` the curves.
- **Data**: digits-in-photos, the data and classes of detr-digits: handwritten digits from
  scikit-learn's `load_digits` (UCI Optical Recognition of Handwritten Digits, CC BY 4.0) on sample
  photographs of scikit-learn (CC BY 2.0, danielbuechele and vultilion) and scikit-image (CC0 or
  public domain). Validation shares no photographs and no digits with training; writers may be
  shared.
- **Recipe**: `cupola train rtmdet-digits --set train_cfg.max_seconds=400`, from scratch, on one H200
  GPU, with images drawn by 8 processor cores: 400 seconds, 5,043 steps, 322,752 images. The weights
  are the moving average at the end. No checkpoint was selected: the run had no validation. Its
  config asked for 12,000 steps, the schedule followed the time; `cupola train rtmdet-digits` alone
  takes 5,000 steps.
- **Speed**: 0.82 of detr-digits' time for one image, whose AP is 0.63 (one thread, folded batch norms,
  post-processing included; medians of 101 alternating calls on an AMD EPYC;
  `python bench/digits.py`).
- **Limits**: every image is resized to 128 x 128 pixels, so digits below a tenth of the image
  are missed. It was not trained on printed digits or other handwriting.""",
)
