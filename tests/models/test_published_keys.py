"""Published detectors have the state dict of MMDetection: every key, shape and type, in order."""

import json
import warnings
from typing import Any

import pytest

from cupola import nn
from cupola.errors import BuildError
from cupola.registry import build
from cupola.runtime.building import without_pretrained
from published_models import PUBLISHED, published_keys

LEAST = 1251  # of 1,283 configs
# A config of each family, in both spellings where they differ.
FAMILIES = (
    "3.3.0/retinanet/retinanet_r50_fpn_1x_coco.py",
    "3.3.0/rpn/rpn_r50_fpn_1x_coco.py",
    "2.28.2/rpn/rpn_r50_fpn_1x_coco.py",
    "3.3.0/atss/atss_r50_fpn_1x_coco.py",
    "3.3.0/gfl/gfl_r50_fpn_1x_coco.py",
    "3.3.0/vfnet/vfnet_r50-mdconv-c3-c5_fpn_ms-2x_coco.py",
    "3.3.0/paa/paa_r50_fpn_1x_coco.py",
    "3.3.0/tood/tood_r101-dconv-c3-c5_fpn_ms-2x_coco.py",
    "3.3.0/ssd/ssd300_coco.py",
    "3.3.0/reppoints/reppoints-bbox_r50_fpn-gn_head-gn-grid_1x_coco.py",
    "2.28.2/yolo/yolov3_d53_320_273e_coco.py",
    "2.28.2/yolox/yolox_s_8x8_300e_coco.py",
    "3.3.0/rtmdet/rtmdet_s_8xb32-300e_coco.py",
    "3.3.0/mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py",
    "3.3.0/ms_rcnn/ms-rcnn_r50-caffe_fpn_1x_coco.py",
    "3.3.0/htc/htc_r50_fpn_1x_coco.py",
    "3.3.0/seesaw_loss/mask-rcnn_r50_fpn_seesaw-loss-normed-mask_random-ms-2x_lvis-v1.py",
    "2.28.2/cascade_rcnn/cascade_mask_rcnn_r50_fpn_1x_coco.py",
    "2.28.2/centernet/centernet_resnet18_dcnv2_140e_coco.py",
    "2.28.2/yolof/yolof_r50_c5_8x8_1x_coco.py",
    "3.3.0/foveabox/fovea_r50_fpn_gn-head-align_4xb4-2x_coco.py",
    "2.28.2/ghm/retinanet_ghm_r50_fpn_1x_coco.py",
    "3.3.0/free_anchor/freeanchor_r50_fpn_1x_coco.py",
    "3.3.0/centernet/centernet_r18-dcnv2_8xb16-crop512-140e_coco.py",
    "3.3.0/centernet/centernet-update_r50_fpn_8xb8-amp-lsj-200e_coco.py",
    "3.3.0/rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py",
    "3.3.0/solov2/solov2_r50_fpn_1x_coco.py",
    "2.28.2/solov2/solov2_light_r50_dcn_fpn_3x_coco.py",
    "3.3.0/solo/solo_r50_fpn_1x_coco.py",
    "3.3.0/solo/decoupled-solo_r50_fpn_1x_coco.py",
    "2.28.2/solo/decoupled_solo_light_r50_fpn_3x_coco.py",
    "3.3.0/panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py",
    "2.28.2/panoptic_fpn/panoptic_fpn_r50_fpn_1x_coco.py",
    "3.3.0/nas_fpn/retinanet_r50_nasfpn_crop640-50e_coco.py",
    "3.3.0/libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py",
    "2.28.2/groie/mask_rcnn_r50_fpn_groie_1x_coco.py",
    "2.28.2/sparse_rcnn/sparse_rcnn_r50_fpn_1x_coco.py",
    "3.3.0/queryinst/queryinst_r50_fpn_1x_coco.py",
    "3.3.0/guided_anchoring/ga-retinanet_r50-caffe_fpn_1x_coco.py",
    "2.28.2/guided_anchoring/ga_rpn_r50_caffe_fpn_1x_coco.py",
    "3.3.0/sabl/sabl-cascade-rcnn_r50_fpn_1x_coco.py",
    "3.3.0/grid_rcnn/grid-rcnn_r50_fpn_gn-head_2x_coco.py",
    "3.3.0/scnet/scnet_r50_fpn_1x_coco.py",
    "3.3.0/double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py",
    "2.28.2/sabl/sabl_retinanet_r50_fpn_gn_1x_coco.py",
    "2.28.2/pisa/pisa_mask_rcnn_r50_fpn_1x_coco.py",
    "3.3.0/condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py",
    "3.3.0/boxinst/boxinst_r50_fpn_ms-90k_coco.py",
    "3.3.0/point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py",
    "2.28.2/cascade_rpn/crpn_r50_caffe_fpn_1x_coco.py",
    "3.3.0/cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py",
    "3.3.0/nas_fcos/nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_coco.py",
    "3.3.0/tridentnet/tridentnet_r50-caffe_1x_coco.py",
    "3.3.0/yolact/yolact_r50_1xb8-55e_coco.py",
    "2.28.2/yolact/yolact_r50_1x8_coco.py",
    "3.3.0/fsaf/fsaf_r50_fpn_1x_coco.py",
    "3.3.0/v3det/cascade_rcnn_r50_fpn_8x4_sample1e-3_mstrain_v3det_2x.py",
    "3.3.0/v3det/fcos_r50_fpn_8x4_sample1e-3_mstrain_v3det_2x.py",
    "3.3.0/carafe/mask-rcnn_r50_fpn-carafe_1x_coco.py",
    "3.3.0/ddod/ddod_r50_fpn_1x_coco.py",
    "2.28.2/autoassign/autoassign_r50_fpn_8x2_1x_coco.py",
    "3.3.0/efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco.py",
)


def keys(model: Any) -> list[Any]:
    """Of a published config's model; BuildError if it is not supported."""
    with nn.on_meta(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        built = build(without_pretrained(model))
    return [[key, list(v.shape), str(v.dtype)[6:]] for key, v in built.state_dict().items()]


@pytest.mark.parametrize("config", FAMILIES)
def test_keys_of_a_family(config: str) -> None:
    assert keys(PUBLISHED[config]) == published_keys(config)


@pytest.mark.slow
def test_keys_of_every_config_that_builds() -> None:
    built, different = 0, []
    same: dict[str, Any] = {}  # most configs differ in their schedule alone
    for config, published in PUBLISHED.items():
        model = json.dumps(published)
        if model not in same:
            try:
                same[model] = keys(published)
            except BuildError:
                same[model] = None
        if same[model] is not None:
            built += 1
            if same[model] != published_keys(config):
                different.append(config)
    assert not different
    assert built >= LEAST
