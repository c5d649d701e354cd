# The second stage: 50 epochs on the sum of two steps' losses, the second predicted from the first.
_base_ = "./fourcastnet.py"
load_from = "work_dirs/fourcastnet/best.pth"
train_dataloader = dict(dataset=dict(steps=2))
optim_wrapper = dict(optimizer=dict(lr=1e-4))
train_cfg = dict(max_epochs=50)
