# dino-digits: a DINO with 2 M parameters that finds handwritten digits in photographs.
# Trained from scratch, without a pretrained backbone, on one CPU core.
_base_ = "./_data.py"
num_levels = 3
deformable = dict(embed_dims=128, num_levels=num_levels, num_points=3, dropout=0.0)
feed_forward = dict(embed_dims=128, feedforward_channels=512, ffn_drop=0.0)
model = dict(
    type="DINO",
    num_queries=40,
    num_feature_levels=num_levels,
    backbone=dict(
        type="SmallResNet",
        stem_channels=32,
        channels=(48, 96, 128, 128),
        strides=(2, 2, 1, 2),
        out_indices=(2, 3),  # strides 8 and 16
    ),
    neck=dict(
        type="ChannelMapper",
        in_channels=[128, 128],
        kernel_size=1,
        out_channels=128,
        act_cfg=None,
        norm_cfg=dict(type="GN", num_groups=16),
        num_outs=num_levels,
    ),
    encoder=dict(num_layers=2, layer_cfg=dict(self_attn_cfg=deformable, ffn_cfg=feed_forward)),
    decoder=dict(
        num_layers=3,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=128, num_heads=8, dropout=0.0),
            cross_attn_cfg=deformable,
            ffn_cfg=feed_forward,
        ),
    ),
    positional_encoding=dict(num_feats=64, normalize=True, temperature=20),
    bbox_head=dict(
        type="DINOHead",
        num_classes=10,
        embed_dims=128,
        loss_cls=dict(type="FocalLoss", loss_weight=1.0),
    ),
    dn_cfg=dict(group_cfg=dict(num_dn_queries=24)),
    test_cfg=dict(max_per_img=40),
)
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=4e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1),
    paramwise_cfg=dict(custom_keys={"backbone": dict(lr_mult=3.0)}),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.02, begin=0, end=100, by_epoch=False),
    dict(type="CosineAnnealingLR", eta_min=4e-6, by_epoch=False),
]
train_cfg = dict(max_iters=3400, val_interval=850)
val_evaluator = dict(type="CocoMetric")
ema = dict(decay=0.998)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=250, save_best="AP50"))
channels_last = True
randomness = dict(seed=0)
bundle = dict(
    name="dino-digits",
    task="detection",
    labels=["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
    license="Apache-2.0",
    preprocess=dict(resize=dict(exact=[128, 128])),  # the shape it was trained on
    postprocess=dict(threshold=0.3),
    examples=dict(type="DigitsInPhotos", split="val", seed=31, size=128),
    description="""A small DINO that finds handwritten digits in photographs.

- **Model**: SmallResNet with maps of stride 8, 16 and 32, two deformable encoder and three decoder
  layers of width 128, 40 queries, contrastive denoising in training. `training.json` contains the
  full config with the seed, `log.jsonl` the curves.
- **Data**: digits-in-photos, the data and classes of detr-digits: handwritten digits from
  scikit-learn's `load_digits` (UCI Optical Recognition of Handwritten Digits, CC BY 4.0) on sample
  photographs of scikit-learn (CC BY 2.0, danielbuechele and vultilion) and scikit-image (CC0 or
  public domain). Validation shares no photographs and no digits with training; writers may be
  shared.
- **Recipe**: `cupola train dino-digits`, from scratch, without a pretrained backbone; one CPU core of
  a shared machine, 82 minutes by the log, 54,400 images. detr-digits took 129 minutes, 272,000
  images and a pretrained backbone.
- **History**: until step 500 the run was scheduled for 5,000 steps, then it was resumed with the
  schedule of the config.
- **Limits**: every image is resized to 128 x 128 pixels, so digits below a tenth of the image
  are missed. It was not trained on printed digits or other handwriting.""",
)
