"""Containers against torch's: slicing, insertion, printing, errors."""

import operator
from collections import OrderedDict
from typing import Any

import pytest
import torch

from cupola import nn

Names = list[str]


def names(container: Any) -> Names:
    return [f"{name}:{type(child).__name__}" for name, child in container.named_children()]


EDITS = [
    lambda c, lib: c.append(lib.GELU()),
    lambda c, lib: c.extend([lib.GELU(), lib.SiLU()]),
    lambda c, lib: c.insert(1, lib.GELU()),
    lambda c, lib: c.insert(-1, lib.GELU()),
    lambda c, lib: operator.setitem(c, 1, lib.GELU()),
    lambda c, lib: operator.setitem(c, -1, lib.GELU()),
    lambda c, lib: operator.delitem(c, 1),
    lambda c, lib: operator.delitem(c, slice(0, 2)),
    lambda c, lib: c.pop(-2),
    lambda c, lib: c.pop(0),
]


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("kind", ["Sequential", "ModuleList"])
def test_edits_are_torchs(kind: str, edit: Any) -> None:
    if kind == "ModuleList" and edit is EDITS[3]:
        items = nn.ModuleList([nn.ReLU(), nn.Tanh()])
        edit(items, nn)  # torch raises KeyError: '-1'
        assert names(items) == ["0:ReLU", "1:GELU", "2:Tanh"]
        return
    results = []
    for library in (nn, torch.nn):
        items = [library.ReLU(), library.Tanh(), library.Sigmoid()]
        container = getattr(library, kind)(*items) if kind == "Sequential" else None
        container = container or getattr(library, kind)(items)
        edit(container, library)
        results.append((names(container), repr(container), len(container)))
    assert results[0] == results[1]


def test_sequential_calls_in_order_and_slices() -> None:
    chain = nn.Sequential(OrderedDict(a=nn.Linear(2, 3), b=nn.ReLU(), c=nn.Linear(3, 1)))
    x = torch.randn(2, 2)
    assert torch.equal(chain(x), chain.c(chain.b(chain.a(x))))
    assert list(chain[1:].state_dict()) == ["c.weight", "c.bias"]
    assert chain[-1] is chain.c
    assert list(chain) == [chain[0], chain[1], chain[2]]
    with pytest.raises(IndexError, match="index 3 is out of range"):
        chain[3]


def test_sequential_arithmetic() -> None:
    two = nn.Sequential(nn.ReLU(), nn.Tanh())
    three = two + nn.Sequential(nn.GELU())
    assert names(three) == ["0:ReLU", "1:Tanh", "2:GELU"]
    assert names(two * 2) == names(2 * two)
    assert len(two * 2) == 4
    two += three
    assert len(two) == 5
    two *= 2
    assert len(two) == 10
    for wrong, error in (("2", TypeError), (0, ValueError)):
        with pytest.raises(error):
            _ = two * wrong
        with pytest.raises(error):
            two *= wrong
    with pytest.raises(ValueError, match="only objects of Sequential class"):
        operator.add(two, [nn.ReLU()])
    with pytest.raises(ValueError, match="only objects of Sequential class"):
        two += 3
    with pytest.raises(AssertionError, match="module should be of type"):
        two.insert(0, 3)
    with pytest.raises(IndexError, match="Index out of range: 99"):
        two.insert(99, nn.ReLU())


def test_module_list_is_a_list() -> None:
    items = nn.ModuleList([nn.ReLU(), nn.Tanh()])
    assert isinstance(items[:1], nn.ModuleList)
    assert len(operator.add(items, [nn.GELU()])) == 3
    items += [nn.GELU()]
    assert names(items) == ["0:ReLU", "1:Tanh", "2:GELU"]
    with pytest.raises(TypeError, match="should be called with an iterable, but got int"):
        items.extend(3)
    with pytest.raises(TypeError, match="int is not a Module subclass"):
        items.append(3)
    with pytest.raises(NotImplementedError, match="ModuleList"):
        items(torch.zeros(1))


def test_module_list_folds_repeats_when_printed() -> None:
    def build(library: Any) -> Any:
        blocks = [library.Sequential(library.Linear(1, 1), library.ReLU()) for _ in range(3)]
        return library.ModuleList([*blocks, library.Tanh()])

    assert repr(build(nn)) == repr(build(torch.nn))
    assert "(0-2): 3 x Sequential(" in repr(build(nn))
    assert repr(nn.ModuleList()) == "ModuleList()"


def test_module_dict_is_a_dictionary() -> None:
    table = nn.ModuleDict({"b": nn.ReLU(), "a": nn.Tanh()})
    table.update([("c", nn.GELU())])
    table.update(nn.ModuleDict({"d": nn.SiLU()}))
    assert list(table) == list(table.keys()) == ["b", "a", "c", "d"]
    assert dict(table.items())["a"] is table["a"]
    assert len(list(table.values())) == len(table) == 4
    assert "a" in table
    popped = table.pop("a")
    assert isinstance(popped, nn.Tanh)
    del table["b"]
    table.clear()
    assert len(table) == 0
    with pytest.raises(KeyError):
        table["missing"]
    with pytest.raises(KeyError, match="already exists"):
        table["keys"] = nn.ReLU()
    with pytest.raises(TypeError, match="iterable of key/value pairs, but got int"):
        table.update(3)
    with pytest.raises(TypeError, match=r"element #0 should be Iterable; is ?int"):
        table.update([3])
    with pytest.raises(ValueError, match="element #0 has length 1; 2 is required"):
        table.update([("a",)])


def test_the_sum_and_the_product_of_bridged_containers_are_bridged() -> None:
    """Found by PyTorch's test_Sequential_add and test_ModuleList."""
    chain = nn.to_torch(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
    made = [chain + chain, chain + torch.nn.Sequential(torch.nn.Tanh()), chain * 2, 2 * chain]
    assert all(type(each) is type(chain) for each in made)
    assert [len(each) for each in made] == [4, 3, 4, 4] and made[0][2] is chain[0]
    items = nn.to_torch(nn.ModuleList([nn.ReLU()]))
    assert type(items + items) is type(items)
    bare = nn.Sequential(nn.ReLU())
    assert type(bare + bare) is type(bare * 2) is nn.Sequential
    assert type(nn.ModuleList() + bare) is nn.ModuleList
