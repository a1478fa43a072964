"""The digits that come with scikit-learn."""

from __future__ import annotations

import torch

from lit_robust.data.base import ImageData
from lit_robust.data.images import Images
from lit_robust.data.split import stratified

_TEST_IMAGES = 360


class Digits(ImageData):
    """1,797 handwritten digits of 8 x 8 pixels, scaled from 0..16 to 0..255; needs no files.

    A fixed part of 360, in which every digit has its share, is the test set.
    """

    classes = tuple("0123456789")
    native_shape = (1, 8, 8)

    def load(self, train: bool) -> Images:
        """See `ImageData.load`."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        x = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8)[:, None]
        y = torch.from_numpy(digits.target).long()
        part = stratified(y, _TEST_IMAGES) != train
        return Images(x[part], y[part], self.classes)
