"""`compare`: the same test of several runs, paired image by image."""

import contextlib
import csv
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from tiny import TINY

from lit_robust.__main__ import main
from lit_robust.comparison import testing
from lit_robust.comparison.report import comparison_table, write
from lit_robust.comparison.rows import rows
from lit_robust.comparison.testing import FinishedTest
from lit_robust.errors import UserError

A, B = "runs/quickstart/1", "runs/natural_digits/1"
BOTH = ["compare", "--config", "two.yaml", "--run", A, "--run", B]
TWO_ATTACKS = """
evaluation:
  attacks:
    fgsm: {class_path: FGSM, init_args: {threat: {eps: 0.1}}}
    pgd: {class_path: PGD, init_args: {threat: {eps: 0.1}, steps: 2}}
    noise: {class_path: GaussianNoise, init_args: {sigma: 0.3}}
trainer:
  limit_test_batches: 8
  callbacks:
    - {class_path: mine.Brightness, init_args: {power: 2}}
"""
BRIGHTNESS = """
from matplotlib.figure import Figure
from lit_robust.callbacks import Measurement
from lit_robust.errors import UserError

class Brightness(Measurement):
    name = "brightness"

    def __init__(self, *, power: int = 1, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.power = power

    def check(self, network, data):
        if self.power < 1:
            raise UserError("power below 1")

    def measure(self, block):
        return {"index": block.index, "mean": (block.x.double() ** self.power).mean((1, 2, 3))}

    def summarise(self, columns):
        return {"means": columns["mean"].tolist(), "table": {"mean": columns["mean"].mean(), "empty": float("nan")}}

    @classmethod
    def draw(cls, results):
        figure = Figure()
        axes = figure.add_subplot()
        for label, content in results.items():
            axes.plot(content["means"], label=label)
        with open("drawn.txt", "a") as file:
            print(*results, file=file)
        return figure
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two short runs, an evaluation and a measurement; copied by each test."""
    folder = tmp_path_factory.mktemp("compare")
    (folder / "two.yaml").write_text(TWO_ATTACKS)
    (folder / "mine.py").write_text(BRIGHTNESS)
    with contextlib.chdir(folder):
        assert main(["fit", "--config", "quickstart.yaml", *TINY, "--evaluation.val_attack.steps=1"]) == 0
        assert main(["fit", "--config", "natural_digits.yaml", *TINY]) == 0
    return folder


@pytest.fixture
def both(cli, trained, tmp_path, monkeypatch):
    """The command line in a copy of the two runs; its tests run in this process, which is faster."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)

    def in_process(command, *, env, check):
        assert command[:4] == [sys.executable, "-m", "lit_robust", "test"]
        with monkeypatch.context() as patch:
            patch.setitem(os.environ, "LIT_ROBUST_FOLDER", env["LIT_ROBUST_FOLDER"])
            return SimpleNamespace(returncode=main(command[3:]))

    monkeypatch.setattr(testing.subprocess, "run", in_process)
    yield cli
    sys.modules.pop("mine", None)


def right(test, attack):
    """Which images are right, by index, read without the package."""
    lines = pq.read_table(Path(test) / "per_sample.parquet").to_pylist()
    return {line["index"]: not line["broken"] for line in lines if line["attack"] == attack}


def test_two_runs_are_tested_alike_and_paired(both):
    done = both(*BOTH, "--label", "robust", "--label", "natural")
    assert done.code == 0, done.err
    folder = Path("comparisons/two-1")
    assert sorted(p.name for p in folder.iterdir()) == [
        "brightness.png",
        "comparison.csv",
        "comparison.json",
        "config.yaml",
    ]
    assert Path("drawn.txt").read_text().splitlines() == ["quickstart", "natural_digits", "robust natural"]
    content = json.loads((folder / "comparison.json").read_text())
    assert [run["test"] for run in content["runs"]] == [f"{A}/tests/two-1", f"{B}/tests/two-1"]
    names = ["clean", "fgsm, L∞ 0.1", "pgd, L∞ 0.1", "noise (noise)", "worst case, L∞ 0.1"]
    assert [row["name"] for row in content["rows"]] == [*names, "brightness: mean", "brightness: empty"]
    assert [row["bound"] for row in content["rows"]] == [None, "at most", "at most", None, "at most", None, None]
    for row, attack in zip(content["rows"], ["clean", "fgsm", "pgd", "noise"], strict=False):
        first, second = right(f"{A}/tests/two-1", attack), right(f"{B}/tests/two-1", attack)
        assert first.keys() == second.keys() == set(range(16))
        pairs = [(first[i], second[i]) for i in first]
        gain = row["differences"]["natural"]
        counts = [gain[key] for key in ("both", "only_first", "only_second", "neither")]
        assert counts == [pairs.count(p) for p in [(True, True), (True, False), (False, True), (False, False)]]
        assert row["values"]["robust"]["correct"] == sum(first.values())
        assert gain["difference"] == pytest.approx((sum(second.values()) - sum(first.values())) / 16)
    means = content["rows"][-2]["values"]
    assert means["robust"] == means["natural"], "the images are the same"
    assert content["rows"][-1]["values"]["robust"]["value"] is None
    shown = done.out[done.out.index("2 of 2") :]
    assert "at most" in shown
    assert "comparison: comparisons/two-1" in shown

    # Finished tests of the same settings are found; other settings, or weights from later, are tested again.
    again = both(*BOTH, "--reuse")
    assert again.code == 0, again.err
    assert f"2 of 2: natural_digits/1, tested before in {B}/tests/two-1" in again.out
    assert not Path(A, "tests/two-2").exists()
    last = json.loads(Path("comparisons/two-2/comparison.json").read_text())
    assert [r["differences"].get("natural_digits/1") for r in last["rows"]] == [
        r["differences"].get("natural") for r in content["rows"]
    ]
    later = Path(A, "tests/two-1/config.yaml").stat().st_mtime + 5
    os.utime(Path(A, "checkpoints/best.ckpt"), (later, later))
    assert both(*BOTH, "--reuse", "--runs", "elsewhere/runs").code == 0
    assert Path(A, "tests/two-2").exists()
    assert not Path(B, "tests/two-2").exists()
    assert Path("elsewhere/comparisons/two-1/comparison.json").is_file()

    # The saved settings are an evaluation of their own.
    config = yaml.safe_load(Path("comparisons/two-1/config.yaml").read_text())
    assert config["trainer"]["callbacks"][0]["init_args"]["power"] == 2
    assert both("test", "--run", A, "--config", "comparisons/two-1/config.yaml").code == 0
    assert right(f"{A}/tests/config-1", "pgd") == right(f"{A}/tests/two-1", "pgd")


REFUSED = {
    "one run": (["--config", "two.yaml", "--run", A], ["two runs", "got 1"]),
    "no run": (["--config", "two.yaml"], ["two runs", "got 0"]),
    "no config": (["--run", A, "--run", B], ["--config FILE"]),
    "unknown config": (["--config", "linf_9.yaml", "--run", A, "--run", B], ["linf_9.yaml", "linf_8.yaml"]),
    "missing run": (["--config", "two.yaml", "--run", A, "--run", "runs/no/1"], ["runs/no/1"]),
    "no checkpoint": (["--config", "two.yaml", "--run", A, "--run", "untrained"], ["untrained", "no", "checkpoint"]),
    "same run": (["--config", "two.yaml", "--run", A, "--run", f"./{A}/"], [A, "same run"]),
    "one label": ([*BOTH[1:], "--label", "x"], ["--label", "1 for 2"]),
    "same labels": ([*BOTH[1:], "--label", "x", "--label", "x"], ["called x"]),
    "one file of weights": ([*BOTH[1:], "--ckpt_path", f"{A}/checkpoints/best.ckpt"], ["best or last"]),
    "misspelt key": ([*BOTH[1:], "--evaluation.sed", "1"], ["evaluation.sed", "evaluation.seed"]),
    "impossible measurement": (
        [*BOTH[1:], "--trainer.callbacks", "[{class_path: mine.Brightness, init_args: {power: 0}}]"],
        ["power below 1"],
    ),
    "other images": (
        ["--config", "two.yaml", "--run", A, "--run", "other/9"],
        ["data.init_args.eval_batch_size (2 and 3)", "quickstart/1 and other/9", "--data.eval_batch_size VALUE"],
    ),
    "other attacks": (
        ["--config", "bare.yaml", "--run", A, "--run", "other/9"],
        ["evaluation.attacks", "evaluation.seed (0 and 7)"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_mistake_is_named_before_any_test(both, case):
    Path("untrained").mkdir()
    shutil.copy(Path(B, "config.yaml"), "untrained")
    Path("bare.yaml").write_text("data: {init_args: {eval_batch_size: 2}}\n")
    shutil.copytree(B, "other/9")
    config = yaml.safe_load(Path("other/9/config.yaml").read_text())
    config["data"]["init_args"] |= {"eval_batch_size": 3, "batch_size": 5}
    config["evaluation"] |= {"seed": 7}
    Path("other/9/config.yaml").write_text(yaml.safe_dump(config))
    argv, said = REFUSED[case]
    done = both("compare", *argv)
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    message = done.err[done.err.index("error: ") :]
    for words in said:
        assert words in message, message
    assert "batch_size (2 and 5)" not in message, "training has nothing to do with it"
    assert not list(Path().glob("**/tests/*"))
    assert not Path("comparisons").exists()


def test_a_test_that_fails_ends_the_comparison_and_leaves_nothing(both, monkeypatch):
    monkeypatch.setattr(testing.subprocess, "run", lambda *args, **kwargs: SimpleNamespace(returncode=3))
    done = both(*BOTH)
    assert done.code == 2
    assert "the test of quickstart/1 failed with exit code 3" in done.err
    assert not list(Path(A).glob("tests/*"))
    assert not list(Path("comparisons").iterdir())


def test_help_needs_no_run(cli):
    done = cli("compare", "--help")
    assert done.code == 0
    assert "--reuse" in done.out


@pytest.mark.slow
def test_each_test_is_a_process_of_its_own(both, monkeypatch):
    monkeypatch.undo()
    with contextlib.chdir(both("compare", "--help") and Path(A).resolve().parents[2]):
        done = both(*BOTH)
    assert done.code == 0, done.err


# ---- rows, from results made by hand


def finished(label, verdicts, *, index=None, labels=None, attacks=None, measurements=None, distance=None):
    """A finished test with given verdicts, `right` by attack, in a shuffled file as processes may write it."""
    n = len(verdicts["clean"])
    index = np.arange(n) if index is None else np.array(index)
    order = np.random.default_rng(0).permutation(n * len(verdicts))
    broken = np.concatenate([~np.array(v, bool) for v in verdicts.values()])
    columns = {
        "index": np.tile(index, len(verdicts)),
        "label": np.tile(np.zeros(n, int) if labels is None else np.array(labels), len(verdicts)),
        "attack": np.repeat(np.array(list(verdicts), object), n),
        "broken": broken,
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


def test_minimum_norms_are_paired_where_both_found_an_adversarial(tmp_path):
    entry = {"x": {"kind": "adversary", "threat_model": "L2 any", "minimum_norm": {"mean": 7.0, "median": 6.0}}}
    a = finished("a", {"clean": [1] * 4, "x": [0, 0, 0, 1]}, attacks=entry, distance=[1, 2, 3, 0])
    b = finished("b", {"clean": [1] * 4, "x": [0, 0, 1, 1]}, attacks=entry, distance=[2, 4, 0, 0])
    for test in (a, b):
        del test.results["attacks"]["x"]["accuracy"]
        test.results["worst_case"].clear()
    b.results["attacks"]["x"]["minimum_norm"] = {"median": float("inf")}
    clean, row = rows([a, b])
    assert clean["quantity"] == "accuracy"
    assert (row["name"], row["quantity"], row["bound"]) == ("x, L2 any: mean norm", "mean norm", "at most")
    assert row["values"]["a"]["value"] == 7, "the test's own mean"
    assert row["values"]["b"]["value"] == 3, "of the two that were found"
    gain = row["differences"]["b"]
    assert (gain["difference"], gain["n"], gain["p"]) == (1.5, 2, None)
    assert gain["interval_95"][0] < 1.5 < gain["interval_95"][1]
    # An adversarial beyond the radius that counts is still an adversarial: its margin says so.
    b.samples["margin"][(b.samples["attack"] == "x") & (b.samples["index"] == 2)] = -0.5
    b.samples["distance"][(b.samples["attack"] == "x") & (b.samples["index"] == 2)] = 9.0
    assert rows([a, b])[1]["differences"]["b"]["difference"] == 3
    content = {"title": "t", "runs": [{"label": "a"}, {"label": "b"}], "rows": rows([a, b])}
    write(tmp_path, content)
    assert json.loads((tmp_path / "comparison.json").read_text())["rows"][1]["values"]["b"]["minimum_norm"] == {
        "median": None
    }


def test_the_csv_has_a_line_for_each_row_and_run_and_the_table_what_it_says(tmp_path):
    from rich.console import Console

    measured = {"snr": {"measurement": "m.SNR", "table": {"first layer": 12.345678}}}
    verdicts = {"clean": [1] * 40, "x": [1] * 30 + [0] * 10}
    a = finished("a", verdicts, measurements=measured)
    b = finished("b", {**verdicts, "x": [1] * 20 + [0] * 20}, measurements=measured)
    content = {"title": "t", "runs": [{"label": "a"}, {"label": "b"}], "rows": rows([a, b])}
    write(tmp_path, content)
    with (tmp_path / "comparison.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["row"], line["run"]) for line in lines] == [
        (name, run) for name in ("clean", "x, L∞ 0.1", "snr: first layer") for run in "ab"
    ]
    assert float(lines[3]["difference"]) == -0.25
    assert float(lines[3]["low"]) < -0.25 < float(lines[3]["high"]) < 0
    assert [lines[3][key] for key in ("both", "only_first", "only_second", "neither", "pairs")] == [
        "20",
        "10",
        "0",
        "10",
        "40",
    ]
    assert lines[2]["difference"] == lines[5]["difference"] == ""
    console = Console(width=120, record=True, file=(tmp_path / "out").open("w"))
    console.print(comparison_table(content))
    text = console.export_text()
    assert "at most 75.0 %" in text
    assert "-25.0 (-40.2 to -13.6) p = 0.002" in text or "-25.0 (" in text
    assert "12.35" in text
