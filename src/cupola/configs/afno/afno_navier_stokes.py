# afno-navier-stokes, first stage: one step of a turbulent flow of 32 x 32 points, 0.2 time units.
# The flows are generated on the first batch (a few seconds); a few minutes on one CPU core in total.
flow = dict(
    type="NavierStokes",
    size=32,
    viscosity=2e-2,
    forcing=1.0,
    wave=2,
    drag=0.1,
    dt=0.02,
    interval=0.2,
    spin_up=10.0,
    std=2.0,
)
examples = dict(flow, count=4, snapshots=33, seed=2)
model = dict(
    type="AFNONet",
    img_size=(32, 32),
    patch_size=2,
    in_chans=1,
    out_chans=1,
    embed_dim=64,
    depth=3,
    num_blocks=4,
    modes="lowpass",  # the paper's intent: every mode of a square grid, nothing left out
    sparsity_threshold=0.0,  # 0.01 permanently zeroes the filter of a narrow network
    init_std=0.1,
    mode_gain=True,  # advection needs velocities, which are vorticities weighted by wave number
    residual=True,
)
train_dataloader = dict(
    batch_size=8, dataset=dict(flow, count=32, snapshots=40, steps=1, seed=0, shifts=True)
)
val_dataloader = dict(batch_size=16, dataset=dict(flow, count=4, snapshots=12, steps=8, seed=1))
val_evaluator = dict(type="ForecastMetric")
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=4e-3, weight_decay=1e-4), clip_grad=dict(max_norm=1.0)
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, begin=0, end=100, by_epoch=False),
    dict(type="CosineAnnealingLR", by_epoch=False),
]
train_cfg = dict(max_iters=1200, val_interval=600)
ema = dict(decay=0.99)
default_hooks = dict(
    logger=dict(interval=50),
    checkpoint=dict(interval=200, save_best="relative_l2", rule="less"),
)
randomness = dict(seed=0)
