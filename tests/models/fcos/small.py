"""A small FCOS."""

HEAD = {
    "type": "FCOSHead",
    "num_classes": 3,
    "in_channels": 8,
    "feat_channels": 8,
    "stacked_convs": 1,
    "strides": [8, 16],
    "regress_ranges": [[-1, 32], [32, 1e8]],
    "norm_cfg": {"type": "GN", "num_groups": 2},
}
MODEL = {
    "type": "FCOS",
    "backbone": {"type": "ResNet", "depth": 18, "out_indices": [1, 2]},
    "neck": {"type": "FPN", "in_channels": [128, 256], "out_channels": 8, "num_outs": 2},
    "bbox_head": HEAD,
    "test_cfg": {
        "nms_pre": 100,
        "min_bbox_size": 0,
        "score_thr": 0.0,
        "nms": {"type": "nms", "iou_threshold": 0.5},
        "max_per_img": 10,
    },
}
