"""Certified accuracy: what `certify` says image by image, at every radius, on any number of processes."""

import numpy as np
import pytest
import torch
from digit_runs import digits, trained
from measured_digits import block, dealt, measured
from torch import nn

from lit_robust import ThreatModel
from lit_robust.callbacks.certified_accuracy import CertifiedAccuracy
from lit_robust.errors import UserError
from lit_robust.evaluation import wilson
from lit_robust.evaluation.certificate import certify
from lit_robust.nn import AdditiveNoise, Pipeline, SmallCNN
from lit_robust.nn.polarizing import PolarizingFrontEnd

EPS = ["0.1/255", 0.001, 0.004]


def polarizing():
    """Pixels above a half and a classifier that has learnt nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        front = PolarizingFrontEnd(in_channels=1, filters=2, kernel_size=3, thresholds=[-0.47, 0.47])
        with torch.no_grad():
            front.conv.weight.zero_()
            front.conv.weight[:, 0, 1, 1] = torch.tensor([1.0, -1.0])
            classifier = SmallCNN(size=16, width=0.2, in_channels=2)
            classifier.linear.bias[:] += 1e5 * torch.arange(10).eq(3)  # by far the likeliest class
            classifier.linear.bias[4] = classifier.linear.bias[3]  # or another, by less than bounds can tell
        return Pipeline([front, classifier]).eval()


@pytest.fixture(scope="module", params=["plain", "polarizing"])
def test(request, tmp_path_factory):
    network = trained() if request.param == "plain" else polarizing()
    folder = tmp_path_factory.mktemp("certified")
    results, columns = measured(folder, CertifiedAccuracy(eps=EPS), network, digits(eval_batch_size=90))
    return network, results, columns


def test_every_image_is_what_its_certificate_says(test):
    network, results, columns = test
    images = block(network, digits(eval_batch_size=360))
    largest = np.where(columns["right"], 0.0, np.nan)
    for point, eps in zip(results["curve"], EPS, strict=True):
        certificate = certify(network, images.x, images.y, ThreatModel(eps))
        name = point["name"]
        assert columns[f"certified {name}"].tolist() == certificate.certified.tolist()
        assert columns[f"codes {name}"].tolist() == certificate.by_codes.tolist()
        if certificate.undecided is None:
            assert point["undecided_mean"] is None
            assert f"undecided {name}" not in columns
        else:
            assert columns[f"undecided {name}"].tolist() == certificate.undecided.tolist()
            assert point["undecided_mean"] == pytest.approx(certificate.undecided.double().mean().item())
        largest = np.where(certificate.certified.numpy(), point["eps"], largest)
        certified = int(certificate.certified.sum())
        assert (point["certified"], point["n"], point["accuracy"]) == (certified, 360, certified / 360)
        assert point["by_codes"] == int(certificate.by_codes.sum())
        assert point["interval_95"] == list(wilson(certified, 360))
    np.testing.assert_array_equal(columns["largest_eps"].astype(float), largest)
    counts = [point["certified"] for point in results["curve"]]
    assert 0 < counts[0] <= results["clean"]["correct"]
    assert len(set(counts)) > 1
    assert [point["name"] for point in results["curve"]] == ["0.1/255", "0.001", "0.004"]
    assert results["table"] == {f"certified/{p['name']}": p["accuracy"] for p in results["curve"]}
    assert results["norm"] == "L∞"


def test_the_figures_do_not_depend_on_the_processes(tmp_path):
    network, data = polarizing(), digits(eval_batch_size=90)
    results, columns = measured(tmp_path, CertifiedAccuracy(eps=EPS), network, data)
    other, its = dealt(tmp_path, CertifiedAccuracy(eps=EPS), network, data)
    assert {name: results[name] for name in other} == other
    assert all(np.array_equal(columns[n], its[n], equal_nan=columns[n].dtype.kind == "f") for n in columns)


def test_in_l2_and_l1_too(tmp_path):
    for norm, name in (("l2", "L2"), ("l1", "L1")):
        found = CertifiedAccuracy(eps=[0.01, 0.2], norm=norm)
        results, _ = measured(tmp_path / norm, found, polarizing(), limit_test_batches=1)
        assert results["norm"] == name
        assert results["curve"][0]["undecided_mean"] < results["curve"][1]["undecided_mean"]


def test_a_curve_a_run_and_the_undecided_activations_below(test, tmp_path):
    _, results, _ = test
    coded = results["curve"][0]["undecided_mean"] is not None
    figure = CertifiedAccuracy.draw({"base": results, "ours": results})
    assert len(figure.axes) == 1 + coded
    curve = figure.axes[0].get_lines()[0]
    assert curve.get_xdata().tolist() == [0.0, *(point["eps"] for point in results["curve"])]
    shares = [results["clean"]["accuracy"], *(point["accuracy"] for point in results["curve"])]
    assert curve.get_ydata().tolist() == pytest.approx([100 * share for share in shares])
    assert "N = 360" in figure.axes[0].get_title()
    if coded:
        counts = [point["undecided_mean"] for point in results["curve"]]
        assert figure.axes[1].get_lines()[0].get_ydata().tolist() == counts
    figure.savefig(tmp_path / "certified.png")


def test_runs_with_and_without_front_end_are_drawn_together(tmp_path):
    options = {"data": digits(eval_batch_size=90), "limit_test_batches": 1}
    plain, _ = measured(tmp_path / "a", CertifiedAccuracy(eps=[0.001]), trained(), **options)
    coded, _ = measured(tmp_path / "b", CertifiedAccuracy(eps=[0.001]), polarizing(), **options)
    figure = CertifiedAccuracy.draw({"plain": plain, "coded": coded})
    assert [len(axis.get_lines()) for axis in figure.axes] == [3, 1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"eps": []}, "above 0, each once"),
        ({"eps": [0, 0.1]}, "above 0, each once"),
        ({"eps": [0.1, "0.1"]}, "above 0, each once"),
        ({"eps": ["much"]}, "expected eps to be a number"),
        ({"eps": [8]}, "did you mean 8/255"),
        ({"norm": "l0"}, "to be linf, l2 or l1, got 'l0'"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        CertifiedAccuracy(**wrong)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: Pipeline([AdditiveNoise(0.1), trained()]), "is random"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(256, 10), nn.Softmax(1)), "no interval bound for 'softmax'"),
    ],
)
def test_networks_that_cannot_be_certified_are_refused_before_any_work(tmp_path, network, message):
    with pytest.raises(UserError, match=message):
        measured(tmp_path, CertifiedAccuracy(), network().train())


def test_a_radius_beyond_the_images_is_refused():
    with pytest.raises(UserError, match="L2 diameter"):
        CertifiedAccuracy(eps=[100], norm="l2").check(trained(), digits())
