"""A config of a family that is not included says so once, with all classes that are missing."""

import pytest

import cupola
from cupola.errors import BuildError


def test_all_missing_classes_are_listed_at_once() -> None:
    model = {
        "type": "NoSuchDetector",
        "backbone": {"type": "NoSuchNet"},
        "neck": [{"type": "ChannelMapper", "norm_cfg": {"type": "GN"}}, {"type": "NoSuchNeck"}],
    }
    with pytest.raises(BuildError) as caught:
        cupola.build({"model": model})
    text = str(caught.value)
    assert "NoSuchDetector, NoSuchNeck, NoSuchNet; this family is not included; " in text
    assert text.endswith("register it with --plugin")


def test_one_missing_class_names_a_typo_only() -> None:
    with pytest.raises(BuildError, match="did you mean 'DETRHead'"):
        cupola.build({"type": "DETRHaed"})
    with pytest.raises(BuildError, match="this family is not included; register it with --plugin"):
        cupola.build({"type": "SparseRCNNHead"})
