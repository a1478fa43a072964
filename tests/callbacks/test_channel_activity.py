"""Channel activity of layers whose channels are known."""

import numpy as np
import pytest
import torch
from digit_runs import digits, trained
from measured_digits import Chain, block, dealt, hooks, measured

from lit_robust.callbacks import ChannelActivity
from lit_robust.errors import UserError
from lit_robust.nn import VGG16


@pytest.fixture(scope="module")
def chain():
    """`early` gives x, x / 2, −x: the first is always the strongest, the last always silent after the ReLU."""
    network = Chain().eval()
    with torch.no_grad():
        network.early.weight.copy_(torch.tensor([1.0, 0.5, -1.0]).view(3, 1, 1, 1))
        network.late.weight.zero_()
        network.late.weight[1, 0] = -1.0
        network.late.weight[3, 0] = 1.0
        network.head.weight.copy_(torch.arange(40.0).view(10, 4) / 40)
        network.head.bias.zero_()
    return network


@pytest.fixture(scope="module")
def test(chain, tmp_path_factory):
    return measured(tmp_path_factory.mktemp("channels"), ChannelActivity(fraction=0.3, images=120), chain)


def bright():
    """Share of the pixels of each test image that are not black, where the patch of a 1×1 convolution has a norm."""
    return (digits().images(train=False).x > 0).double().mean((1, 2, 3)).numpy()


def test_strong_and_weak_channels_divided_by_the_norm_of_the_patch(test):
    results, columns = test
    early = results["layers"]["early"]
    np.testing.assert_allclose(columns["top early"], bright(), rtol=1e-3)  # x / |x|
    np.testing.assert_allclose(columns["rest early"], 0.25 * bright(), rtol=1e-3)
    assert early["top"] == pytest.approx(bright().mean(), rel=1e-3)
    assert early["rest"] == pytest.approx(0.25 * bright().mean(), rel=1e-3)
    assert early["divided_by_patch_norm"]
    late = results["layers"]["late"]  # one channel of four; K = 2; the patch is (1, 0.5, −1) x
    assert late["top"] == pytest.approx(0.5 * bright().mean() / 1.5, rel=1e-3)
    assert late["rest"] == pytest.approx(0)


def test_always_and_never_active_channels(test):
    results, columns = test
    assert results["layers"]["early"]["channels"] == 3
    assert results["layers"]["early"]["nearly_always"] == pytest.approx(1 / 3)
    assert results["layers"]["early"]["nearly_never"] == pytest.approx(2 / 3)
    assert results["layers"]["late"]["nearly_always"] == 0.25
    assert results["layers"]["late"]["nearly_never"] == 0.75
    assert np.stack(columns["active early"]).tolist() == [[0]] * 360
    assert np.stack(columns["active late"]).tolist() == [[3, -1]] * 360
    assert results["table"] == {
        "channels/nearly_always/early": pytest.approx(1 / 3),
        "channels/nearly_always/late": 0.25,
    }


def test_the_heat_map_is_of_the_first_images_and_the_last_layer(test):
    results, columns = test
    heat = np.array(results["heat_map"]["means"])
    means = digits().images(train=False).x[:120].double().div(255).mean((1, 2, 3)).numpy()
    assert results["heat_map"]["layer"] == "late"
    np.testing.assert_allclose(heat, np.stack([0 * means, 0 * means, 0 * means, means]), rtol=1e-2)
    assert [len(content) > 0 for content in columns["means"]] == [True] * 120 + [False] * 240


def test_another_layer_of_the_heat_map(chain, tmp_path):
    options = {"fraction": 0.3, "images": 5, "heat_map": "ear*"}
    results, _ = measured(tmp_path, ChannelActivity(**options), chain, limit_test_batches=1)
    assert results["heat_map"]["layer"] == "early"
    assert np.array(results["heat_map"]["means"]).shape == (3, 5)
    assert hooks(chain) == 0


def test_linear_layers_are_not_divided(chain):
    measurement = ChannelActivity(layers=["head"], fraction=0.1)
    measurement.check(chain, digits())
    given = block(chain, digits())
    columns = measurement.measure(given)
    logits = given.logits(given.x).relu()
    torch.testing.assert_close(columns["top head"], logits.amax(1))
    torch.testing.assert_close(columns["rest head"], (logits.sum(1) - logits.amax(1)) / 9)
    assert columns["active head"].tolist() == logits.argmax(1, keepdim=True).tolist()


def test_the_figures_do_not_depend_on_the_processes(tmp_path):
    results, columns = measured(tmp_path / "one", ChannelActivity(images=150))
    other, its = dealt(tmp_path, ChannelActivity(images=150))
    assert {name: results[name] for name in other} == other
    for name in ("top conv1", "rest conv2"):
        assert np.array_equal(columns[name], its[name])
    assert np.array(results["heat_map"]["means"]).shape == (16, 150)


def test_an_image_counts_the_same_in_any_order():
    measurement, data = ChannelActivity(), digits(eval_batch_size=8)
    measurement.check(trained(), data)
    rows = [5, 17, 3, 40]
    columns, turned = (measurement.measure(block(trained(), data, rows=r)) for r in (rows, rows[::-1]))
    torch.testing.assert_close(columns["top conv2"], turned["top conv2"].flip(0))
    assert torch.equal(columns["active conv1"], turned["active conv1"].flip(0))


def test_layers_that_leave_no_rest_are_left_out_and_refused_where_asked_for():
    network = Chain(first=1, second=4)
    measurement = ChannelActivity()
    measurement.check(network, digits())
    assert measurement.chosen == ["late"]
    with pytest.raises(UserError, match=r"more channels than the strongest 0.1 of them; early gives \(1, 1, 16, 16\)"):
        ChannelActivity(layers=["early"]).check(network, digits())


def test_all_thirteen_convolutions_of_vgg16():
    measurement = ChannelActivity()
    measurement.check(VGG16(width=0.125), digits(size=32, channels=3))
    assert len(measurement.chosen) == 13


@pytest.mark.parametrize("heat_map", ["head", "*"])
def test_the_layer_of_the_heat_map_is_one_of_the_layers(chain, heat_map):
    with pytest.raises(UserError, match="heat_map of ChannelActivity to be one of its layers, early, late; got"):
        ChannelActivity(heat_map=heat_map, fraction=0.3).check(chain, digits())


@pytest.mark.parametrize("wrong", [{"fraction": 0}, {"fraction": 1.0}, {"images": 0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match=r"fraction in \(0, 1\) and images of at least 1"):
        ChannelActivity(**wrong)


def test_a_panel_a_run_and_bars_for_all_layers(test):
    results, _ = test
    other = {**results, "layers": {"late": results["layers"]["late"]}}
    figure = ChannelActivity.draw({"base": results, "ours": other})
    panels = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in panels] == ["base, late", "ours, late"]
    assert [axis.images[0].get_array().shape for axis in panels] == [(4, 120)] * 2
    (bars,) = [axis for axis in figure.axes if axis.containers and axis.get_xticklabels()[0].get_text() == "early"]
    heights = [[p.get_height() for p in c] for c in bars.containers]
    assert heights == [[pytest.approx(100 / 3), 25], [25]]
    assert "N = 360, strongest = 0.3, seed 0" in bars.get_title()
