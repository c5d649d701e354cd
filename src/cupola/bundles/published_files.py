"""Where the checkpoints lie that configs of OpenMMLab name without a URL.

Facts of mmengine 0.10's tables (hub/openmmlab.json, hub/torchvision_0.12.json), as far as configs
of MMDetection 2.28.2 and 3.3.0 and of MMDetection3D 1.4.0 use them.
"""

SITES = {
    "torchvision": "https://download.pytorch.org/models/",
    "open-mmlab": "https://download.openmmlab.com/pretrain/third_party/",
    "openmmlab": "https://download.openmmlab.com/pretrain/third_party/",
}

OPENMMLAB = {
    "contrib/resnet50_gn": "resnet50_gn_thangvubk-ad1730dd.pth",
    "darknet53": "darknet53-a628ea1b.pth",
    "detectron/resnet101_caffe": "resnet101_caffe-3ad79236.pth",
    "detectron/resnet101_gn": "resnet101_gn-cac0ab98.pth",
    "detectron/resnet50_caffe": "resnet50_caffe-788b5fa3.pth",
    "detectron/resnet50_gn": "resnet50_gn-9186a21c.pth",
    "detectron2/resnet101_caffe": "resnet101_msra-6cc46731.pth",
    "detectron2/resnet101_caffe_bgr": "resnet101_msra-6cc46731.pth",
    "detectron2/resnet50_caffe": "resnet50_msra-5891d200.pth",
    "detectron2/resnet50_caffe_bgr": "resnet50_msra-5891d200.pth",
    "detectron2/resnext101_32x8d": "resnext101_32x8d-1516f1aa.pth",
    "jhu/resnet101_gn_ws": "resnet101_gn_ws-3e3c308c.pth",
    "jhu/resnet50_gn_ws": "resnet50_gn_ws-15beedd8.pth",
    "jhu/resnext101_32x4d_gn_ws": "resnext101_32x4d_gn_ws-34ac1a9e.pth",
    "jhu/resnext50_32x4d_gn_ws": "resnext50_32x4d_gn_ws-0d87ac85.pth",
    "mmdet/mobilenet_v2": "https://download.openmmlab.com/mmdetection/v2.0/third_party/"
    "mobilenet_v2_batch256_imagenet-ff34753d.pth",
    "msra/hrnetv2_w18": "hrnetv2_w18-00eb2006.pth",
    "msra/hrnetv2_w32": "hrnetv2_w32-dc9eeb4f.pth",
    "msra/hrnetv2_w40": "hrnetv2_w40-ed0b031c.pth",
    "regnetx_1.6gf": "regnetx_1.6gf-5791c176.pth",
    "regnetx_12gf": "regnetx_12gf-4c2a3350.pth",
    "regnetx_3.2gf": "regnetx_3.2gf-c2599b0f.pth",
    "regnetx_4.0gf": "regnetx_4.0gf-a88f671e.pth",
    "regnetx_400mf": "regnetx_400mf-a5b10d96.pth",
    "regnetx_6.4gf": "regnetx_6.4gf-006af45d.pth",
    "regnetx_8.0gf": "regnetx_8.0gf-3c68abe7.pth",
    "regnetx_800mf": "regnetx_800mf-1f4be4c7.pth",
    "res2net101_v1d_26w_4s": "res2net101_v1d_26w_4s_mmdetv2-f0a600f9.pth",
    "resnest101": "resnest101_d2-f3b931b2.pth",
    "resnest50": "resnest50_d2-7497a55b.pth",
    "resnext101_32x4d": "resnext101_32x4d-a5af3160.pth",
    "resnext101_64x4d": "resnext101_64x4d-ee2c6f71.pth",
    "vgg16_caffe": "vgg16_caffe-292e1171.pth",
}

FILES = {
    "torchvision": {
        "resnet101": "resnet101-63fe2227.pth",
        "resnet152": "resnet152-394f9c45.pth",
        "resnet18": "resnet18-f37072fd.pth",
        "resnet34": "resnet34-b627a593.pth",
        "resnet50": "resnet50-0676ba61.pth",
        "vgg16": "vgg16-397923af.pth",
    },
    "open-mmlab": OPENMMLAB,
    "openmmlab": OPENMMLAB,
}
