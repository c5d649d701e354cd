# DETR-DC5-R50: the last stage keeps its resolution and dilates instead. Its first block stays
# undilated, as torchvision builds it.
_base_ = "detr_r50_facebook.py"

model = dict(backbone=dict(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), dilate_first_block=False))
