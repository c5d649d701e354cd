"""Names of the classes that published detectors were trained on."""

# COCO's category ids 1..90 in order; "N/A" where the 2017 release has no category.
COCO_91 = (
    "N/A person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant "
    "N/A stop_sign parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe "
    "N/A backpack umbrella N/A N/A handbag tie suitcase frisbee skis snowboard sports_ball kite "
    "baseball_bat baseball_glove skateboard surfboard tennis_racket bottle N/A wine_glass cup fork "
    "knife spoon bowl banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair "
    "couch potted_plant bed N/A dining_table N/A N/A toilet N/A tv laptop mouse remote keyboard "
    "cell_phone microwave oven toaster sink refrigerator N/A book clock vase scissors teddy_bear "
    "hair_drier toothbrush"
)
COCO_BY_ID = tuple(name.replace("_", " ") for name in COCO_91.split())
COCO_80 = tuple(name for name in COCO_BY_ID if name != "N/A")


# The stuff of COCO's panoptic segmentation, in the order of the category ids.
COCO_STUFF = (
    "banner blanket bridge cardboard counter curtain door-stuff floor-wood flower fruit gravel "
    "house light mirror-stuff net pillow platform playingfield railroad river road roof sand sea "
    "shelf snow stairs tent towel wall-brick wall-stone wall-tile wall-wood water-other "
    "window-blind window-other tree-merged fence-merged ceiling-merged sky-other-merged "
    "cabinet-merged table-merged floor-other-merged pavement-merged mountain-merged grass-merged "
    "dirt-merged paper-merged food-other-merged building-other-merged rock-merged "
    "wall-other-merged rug-merged"
)
COCO_PANOPTIC = (*COCO_80, *COCO_STUFF.split())


def labels_for(num_classes: int) -> tuple[str, ...]:
    """COCO's names for 80 classes (MMDetection), 91 (by category id) or 133 (panoptic).

    Empty for other counts.
    """
    if num_classes == 80:
        return COCO_80
    if num_classes == len(COCO_PANOPTIC):
        return COCO_PANOPTIC
    return COCO_BY_ID if num_classes == 91 else ()
