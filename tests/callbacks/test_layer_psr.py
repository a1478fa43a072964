"""The perturbation-to-signal ratio at layers, where linear layers keep that of the image."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from digit_runs import digits, trained
from measured_digits import Chain, block, dealt, hooks, measured
from torch import Tensor, nn

from lit_robust.attacks import FGSM, PGD, Attack, GaussianNoise, HopSkipJump, Through, UniformNoise
from lit_robust.attacks.starts import NearestImage
from lit_robust.callbacks.layer_psr import LayerPSR, layer_ratios
from lit_robust.errors import UserError
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.nn import AdditiveNoise, Pipeline
from lit_robust.sampling import Noise
from lit_robust.threat import ThreatModel

NORMS = {"l2": 2, "l1": 1, "linf": np.inf}
ATTACK = PGD(threat=ThreatModel(0.1), steps=3)


@dataclass(frozen=True, kw_only=True)
class Nothing(Attack):
    """Leaves the images as they are."""

    @property
    def threat_model(self) -> ThreatModel:
        return ThreatModel.box()

    def search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        return x


def image_ratios(p, seed=0, truncated=False):
    given = block(None, digits(eval_batch_size=360), seed=seed)
    x = given.x.double().flatten(1).numpy()
    x_adv = UniformNoise(amplitude=0.2).search(None, given.x, given.y, given.noise).flatten(1).double().numpy()
    if truncated:
        x_adv = np.floor(255 * x_adv + 1e-3) / 255
    return np.linalg.norm(x_adv - x, p, axis=1) / np.linalg.norm(x, p, axis=1)


@pytest.fixture(scope="module")
def chain():
    network = Chain().eval()
    with torch.no_grad():
        network.early.weight.copy_(torch.tensor([3.0, -1.0, 0.5]).view(3, 1, 1, 1))
    return network


@pytest.fixture(scope="module")
def pgd(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("pgd"), LayerPSR(attack=ATTACK, seed=1))


@pytest.mark.parametrize("truncated", [False, True])
def test_linear_layers_keep_the_ratio_of_the_image(chain, tmp_path, truncated):
    noise = UniformNoise(amplitude=0.2)
    results, columns = measured(tmp_path, LayerPSR(attack=noise, eight_bit=truncated, seed=3), chain)
    assert list(results["layers"]) == ["early", "late"], "the layers that run, in the order in which they run"
    assert results["norms"] == ["l2", "l1", "linf"]
    assert results["eight_bit"] is truncated
    assert results["perturbation"] == str(noise)
    for norm, p in NORMS.items():
        ratios = image_ratios(p, 3, truncated)
        top = 1.1 * max(np.percentile(columns[f"psr {norm} {name}"], 95) for name in ("early", "late"))
        assert results["limits"][norm] == top
        for name in ("early", "late"):
            np.testing.assert_allclose(columns[f"psr {norm} {name}"], ratios, rtol=1e-3 if truncated else 1e-4)
            one = results["layers"][name][norm]
            assert one["mean"] == pytest.approx(ratios.mean(), rel=1e-4)
            assert one["db"] == pytest.approx(20 * np.log10(ratios.mean()), abs=1e-3)
            error = 1.96 * ratios.std() / np.sqrt(360)
            ends = 20 * np.log10([ratios.mean() - error, ratios.mean() + error])
            np.testing.assert_allclose(one["interval_95_db"], ends, atol=1e-3)
            assert one["median"] == pytest.approx(np.median(ratios), rel=1e-4)
            assert one["p95"] == pytest.approx(np.percentile(ratios, 95), rel=1e-4)
            assert len(one["histogram"]) == 100
            assert sum(one["histogram"]) + one["above"] == 360
            counts = np.histogram(columns[f"psr {norm} {name}"], np.linspace(0, top, 101))[0]
            assert np.abs(counts - one["histogram"]).sum() <= 2, "rounding at edges of bins"
            assert one["without_signal"] == 0
    for name in ("early", "late"):
        assert results["table"][f"psr/{name}"] == results["layers"][name]["l2"]["db"]
    assert hooks(chain) == 0


def test_truncation_adds_to_the_perturbation_towards_black(chain):
    measurement = LayerPSR(attack=Nothing(), eight_bit=True)
    measurement.check(chain, digits())
    given = block(chain, digits())
    assert measurement.measure(given)["psr l2 early"].max() < 1e-6, "clean images have 8 bits"
    dark = image_ratios(1, truncated=True) * block(None, digits(eval_batch_size=360)).x.flatten(1).sum(1).numpy()
    plain = image_ratios(1) * block(None, digits(eval_batch_size=360)).x.flatten(1).sum(1).numpy()
    assert 0 < np.abs(dark - plain).max() <= 256 / 255


def test_the_figures_do_not_depend_on_the_processes(pgd, tmp_path):
    results, columns = pgd
    other, its = dealt(tmp_path, LayerPSR(attack=ATTACK, seed=1))
    assert {name: results[name] for name in other} == other
    assert all(np.array_equal(columns[name], its[name]) for name in columns)
    assert results["attack"]["class"] == "PGD"
    assert results["protocol"]["samples"] == 360


def test_an_image_counts_the_same_in_any_order_and_block():
    measurement, data = LayerPSR(attack=ATTACK), digits(eval_batch_size=8)
    measurement.check(trained(), data)
    rows = [5, 17, 3, 40]
    columns, turned, alone = (measurement.measure(block(trained(), data, rows=r)) for r in (rows, rows[::-1], [17]))
    for name in measurement.chosen:
        torch.testing.assert_close(columns[f"psr l2 {name}"], turned[f"psr l2 {name}"].flip(0))
        torch.testing.assert_close(columns[f"psr l2 {name}"][1:2], alone[f"psr l2 {name}"])


def test_the_attack_perturbs_more_than_noise_of_its_size(pgd, tmp_path):
    noise, _ = dealt(tmp_path, LayerPSR(attack=UniformNoise(amplitude=0.1), norms=["l2"]))
    last = list(noise["layers"])[-1]
    assert pgd[0]["layers"][last]["l2"]["db"] > noise["layers"][last]["l2"]["db"] + 3
    assert list(noise["layers"][last]) == ["l2"]


def test_a_random_network_draws_the_same_noise_for_both_images():
    network = Pipeline([AdditiveNoise(0.5), trained()]).eval()
    measurement = LayerPSR(attack=Nothing())
    measurement.check(network, digits())
    found = measurement.measure(block(network, digits(), 300))
    ratios = torch.stack([found[name] for name in found if name.startswith("psr")])
    assert ratios.shape == (6, 60)
    assert ratios.max() < 1e-5
    pair = LayerPSR(attack=GaussianNoise(sigma=0.01), layers=["stages.0"])
    pair.check(network, digits())
    rows = [2, 9]
    one, other = (pair.measure(block(network, digits(), rows=r)) for r in (rows, rows[::-1]))
    torch.testing.assert_close(one["psr l2 stages.0"], other["psr l2 stages.0"].flip(0))


def test_layers_that_change_their_input_in_place_are_seen_before():
    networks = []
    for inplace in (False, True):
        torch.manual_seed(0)
        parts = nn.Conv2d(1, 4, 3), nn.ReLU(inplace=inplace), nn.Flatten(), nn.Linear(4 * 14 * 14, 10)
        networks.append(nn.Sequential(*parts).eval())
    found = []
    for network in networks:
        measurement = LayerPSR(attack=GaussianNoise(sigma=0.1))
        measurement.check(network, digits())
        found.append(measurement.measure(block(network, digits()))["psr l2 0"])
    assert torch.equal(*found)


def test_two_passes_of_both_images_measure_all_layers():
    network, sizes = trained(), []
    given = block(network, digits(), 300)
    handle = network.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    found = layer_ratios(given, given.x.flip(0), ["conv1", "conv2"], ["l2", "linf"])
    handle.remove()
    assert sizes == [100, 100], "two batches of a full block, of which 60 images are left"
    with torch.no_grad():
        out, other = (network.conv1(x) for x in (given.x, given.x.flip(0)))
    expected = (out - other).flatten(1).norm(dim=1) / out.flatten(1).norm(dim=1)
    torch.testing.assert_close(found["conv1"]["l2"], expected)
    assert list(found) == ["conv1", "conv2"]
    assert found["conv2"]["linf"].shape == (60,)


@pytest.mark.parametrize(("images", "size", "passes"), [(7, 7, 2), (3, 7, 1), (1, 1, 1), (5, 7, 2)])
def test_odd_and_short_blocks_hold_every_image_once(images, size, passes):
    network, sizes = trained(), []
    whole = block(network, digits(), rows=list(range(images)))
    given = FullBlock(network, whole.x, whole.y, whole.index, whole.noise, size)
    handle = network.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    found = layer_ratios(given, 0.9 * given.x, ["conv1"], ["l2"])["conv1"]["l2"]
    handle.remove()
    assert sizes == [2 * ((size + 1) // 2)] * passes
    torch.testing.assert_close(found, layer_ratios(whole, 0.9 * whole.x, ["conv1"], ["l2"])["conv1"]["l2"])


def test_a_layer_without_signal_has_no_level_and_no_mark(tmp_path):
    network = Chain().eval()
    with torch.no_grad():
        network.early.weight.zero_()
    results, _ = measured(tmp_path, LayerPSR(attack=GaussianNoise(sigma=0.1)), network, limit_test_batches=1)
    assert results["layers"]["late"]["l2"] == {
        **dict.fromkeys(("mean", "db", "interval_95_db", "median", "p95")),
        "without_signal": 100,
        "above": 0,
        "histogram": [0] * 100,
    }
    assert results["table"] == {}


def test_where_nothing_is_perturbed_there_is_a_mean_and_no_level():
    measurement = LayerPSR(attack=Nothing(), norms=["l1"])
    measurement.chosen = ["a"]
    found = measurement.summarise({"index": np.arange(4), "psr l1 a": np.zeros(4)})
    one = found["layers"]["a"]["l1"]
    assert (one["mean"], one["db"], one["interval_95_db"]) == (0, None, None)
    assert one["histogram"][0] == 4
    assert found["limits"] == {"l1": 1.0}


def test_images_beyond_the_range_are_counted():
    measurement = LayerPSR(attack=Nothing(), norms=["linf"])
    measurement.chosen = ["a", "b"]
    values = np.array([*np.linspace(0.01, 1, 99), 50.0])
    found = measurement.summarise({"index": np.arange(100), "psr linf a": values, "psr linf b": values / 10})
    assert found["limits"]["linf"] == pytest.approx(1.1 * np.percentile(values, 95))
    assert [found["layers"][name]["linf"]["above"] for name in "ab"] == [1, 1]
    assert found["layers"]["b"]["linf"]["p95"] == pytest.approx(np.percentile(values, 95) / 10)


def test_layers_are_chosen_by_patterns_in_the_order_in_which_they_run(chain):
    def chosen(*layers):
        measurement = LayerPSR(attack=ATTACK, layers=list(layers) or None)
        measurement.check(chain, digits())
        return measurement.chosen

    assert chosen() == ["early", "late"]
    assert chosen("head", "*a*") == ["early", "late", "head"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ["*"]}, "the forward pass does not reach layer idle; leave it out"),
        ({"layers": ["block*"]}, r"no layer matches 'block\*'; Chain has idle, late, early, head"),
        ({"attack": PGD(threat=ThreatModel(100, "l2"))}, "diameter"),
        ({"attack": Through(attack=FGSM(threat=ThreatModel(0.1)), backward={"x": "identity"})}, "no layer matches 'x'"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_work(options, message, chain, tmp_path):
    with pytest.raises(UserError, match=message):
        measured(tmp_path, LayerPSR(**{"attack": ATTACK, **options}), chain)
    assert not any(tmp_path.iterdir())
    assert hooks(chain) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attack": PGD(threat=ThreatModel(0.1), targeted=True)}, "targeted attacks need classes"),
        ({"norms": []}, r"norms of LayerPSR among l2, l1 and linf, each once, got \[\]"),
        ({"norms": ["l0"]}, "each once, got"),
        ({"norms": ["l2", "l2"]}, "each once, got"),
        ({"layers": []}, "names of layers or null"),
    ],
)
def test_mistakes_of_a_config(options, message):
    with pytest.raises(UserError, match=message):
        LayerPSR(**{"attack": ATTACK, **options})


def test_an_attack_that_starts_from_other_images_gets_the_test_images():
    attack = HopSkipJump(norm="l2", steps=1, start=NearestImage())
    measurement = LayerPSR(attack=attack, norms=["l2"])
    measurement.check(trained(), digits())
    found = measurement.measure(block(trained(), digits(eval_batch_size=3)))
    assert found["psr l2 conv1"].isfinite().all()


def test_weights_of_no_use_and_layers_that_mix_images_end_the_test():
    broken = Chain().eval()
    with torch.no_grad():
        broken.head.bias.fill_(float("nan"))
    given = block(broken, digits())
    with pytest.raises(UserError, match="logits that are not finite"):
        layer_ratios(given, given.x, ["early"], ["l2"])

    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.turn = nn.Flatten(0, 0)

        def forward(self, x):
            return self.turn(x.flatten(1).T)[:10].T

    given = block(Turned(), digits())
    with pytest.raises(
        UserError, match=r"layer turn does not keep images apart: of 100 images its output is \(256, 100\)"
    ):
        layer_ratios(given, given.x, ["turn"], ["l2"])
    assert hooks(given.network) == 0


def saved(limit=1.0, norms=("l2", "l1"), **levels):
    one = {"interval_95_db": None, "mean": 0.1, "histogram": [0] * 50 + [3] + [0] * 49}
    layers = {name: {norm: {**one, "db": level} for norm in norms} for name, level in levels.items()}
    more = {"perturbation": "PGD", "eight_bit": True, "norms": list(norms), "limits": dict.fromkeys(norms, limit)}
    return {"protocol": {"samples": 1000, "seed": 0}, "layers": layers, **more}


def test_runs_are_laid_over_each_other_and_missing_layers_stay_empty():
    figure = LayerPSR.draw({"base": saved(a=-20, b=-10), "ours": saved(2.0, ("l2",), b=-15, c=-5)})
    ridge, levels, others = figure.axes
    assert [text.get_text() for text in ridge.get_yticklabels()] == ["a", "b", "c"]
    assert ridge.get_xlim() == (0, 2.0)
    assert len(ridge.patches) == 2 * 4, "an area and a line for each layer that a run has"
    peaks = {(round(p.get_data().edges[50], 3), round(float(p.get_data().baseline))) for p in ridge.patches}
    assert peaks == {(0.5, 0), (0.5, -1), (1.0, -1), (1.0, -2)}
    lines = [line.get_ydata() for line in levels.lines]
    np.testing.assert_array_equal(lines, [[-20, -10, np.nan], [np.nan, -15, -5]])
    assert "L_1" in others.get_ylabel()
    assert len({line.get_color() for line in levels.lines}) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["base", "ours"]
    assert "N = 1,000" in figure.get_suptitle()
    assert "truncated to 8 bits" in figure.get_suptitle()
    assert not LayerPSR.draw({"one": saved(a=-20)}).legends
