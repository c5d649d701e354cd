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


def labels_for(num_classes: int) -> tuple[str, ...]:
    """COCO's names for 80 classes (MMDetection) or 91 (by category id); empty for other counts."""
    if num_classes == 80:
        return COCO_80
    return COCO_BY_ID if num_classes == 91 else ()
