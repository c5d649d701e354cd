"""Building without values, and taking a file's tensors without a copy."""

import torch

from cupola import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Embedding(3, 4, 0))
        self.position = nn.Parameter(torch.randn(1, 4))
        self.same_position = self.position
        self.register_buffer("table", torch.arange(4.0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body[1](self.body[0](x)) + self.position + self.table


def test_parameters_have_no_data_and_buffers_do() -> None:
    with nn.on_meta():
        net = Net()
    assert all(p.is_meta for p in net.parameters())
    assert not any(b.is_meta for b in net.buffers())
    assert net.position is net.same_position
    assert not any(p.is_meta for p in Net().parameters())


def test_a_model_built_on_meta_runs_after_assigning() -> None:
    source = Net().eval()
    state = source.state_dict()
    with nn.on_meta():
        net = Net().eval()
    net.load_state_dict(state, assign=True)
    x = torch.randn(2, 4)
    assert torch.equal(net(x), source(x))
    assert net.body[0].weight.data_ptr() == source.body[0].weight.data_ptr()
    assert net.position is net.same_position
    assert net.position.requires_grad


def test_building_on_meta_draws_no_random_number() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    with nn.on_meta():
        nn.Linear(4, 4)
        nn.Conv2d(2, 2, 3)
        nn.MultiheadAttention(4, 2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_frozen_and_lazy_parameters_stay_what_they_are() -> None:
    with nn.on_meta():
        frozen = nn.Embedding.from_pretrained(torch.zeros(3, 2))
        lazy = nn.LazyLinear(3)
    assert frozen.weight.is_meta
    assert not frozen.weight.requires_grad
    assert lazy.has_uninitialized_params()


def test_torchs_own_meta_context_works_too() -> None:
    source = nn.Linear(2, 2)
    with torch.device("meta"):
        net = nn.Linear(2, 2)
    net.load_state_dict(source.state_dict(), assign=True)
    assert torch.equal(net.weight, source.weight)
