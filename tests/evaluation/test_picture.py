"""The picture of what an attack did."""

import matplotlib
import pytest
import torch
from matplotlib.figure import Figure

from lit_robust.evaluation.picture import Example, adversarial_figure, confidence

matplotlib.use("Agg")


def example(channels, change=8 / 255):
    x = torch.full((channels, 6, 5), 0.5)
    x_adv = x.clone()
    x_adv[:, 1, 2] += change
    x_adv[:, 3, 0] -= change / 2
    return Example(x, x_adv, ("cat", 0.984), ("dog", 0.512))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("n", [1, 3])
def test_three_axes_an_example(channels, n, tmp_path):
    figure = adversarial_figure([example(channels)] * n, "pgd: PGD-10")
    assert isinstance(figure, Figure)
    assert len(figure.axes) == 3 * n
    assert figure.get_suptitle() == "pgd: PGD-10"
    for row in range(n):
        clean, delta, attacked = figure.axes[3 * row : 3 * row + 3]
        assert clean.get_title() == "cat, 98 %"
        assert delta.get_title() == "perturbation, largest 8.0/255"
        assert attacked.get_title() == "dog, 51 %"
        pixels = [axis.images[0].get_array() for axis in (clean, delta, attacked)]
        assert all(p.shape == (6, 5, 3) for p in pixels)
        assert pixels[0][1, 2].tolist() == pytest.approx([0.5] * 3)
        assert pixels[1][1, 2].tolist() == pytest.approx([1.0] * 3)  # the largest change is white
        assert pixels[1][3, 0].tolist() == pytest.approx([0.25] * 3)
        assert pixels[1][0, 0].tolist() == pytest.approx([0.5] * 3)  # no change is grey
        assert pixels[2][1, 2].tolist() == pytest.approx([0.5 + 8 / 255] * 3)
    figure.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_no_example_is_said_and_drawn_all_the_same(tmp_path):
    figure = adversarial_figure([], "pgd: PGD-10")
    assert figure.get_suptitle() == "pgd: PGD-10: no image was broken"
    assert not any(axis.images for axis in figure.axes)
    figure.savefig(tmp_path / "picture.png")


def test_an_image_that_did_not_change_is_grey():
    axes = adversarial_figure([example(3, change=0.0)], "noise").axes
    assert (axes[1].images[0].get_array() == 0.5).all()
    assert axes[1].get_title() == "perturbation, largest 0.0/255"


def test_confidence_is_the_softmax_of_the_predicted_class():
    logits = torch.tensor([[0.0, 3.0, 0.0], [1.0, 1.0, 1.0 + 1e-3]]).log_softmax(1) + 7.0
    (first, second) = confidence(logits, ["a", "b", "c"])
    e = 2.718281828
    assert first == ("b", pytest.approx(e**3 / (e**3 + 2)))
    assert second == ("c", pytest.approx(1 / 3, abs=1e-3))
