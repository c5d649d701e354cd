# stream-petr-streets: a StreamPETR of 2 M parameters, trained from scratch on generated drives.
# The model's keys are those of the published configs.
_base_ = "./_data.py"
pc_range = [-35.0, -35.0, -3.0, 35.0, 35.0, 3.0]
channels = 128
model = dict(
    type="StreamPETR",
    img_backbone=dict(
        type="ResNet",
        depth=18,
        stem_channels=32,
        base_channels=32,
        num_stages=3,
        out_indices=(1, 2),  # strides 8 and 16
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
    ),
    img_neck=dict(type="CPFPN", in_channels=[64, 128], out_channels=channels, num_outs=2),
    pts_bbox_head=dict(
        type="StreamPETRHead",
        num_classes=4,
        in_channels=channels,
        embed_dims=channels,
        stride=8,
        num_query=100,
        memory_len=128,
        topk_proposals=32,
        num_propagated=32,
        with_ego_pos=True,
        match_with_velo=False,
        scalar=5,
        noise_scale=1.0,
        noise_trans=1.0,  # meters: half of a pedestrian's side would be no noise
        dn_weight=1.0,
        split=0.75,
        LID=True,
        position_range=[-40.0, -40.0, -8.0, 40.0, 40.0, 8.0],
        code_weights=[2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 1.0, 1.0],
        transformer=dict(
            type="PETRTemporalTransformer",
            decoder=dict(
                type="PETRTransformerDecoder",
                return_intermediate=True,
                num_layers=4,
                transformerlayers=dict(
                    type="PETRTemporalDecoderLayer",
                    attn_cfgs=[
                        dict(
                            type="MultiheadAttention",
                            embed_dims=channels,
                            num_heads=8,
                            dropout=0.0,
                        ),
                        dict(
                            type="PETRMultiheadAttention",
                            embed_dims=channels,
                            num_heads=8,
                            dropout=0.0,
                        ),
                    ],
                    feedforward_channels=4 * channels,
                    ffn_dropout=0.0,
                    operation_order=("self_attn", "norm", "cross_attn", "norm", "ffn", "norm"),
                ),
            ),
        ),
        bbox_coder=dict(
            type="NMSFreeCoder",
            pc_range=pc_range,
            post_center_range=[-40.0, -40.0, -5.0, 40.0, 40.0, 5.0],
            max_num=60,
            num_classes=4,
        ),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0),
        loss_bbox=dict(type="L1Loss", loss_weight=0.25),
    ),
    train_cfg=dict(
        pts=dict(
            assigner=dict(
                type="HungarianAssigner3D",
                cls_cost=dict(type="FocalLossCost", weight=2.0),
                reg_cost=dict(type="BBox3DL1Cost", weight=0.25),
                pc_range=pc_range,
            )
        )
    ),
)
bundle = dict(name="stream-petr-streets", description="")
