# afno-navier-stokes, second stage: the loss of two steps, the second made from the first.
_base_ = "./afno_navier_stokes.py"
load_from = "work_dirs/afno_navier_stokes/best.pth"
train_dataloader = dict(dataset=dict(steps=2))
optim_wrapper = dict(optimizer=dict(lr=5e-4))
train_cfg = dict(max_iters=400, val_interval=200)
