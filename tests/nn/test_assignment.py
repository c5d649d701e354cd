"""The rules of assignment, one by one and as random sequences against a model of them."""

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cupola import nn


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape or (1,)))


def test_nothing_is_assigned_before_init() -> None:
    class Early(nn.Module):
        def __init__(self, value: Any) -> None:
            self.value = value

    with pytest.raises(AttributeError, match="cannot assign parameters before Module"):
        Early(parameter())
    with pytest.raises(AttributeError, match="cannot assign module before Module"):
        Early(nn.ReLU())
    with pytest.raises(AttributeError, match="cannot assign buffer before Module"):
        Early(nn.Buffer(torch.zeros(1)))
    assert Early(3).value == 3


def test_init_takes_no_arguments_unless_the_class_passes_them_on() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'a'"):
        nn.Module(a=1)
    with pytest.raises(TypeError, match="takes 1 positional argument but 2 were given"):
        nn.Module(1)

    class Other:
        def __init__(self, a: int) -> None:
            self.a = a

    class Both(nn.Module, Other):
        call_super_init = True

    assert Both(a=3).a == 3


def test_a_parameter_slot_takes_parameters_and_none() -> None:
    module = nn.Module()
    module.w = parameter()
    with pytest.raises(TypeError, match=r"cannot assign 'torch.FloatTensor' as parameter 'w'"):
        module.w = torch.zeros(1)
    with pytest.raises(TypeError, match="as parameter 'w'"):
        module.w = nn.ReLU()
    module.w = None
    assert "w" in module._parameters
    with pytest.raises(TypeError, match="as parameter 'w'"):
        module.w = 3
    module.w = parameter(2)
    assert [name for name, _ in module.named_parameters()] == ["w"]


def test_a_module_slot_takes_modules_parameters_and_none() -> None:
    module = nn.Module()
    module.child = nn.ReLU()
    with pytest.raises(TypeError, match="cannot assign 'int' as child module 'child'"):
        module.child = 3
    module.child = None
    assert list(module._modules) == ["child"]
    assert not list(module.children())
    module.child = parameter()
    assert list(module._modules) == []
    assert list(module._parameters) == ["child"]


def test_a_buffer_slot_takes_tensors_and_keeps_its_persistence() -> None:
    module = nn.Module()
    module.register_buffer("kept", torch.zeros(1))
    module.register_buffer("lost", torch.zeros(1), persistent=False)
    module.direct = nn.Buffer(torch.zeros(1), persistent=False)
    with pytest.raises(TypeError, match="cannot assign 'int' as buffer 'kept'"):
        module.kept = 3
    module.kept, module.lost = torch.ones(1), None
    module.lost = torch.ones(1)
    assert list(module.state_dict()) == ["kept"]
    assert module._non_persistent_buffers_set == {"lost", "direct"}
    del module.lost
    assert list(module._buffers) == ["kept", "direct"]
    assert "lost" not in module._non_persistent_buffers_set


def test_a_persistent_buffer_is_saved() -> None:
    # A popular reading says that no buffer is in the state dict.
    assert "running_mean" in nn.BatchNorm1d(2).state_dict()


@pytest.mark.parametrize(
    ("register", "value"),
    [("parameter", parameter()), ("buffer", torch.zeros(1)), ("module", nn.ReLU())],
)
def test_registration_checks_the_name(register: str, value: Any) -> None:
    module = nn.Module()
    module.taken = 3
    method = getattr(module, f"register_{register}")
    with pytest.raises(TypeError, match=f"{register} name should be a string. Got int"):
        method(1, value)
    with pytest.raises(KeyError, match="be empty string"):
        method("", value)
    with pytest.raises(KeyError, match=r"name can.* contain"):
        method("a.b", value)
    with pytest.raises(KeyError, match="attribute 'taken' already exists"):
        method("taken", value)
    with pytest.raises(KeyError, match="attribute 'forward' already exists"):
        method("forward", value)
    method("fresh", None)
    method("fresh", value)
    assert module.fresh is value


def test_registration_checks_the_value() -> None:
    module = nn.Module()
    with pytest.raises(TypeError, match=r"object to parameter 'w' \(torch.nn.Parameter or None"):
        module.register_parameter("w", torch.zeros(1))
    with pytest.raises(TypeError, match=r"object to buffer 'b' \(torch Tensor or None"):
        module.register_buffer("b", 3)
    with pytest.raises(TypeError, match="int is not a Module subclass"):
        module.add_module("m", 3)
    with pytest.raises(ValueError, match="Cannot assign non-leaf Tensor to parameter 'w'"):
        module.register_parameter("w", _non_leaf())


def _non_leaf() -> nn.Parameter:
    # A parameter only in name: the flag makes isinstance say yes.
    tensor = parameter() * 2
    tensor._is_param = True
    return tensor


def test_a_register_buffer_of_its_own_may_lack_persistent() -> None:
    class Old(nn.Module):
        def register_buffer(self, name: str, tensor: torch.Tensor) -> None:
            super().register_buffer(name, tensor)

    module = Old()
    module.b = nn.Buffer(torch.zeros(1))
    with pytest.raises(RuntimeError, match="without the persistent argument is not allowed"):
        module.c = nn.Buffer(torch.zeros(1), persistent=False)


def test_properties_and_class_assignment_are_ordinary() -> None:
    class Net(nn.Module):
        @property
        def size(self) -> int:
            return self._size

        @size.setter
        def size(self, value: int) -> None:
            self._size = value * 2

        @property
        def broken(self) -> int:
            return self.does_not_exist

    net = Net()
    net.size = 3
    assert net.size == 6
    with pytest.raises(AttributeError, match="does_not_exist"):  # not: no attribute 'broken'
        _ = net.broken
    other = type("Other", (nn.Module,), {})
    net.__class__ = other
    assert type(net) is other


def test_a_member_is_listed_once_whatever_it_was_before() -> None:
    module = nn.Module()
    module.x = 1
    module.x = parameter()
    assert "x" in module.__dict__
    del module.x
    module.x = nn.ReLU()
    module.x = parameter()
    assert list(module._parameters) == ["x"]
    assert list(module._modules) == []
    with pytest.raises(AttributeError):
        del module.y


def test_plain_lists_of_modules_are_pointed_out() -> None:
    module = nn.Module()
    with pytest.warns(UserWarning, match=r"Module.layers is a plain list .*nn.ModuleList"):
        module.layers = [nn.ReLU()]
    with pytest.warns(UserWarning, match=r"nn.ModuleDict"):
        module.heads = {"a": nn.ReLU()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module.hidden = (nn.ReLU(),)
        module.numbers = [1, 2]


def test_registration_hooks_may_replace_what_is_registered() -> None:
    seen: list[str] = []
    child = nn.Tanh()
    hooks = [
        nn.register_module_module_registration_hook(lambda m, n, v: seen.append(n) or child),
        nn.register_module_parameter_registration_hook(lambda m, n, v: seen.append(n)),
        nn.register_module_buffer_registration_hook(lambda m, n, v: seen.append(n)),
    ]
    try:
        module = nn.Module()
        module.m = nn.ReLU()
        module.add_module("n", nn.ReLU())
        module.p = parameter()
        module.register_buffer("b", torch.zeros(1))
    finally:
        for hook in hooks:
            hook.remove()
    assert seen == ["m", "n", "p", "b"]
    assert module.m is child
    assert module.n is child


def test_views_are_live_mappings() -> None:
    module = nn.Linear(2, 2)
    weights = module._parameters
    weights["extra"] = parameter()
    assert list(module._parameters) == ["weight", "bias", "extra"]
    assert module.extra is weights["extra"]
    del weights["extra"]
    assert not hasattr(module, "extra")
    with pytest.raises(KeyError):
        weights["missing"]
    with pytest.raises(KeyError):
        del weights["missing"]
    assert len(weights) == 2
    assert repr(weights) == repr(dict(weights))
    module._parameters = {"only": parameter()}
    assert [name for name, _ in module.named_parameters()] == ["only"]
    assert not hasattr(module, "weight")


def test_the_set_of_transient_buffers_is_live() -> None:
    module = nn.BatchNorm1d(2)
    transient = module._non_persistent_buffers_set
    transient.add("running_mean")
    assert "running_mean" not in module.state_dict()
    assert list(transient) == ["running_mean"]
    assert len(transient) == 1
    assert repr(transient) == "{'running_mean'}"
    transient.discard("running_mean")
    assert "running_mean" in module.state_dict()
    module._buffers = {"running_var": torch.ones(2)}
    assert list(module._buffers) == ["running_var"]


def test_deleting_the_set_of_transient_buffers_makes_them_persistent() -> None:
    module = nn.Module()
    module.register_buffer("kept", torch.ones(1), persistent=False)
    del module._non_persistent_buffers_set
    assert list(module.state_dict()) == ["kept"]


def test_dir_lists_members_but_no_numbers() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    assert {"weight", "forward", "in_features"} <= set(dir(module[0]))
    assert "0" not in dir(module)


NAMES = ["a", "b", "c"]
VALUES = {
    "parameter": parameter,
    "module": nn.ReLU,
    "buffer": lambda: nn.Buffer(torch.zeros(1)),
    "transient": lambda: nn.Buffer(torch.zeros(1), persistent=False),
    "tensor": lambda: torch.zeros(1),
    "none": lambda: None,
    "plain": lambda: 3,
}


class Assignments(RuleBasedStateMachine):
    """Random assignments, on a module of ours and on one of torch's: they must agree."""

    def __init__(self) -> None:
        super().__init__()
        self.ours, self.theirs = nn.Module(), torch.nn.Module()

    def both(self, act: Any) -> None:
        outcomes = []
        for module in (self.ours, self.theirs):
            try:
                act(module)
                outcomes.append(None)
            except (AttributeError, KeyError, TypeError) as error:
                outcomes.append(type(error))
        assert outcomes[0] == outcomes[1]

    @rule(name=st.sampled_from(NAMES), value=st.sampled_from(sorted(VALUES)))
    def assign(self, name: str, value: str) -> None:
        made = VALUES[value]()
        other = torch.nn.ReLU() if value == "module" else made
        self.both(lambda m: setattr(m, name, made if m is self.ours else other))

    @rule(name=st.sampled_from(NAMES))
    def delete(self, name: str) -> None:
        self.both(lambda m: delattr(m, name))

    @rule(
        name=st.sampled_from(NAMES),
        kind=st.sampled_from(["parameter", "buffer", "module"]),
        value=st.sampled_from(["parameter", "tensor", "none", "module"]),
    )
    def register(self, name: str, kind: str, value: str) -> None:
        made = VALUES[value]()
        other = torch.nn.ReLU() if value == "module" else made
        self.both(lambda m: getattr(m, f"register_{kind}")(name, made if m is self.ours else other))

    @invariant()
    def same_members(self) -> None:
        for view in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"):
            assert list(getattr(self.ours, view)) == list(getattr(self.theirs, view)) or (
                view == "_non_persistent_buffers_set"
                and set(getattr(self.ours, view)) == set(getattr(self.theirs, view))
            ), view
        assert list(self.ours.state_dict()) == list(self.theirs.state_dict())
        for name in NAMES:
            assert hasattr(self.ours, name) == hasattr(self.theirs, name)


TestAssignments = Assignments.TestCase
TestAssignments.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


def test_the_dictionary_of_children_and_the_module_change_together() -> None:
    one, two = nn.Linear(1, 1), nn.ReLU()
    module = nn.Module()
    children = module._modules
    module.one = one
    assert children == {"one": one} and module._modules is children
    children["two"] = two
    assert module.two is two and list(module.children()) == [one, two]
    children.update(two=one, three=None)
    assert module.two is one and module.three is None
    assert children.pop("three") is None and not hasattr(module, "three")
    assert children.setdefault("one", two) is one
    del module.two
    assert list(children) == ["one"]
    module.weight = nn.Parameter(torch.zeros(1))
    children["weight"] = two  # a child takes the name of a parameter, and the other way round
    assert not list(module._parameters) and module.weight is two
    module._parameters["weight"] = nn.Parameter(torch.zeros(1))
    assert list(children) == ["one"]
    module.one = None
    assert children == {"one": None} and not list(module.children())
    module._modules = {"new": two}
    assert module.new is two and not hasattr(module, "one")
    children = module._modules
    children.clear()
    assert not hasattr(module, "new") and not module._modules
    del module
    children["x"] = two  # of no module any more


@pytest.mark.parametrize(
    "made", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_a_copy_has_members_of_its_own(made: Any) -> None:
    original = nn.Sequential(nn.Linear(1, 1))
    assert original._modules
    other = made(original)
    other.register_buffer("extra", torch.zeros(1))
    other.append(nn.ReLU())
    del other[0]
    assert list(original._modules) == ["0"] and not list(original.buffers())
    assert list(original.state_dict()) == ["0.weight", "0.bias"]
    assert [type(child) for child in other] == [nn.ReLU]


def test_the_children_are_pickled_as_a_dictionary() -> None:
    module = nn.Sequential(nn.ReLU())
    assert type(pickle.loads(pickle.dumps(module._modules))) is dict
