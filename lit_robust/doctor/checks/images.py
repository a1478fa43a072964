"""Images must be in [0, 1]: standardisation belongs inside the network."""

from __future__ import annotations

from collections.abc import Iterator

from lit_robust.doctor.diagnosis import Diagnosis, error, ok, warning
from lit_robust.doctor.subject import Subject

_DARK = 0.02  # largest pixel of images that were divided by 255 twice, 1/255 = 0.004, with room for interpolation


def pixel_range(subject: Subject) -> Iterator[Diagnosis]:
    """The least and the largest pixel that the network is handed."""
    x = subject.batch[0]
    if not x.is_floating_point():
        yield error(
            f"images are {x.dtype}", "divide 8-bit images by 255, in on_after_batch_transfer of the data module"
        )
        return
    if not x.isfinite().all():
        yield error("images have pixels that are not finite", "look at the files, and at what the data module does")
        return
    low, high = float(x.min()), float(x.max())
    found = f"pixels from {low:.4g} to {high:.4g} in {len(x)} images"
    if low >= 0 and 2 < high <= 255:
        yield error(f"{found}: grey levels of 0..255", "divide by 255; eps is in units of the [0, 1] pixel range")
    elif low < 0:
        yield error(
            f"{found}: standardised, or scaled to [-1, 1]",
            "hand over images in [0, 1], and put Standardize (lit_robust.nn) into the network: a radius would not mean "
            "what it says",
        )
    elif high > 1:
        yield error(found, "hand over images in [0, 1]; attacks stay in that box")
    elif high <= _DARK:
        yield warning(f"{found}: nearly black", "are they divided by 255 twice? ImageData does it by itself")
    else:
        yield ok(found)
