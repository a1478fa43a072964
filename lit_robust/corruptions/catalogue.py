"""The 19 corruptions by name, in the order of the dissertation's table, with their groups."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from torch import Tensor

from lit_robust.corruptions import blur, digital, elastic, noise, spatter, weather
from lit_robust.corruptions.stored import Corrupt
from lit_robust.sampling import Noise

Group = Literal["noise", "weather", "blur", "digital"]


@dataclass(frozen=True)
class Corruption:
    """A common corruption.

    Attributes:
        function: From images (N, C, H, W) in [0, 1], a severity of 1 to 5 and the samples' noise to corrupted images.
        group: What kind it is.
        extra: Not among the 16 of the dissertation's Table 5.2.
    """

    function: Corrupt
    group: Group
    extra: bool = False

    def __call__(self, x: Tensor, severity: int, noise: Noise) -> Tensor:
        """Corrupted images (N, C, H, W) of 256 levels in [0, 1]; see `function`."""
        return self.function(x, severity, noise)


CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        "gaussian_noise": Corruption(noise.gaussian_noise, "noise"),
        "shot_noise": Corruption(noise.shot_noise, "noise"),
        "speckle_noise": Corruption(noise.speckle_noise, "noise"),
        "impulse_noise": Corruption(noise.impulse_noise, "noise"),
        "snow": Corruption(weather.snow, "weather"),
        "fog": Corruption(weather.fog, "weather"),
        "frost": Corruption(weather.frost, "weather"),
        "brightness": Corruption(weather.brightness, "weather"),
        "defocus_blur": Corruption(blur.defocus_blur, "blur"),
        "gaussian_blur": Corruption(blur.gaussian_blur, "blur"),
        "motion_blur": Corruption(blur.motion_blur, "blur"),
        "zoom_blur": Corruption(blur.zoom_blur, "blur"),
        "glass_blur": Corruption(blur.glass_blur, "blur", extra=True),
        "contrast": Corruption(digital.contrast, "digital"),
        "elastic_transform": Corruption(elastic.elastic_transform, "digital"),
        "pixelate": Corruption(digital.pixelate, "digital"),
        "spatter": Corruption(spatter.spatter, "digital"),
        "saturate": Corruption(digital.saturate, "digital", extra=True),
        "jpeg_compression": Corruption(digital.jpeg_compression, "digital", extra=True),
    }
)
"""Every corruption by its name, which is also that of its file in the published CIFAR-10-C."""

GROUPS: tuple[Group, ...] = ("noise", "weather", "blur", "digital")
