"""Sparsity of layers whose activations are known."""

import numpy as np
import pytest
import torch
from digit_runs import digits, trained
from measured_digits import Chain, block, dealt, hooks, measured
from torch import nn

from lit_robust.callbacks import LayerSparsity
from lit_robust.errors import UserError
from lit_robust.nn import VGG16


@pytest.fixture(scope="module")
def chain():
    """Two of the three channels behind `early` are equal, one of the four behind `late` is active."""
    network = Chain().eval()
    with torch.no_grad():
        network.early.weight.copy_(torch.tensor([1.0, 1.0, 0.0]).view(3, 1, 1, 1))
        network.late.weight.zero_()
        network.late.weight[2, 0] = 5.0
    return network


def dark(data):
    """Share of black pixels of each test image."""
    return (data.images(train=False).x == 0).double().mean((1, 2, 3)).numpy()


def test_at_the_input_the_first_convolution_is_left_out(chain, tmp_path):
    results, columns = measured(tmp_path, LayerSparsity(), chain)
    expected = {"sparsity": pytest.approx(0.5), "silent": pytest.approx(dark(digits()).mean())}
    assert results["layers"] == {"late": expected}
    np.testing.assert_allclose(columns["sparsity late"], 0.5, atol=1e-6)
    np.testing.assert_allclose(columns["silent late"], dark(digits()), atol=1e-6)
    assert results["at"] == "input"
    assert results["table"] == {"sparsity/late": pytest.approx(0.5)}
    assert hooks(chain) == 0


def test_at_the_output_all_convolutions_are_measured(chain, tmp_path):
    results, _ = measured(tmp_path, LayerSparsity(at="output"), chain)
    assert {n: layer["sparsity"] for n, layer in results["layers"].items()} == {
        "early": pytest.approx(0.5),
        "late": pytest.approx(0),
    }


def test_linear_layers_can_be_asked_for(chain, tmp_path):
    results, _ = measured(tmp_path, LayerSparsity(layers=["head"]), chain, limit_test_batches=1)
    assert results["layers"]["head"]["sparsity"] == pytest.approx(0)


def test_a_layer_that_is_silent_everywhere_has_no_sparsity(tmp_path):
    network = Chain().eval()
    with torch.no_grad():
        network.early.weight.zero_()
    results, _ = measured(tmp_path, LayerSparsity(), network, limit_test_batches=1)
    assert results["layers"]["late"] == {"sparsity": None, "silent": 1.0}
    assert results["table"] == {}


def test_the_figures_do_not_depend_on_the_processes(tmp_path):
    options = {"at": "output"}
    results, columns = measured(tmp_path / "one", LayerSparsity(**options))
    other, its = dealt(tmp_path, LayerSparsity(**options), processes=3)
    assert {name: results[name] for name in other} == other
    assert all(np.array_equal(columns[name], its[name]) for name in columns)


def test_an_image_counts_the_same_in_any_order():
    measurement, data = LayerSparsity(), digits(eval_batch_size=8)
    measurement.check(trained(), data)
    rows = [5, 17, 3, 40]
    columns, turned = (measurement.measure(block(trained(), data, rows=r)) for r in (rows, rows[::-1]))
    torch.testing.assert_close(columns["sparsity conv2"], turned["sparsity conv2"].flip(0))


def test_the_twelve_later_convolutions_of_vgg16():
    measurement = LayerSparsity()
    measurement.check(VGG16(width=0.125), digits(size=32, channels=3))
    numbers = (3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)
    assert measurement.chosen == [f"features.{number}" for number in numbers]


class OneChannel(nn.Module):
    """A convolution that sees a single channel in the middle."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 2, 1), nn.Conv2d(2, 10, 1)

    def forward(self, x):
        return self.c(self.b(self.a(x))).mean((2, 3))


def test_single_channels_are_left_out_and_refused_where_asked_for():
    measurement = LayerSparsity()
    measurement.check(OneChannel(), digits())
    assert measurement.chosen == ["c"]
    with pytest.raises(UserError, match=r"two channels or more, .*; the input of b is \(1, 1, 16, 16\)"):
        LayerSparsity(layers=["b"]).check(OneChannel(), digits())
    LayerSparsity(layers=["b"], at="output").check(OneChannel(), digits())


def test_other_places_are_refused():
    with pytest.raises(UserError, match="to be input or output, got 'middle'"):
        LayerSparsity(at="middle")


def test_runs_with_other_layers_are_drawn(tmp_path):
    protocol = {"protocol": {"samples": 10, "seed": 2}, "at": "input"}
    first = {**protocol, "layers": {"a": {"sparsity": 0.5}, "b": {"sparsity": None}}}
    second = {**protocol, "layers": {"b": {"sparsity": 0.25}}}
    (axis,) = LayerSparsity.draw({"base": first, "ours": second}).axes
    assert [[p.get_height() for p in c] for c in axis.containers] == [[0.5], [0.25]]
    assert "at the input of layers\nN = 10, seed 2" in axis.get_title()
