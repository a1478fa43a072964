"""Gaussian blur as a front end."""

import pytest
import torch
from torchvision.transforms.v2.functional import gaussian_blur

from lit_robust.errors import UserError
from lit_robust.nn.gaussian_filter import GaussianFilter

X = torch.rand(3, 3, 7, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("size", "sigma"), [(5, 0.625), (3, 1.5)])
def test_it_is_torchvisions(size, sigma):
    torch.testing.assert_close(GaussianFilter(size, sigma)(X), gaussian_blur(X, [size, size], [sigma, sigma]))


def test_the_default_is_the_dissertations():
    assert torch.equal(GaussianFilter()(X), GaussianFilter(size=5, sigma=0.625)(X))


def test_a_constant_image_stays_and_the_range_is_kept():
    blur = GaussianFilter()
    torch.testing.assert_close(blur(torch.full((1, 2, 5, 5), 0.7)), torch.full((1, 2, 5, 5), 0.7))
    assert float(blur(torch.ones(1, 1, 8, 8)).max()) <= 1 + 1e-6


def test_it_has_no_parameter_and_a_gradient():
    x = X.clone().requires_grad_()
    blur = GaussianFilter()
    blur(x).sum().backward()
    assert list(blur.parameters()) == []
    assert float(x.grad.sum()) == pytest.approx(x.numel(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"), [({"size": 4}, "odd.* got 4"), ({"sigma": 0}, "above 0 pixels, got 0")]
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        GaussianFilter(**options)
