"""Accuracy under corruptions: right where the images say so, means, intervals, mCE, official files, refusals."""

import json

import numpy as np
import pytest
import torch
from digit_runs import digits, trained
from measured_digits import block, dealt, measured
from torch import nn

from lit_robust.callbacks import CorruptionAccuracy
from lit_robust.corruptions import CORRUPTIONS
from lit_robust.data import CIFAR10
from lit_robust.errors import UserError
from lit_robust.evaluation import wilson

CHOSEN = {"corruptions": ["contrast", "gaussian_noise", "saturate"], "severities": [5, 1]}
CONDITIONS = [f"{name}/{s}" for name in ("gaussian_noise", "contrast", "saturate") for s in (1, 5)]
FIRST = {"limit_test_batches": 1}


@pytest.fixture(scope="module")
def test(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("chosen"), CorruptionAccuracy(**CHOSEN, seed=4))


@pytest.fixture(scope="module")
def all_19(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("all"), CorruptionAccuracy(), **FIRST)


def accuracy(results, name, severity):
    return results["corruptions"][name]["severities"][str(severity)]["accuracy"]


def test_a_row_says_what_is_right_under_each_condition(test):
    _, columns = test
    assert list(columns) == ["index", "label", "clean", *CONDITIONS]
    images = block(trained(), digits(eval_batch_size=360), seed=4)
    with torch.no_grad():
        for condition in CONDITIONS:
            name, severity = condition.split("/")
            corrupted = CORRUPTIONS[name](images.x, int(severity), images.noise)
            right = trained()(corrupted).argmax(1) == images.y
            assert np.array_equal(columns[condition], right.numpy())
            assert 0.2 < right.float().mean() < 1
    assert columns["clean"].dtype == bool
    assert np.array_equal(columns["saturate/5"], columns["clean"]), "grey images have no saturation"


def test_means_and_intervals(test):
    results, columns = test
    share = {c: columns[c].mean() for c in CONDITIONS}
    assert results["n"] == results["clean"]["n"] == 360
    assert results["clean"]["accuracy"] == pytest.approx(columns["clean"].mean())
    for condition in CONDITIONS:
        name, severity = condition.split("/")
        figure = results["corruptions"][name]["severities"][severity]
        assert figure["accuracy"] == pytest.approx(share[condition])
        assert figure["interval_95"] == list(wilson(int(columns[condition].sum()), 360))
    contrast = results["corruptions"]["contrast"]
    assert contrast["accuracy"] == pytest.approx((share["contrast/1"] + share["contrast/5"]) / 2)
    assert contrast["interval_95"] == list(wilson(round(360 * contrast["accuracy"]), 360))
    assert results["groups"]["digital"]["accuracy"] == pytest.approx(np.mean([share[c] for c in CONDITIONS[2:]]))
    assert list(results["groups"]) == ["noise", "digital"]
    assert results["mean"]["accuracy"] == pytest.approx(np.mean(list(share.values())))
    assert results["mean"]["interval_95"][0] < results["mean"]["accuracy"] < results["mean"]["interval_95"][1]
    assert results["severity_5_table"] is None


def test_what_was_measured_is_said(test):
    results, _ = test
    assert results["benchmark"] == "Digits-C-like"
    assert results["source"] == "C-like (own implementation, not CIFAR-10-C)"
    assert results["severities"] == [1, 5]
    assert results["names"] == ["gaussian_noise", "contrast", "saturate"]
    assert results["dataset"]["name"] == "Digits"
    assert results["dataset"]["image_shape"] == [1, 16, 16]
    assert results["protocol"]["seed"] == 4
    assert list(results["table"]) == [
        f"corruptions/{key}" for key in ("clean", "mean", "noise", "digital", "gaussian_noise", "contrast", "saturate")
    ]
    assert results["table"]["corruptions/contrast"] == results["corruptions"]["contrast"]["accuracy"]


def test_all_19_at_5_severities_and_the_table_of_the_dissertation(all_19):
    results, columns = all_19
    assert len(columns) == 3 + 95
    assert list(results["corruptions"]) == list(CORRUPTIONS)
    table = results["severity_5_table"]
    names = [name for group in table["groups"].values() for name in group]
    assert len(names) == 16
    assert {"glass_blur", "saturate", "jpeg_compression"}.isdisjoint(names)
    assert list(table["groups"]["weather"]) == ["snow", "fog", "frost", "brightness"]
    assert table["groups"]["blur"]["motion_blur"] == accuracy(results, "motion_blur", 5)
    assert table["accuracy"] == pytest.approx(np.mean([accuracy(results, name, 5) for name in names]))
    assert results["table"]["corruptions/severity 5"] == table["accuracy"]
    for key in ("clean", "mean", "noise", "weather", "blur", "digital", "fog"):
        assert f"corruptions/{key}" in results["table"]


def test_the_figures_do_not_depend_on_the_processes(tmp_path):
    results, columns = dealt(tmp_path, CorruptionAccuracy(**CHOSEN), processes=3)
    alone, its = dealt(tmp_path, CorruptionAccuracy(**CHOSEN), processes=1)
    assert results == alone
    assert all(np.array_equal(columns[name], its[name]) for name in its)


def test_a_sample_counts_the_same_in_any_order():
    measurement = CorruptionAccuracy(corruptions=["snow", "elastic_transform"], severities=[3])
    rows = [5, 17, 3, 40]
    columns = measurement.measure(block(trained(), digits(eval_batch_size=8), rows=rows))
    turned = measurement.measure(block(trained(), digits(eval_batch_size=8), rows=rows[::-1]))
    assert all(torch.equal(columns[name], turned[name].flip(0)) for name in columns)


class Overflows(nn.Module):
    """Right on every image, but for logits that are not finite."""

    def forward(self, x):
        return torch.full((len(x), 10), float("inf"))


def test_logits_that_are_not_finite_are_wrong():
    images = block(Overflows().eval(), digits(eval_batch_size=8))
    columns = CorruptionAccuracy(corruptions=["contrast"]).measure(images)
    assert not columns["clean"].any()
    assert not columns["contrast/1"].any()


# The mean corruption error.


def saved(tmp_path, results, **other):
    path = tmp_path / "baseline.json"
    path.write_text(json.dumps({**results, **other}))
    return str(path)


def test_the_mean_corruption_error_is_a_ratio_of_summed_errors(test, tmp_path):
    results, _ = test
    chosen = {"corruptions": ["gaussian_noise", "contrast"], "severities": [5]}
    measurement = CorruptionAccuracy(**chosen, seed=1, baseline=saved(tmp_path, results))
    own, _ = dealt(tmp_path, measurement)
    ratios = [(1 - accuracy(own, name, 5)) / (1 - accuracy(results, name, 5)) for name in chosen["corruptions"]]
    assert list(own["mce"]["corruptions"].values()) == pytest.approx(ratios)
    assert own["mce"]["value"] == pytest.approx(np.mean(ratios))
    assert own["mce"]["value"] != 1
    assert own["table"]["corruptions/mCE"] == own["mce"]["value"]


def test_errors_are_summed_over_the_severities_before_they_are_divided(test, tmp_path):
    results, _ = test
    other = json.loads(json.dumps(results))
    for severity, value in (("1", 0.9), ("5", 0.3)):
        other["corruptions"]["contrast"]["severities"][severity]["accuracy"] = value
    path = saved(tmp_path, other)
    own, _ = dealt(tmp_path, CorruptionAccuracy(corruptions=["contrast"], severities=[1, 5], baseline=path))
    expected = (2 - accuracy(own, "contrast", 1) - accuracy(own, "contrast", 5)) / (0.1 + 0.7)
    assert own["mce"]["value"] == pytest.approx(expected)


def test_a_network_is_its_own_baseline_with_1(test, tmp_path):
    results, _ = test
    own, _ = measured(tmp_path / "own", CorruptionAccuracy(**CHOSEN, seed=4, baseline=saved(tmp_path, results)))
    assert own["mce"]["value"] == 1
    assert set(own["mce"]["corruptions"].values()) == {1}
    assert "mce" not in results


def test_a_baseline_of_fewer_images_gives_no_figure_but_a_reason(test, tmp_path):
    results, _ = test
    path = saved(tmp_path, results)
    own, _ = measured(tmp_path / "own", CorruptionAccuracy(**CHOSEN, baseline=path), **FIRST)
    assert own["mce"] == {
        "value": None,
        "baseline": path,
        "reason": "the baseline was measured on 360 images, not on 100",
    }
    assert "corruptions/mCE" not in own["table"]


def test_a_baseline_that_does_not_fit_is_refused(test, tmp_path):
    results, _ = test

    def refused(message, chosen=CHOSEN, data=None, **other):
        measurement = CorruptionAccuracy(**chosen, baseline=saved(tmp_path, results, **other))
        with pytest.raises(UserError, match=message):
            measurement.check(trained(), data or digits())

    refused("another source: CIFAR-10-C, here C-like", source="CIFAR-10-C")
    refused("another dataset", dataset={**results["dataset"], "name": "MNIST"})
    refused("another dataset", data=digits(size=8))
    refused("lacks fog at severity 1, 5", {"corruptions": ["fog"], "severities": [1, 5]})
    refused("lacks contrast at severity 2", {"corruptions": ["contrast"], "severities": [1, 2]})
    flawless = json.loads(json.dumps(results["corruptions"]))
    for figure in flawless["contrast"]["severities"].values():
        figure["accuracy"] = 1.0
    refused("makes no error under contrast", corruptions=flawless)
    refused("expected baseline to be the corruptions.json of a test", corruptions=None)
    with pytest.raises(UserError, match=r"corruptions\.json of a test, got nowhere\.json"):
        CorruptionAccuracy(baseline="nowhere.json").check(trained(), digits())


# The published files.


class Painted(CIFAR10):
    """10,000 images that nobody looks at, with the labels 0 to 9 in turn."""

    def __init__(self, **options):
        super().__init__(eval_batch_size=4, **options)
        self.name = "CIFAR10"

    def read(self, train, download):
        return torch.zeros(10_000, 3, 32, 32, dtype=torch.uint8), torch.arange(10_000) % 10

    def prepare_data(self):
        pass


class ReadsShades(nn.Module):
    """Says class k of an image whose red, upper left, is 20 k."""

    def forward(self, x):
        return -(x[:, 0, 0, :1] * 255 - 20 * torch.arange(10)).abs()


def publish(folder, name, shades, shape=(50_000, 32, 32, 3), dtype=np.uint8):
    """A file in which the given rows have a shade of red in the upper left, and nothing else (sparse on disk)."""
    file = np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=dtype, shape=shape)
    for row, shade in shades.items():
        file[row, 0, 0, 0] = shade
    file.flush()


@pytest.fixture
def published(tmp_path):
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(np.arange(10_000) % 10, 5).astype(np.uint8))
    publish(folder, "fog", {**{i: 20 * i for i in range(4)}, 40_001: 20, 40_003: 60})
    return folder


def test_official_files_are_read_by_severity_and_position(published, tmp_path):
    measurement = CorruptionAccuracy(corruptions=["fog"], severities=[1, 5], folder=str(published))
    results, columns = measured(tmp_path / "out", measurement, ReadsShades().eval(), Painted(), **FIRST)
    assert columns["fog/1"].tolist() == [True, True, True, True]
    assert columns["fog/5"].tolist() == [True, True, False, True]
    assert results["benchmark"] == results["source"] == "CIFAR-10-C"
    assert results["dataset"]["test_images"] == 10_000


def test_official_files_that_do_not_fit_are_refused(published):
    def refused(message, data=None, **options):
        chosen = {"corruptions": ["fog"], "folder": str(published), **options}
        with pytest.raises(UserError, match=message):
            CorruptionAccuracy(**chosen).check(ReadsShades(), data or Painted())

    refused(r"snow.npy to hold \(50000, 32, 32, 3\) of uint8, and there is no such file", corruptions=["fog", "snow"])
    refused(r"data are Digits at \(1, 16, 16\)", data=digits())
    refused(r"data are CIFAR10 at \(1, 32, 32\)", data=Painted(channels=1))
    other = Painted()
    other.images(train=False).y[7] = 0
    refused("differs from the labels of the test set in 1 of 10,000 images", data=other)
    publish(published, "frost", {}, shape=(10_000, 32, 32, 3))
    refused(r"frost.npy .* it holds \(10000, 32, 32, 3\) of uint8", corruptions=["frost"])
    publish(published, "frost", {}, dtype=np.float16)
    refused(r"frost.npy .* of float16", corruptions=["frost"])
    (published / "frost.npy").write_bytes(b"no array")
    refused("frost.npy .* cannot be read", corruptions=["frost"])
    (published / "labels.npy").unlink()
    refused("labels.npy to hold .* no such file")


def test_fewer_test_images_are_no_cifar_10(published):
    data = Painted()
    images = data.images(train=False)
    data._loaded[False] = type(images)(images.x[:9], images.y[:9], images.classes)
    with pytest.raises(UserError, match=r"test set of 10,000 images, and this one has 9"):
        CorruptionAccuracy(corruptions=["fog"], folder=str(published)).check(ReadsShades(), data)


# Settings and pictures.


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"corruptions": ["gausian_noise"]}, "called 'gausian_noise'; did you mean gaussian_noise"),
        ({"corruptions": ["xyz"]}, "called 'xyz'; there are: gaussian_noise, shot_noise, "),
        ({"corruptions": []}, "each once"),
        ({"corruptions": ["fog", "fog"]}, "each once"),
        ({"severities": []}, "severities from 1 to 5, each once"),
        ({"severities": [0]}, r"got \[0\]"),
        ({"severities": [6]}, r"got \[6\]"),
        ({"severities": [2, 2]}, "each once"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        CorruptionAccuracy(**wrong)


def texts(figure):
    return "\n".join([figure.axes[0].get_title(), *(t.get_text() for t in figure.axes[0].get_yticklabels())])


def test_one_run_is_drawn_with_its_severities(all_19, tmp_path):
    results, _ = all_19
    figure = CorruptionAccuracy.draw({"base": results})
    (axis,) = figure.axes
    said = texts(figure)
    assert "Digits-C-like (own implementation, not CIFAR-10-C)" in said
    assert "mean of severities 1 to 5, N = 100" in said
    assert all(name.replace("_", " ") in said for name in [*CORRUPTIONS, "noise", "weather", "blur", "digital"])
    (dots,) = [line for line in axis.lines if line.get_label() == "base"]
    labels = [text.get_text() for text in axis.get_yticklabels()]
    at = dict(zip(labels, dots.get_xdata(), strict=True))
    assert at["fog"] == pytest.approx(100 * results["corruptions"]["fog"]["accuracy"])
    assert at["blur"] == pytest.approx(100 * results["groups"]["blur"]["accuracy"])
    assert at["all"] == pytest.approx(100 * results["mean"]["accuracy"])
    ticks = [line for line in axis.lines if line.get_marker() == "|"]
    assert len(ticks) == 95
    assert {text.get_text() for text in axis.texts} == set("12345")
    figure.savefig(tmp_path / "one.png")


def test_runs_are_drawn_together_and_named(test, tmp_path):
    results, _ = test
    figure = CorruptionAccuracy.draw({"base": results, "ours": results, "third": results})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["base", "ours", "third"]
    dots = [line for line in figure.axes[0].lines if line.get_label() in ("base", "ours", "third")]
    assert len({line.get_color() for line in dots}) == 3
    assert len({tuple(line.get_ydata()) for line in dots}) == 3, "beside each other"
    assert not figure.axes[0].texts
    assert "mean of severities 1, 5, N = 360" in figure.axes[0].get_title()
    figure.savefig(tmp_path / "three.png")


@pytest.mark.parametrize(
    "other", [{"source": "CIFAR-10-C"}, {"severities": [1]}, {"names": ["fog"]}, {"benchmark": "MNIST-C-like"}]
)
def test_runs_under_different_corruptions_are_not_drawn_together(test, other):
    results, _ = test
    with pytest.raises(UserError, match=f"different corruptions cannot be compared .{next(iter(other))} base: "):
        CorruptionAccuracy.draw({"base": results, "ours": {**results, **other}})


def test_official_figures_have_no_other_name(test):
    results, _ = test
    figure = CorruptionAccuracy.draw({"base": {**results, "source": "CIFAR-10-C", "benchmark": "CIFAR-10-C"}})
    assert "like" not in figure.axes[0].get_title()
    assert "own" not in figure.axes[0].get_title()
