# afno-navier-stokes, second stage: the loss of two steps, the second made from the first.
_base_ = "./afno_navier_stokes.py"
load_from = "work_dirs/afno_navier_stokes/best.pth"
train_dataloader = dict(dataset=dict(steps=2))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_cfg = dict(max_iters=60, val_interval=60)
bundle = dict(
    name="afno-navier-stokes",
    task="forecast",
    licence="Apache-2.0",
    description="Steps a turbulent two-dimensional flow forward: vorticity on a torus of 32 x 32"
    " points and side 2 pi, driven at wave number 2, viscosity 0.02, drag 0.1; a step is 0.2 time"
    " units. An AFNO whose every weight was trained on generated flows by"
    " `cupola train afno_navier_stokes` and `cupola train afno_navier_stokes_finetune`."
    " Errors below are on flows from other random starts, in units of the standard deviation 2.",
    preprocess=dict(
        channels=["vorticity"],
        units=["1"],
        mean=[0.0],
        std=[2.0],
        grid=dict(kind="torus", size=[32, 32], length=6.283185307179586),
        interval=0.2,
        interval_unit="time units",
    ),
    examples={{_base_.examples}},
)
