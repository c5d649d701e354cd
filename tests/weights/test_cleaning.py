"""What training tools add to the keys of a checkpoint is removed, and said."""

import logging

import pytest
import torch

from cupola import nn
from cupola.errors import CheckpointError
from cupola.weights import load_weights


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "net."])
def test_a_prefix_of_every_key_is_removed(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    source, target = net(), net()
    with caplog.at_level(logging.WARNING, "cupola"):
        report = load_weights(target, {prefix + k: v for k, v in source.state_dict().items()})
    assert torch.equal(target[0].weight, source[0].weight)
    assert report.loaded == 4 and "was removed" in str(report) and "was removed" in caplog.text


def test_a_prefix_of_some_keys_stays() -> None:
    state = net().state_dict()
    state["module.0.weight"] = state.pop("0.weight")
    with pytest.raises(CheckpointError, match=r"not in the model: module\.0\.weight"):
        load_weights(net(), state)


def test_moving_averages_next_to_the_weights_are_left_aside() -> None:
    source, target = net(), net()
    state = source.state_dict()
    state |= {"ema_" + k.replace(".", "_"): v + 1 for k, v in list(state.items())}
    report = load_weights(target, state)
    assert torch.equal(target[2].bias, source[2].bias)
    assert "4 moving averages" in str(report)


def test_a_clean_state_dict_has_no_notes() -> None:
    assert load_weights(net(), net().state_dict()).notes == []
