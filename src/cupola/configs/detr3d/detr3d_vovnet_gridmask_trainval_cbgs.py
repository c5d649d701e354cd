# DETR3D on VoVNet-99, trained on train and val together: the entry of the test leaderboard.
_base_ = "./detr3d_r101_gridmask_cbgs.py"
images = dict(mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395])
model = dict(
    data_preprocessor=images,
    img_backbone=dict(
        _delete_=True,
        type="VoVNet",
        spec_name="V-99-eSE",
        norm_eval=True,
        frozen_stages=1,
        input_ch=3,
        out_features=["stage2", "stage3", "stage4", "stage5"],
    ),
    img_neck=dict(in_channels=[256, 512, 768, 1024], start_level=0),
)
train_dataloader = dict(
    dataset=dict(dataset=dict(ann_file="nuscenes_infos_trainval.pkl", images=images))
)
val_dataloader = dict(dataset=dict(images=images))
load_from = "ckpts/dd3d_det_final.pth"
