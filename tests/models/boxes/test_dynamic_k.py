"""dynamic_k for a batch against the definition, image by image and object by object."""

import torch

from cupola.models.boxes.assigning import NEGATIVE
from cupola.models.boxes.dynamic_k import dynamic_k


def test_objects_of_a_batch_are_assigned_as_those_of_each_image() -> None:
    torch.manual_seed(0)
    images, cells, most = 4, 50, 6
    cost, overlaps = torch.rand(images, cells, most), torch.rand(images, cells, most)
    possible = (torch.rand(images, cells, 1) < 0.6).expand(-1, -1, most).clone()
    for image, count in enumerate((6, 3, 0, 1)):
        possible[image, :, count:] = False
    owners, found = dynamic_k(cost, overlaps, possible, topk=5)
    for image in range(images):
        usable = possible[image].any(1).nonzero()[:, 0]
        expected = torch.full((cells,), NEGATIVE)
        matched: dict[int, list[int]] = {}
        for number in range(int(possible[image].any(0).sum())):
            mine, iou = cost[image, usable, number], overlaps[image, usable, number]
            count = max(1, int(iou.topk(5).values.sum()))
            for cell in mine.topk(count, largest=False).indices.tolist():
                matched.setdefault(int(usable[cell]), []).append(number)
        for cell, numbers in matched.items():
            count = int(possible[image].any(0).sum())
            best = int(cost[image, cell, :count].argmin())
            expected[cell] = numbers[0] if len(numbers) == 1 else best
        assert torch.equal(owners[image], expected)
        at = expected >= 0
        assert torch.equal(found[image, at], overlaps[image, at, expected[at]])
        assert not found[image, ~at].any()


def test_no_cell_and_no_object() -> None:
    for shape in ((2, 0, 3), (2, 4, 0)):
        nothing = torch.zeros(shape)
        owners, found = dynamic_k(nothing, nothing, nothing.bool(), topk=5)
        assert owners.shape == found.shape == shape[:2]
        assert (owners == NEGATIVE).all()
