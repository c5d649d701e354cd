"""The embedding and the loss of a language model over processes."""

import math

import pytest
import torch

from cupola.bundles import Bundle
from cupola.cli.explained_model import load_model
from cupola.errors import InputError
from cupola.inspect.ranks import over_ranks

IDS = (5, 700, 1300, 2047, 9)


@pytest.mark.slow
def test_two_ranks_agree_with_one_process() -> None:
    bundle = Bundle.load("bloom-tiny")
    steps = over_ranks(bundle.model_config, bundle.weights_path, IDS, 2)
    assert [(each.first, each.last) for each in steps] == [(0, 1024), (1024, 2048)]
    assert [each.found for each in steps] == [(0, 1), (2, 3)]
    assert steps[1].chosen is None and steps[0].chosen is not None
    total = sum(each.total for each in steps)
    model, _ = load_model("bloom-tiny", bundle, [])
    logits = model.eval()(torch.tensor([IDS[:-1]]))[0, -1]
    loss = float(torch.nn.functional.cross_entropy(logits, torch.tensor(IDS[-1])))
    assert max(each.largest for each in steps) == pytest.approx(float(logits.max()), abs=1e-4)
    assert math.log(total) - steps[0].chosen == pytest.approx(loss, abs=1e-4)
    assert [each.loss for each in steps] == pytest.approx([loss, loss], abs=1e-4)
    whole = model.head.weight[torch.tensor(IDS[:-1])].norm()
    assert math.hypot(*(each.norm for each in steps)) == pytest.approx(float(whole), rel=1e-4)


@pytest.mark.slow
def test_ranks_that_do_not_divide_the_heads() -> None:
    bundle = Bundle.load("bloom-tiny")
    with pytest.raises(InputError, match="n_head 4 cannot be split over 3"):
        over_ranks(bundle.model_config, bundle.weights_path, IDS, 3)


def test_a_text_of_one_token_has_no_loss() -> None:
    bundle = Bundle.load("bloom-tiny")
    with pytest.raises(InputError, match="two tokens"):
        over_ranks(bundle.model_config, bundle.weights_path, IDS[:1], 2)
