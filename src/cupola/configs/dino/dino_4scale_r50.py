# DINO with four scales, ResNet-50: the model and recipe of arXiv 2203.03605 as MMDetection 3.x
# publishes them, 12 epochs. What is not named here is as in Deformable DETR.
_base_ = "../deformable_detr/deformable_detr_r50.py"
sampling = dict(embed_dims=256, num_levels=4, dropout=0.0)
feed_forward = dict(embed_dims=256, feedforward_channels=2048, ffn_drop=0.0)

model = dict(
    type="DINO",
    num_queries=900,  # without denoising queries
    encoder=dict(num_layers=6, layer_cfg=dict(self_attn_cfg=sampling, ffn_cfg=feed_forward)),
    decoder=dict(
        num_layers=6,
        layer_cfg=dict(
            self_attn_cfg=dict(embed_dims=256, num_heads=8, dropout=0.0),
            cross_attn_cfg=sampling,
            ffn_cfg=feed_forward,
        ),
    ),
    positional_encoding=dict(num_feats=128, normalize=True, offset=0.0, temperature=20),
    bbox_head=dict(type="DINOHead", loss_cls=dict(loss_weight=1.0)),
    dn_cfg=dict(
        label_noise_scale=0.5,
        box_noise_scale=1.0,
        group_cfg=dict(dynamic=True, num_dn_queries=100),
    ),
    test_cfg=dict(max_per_img=300),
)

optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=1e-4),
    paramwise_cfg=dict(custom_keys=dict(_delete_=True, backbone=dict(lr_mult=0.1))),
)
train_cfg = dict(max_epochs=12, val_interval=1)
param_scheduler = [
    dict(type="MultiStepLR", begin=0, end=12, by_epoch=True, milestones=[11], gamma=0.1)
]
