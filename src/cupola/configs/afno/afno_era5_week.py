# afno-era5-week: a forecast of real weather, 7 hours a step, at 2 degrees, from one week of ERA5.
# `cupola data real-fields FOLDER` writes the data. About ten minutes on one CPU core.
data = "era5_week.nc"
channels = ["t2m", "u10", "v10", "msl", "lsm", "cos_zenith", "cos_zenith_next"]
fields = dict(
    type="FieldDataset",
    path=data,
    channels=channels,
    targets=["t2m", "u10", "v10", "msl"],
    means=dict(
        t2m=278.0, u10=0.0, v10=0.15, msl=100930.0, lsm=0.3, cos_zenith=0.0, cos_zenith_next=0.0
    ),
    stds=dict(
        t2m=21.7, u10=5.5, v10=4.9, msl=1300.0, lsm=0.46, cos_zenith=0.5, cos_zenith_next=0.5
    ),
    interval=7.0,
)
model = dict(
    type="AFNONet",
    img_size=(90, 180),
    patch_size=3,
    in_chans=7,
    out_chans=4,
    embed_dim=64,
    depth=3,
    num_blocks=4,
    modes="lowpass",
    sparsity_threshold=0.0,
    init_std=0.1,
    mode_gain=True,
    residual=True,
    latitude_weights=True,
)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(fields, last="2026-03-29T12", symmetries=True),
)
val_dataloader = dict(batch_size=1, dataset=dict(fields, first="2026-03-29T12"))
val_evaluator = dict(type="ForecastMetric", latitude_weights=True, by_channel=True)
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.05), clip_grad=dict(max_norm=1.0)
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, begin=0, end=50, by_epoch=False),
    dict(type="CosineAnnealingLR", by_epoch=False),
]
train_cfg = dict(max_iters=500, val_interval=500)
ema = dict(decay=0.99)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=100))
randomness = dict(seed=0)
