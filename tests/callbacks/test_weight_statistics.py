"""Statistics of weights: rows of filters, figures of runs side by side, and what cannot be measured."""

import json
import math

import numpy as np
import pytest
import torch
from digit_runs import digits, trained
from measured_digits import Chain, block, measured
from torch import nn

from lit_robust.analysis.circular_singular_values import circular_singular_values
from lit_robust.analysis.conv_operator import ConvOperator
from lit_robust.analysis.dense_singular_values import dense_singular_values
from lit_robust.callbacks.batch_norm_statistics import BatchNormStatistics
from lit_robust.callbacks.filter_sparsity import FilterSparsity
from lit_robust.callbacks.singular_values import SingularValues
from lit_robust.callbacks.spectrum_figure import ends_and_middle, run_groups
from lit_robust.errors import UserError

ALL = [BatchNormStatistics, FilterSparsity, SingularValues]


class Normed(nn.Module):
    """Two convolutions with batch normalisations, and one of each that never runs."""

    def __init__(self, seed=0, affine=True):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv1 = nn.Conv2d(1, 6, 3, padding=1)
            self.bn1 = nn.BatchNorm2d(6, affine=affine)
            self.conv2 = nn.Conv2d(6, 4, 3, stride=2, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(4)
            self.idle = nn.BatchNorm2d(3)
            self.idle_conv = nn.Conv2d(2, 2, 3)
            self.head = nn.Linear(4, 10)
            for norm in (self.bn1, self.bn2):
                norm.running_mean.normal_()
                norm.running_var.uniform_(1, 2)
            self.bn2.weight.data.normal_()
            self.bn2.bias.data.normal_()

    def forward(self, x):
        return self.head(self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).mean((2, 3)))


def rows(columns, layer, quantity):
    return torch.from_numpy(columns[quantity][columns["layer"] == layer].copy())


def test_batch_norm_statistics_are_those_of_the_layers(tmp_path):
    network = Normed(affine=False).eval()
    results, columns = measured(tmp_path, BatchNormStatistics(), network)
    assert list(results["layers"]) == ["bn1", "bn2"], "what never runs is left out"
    assert results["protocol"]["samples"] == 0, "no image has a part in it"
    assert columns["channel"].tolist() == [*range(6), *range(4)]
    for quantity, wanted in {
        "mean": network.bn2.running_mean,
        "variance": network.bn2.running_var,
        "scale": network.bn2.weight.data,
        "shift": network.bn2.bias.data,
    }.items():
        torch.testing.assert_close(rows(columns, "bn2", quantity).float(), wanted)
        saved = results["layers"]["bn2"][quantity]
        assert saved["values"] == pytest.approx(wanted.tolist(), rel=1e-5)
        assert saved["mean"] == pytest.approx(float(wanted.mean()), abs=1e-6)
        assert saved["sd"] == pytest.approx(float(wanted.std(correction=0)), rel=1e-5)
        assert results["table"][f"batch_norm/{quantity}/bn2"] == saved["median"]
        assert saved["min"] <= saved["median"] <= saved["max"]
    assert results["layers"]["bn1"]["scale"]["values"] == [1] * 6, "a layer without scales"
    assert results["layers"]["bn1"]["shift"]["values"] == [0] * 6
    assert len(results["table"]) == 8


def test_sparsity_of_filters(tmp_path):
    network = Normed().eval()
    with torch.no_grad():
        network.conv2.weight.zero_()
        network.conv2.weight[0, 0, 0, 0] = 2
        network.conv2.weight[1] = 0.5
    results, columns = measured(tmp_path, FilterSparsity(), network)
    assert list(results["layers"]) == ["conv1", "conv2"]
    assert rows(columns, "conv2", "sparsity")[:2].tolist() == pytest.approx([0, 1])
    assert rows(columns, "conv2", "sparsity").isnan().tolist() == [False, False, True, True]
    assert results["layers"]["conv2"]["zero_filters"] == 2
    assert results["layers"]["conv2"]["sparsity"]["values"] == pytest.approx([0, 1])
    assert results["layers"]["conv1"]["zero_filters"] == 0
    assert results["table"]["filter_sparsity/conv2"] == pytest.approx(0.5)
    assert columns["filter"].tolist() == [*range(6), *range(4)]


@pytest.mark.parametrize(
    ("padding", "find"), [("circular", circular_singular_values), ("zeros", dense_singular_values)]
)
def test_all_singular_values_on_the_sizes_that_the_layers_see(tmp_path, padding, find):
    network = Normed().eval()
    results, columns = measured(tmp_path, SingularValues(padding=padding), network)
    for name in ("conv1", "conv2"):
        wanted = find(ConvOperator.of(network.get_submodule(name), (16, 16)))
        torch.testing.assert_close(rows(columns, name, "value"), wanted)
        assert rows(columns, name, "rank").tolist() == list(range(1, len(wanted) + 1))
        saved = results["layers"][name]
        assert saved["count"] == saved["known"] == len(wanted)
        assert (
            saved["largest"] == results["table"][f"singular_values/largest/{name}"] == pytest.approx(float(wanted[0]))
        )
        tail = float((wanted / wanted[0]).square().mean())
        assert saved["tail"] == results["table"][f"singular_values/tail/{name}"] == pytest.approx(tail)
        assert saved["ranks"][0] == saved["values"][0] == 1
        assert saved["ranks"][-1] == len(wanted)
        at = torch.tensor(saved["ranks"]) - 1
        assert saved["values"] == pytest.approx((wanted / wanted[0])[at].tolist(), abs=1e-5)
    assert results["padding"] == padding


def test_leading_values_where_the_matrix_does_not_fit(tmp_path):
    network = Normed().eval()
    results, columns = measured(tmp_path, SingularValues(padding="zeros", leading=5, memory_gib=1e-6), network)
    wanted = dense_singular_values(ConvOperator.of(network.conv2, (16, 16)))
    torch.testing.assert_close(rows(columns, "conv2", "value"), wanted[:5], rtol=1e-6, atol=0)
    layer = results["layers"]["conv2"]
    assert (layer["known"], layer["count"], layer["tail"]) == (5, len(wanted), None)
    assert "singular_values/tail/conv2" not in results["table"]
    assert SingularValues.draw({"a": results}).axes[0].get_xscale() == "log"


@pytest.mark.parametrize("kind", ALL)
def test_other_processes_write_nothing_and_the_weights_are_left_alone(kind, tmp_path):
    network, data = Normed().eval(), digits()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    measurement = kind()
    measurement.check(network, data)
    one, other = (measurement.measure(block(network, data, start=start)) for start in (0, 100))
    assert all(torch.as_tensor(one[key]).equal(torch.as_tensor(other[key])) for key in one if key != "layer")
    assert one["index"].tolist() == list(range(len(one["index"])))
    assert len({len(column) for column in one.values()}) == 1
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())

    class Second:
        is_global_zero = False

    measurement.on_test_batch_end(Second(), None, None, None, 0)
    Second.is_global_zero = True
    measurement.on_test_batch_end(Second(), None, None, None, 1)


class Doubling(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("measurement", "make", "message"),
    [
        (BatchNormStatistics(), trained, "SmallCNN has no batch normalisation; leave BatchNormStatistics out"),
        (BatchNormStatistics(layers=["conv1"]), trained, "conv1 is no batch normalisation but Conv2d"),
        (BatchNormStatistics(layers=["idle"]), Normed, "does not reach layer idle"),
        (FilterSparsity(layers=["idle_conv"]), Normed, "does not reach layer idle_conv"),
        (SingularValues(layers=["idle_conv"]), Normed, "does not reach layer idle_conv"),
        (FilterSparsity(layers=["bn1"]), Normed, "bn1 is none"),
        (FilterSparsity(layers=["early"]), Chain, "early is none"),
        (SingularValues(layers=["head"]), Normed, "needs 2-D convolutions; head is Linear"),
        (SingularValues(layers=["nothing*"]), Normed, r"no layer matches 'nothing\*'"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_work(measurement, make, message, tmp_path):
    with pytest.raises(UserError, match=message):
        measured(tmp_path, measurement, make().eval())
    assert not any(tmp_path.iterdir())


def test_a_network_none_of_whose_normalisations_can_be_measured_is_refused():
    network = Normed()
    network.bn2 = nn.BatchNorm2d(4, track_running_stats=False)
    with pytest.raises(UserError, match="bn2 keeps no running statistics"):
        BatchNormStatistics().check(network, digits())

    class Unused(Chain):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

    with pytest.raises(UserError, match="Unused runs no batch normalisation"):
        BatchNormStatistics().check(Unused(), digits())


@pytest.mark.parametrize(
    ("conv", "padding", "message"),
    [
        (Doubling(6, 4, 3), "circular", r"conv2 \(Doubling\) does more than convolve with its weight"),
        (nn.Conv2d(6, 4, 3, stride=3), "circular", "layer conv2: the stride .* does not divide .*padding: zeros"),
        (nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"), "zeros", "layer conv2: .*padding_mode='reflect'"),
    ],
)
def test_convolutions_without_these_values_are_refused(conv, padding, message):
    network = Normed()
    network.conv2 = conv
    for layers in (None, ["conv2"]):
        with pytest.raises(UserError, match=message):
            SingularValues(layers=layers, padding=padding).check(network, digits())


@pytest.mark.parametrize("options", [{"padding": "same"}, {"leading": 0}, {"memory_gib": 0}])
def test_options_are_checked(options):
    with pytest.raises(UserError, match=next(iter(options))):
        SingularValues(**options)


def figures(kind, *networks):
    """What the JSON of each network's test says."""
    found = []
    for network in networks:
        measurement = kind()
        measurement.check(network, digits())
        columns = measurement.measure(block(network.eval(), digits(), rows=[0]))
        found.append(json.loads(json.dumps(measurement.summarise({n: np.asarray(c) for n, c in columns.items()}))))
    return found


def test_runs_are_told_apart_by_a_distance_with_an_interval():
    other = Normed(seed=1)
    with torch.no_grad():
        other.bn2.running_mean.copy_(Normed().bn2.running_mean + 10)
        other.bn2.weight.copy_(Normed().bn2.weight)
    first, second = figures(BatchNormStatistics, Normed(), other)
    found = BatchNormStatistics.distances({"natural": first, "adversarial": second})
    assert [(each["layer"], each["quantity"]) for each in found] == [
        (layer, quantity) for layer in ("bn1", "bn2") for quantity in ("mean", "variance", "scale", "shift")
    ]
    by = {(each["layer"], each["quantity"]): each for each in found}
    far, same = by["bn2", "mean"], by["bn2", "scale"]
    spread = Normed().bn2.running_mean.std()
    assert far["distance"] == pytest.approx(float(10 / spread), rel=1e-4)
    assert far["interval_95"][0] > 0
    assert far["p"] < 0.05
    assert (same["distance"], same["interval_95"][0], same["p"]) == (0, 0, 1)
    assert {each["run"] for each in found} == {"adversarial"}
    axes = BatchNormStatistics.draw({"natural": first, "adversarial": second}).axes
    text = {part.get_text() for axis in axes for part in axis.texts}
    low, high = far["interval_95"]
    assert f"{far['distance']:.2f} [{low:.2f}, {high:.2f}]" in text


def test_layers_that_a_run_has_not_are_left_out_of_its_distances():
    (first,) = figures(FilterSparsity, Normed())
    second = {**first, "layers": {"conv2": first["layers"]["conv2"], "new": first["layers"]["conv1"]}}
    found = FilterSparsity.distances({"a": first, "b": second})
    assert [each["layer"] for each in found] == ["conv2"]
    panels = [axis.get_title(loc="left") for axis in FilterSparsity.draw({"a": first, "b": second}).axes]
    assert set(panels) - {""} == {"conv1", "conv2", "new"}
    second["layers"]["conv2"] = {"sparsity": {"values": [0.5]}}
    (lonely,) = FilterSparsity.distances({"a": first, "b": second})
    assert lonely["distance"] is lonely["interval_95"] is lonely["p"] is None
    assert SingularValues.distances({"a": first, "b": second}) == []


def test_a_figure_has_a_histogram_for_each_run():
    results = dict(zip("abc", figures(BatchNormStatistics, Normed(), Normed(1), Normed(2)), strict=True))
    figure = BatchNormStatistics.draw(results)
    assert len(figure.axes) == 8
    assert all(len(axis.patches) == 3 for axis in figure.axes)
    assert all(len(axis.texts) == 2 for axis in figure.axes[4:]), "a distance for each run after the first"
    heights = figure.axes[0].patches[0].get_data().values
    assert sum(heights) == pytest.approx(100)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "c"]


def test_curves_of_two_runs_share_panels_and_four_runs_are_two_pairs():
    results = dict(zip("abcd", figures(SingularValues, *map(Normed, range(4))), strict=True))
    pair = SingularValues.draw({run: results[run] for run in "ab"})
    assert [len(axis.lines) for axis in pair.axes] == [2, 2]
    four = SingularValues.draw(results)
    assert [[line.get_label() for line in axis.lines] for axis in four.axes] == [["a", "b"], ["c", "d"]] * 2
    line = four.axes[1].lines[0]
    assert line.get_ydata()[0] == 1
    assert line.get_xdata()[-1] == 1
    assert math.isclose(line.get_xdata()[0], 1 / results["c"]["layers"]["conv1"]["count"])


def test_layers_and_runs_of_the_figure():
    assert ends_and_middle(list(range(13))) == [0, 1, 6, 7, 11, 12]
    assert ends_and_middle(list(range(20))) == [0, 1, 9, 10, 18, 19]
    assert [ends_and_middle(list(range(n))) for n in (1, 2, 5)] == [[0], [0, 1], [0, 1, 2, 3, 4]]
    assert run_groups(["a", "b", "c"]) == [["a", "b", "c"]]
    assert run_groups(list("abcdef")) == [["a", "b"], ["c", "d"], ["e", "f"]]
