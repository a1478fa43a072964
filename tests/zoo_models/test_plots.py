"""Pictures of tensors and numbers: what is in them, and that a mistake is told."""

import numpy as np
import pytest
import torch

from lit_robust.errors import UserError
from lit_robust.plots import accuracy_against_eps, accuracy_against_steps, show


def images(channels=1, n=3):
    x = torch.rand(n, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    return x, (x + 0.1 * torch.linspace(-1, 1, 4)).clamp(0, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_show_draws_clean_difference_and_adversarial(channels):
    x, x_adv = images(channels)
    figure = show(x, x_adv, labels=torch.tensor([7, 8, 9]), labels_adv=["a", "b", "c"], count=2)
    axes = np.array(figure.axes).reshape(3, 2)
    drawn = [axis.images[0].get_array() for axis in axes[:, 1]]
    expected = [x[1], 0.5 + 0.5 * (x_adv - x)[1] / (x_adv - x)[1].abs().max(), x_adv[1]]
    for got, image in zip(drawn, expected, strict=True):
        np.testing.assert_allclose(got, image.expand(3, -1, -1).permute(1, 2, 0).numpy(), atol=1e-6)
    assert [axis.get_title() for axis in axes[:, 1]] == [
        "8",
        f"± {255 * float((x_adv - x)[1].abs().max()):.1f}/255",
        "b",
    ]


def test_an_unchanged_image_is_a_grey_difference():
    x, _ = images()
    figure = show(x.requires_grad_(), x)
    assert (figure.axes[3].images[0].get_array() == 0.5).all()


def test_show_refuses_what_does_not_belong_together():
    x, x_adv = images()
    with pytest.raises(UserError, match="of one shape"):
        show(x, x_adv[:2])
    with pytest.raises(UserError, match="of one shape"):
        show(x[:0], x_adv[:0])
    with pytest.raises(UserError, match="expected 3 labels_adv, one an image, got 1"):
        show(x, x_adv, labels_adv=["a"])


def test_curves_are_percentages_against_radii():
    figure = accuracy_against_eps(
        [0, "8/255", 0.1], {"a": [1.0, 0.5, 0.0], "b": [0.9, 0.9, 0.2]}, chance=0.1, norm="L2"
    )
    a, b, guess = figure.axes[0].lines
    assert a.get_xdata().tolist() == [0, 8 / 255, 0.1]
    assert a.get_ydata().tolist() == [100, 50, 0]
    assert b.get_label() == "b"
    assert list(guess.get_ydata()) == [10, 10]
    assert "L2" in figure.axes[0].get_xlabel()


def test_one_curve_against_steps_needs_no_name():
    figure = accuracy_against_steps([0, 1, 10], [0.9, 0.5, 0.5])
    (line,) = figure.axes[0].lines
    assert line.get_xdata().tolist() == [0, 1, 10]
    assert figure.axes[0].get_legend() is None
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["0", "1", "10"]
    assert figure.axes[0].transData.transform([(0, 0), (1, 0), (10, 0)])[:, 0].tolist() == sorted(
        figure.axes[0].transData.transform([(0, 0), (1, 0), (10, 0)])[:, 0]
    )


def test_curves_refuse_what_does_not_fit():
    with pytest.raises(UserError, match="expected 2 accuracies, one a point of the curve 'a', got 1"):
        accuracy_against_eps([0, 0.1], {"a": [1.0]})
    with pytest.raises(UserError, match=r"as shares in \[0, 1\]"):
        accuracy_against_steps([1], [97.0])
