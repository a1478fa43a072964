"""Accuracy against noise: the clean one at 0, the evaluation's own at any sigma, and the same on any processes."""

import json
import statistics

import numpy as np
import pytest
import torch
from digit_runs import digits, still, trained, trainer
from measured_digits import block, dealt, measured

from lit_robust.attacks import GaussianNoise
from lit_robust.callbacks import NoiseAccuracy, RobustEval
from lit_robust.errors import UserError
from lit_robust.evaluation import wilson
from lit_robust.nn import AdditiveNoise, Pipeline

SIGMAS = [0, "0.1", 0.4]


@pytest.fixture(scope="module")
def test(tmp_path_factory):
    folder = tmp_path_factory.mktemp("noise")
    return *measured(folder, NoiseAccuracy(sigmas=SIGMAS, draws=3, seed=4), data=digits()), folder


def correct(results):
    return [point["correct"] for point in results["curve"]]


def test_every_draw_is_right_as_often_as_the_images_say(test):
    results, _, _ = test
    images, network = block(trained(), digits(eval_batch_size=360), seed=4), trained()
    for point in results["curve"]:
        for draw, count in enumerate(point["correct"]):
            noise = images.noise.restarted(draw).normal("gaussian", images.x.shape[1:])
            with torch.no_grad():
                prediction = network((images.x + point["sigma"] * noise).clamp(0, 1)).argmax(1)
            assert count == int((prediction == images.y).sum())
    assert len({tuple(counts) for counts in correct(results)}) == 3
    assert len(set(results["curve"][2]["correct"])) > 1, "draws differ"


def test_without_noise_it_is_the_clean_accuracy_and_draw_0_is_that_of_an_evaluation(test, tmp_path):
    results, _, _ = test
    evaluation = RobustEval({"low": GaussianNoise(sigma=0.1), "high": GaussianNoise(sigma=0.4)}, seed=4)
    trainer(tmp_path, evaluation).test(still(trained()), datamodule=digits(), verbose=False)
    evaluated = json.loads((tmp_path / "results.json").read_text())
    clean, low, high = results["curve"]
    assert clean["correct"] == [evaluated["clean"]["correct"]] * 3
    assert clean["accuracy"] == evaluated["clean"]["accuracy"]
    assert clean["deviation"] == 0
    assert clean["interval_95"] == evaluated["clean"]["interval_95"]
    assert low["correct"][0] == evaluated["attacks"]["low"]["correct"]
    assert high["correct"][0] == evaluated["attacks"]["high"]["correct"]


def test_mean_deviation_and_interval(test):
    results, columns, _ = test
    for point in results["curve"]:
        counts = point["correct"]
        assert point["accuracy"] == pytest.approx(statistics.mean(counts) / 360)
        assert point["deviation"] == pytest.approx(statistics.stdev(counts) / 360)
        assert point["interval_95"] == list(wilson(round(statistics.mean(counts)), 360))
        right = np.stack(columns[f"sigma {point['sigma']:g}"]) == columns["label"][:, None]
        assert right.sum(0).tolist() == counts
    assert results["table"] == {f"noise/{p['sigma']:g}": p["accuracy"] for p in results["curve"]}
    assert results["protocol"]["samples"] == 360
    assert results["protocol"]["seed"] == 4


def test_the_figures_do_not_depend_on_the_processes(test, tmp_path):
    results, columns, _ = test
    other, its = dealt(tmp_path, NoiseAccuracy(sigmas=SIGMAS, draws=3, seed=4))
    assert {name: results[name] for name in other} == other
    assert all(np.array_equal(np.stack(columns[n]), np.stack(its[n])) for n in columns if n != "noisy")


def test_an_image_counts_the_same_in_any_order():
    measurement = NoiseAccuracy(sigmas=SIGMAS, draws=2)
    rows = [5, 17, 3, 40]
    columns = measurement.measure(block(trained(), digits(eval_batch_size=8), rows=rows))
    turned = measurement.measure(block(trained(), digits(eval_batch_size=8), rows=rows[::-1]))
    for name in ("sigma 0", "sigma 0.1", "sigma 0.4"):
        assert torch.equal(columns[name], turned[name].flip(0))


def test_one_draw_has_no_deviation(tmp_path):
    results, _ = measured(tmp_path, NoiseAccuracy(sigmas=[0.1], draws=1), limit_test_batches=1)
    assert results["curve"][0]["deviation"] is None
    assert results["protocol"]["samples"] == 100


def test_a_random_network_draws_anew_in_each_draw(tmp_path):
    noisy = Pipeline([AdditiveNoise(0.4), trained()]).eval()
    (first, _), (again, _) = (measured(tmp_path / n, NoiseAccuracy(sigmas=[0], draws=3), noisy) for n in "ab")
    assert len(set(first["curve"][0]["correct"])) > 1
    assert first["curve"] == again["curve"]


def test_the_image_below_the_graph_is_that_of_the_test_set(test):
    results, _, _ = test
    shown = results["image"]
    assert shown["index"] == 0
    assert [picture["sigma"] for picture in shown["noisy"]] == [0, 0.1, 0.4]
    images = block(trained(), digits(eval_batch_size=1), seed=4)
    for picture in shown["noisy"]:
        expected = (images.x + picture["sigma"] * images.noise.normal("gaussian", images.x.shape[1:])).clamp(0, 1)
        np.testing.assert_allclose(np.array(picture["pixels"]), expected[0].numpy(), atol=1e-3)


def test_an_image_of_a_later_block_can_be_shown(tmp_path):
    results, columns = measured(tmp_path, NoiseAccuracy(sigmas=[0], draws=1, image=150))
    assert [row for row, content in enumerate(columns["noisy"]) if content] == [150]
    (picture,) = results["image"]["noisy"]
    np.testing.assert_allclose(picture["pixels"], block(None, digits(), 150).x[0].numpy(), atol=1e-3)


def test_large_images_are_cut_and_an_image_that_was_not_measured_is_not_shown(tmp_path):
    data = digits(size=80, eval_batch_size=4)
    network = torch.nn.Sequential(torch.nn.AvgPool2d(5), trained()).eval()
    options = {"network": network, "data": data, "limit_test_batches": 1}
    results, _ = measured(tmp_path / "a", NoiseAccuracy(sigmas=[0, 0.1], draws=1, image=2), **options)
    pixels = np.array(results["image"]["noisy"][0]["pixels"])
    np.testing.assert_allclose(pixels, block(network, data).x[2, :, 8:72, 8:72].numpy(), atol=1e-3)
    without, _ = measured(tmp_path / "b", NoiseAccuracy(sigmas=[0], draws=1, image=7), **options)
    assert "image" not in without
    assert len(NoiseAccuracy.draw({"b": without}).axes) == 1


def test_a_curve_a_run_and_six_pictures(test, tmp_path):
    results, _, _ = test
    many = {**results, "image": {"index": 0, "noisy": results["image"]["noisy"] * 2}}
    figure = NoiseAccuracy.draw({"base": many, "ours": results, "third": results})
    assert len(figure.axes) == 1 + 6
    graph = figure.axes[0]
    lines = [container.lines[0] for container in graph.containers]
    assert [container.get_label() for container in graph.containers] == ["base", "ours", "third"]
    assert len({line.get_color() for line in lines}) == 3
    assert lines[0].get_xdata().tolist() == [0, 0.1, 0.4]
    assert lines[0].get_ydata().tolist() == pytest.approx([100 * p["accuracy"] for p in results["curve"]])
    assert "N = 360, draws = 3, seed 4" in graph.get_title()
    figure.savefig(tmp_path / "noise.png")
    assert (tmp_path / "noise.png").stat().st_size > 5000


def test_no_more_than_six_of_many_sigmas_are_shown():
    assert [float(s) for s in NoiseAccuracy()._pictured] == [0, 0.04, 0.08, 0.12, 0.16, 0.2]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sigmas": []}, "sigmas of NoiseAccuracy of 0 or more, each once"),
        ({"sigmas": [0.1, -0.1]}, "0 or more, each once"),
        ({"sigmas": [0.1, "0.1"]}, "each once"),
        ({"sigmas": ["much"]}, "expected sigma to be a number"),
        ({"draws": 0}, "draws of at least 1"),
        ({"image": -1}, "image of 0 or more"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        NoiseAccuracy(**wrong)
