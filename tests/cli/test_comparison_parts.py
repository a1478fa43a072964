"""The parts of a comparison, from settings and results made by hand."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_robust.comparison.pictures import draw
from lit_robust.comparison.plan import PlannedTest, check_alike, image_settings
from lit_robust.comparison.report import comparison_table, write
from lit_robust.comparison.rows import rows
from lit_robust.comparison.testing import FinishedTest
from lit_robust.data import MNIST, Digits, ImageFolder
from lit_robust.errors import UserError


def finished(label, verdicts, *, index=None, labels=None, attacks=None, measurements=None, distance=None):
    """A finished test with given verdicts, `right` by attack, in a shuffled file as processes may write it."""
    n = len(verdicts["clean"])
    index = np.arange(n) if index is None else np.array(index)
    order = np.random.default_rng(0).permutation(n * len(verdicts))
    labels = np.zeros(n, int) if labels is None else np.array(labels)
    predictions = np.where(verdicts["clean"], labels, labels + 1)
    broken = np.concatenate([~np.array(v, bool) for v in verdicts.values()])
    columns = {
        "index": np.tile(index, len(verdicts)),
        "label": np.tile(labels, len(verdicts)),
        "attack": np.repeat(np.array(list(verdicts), object), n),
        "prediction": np.tile(predictions, len(verdicts)),
        "broken": broken,
        "right": (~broken).astype(float),
        "right_before": (~broken).astype(float),
        "margin": np.where(broken, -1.0, 1.0),
        "distance": np.tile(np.zeros(n) if distance is None else np.array(distance, float), len(verdicts)),
    }

    def figure(*names):
        return {"correct": int(np.all([verdicts[name] for name in names], axis=0).sum()), "n": n}

    adversary = {"kind": "adversary", "threat_model": "L∞ 0.1", "bound": "at most", "accuracy": 0.0}
    own = {name: {**adversary, **figure(name), **(attacks or {}).get(name, {})} for name in verdicts if name != "clean"}
    results = {
        "clean": figure("clean"),
        "attacks": own,
        "worst_case": {"L∞ 0.1": {"attacks": list(own), "bound": "at most", **figure(*(own or ["clean"]))}},
    }
    return FinishedTest(
        label=label,
        folder=Path(label),
        results=results,
        samples={key: column[order] for key, column in columns.items()},
        measurements=measurements or {},
    )


def test_every_row_is_paired_with_the_first_run_by_index():
    a = finished("a", {"clean": [1, 1, 1, 0], "x": [1, 1, 0, 0], "y": [1, 0, 1, 0]})
    b = finished("b", {"clean": [1, 1, 0, 0], "x": [1, 0, 0, 0], "y": [1, 1, 1, 0]})
    c = finished("c", {"clean": [0, 1, 1, 1], "x": [0, 1, 1, 1], "y": [0, 1, 0, 1]})
    found = {row["name"]: row["differences"] for row in rows([a, b, c])}
    assert list(found) == ["clean", "x, L∞ 0.1", "y, L∞ 0.1", "worst case, L∞ 0.1"]

    def counts(row, label):
        return [found[row][label][key] for key in ("both", "only_first", "only_second", "neither")]

    assert counts("clean", "b") == [2, 1, 0, 1]
    assert counts("clean", "c") == [2, 1, 1, 0]
    assert counts("x, L∞ 0.1", "c") == [1, 1, 2, 0]
    assert counts("worst case, L∞ 0.1", "b") == [1, 0, 0, 3]
    assert counts("worst case, L∞ 0.1", "c") == [0, 1, 2, 1]
    assert found["x, L∞ 0.1"]["c"]["difference"] == 0.25


def test_random_networks_are_paired_by_the_shares_of_their_draws():
    a = finished("a", {"clean": [1, 1, 1, 1], "x": [1, 1, 0, 0]})
    b = finished("b", {"clean": [1, 1, 1, 1], "x": [1, 0, 0, 0]})
    mine = b.samples["attack"] == "x"
    b.samples["right"][mine] = np.array([0.75, 0.5, 0.25, 0.0])[b.samples["index"][mine]]
    b.results["attacks"]["x"]["correct"] = 1.5
    row = next(row for row in rows([a, b]) if row["name"] == "x, L∞ 0.1")
    assert row["values"]["b"]["value"] == 0.375
    difference = row["differences"]["b"]
    assert difference["difference"] == pytest.approx((-0.25 - 0.5 + 0.25) / 4)
    assert difference["p"] is None
    assert difference["interval_95"][0] < difference["difference"] < difference["interval_95"][1]


def test_an_attack_that_one_run_does_not_have_has_no_row():
    a = finished("a", {"clean": [1, 0], "x": [1, 0]})
    b = finished("b", {"clean": [1, 0], "z": [1, 0]})
    assert [row["name"] for row in rows([a, b])] == ["clean"]


@pytest.mark.parametrize(
    ("other", "said"), [({"index": [0, 2]}, "on other images"), ({"labels": [0, 1]}, "with other labels")]
)
def test_tests_of_other_images_are_refused(other, said):
    with pytest.raises(UserError, match=f"first and second were tested .*{said}"):
        rows([finished("first", {"clean": [1, 0]}), finished("second", {"clean": [1, 0]}, **other)])


def test_files_that_contradict_each_other_are_refused():
    b = finished("b", {"clean": [1, 0], "x": [1, 0]})
    b.results["attacks"]["x"]["correct"] = 2
    with pytest.raises(UserError, match=r"per_sample.parquet in b has 1 of 2 right, and results.json 2 of 2"):
        rows([finished("a", {"clean": [1, 0], "x": [1, 0]}), b])


def norms(mean, **others):
    return {"x": {"kind": "adversary", "threat_model": "any", "minimum_norm": {"norm": "l2", "mean": mean, **others}}}


def test_minimum_norms_are_paired_where_both_are_right_and_have_an_adversarial():
    a = finished("a", {"clean": [1] * 5, "x": [0, 0, 0, 1, 0]}, attacks=norms(7.0), distance=[1, 2, 3, 0, 4])
    b = finished("b", {"clean": [1, 1, 1, 1, 0], "x": [0, 0, 1, 1, 0]}, attacks=norms(8.0), distance=[2, 4, 0, 0, 0])
    for test in (a, b):
        del test.results["attacks"]["x"]["accuracy"]
        test.results["worst_case"].clear()
    clean, row = rows([a, b])
    assert clean["quantity"] == "accuracy"
    assert (row["name"], row["quantity"], row["bound"]) == ("x, mean L2 norm", "mean norm", "at most")
    assert [row["values"][label]["value"] for label in "ab"] == [7, 8], "the tests' own means"
    gain = row["differences"]["b"]
    assert (gain["difference"], gain["n"], gain["p"]) == (1.5, 2, None)
    assert gain["interval_95"] == pytest.approx((1.5 - 12.706 * 0.5, 1.5 + 12.706 * 0.5), abs=1e-3)
    # An adversarial beyond the radius that counts is still an adversarial: its margin says so.
    b.samples["margin"][(b.samples["attack"] == "x") & (b.samples["index"] == 2)] = -0.5
    b.samples["distance"][(b.samples["attack"] == "x") & (b.samples["index"] == 2)] = 9.0
    assert rows([a, b])[1]["differences"]["b"]["difference"] == 3


def test_a_minimum_norm_attack_with_a_radius_has_both_rows():
    verdicts = {"clean": [1, 1], "x": [0, 1]}
    tests = [finished(label, verdicts, attacks=norms(None), distance=[1, 0]) for label in "ab"]
    found = {row["name"]: row for row in rows(tests)}
    assert list(found) == ["clean", "x, any", "x, mean L2 norm"]
    assert found["x, any"]["differences"]["b"]["both"] == 1
    assert found["x, mean L2 norm"]["values"]["a"]["value"] is None


def test_the_csv_has_a_line_for_each_row_and_run_and_the_table_what_it_says(tmp_path):
    from rich.console import Console

    measured = {"snr": {"measurement": "m.SNR", "table": {"first layer": 12.345678, "snr/last": 1}}}
    verdicts = {"clean": [1] * 40, "x": [1] * 30 + [0] * 10}
    a = finished("a", verdicts, measurements=measured)
    b = finished("b", {**verdicts, "x": [1] * 20 + [0] * 20}, measurements=measured)
    content = {"title": "t", "runs": [{"label": "a"}, {"label": "b"}], "rows": rows([a, b])}
    write(tmp_path, content)
    with (tmp_path / "comparison.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["row"], line["run"]) for line in lines] == [
        (name, run) for name in ("clean", "x, L∞ 0.1", "snr: first layer", "snr/last") for run in "ab"
    ]
    assert float(lines[3]["difference"]) == -0.25
    assert float(lines[3]["low"]) < -0.25 < float(lines[3]["high"]) < 0
    counts = [lines[3][key] for key in ("both", "only_first", "only_second", "neither", "pairs")]
    assert counts == ["20", "10", "0", "10", "40"]
    assert lines[2]["difference"] == lines[5]["difference"] == ""
    console = Console(width=120, file=io.StringIO())
    console.print(comparison_table(content))
    text = console.file.getvalue()
    assert "at most 75.0 %" in text
    assert "-25.0 (-40.2 to -14.0) p = 0.002" in text
    assert "12.35" in text


def test_a_measurement_that_is_not_found_is_named(tmp_path):
    test = finished("a", {"clean": [1]}, measurements={"snr": {"measurement": "no.such.SNR"}})
    with pytest.raises(UserError, match=r"a/snr.json names the measurement 'no.such.SNR'"):
        draw(tmp_path, [test, test])


def test_what_decides_which_images_are_shown(tmp_path):
    for path in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / path).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / path / "0.png")
    config = {"class_path": "X", "init_args": {"size": 8, "root": None, "batch_size": 2, "seed": 3, "own": 4}}
    assert image_settings(config, MNIST()) == {"class_path": "X", "init_args": {"size": 8, "own": 4}}
    folder = image_settings(config, ImageFolder(root=str(tmp_path)))["init_args"]
    assert folder == {"size": 8, "root": str(tmp_path), "own": 4}
    assert image_settings({"class_path": "X"}, Digits()) == {"class_path": "X", "init_args": {}}


def test_settings_that_differ_are_named_with_their_values():
    def planned(**attacks):
        shared = {"data": {"class_path": "X"}, "evaluation": {"attacks": attacks}}
        return PlannedTest(config={}, shared=shared, checkpoint=Path("x"), measurements=())

    one = planned(**{"noise_0.05": {"sigma": 0.05}, "noise_0.1": {"sigma": 0.1}})
    check_alike(["a", "b"], [one, one])
    with pytest.raises(UserError, match=r"a and c .*noise_0.05.sigma \(0.05 and 0.5\), .*noise_0.1 \(.*not there"):
        check_alike(["a", "b", "c"], [one, one, planned(**{"noise_0.05": {"sigma": 0.5}})])
