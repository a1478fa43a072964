"""Networks in a config follow the data."""

import pytest
from jsonargparse import Namespace

from lit_robust.follow import follow_data

FACTS = {"num_classes": 7, "in_channels": 3}


def network(kind, **arguments):
    return kind(class_path="lit_robust.nn.SmallCNN", init_args=kind(**arguments))


@pytest.mark.parametrize("kind", [dict, Namespace])
def test_what_was_left_open_is_filled_in_wherever_it_stands(kind):
    nested = network(kind, network=network(kind, num_classes=None, in_channels=None, width=0.5, mean=None))
    follow_data(nested, FACTS)
    inner = nested["init_args"]["network"]["init_args"]
    assert (inner["num_classes"], inner["in_channels"]) == (7, 3)
    assert inner["width"] == 0.5
    assert inner["mean"] is None


@pytest.mark.parametrize("kind", [dict, Namespace])
def test_stages_in_a_list_are_found(kind):
    stages = [network(kind, num_classes=None, in_channels=5), network(kind, sigma=0.1)]
    config = kind(class_path="Pipeline", init_args=kind(stages=stages))
    follow_data(config, FACTS)
    assert stages[0]["init_args"]["num_classes"] == 7
    assert stages[0]["init_args"]["in_channels"] == 5
    assert dict(stages[1]["init_args"].items()) == {"sigma": 0.1}


@pytest.mark.parametrize("kind", [dict, Namespace])
def test_what_was_set_stays_also_0(kind):
    config = network(kind, num_classes=4, in_channels=0)
    follow_data(config, FACTS)
    assert (config["init_args"]["num_classes"], config["init_args"]["in_channels"]) == (4, 0)


def test_nothing_is_added_and_other_values_pass():
    config = {"a": None, "b": "num_classes", "c": (1, 2), "d": [1, "x", None, {"num_classes": None}], "e": object}
    follow_data(config, FACTS)
    assert config["d"] == [1, "x", None, {"num_classes": 7}]
    assert set(config) == set("abcde")
    assert config["a"] is None
