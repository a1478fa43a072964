"""Networks in a config follow the data: settings that were left open are filled in."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, MutableSequence
from typing import Any


def follow_data(config: Any, facts: Mapping[str, object]) -> None:  # noqa: ANN401 - any part of a config
    """Fills in settings that are null and that the data know, such as `num_classes` and `in_channels`.

    Args:
        config: A network's part of a config: nested mappings (or jsonargparse namespaces, whose keys are dotted paths)
            and lists, changed in place. What is not null stays: the classifier behind a front end says its own
            `in_channels`.
        facts: What is known, by the name of the setting.
    """
    if isinstance(config, MutableSequence):
        for item in config:
            follow_data(item, facts)
    elif isinstance(config, MutableMapping) or hasattr(config, "as_dict"):
        for key in list(config.keys()):
            setting = key.rpartition(".")[2]
            if config[key] is None and setting in facts:
                config[key] = facts[setting]
            elif not isinstance(config[key], str | int | float | None):
                follow_data(config[key], facts)
