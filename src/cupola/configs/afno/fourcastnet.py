# FourCastNet's backbone (arXiv 2202.11214; NVlabs/FourCastNet config/AFNO.yaml, afno_backbone).
# Data: yearly HDF5 files of ERA5 at 0.25 degrees and 6 hours, as published.
data_root = "era5/"
channels = ["u10", "v10", "t2m", "sp", "msl", "t850", "u1000", "v1000", "z1000", "u850", "v850"] + [
    "z850",
    "u500",
    "v500",
    "z500",
    "t500",
    "z50",
    "r500",
    "r850",
    "tcwv",
]
model = dict(
    type="AFNONet",
    img_size=(720, 1440),
    patch_size=8,
    in_chans=20,
    out_chans=20,
    embed_dim=768,
    depth=12,
    num_blocks=8,
)
fields = dict(
    type="FieldDataset",
    channels=channels,
    means=data_root + "stats/global_means.npy",
    stds=data_root + "stats/global_stds.npy",
    rows=720,  # of 721: the south pole is dropped
)
train_dataloader = dict(
    batch_size=64,  # of all ranks together; divide by their number
    num_workers=4,
    dataset=dict(fields, path=data_root + "train", steps=1),  # 1979 to 2015
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    dataset=dict(fields, path=data_root + "test", steps=4),  # 2016 and 2017
)
val_evaluator = dict(type="ForecastMetric", latitude_weights=True)
optim_wrapper = dict(optimizer=dict(type="Adam", lr=5e-4))
param_scheduler = [dict(type="CosineAnnealingLR", by_epoch=True)]
train_cfg = dict(max_epochs=150, val_interval=1)
default_hooks = dict(checkpoint=dict(save_best="relative_l2", rule="less"))
randomness = dict(seed=0)
