"""The warning about torchrun's shared store, from the environment that it gives its ranks."""

import warnings

import pytest

from cupola.parallel.elastic import VARIABLE, warn_of_shared_store

NODES = {"GROUP_WORLD_SIZE": "2", "TORCHELASTIC_MAX_RESTARTS": "3", "RANK": "0"}


def test_restarts_over_nodes_need_a_store_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in NODES.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.warns(UserWarning, match=f"2 nodes .* set {VARIABLE}=1"):
        warn_of_shared_store()


@pytest.mark.parametrize(
    "changed",
    [{VARIABLE: "1"}, {"GROUP_WORLD_SIZE": "1"}, {"TORCHELASTIC_MAX_RESTARTS": "0"}, {"RANK": "1"}],
)
def test_no_warning(monkeypatch: pytest.MonkeyPatch, changed: dict[str, str]) -> None:
    for name, value in {**NODES, **changed}.items():
        monkeypatch.setenv(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_shared_store()
