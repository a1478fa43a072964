"""Networks in a config follow the data: `num_classes` and `in_channels` that were left open are filled in."""

from __future__ import annotations

from collections.abc import MutableMapping, MutableSequence
from typing import Any


def follow_data(config: Any, num_classes: int, in_channels: int) -> None:  # noqa: ANN401 - any part of a config
    """Fills in every `num_classes: null` and `in_channels: null` below a network's part of a config.

    Args:
        config: A network's config: nested mappings and lists, changed in place. The classifier behind a front end says
            its own `in_channels`.
        num_classes: Classes of the data.
        in_channels: Channels of the data.
    """
    if isinstance(config, MutableSequence):
        for item in config:
            follow_data(item, num_classes, in_channels)
    elif isinstance(config, MutableMapping) or hasattr(config, "as_dict"):
        for key in list(config.keys()):
            value = config[key]
            if value is None and key in ("num_classes", "in_channels"):
                config[key] = num_classes if key == "num_classes" else in_channels
            elif not isinstance(value, str | int | float | None):
                follow_data(value, num_classes, in_channels)
