"""The SNR at layers, where linear layers keep that of the image; and which layers are measured."""

import numpy as np
import pytest
import torch
from digit_runs import digits, still, trained, trainer
from measured_digits import Chain, block, dealt, hooks, measured
from torch import nn

from lit_robust.callbacks import LayerSNR, LayerSparsity
from lit_robust.callbacks.layer_measurement import LayerMeasurement
from lit_robust.errors import UserError


def image_snr(seed, sigma):
    given = block(None, digits(eval_batch_size=360), seed=seed)
    noisy = (given.x + sigma * given.noise.normal("gaussian", given.x.shape[1:])).clamp(0, 1)
    return (given.x.flatten(1).norm(dim=1) / (noisy - given.x).flatten(1).norm(dim=1)).square().numpy()


@pytest.fixture(scope="module")
def chain():
    network = Chain().eval()
    with torch.no_grad():
        network.early.weight.copy_(torch.tensor([3.0, -1.0, 0.5]).view(3, 1, 1, 1))
    return network


def test_linear_layers_keep_the_ratio_of_the_image(chain, tmp_path):
    results, columns = measured(tmp_path, LayerSNR(sigma=0.2, seed=3), chain)
    ratios = image_snr(3, 0.2)
    assert list(results["layers"]) == ["early", "late"], "the layers that run, in the order in which they run"
    for name in ("early", "late"):
        np.testing.assert_allclose(columns[f"snr {name}"], ratios, rtol=1e-4)
        assert results["layers"][name]["snr_db"] == pytest.approx(10 * np.log10(ratios.mean()), abs=1e-3)
        assert results["table"][f"snr/{name}"] == results["layers"][name]["snr_db"]
    assert results["sigma"] == 0.2
    assert hooks(chain) == 0


def test_the_figures_do_not_depend_on_the_processes(tmp_path):
    results, columns = measured(tmp_path / "one", LayerSNR(seed=1))
    other, its = dealt(tmp_path, LayerSNR(seed=1))
    assert {name: results[name] for name in other} == other
    assert all(np.array_equal(columns[name], its[name]) for name in columns)
    assert 10 < results["layers"]["conv1"]["snr_db"] < results["layers"]["conv2"]["snr_db"]


def test_an_image_counts_the_same_in_any_order():
    measurement, data = LayerSNR(), digits(eval_batch_size=8)
    measurement.check(trained(), data)
    rows = [5, 17, 3, 40]
    columns, turned = (measurement.measure(block(trained(), data, rows=r)) for r in (rows, rows[::-1]))
    for name in ("snr conv1", "snr conv2"):
        torch.testing.assert_close(columns[name], turned[name].flip(0))


def test_a_layer_without_signal_has_no_level_and_no_bar(tmp_path):
    network = Chain().eval()
    with torch.no_grad():
        network.early.weight.zero_()
    results, _ = measured(tmp_path, LayerSNR(), network, limit_test_batches=1)
    assert results["layers"]["late"] == {"snr_db": None}
    assert list(results["table"]) == ["snr/early"]
    assert len(LayerSNR.draw({"a": results}).axes[0].patches) == 1


def test_layers_are_chosen_by_patterns_in_the_order_in_which_they_run(chain):
    def chosen(*layers):
        measurement = LayerSNR(layers=list(layers) or None)
        measurement.check(chain, digits())
        return measurement.chosen

    assert chosen() == ["early", "late"]
    assert chosen("head", "*a*") == ["early", "late", "head"]
    assert chosen("l*") == ["late"]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["late", "block*"], r"no layer matches 'block\*'; Chain has idle, late, early, head"),
        (["*"], "the forward pass does not reach layer idle; leave it out"),
    ],
)
def test_layers_that_cannot_be_measured_are_refused_before_any_work(layers, message, chain, tmp_path):
    with pytest.raises(UserError, match=message):
        measured(tmp_path, LayerSNR(layers=layers), chain)
    assert not any(tmp_path.iterdir())
    assert hooks(chain) == 0


def test_a_layer_of_something_else_than_tensors_is_refused():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    class Odd(Chain):
        def __init__(self):
            super().__init__()
            self.pair = Pair()

        def forward(self, x):
            return super().forward(self.pair(x)[0])

    with pytest.raises(UserError, match="layer pair does not map a tensor to a tensor"):
        LayerSNR(layers=["pair"]).check(Odd(), digits())


def test_a_network_without_convolutions_needs_names():
    network = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
    with pytest.raises(UserError, match="Sequential has no 2-D convolution; name the layers"):
        LayerSNR().check(network, digits())
    measurement = LayerSNR(layers=["1"])
    measurement.check(network, digits())
    assert measurement.chosen == ["1"]


def test_a_network_none_of_whose_convolutions_runs_needs_names():
    class Idle(Chain):
        def forward(self, x):
            return x.flatten(1)[:, :10]

    with pytest.raises(UserError, match="LayerSNR finds no convolution in Idle"):
        LayerSNR().check(Idle(), digits())


@pytest.mark.parametrize("sigma", [0, -0.1])
def test_sigma_must_be_above_0(sigma):
    with pytest.raises(UserError, match="sigma of LayerSNR to be above 0"):
        LayerSNR(sigma=sigma)


@pytest.mark.parametrize("kind", [LayerSNR, LayerSparsity])
def test_an_empty_list_of_layers_is_refused(kind):
    assert issubclass(kind, LayerMeasurement)
    with pytest.raises(UserError, match="names of layers or null"):
        kind(layers=[])


def test_a_trainer_without_a_data_module_is_refused(tmp_path, chain):
    with pytest.raises(UserError, match="LayerSNR needs a data module"):
        trainer(tmp_path, LayerSNR()).test(still(chain), dataloaders=[1], verbose=False)


def saved(**levels):
    layers = {name: {"snr_db": level} for name, level in levels.items()}
    return {"protocol": {"samples": 1000, "seed": 0}, "sigma": 0.1, "layers": layers}


def test_runs_stand_side_by_side_and_missing_layers_stay_empty():
    figure = LayerSNR.draw({"base": saved(a=10, b=20), "ours": saved(b=21, c=-3), "third": saved(a=1)})
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.get_xticklabels()] == ["a", "b", "c"]
    bars = [[(round(p.get_x() + p.get_width() / 2), p.get_height()) for p in c] for c in axis.containers]
    assert bars == [[(0, 10), (1, 20)], [(1, 21), (2, -3)], [(0, 1)]]
    base, ours = axis.containers[0][1], axis.containers[1][0]
    assert base.get_x() + base.get_width() == pytest.approx(ours.get_x()), "side by side, in the order of the runs"
    assert len({container[0].get_facecolor() for container in axis.containers}) == 3
    assert "dB" in axis.get_ylabel()
    assert "N = 1,000" in axis.get_title()
    assert "= 0.1" in axis.get_title()
