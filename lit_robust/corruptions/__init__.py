"""The 19 common corruptions at 5 severities (Hendrycks and Dietterich, 2019), drawn in torch, keyed on the sample.

They follow the mathematics and constants of the published generator of CIFAR-10-C, with random numbers of their own,
and frost is drawn instead of photographed. Figures measured with them are called "C-like": CIFAR-10-C is a set of
files, and nothing else is. Lengths are those of 32-pixel images and scale with the shorter side; noise, pixelate and
JPEG compression act on single pixels whatever the size.
"""

from lit_robust.corruptions.blur import defocus_blur, gaussian_blur, glass_blur, motion_blur, zoom_blur
from lit_robust.corruptions.catalogue import CORRUPTIONS, GROUPS, Corruption, Group
from lit_robust.corruptions.digital import contrast, jpeg_compression, pixelate, saturate
from lit_robust.corruptions.elastic import elastic_transform
from lit_robust.corruptions.noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from lit_robust.corruptions.spatter import spatter
from lit_robust.corruptions.stored import SEVERITIES
from lit_robust.corruptions.weather import brightness, fog, frost, snow

__all__ = [
    "CORRUPTIONS",
    "GROUPS",
    "SEVERITIES",
    "Corruption",
    "Group",
    "brightness",
    "contrast",
    "defocus_blur",
    "elastic_transform",
    "fog",
    "frost",
    "gaussian_blur",
    "gaussian_noise",
    "glass_blur",
    "impulse_noise",
    "jpeg_compression",
    "motion_blur",
    "pixelate",
    "saturate",
    "shot_noise",
    "snow",
    "spatter",
    "speckle_noise",
    "zoom_blur",
]
