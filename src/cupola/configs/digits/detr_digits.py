# detr-digits: a DETR with 2 M parameters that finds handwritten digits in photographs.
# Run pretrain_backbone first; its checkpoint is `load_from`. Takes an hour on one CPU core;
# detr_digits_longer.py continues from the result.
_base_ = "./_data.py"
attention = dict(embed_dims=128, num_heads=8, dropout=0.0, batch_first=True)
feed_forward = dict(
    embed_dims=128,
    feedforward_channels=512,
    num_fcs=2,
    ffn_drop=0.0,
    act_cfg=dict(type="ReLU", inplace=True),
)
model = dict(
    type="DETR",
    num_queries=25,
    training_groups=3,  # Group DETR: three times the matches per step for a third more time
    backbone=dict(
        type="SmallResNet", stem_channels=32, channels=(48, 96, 128, 128), strides=(2, 2, 1, 2)
    ),
    neck=dict(
        type="ChannelMapper",
        in_channels=[128],
        kernel_size=1,
        out_channels=128,
        act_cfg=None,
        norm_cfg=None,
        num_outs=1,
    ),
    encoder=dict(num_layers=3, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=feed_forward)),
    decoder=dict(
        num_layers=3,
        layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=feed_forward),
        return_intermediate=True,
    ),
    positional_encoding=dict(num_feats=64, normalize=True),
    bbox_head=dict(type="DETRHead", num_classes=10, embed_dims=128),
    test_cfg=dict(max_per_img=25),
)
load_from = dict(path="work_dirs/pretrain_backbone/latest.pth", prefix="backbone")
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=3e-4, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1),
    paramwise_cfg=dict(custom_keys={"backbone": dict(lr_mult=4.0)}),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.02, begin=0, end=100, by_epoch=False),
    dict(type="CosineAnnealingLR", eta_min=3e-6, by_epoch=False),
]
train_cfg = dict(max_iters=8000, val_interval=1000)
val_evaluator = dict(type="CocoMetric")
ema = dict(decay=0.998)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=250, save_best="AP50"))
channels_last = True
randomness = dict(seed=0)
bundle = dict(
    name="detr-digits",
    task="detection",
    labels=["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
    license="Apache-2.0",
    preprocess=dict(resize=dict(exact=[128, 128])),  # the shape it was trained on
    postprocess=dict(threshold=0.5),
    model=dict(training_groups=1),
    examples=dict(type="DigitsInPhotos", split="val", seed=31, size=128),
    description="""A small DETR that finds handwritten digits in photographs.

- **Model**: SmallResNet to stride 16, three encoder and three decoder layers of width 128, 25
  queries. `training.json` contains the full config with the seed, `log.jsonl` the curves.
- **Data**: digits-in-photos, generated on the fly: handwritten digits from scikit-learn's
  `load_digits` (UCI Optical Recognition of Handwritten Digits, CC BY 4.0), 0.11 to 0.36 of the
  image side in size, rotated by up to 20 degrees, in any color, 1 to 10 per image, on sample
  photographs of scikit-learn (CC BY 2.0, danielbuechele and vultilion) and scikit-image (CC0 or
  public domain). Validation shares no photographs and no digits with training; writers may be
  shared.
- **Recipe**: `cupola train pretrain-backbone`, then `cupola train detr-digits`, then
  `cupola train detr-digits-longer`; one CPU core, about two hours in total, 272,000 images. In the
  second run digits are squeezed by up to 1.5 times, as in images that are not square. `log.jsonl`
  shows the second run.
- **Limits**: every image is resized to 128 x 128 pixels, so digits below a tenth of the image
  are missed. It was not trained on printed digits or other handwriting.
- **Other aspect ratios**: on 200 images, AP50 is 0.873 unsqueezed, 0.870 squeezed by up to 4:3,
  and 0.854 squeezed by up to 16:9.""",
)
