# Precipitation: the frozen wind model advances the state by 6 hours; a second network predicts
# 6-hour totals from it. Targets are log(1 + tp / 1e-5), in a variable `tp_log` of the files.
_base_ = "./fourcastnet.py"
model = dict(
    _delete_=True,
    type="PrecipNet",
    wind={{_base_.model}},
    backbone=dict(
        type="AFNONet",
        img_size=(720, 1440),
        patch_size=8,
        in_chans=20,
        out_chans=1,
        embed_dim=768,
        depth=12,
        num_blocks=8,
    ),
)
load_from = dict(path="work_dirs/fourcastnet_finetune/best.pth", into="wind")
train_dataloader = dict(dataset=dict(targets=["tp_log"]))
val_dataloader = dict(dataset=dict(targets=["tp_log"], steps=1))
optim_wrapper = dict(optimizer=dict(lr=2.5e-4))
train_cfg = dict(max_epochs=25)
