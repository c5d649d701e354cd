# afno-navier-stokes, first stage: one step of a turbulent flow of 64 x 64 points, 0.25 time units.
# The flows are generated on the first batch (about a minute); ten minutes on one CPU core in all.
flow = dict(
    type="NavierStokes",
    size=64,
    viscosity=1e-2,
    forcing=1.0,
    wave=4,
    drag=0.1,
    dt=0.01,
    interval=0.25,
    spin_up=10.0,
    std=3.0,
)
examples = dict(flow, count=3, snapshots=33, seed=2)
model = dict(
    type="AFNONet",
    img_size=(64, 64),
    patch_size=4,
    in_chans=1,
    out_chans=1,
    embed_dim=96,
    depth=4,
    num_blocks=4,
    modes="lowpass",  # the paper's intent: every mode of a square grid, nothing left out
    residual=True,
)
train_dataloader = dict(
    batch_size=16, dataset=dict(flow, count=32, snapshots=64, steps=1, seed=0, shifts=True)
)
val_dataloader = dict(batch_size=16, dataset=dict(flow, count=4, snapshots=16, steps=8, seed=1))
val_evaluator = dict(type="ForecastMetric")
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=1e-4), clip_grad=dict(max_norm=1.0)
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, begin=0, end=100, by_epoch=False),
    dict(type="CosineAnnealingLR", by_epoch=False),
]
train_cfg = dict(max_iters=2400, val_interval=400)
ema = dict(decay=0.99)
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(interval=250, save_best="relative_l2", rule="less"),
)
randomness = dict(seed=0)
