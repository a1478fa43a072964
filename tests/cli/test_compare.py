"""`compare`: the same test of several runs, paired image by image."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import yaml
from tiny import TINY

from lit_robust.__main__ import main
from lit_robust.comparison import testing
from lit_robust.comparison.plan import plan

A, B = "runs/quickstart/1", "runs/natural_digits/1"
BOTH = ["compare", "--config", "two.yaml", "--run", A, "--run", B]
TWO_ATTACKS = """
evaluation:
  attacks:
    fgsm: {class_path: FGSM, init_args: {threat: {eps: 0.1}}}
    pgd: {class_path: PGD, init_args: {threat: {eps: 0.1}, steps: 2}}
    noise: {class_path: GaussianNoise, init_args: {sigma: 0.3}}
    fmn: {class_path: FMN, init_args: {norm: l2, steps: 2}}
trainer:
  limit_test_batches: 8
  callbacks:
    - {class_path: compared_brightness.Brightness, init_args: {power: 2}}
"""
POWERLESS = '[{"class_path": "compared_brightness.Brightness", "init_args": {"power": 0}}]'
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
def tested(tmp_path_factory):
    """Two short runs, each tested once with the same evaluation and measurement; copied by every test."""
    folder = tmp_path_factory.mktemp("compare")
    (folder / "two.yaml").write_text(TWO_ATTACKS)
    (folder / "compared_brightness.py").write_text(BRIGHTNESS)
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        patch.syspath_prepend(folder)
        assert main(["fit", "--config", "quickstart.yaml", *TINY, "--evaluation.val_attack.steps=1"]) == 0
        assert main(["fit", "--config", "natural_digits.yaml", *TINY]) == 0
        for run in (A, B):
            assert main(["test", "--run", run, "--config", "two.yaml"]) == 0
    sys.modules.pop("compared_brightness")
    return folder


@pytest.fixture
def both(cli, tested, tmp_path, monkeypatch):
    """The command line in a copy of the two runs; the tests that it starts run in this process, which is faster."""
    shutil.copytree(tested, tmp_path, dirs_exist_ok=True)
    monkeypatch.syspath_prepend(tmp_path)

    def in_process(command, *, env, check):
        assert command[:4] == [sys.executable, "-m", "lit_robust", "test"]
        with monkeypatch.context() as patch:
            patch.setenv("LIT_ROBUST_FOLDER", env["LIT_ROBUST_FOLDER"])
            return SimpleNamespace(returncode=main(command[3:]))

    monkeypatch.setattr(testing, "subprocess", SimpleNamespace(run=in_process))
    yield cli
    sys.modules.pop("compared_brightness", None)


def folders_of(run):
    return sorted(path.name for path in Path(run, "tests").iterdir())


def right(test, attack):
    """Which images are right, by index, read without the package."""
    lines = pq.read_table(Path(test) / "per_sample.parquet").to_pylist()
    return {line["index"]: not line["broken"] for line in lines if line["attack"] == attack}


def test_two_finished_tests_are_paired_and_measurements_drawn_together(both):
    done = both(*BOTH, "--reuse", "--label", "robust", "--label", "natural")
    assert done.code == 0, done.err
    assert folders_of(A) == folders_of(B) == ["two-1"], "nothing ran again"
    folder = Path("comparisons/two-1")
    files = ["brightness.png", "comparison.csv", "comparison.json", "config.yaml", "minimum_norms.png"]
    assert sorted(path.name for path in folder.iterdir()) == files
    assert Path("drawn.txt").read_text().splitlines() == ["quickstart", "natural_digits", "robust natural"]
    content = json.loads((folder / "comparison.json").read_text())
    assert [run["test"] for run in content["runs"]] == [f"{A}/tests/two-1", f"{B}/tests/two-1"]
    assert [run["checkpoint"] for run in content["runs"]] == [f"{r}/checkpoints/best.ckpt" for r in (A, B)]
    names = ["clean", "fgsm, L∞ 0.1", "pgd, L∞ 0.1", "noise (noise)", "fmn, mean L2 norm", "worst case, L∞ 0.1"]
    assert [row["name"] for row in content["rows"]] == [*names, "brightness: mean", "brightness: empty"]
    assert [row["bound"] for row in content["rows"]] == [None, *["at most"] * 2, None, *["at most"] * 2, None, None]
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
    assert content["rows"][-1]["values"]["robust"]["value"] is None, "JSON has no NaN"
    assert "at most" in done.out
    assert done.out.strip().endswith("comparison: comparisons/two-1")


def test_a_test_that_is_older_than_the_weights_is_run_again(both):
    newer = Path(A, "tests/two-1/config.yaml").stat().st_mtime + 5
    os.utime(Path(A, "checkpoints/best.ckpt"), (newer, newer))
    done = both(*BOTH, "--reuse", "--runs", "elsewhere/runs")
    assert done.code == 0, done.err
    assert f"2 of 2: natural_digits/1, tested before in {B}/tests/two-1" in done.out
    assert (folders_of(A), folders_of(B)) == (["two-1", "two-2"], ["two-1"])
    content = json.loads(Path("elsewhere/comparisons/two-1/comparison.json").read_text())
    assert content["runs"][0]["test"] == f"{A}/tests/two-2"
    assert right(f"{A}/tests/two-2", "pgd") == right(f"{A}/tests/two-1", "pgd")


def test_without_reuse_both_are_tested_and_settings_reach_both(both):
    done = both(*BOTH, "--evaluation.seed", "5", "--ckpt_path", "last")
    assert done.code == 0, done.err
    for run in (A, B):
        assert folders_of(run) == ["two-1", "two-2"]
        results = json.loads(Path(run, "tests/two-2/results.json").read_text())
        assert (results["protocol"]["seed"], results["checkpoint"]) == (5, f"{run}/checkpoints/last.ckpt")


def test_the_saved_settings_are_an_evaluation_of_their_own(both):
    assert both(*BOTH, "--reuse").code == 0
    config = yaml.safe_load(Path("comparisons/two-1/config.yaml").read_text())
    assert config["trainer"]["callbacks"][0]["init_args"]["power"] == 2
    done = both("test", "--run", A, "--config", "comparisons/two-1/config.yaml")
    assert done.code == 0, done.err
    assert right(f"{A}/tests/config-1", "pgd") == right(f"{A}/tests/two-1", "pgd")


@pytest.mark.parametrize("change", ["version", "weights", "measurement", "settings"])
def test_what_makes_a_finished_test_another_one(both, change):
    planned = plan(["--run", A, "--config", "two.yaml"])
    assert testing.find(Path(A), planned) == Path(A, "tests/two-1")
    path = Path(A, "tests/two-1/results.json")
    results = json.loads(path.read_text())
    if change == "version":
        path.write_text(json.dumps({**results, "lit_robust": "0.0.1"}))
    elif change == "weights":
        path.write_text(json.dumps({**results, "checkpoint": f"{B}/checkpoints/best.ckpt"}))
    elif change == "measurement":
        Path(A, "tests/two-1/brightness.json").unlink()
    else:
        planned = plan(["--run", A, "--config", "two.yaml", "--evaluation.seed", "1"])
    assert testing.find(Path(A), planned) is None


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
        [
            *BOTH[1:],
            "--trainer.callbacks",
            '[{"class_path": "compared_brightness.Brightness", "init_args": {"power": 0}}]',
        ],
        ["power below 1"],
    ),
    "other images": (
        ["--config", "two.yaml", "--run", A, "--run", "other/9"],
        ["data.init_args.eval_batch_size (2 and 3)", "quickstart/1 and other/9", "--data.eval_batch_size VALUE"],
    ),
    "other attacks": (
        ["--config", "bare.yaml", "--run", A, "--run", "other/9"],
        [
            "evaluation.attacks.fgsm ({",
            "and not there)",
            "evaluation.seed (0 and 7)",
            "--evaluation.attacks.fgsm VALUE",
        ],
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
    del config["evaluation"]["attacks"]["fgsm"]
    Path("other/9/config.yaml").write_text(yaml.safe_dump(config))
    argv, said = REFUSED[case]
    before = set(Path().rglob("*"))
    done = both("compare", *argv)
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    message = done.err[done.err.index("error: ") :]
    for words in said:
        assert words in message, message
    assert "batch_size (2 and 5)" not in message, "training has nothing to do with it"
    assert {path for path in Path().rglob("*") if "__pycache__" not in path.parts} <= before


def test_a_test_that_fails_ends_the_comparison_and_leaves_nothing(both, monkeypatch):
    failing = SimpleNamespace(run=lambda *args, **kwargs: SimpleNamespace(returncode=3))
    monkeypatch.setattr(testing, "subprocess", failing)
    done = both(*BOTH)
    assert done.code == 2
    assert "the test of quickstart/1 failed with exit code 3" in done.err
    assert folders_of(A) == ["two-1"]
    assert not list(Path("comparisons").iterdir())


def test_a_comparison_that_is_terminated_takes_its_test_with_it(tmp_path, monkeypatch):
    children = []

    class Sleeping(subprocess.Popen):
        def __init__(self, command, **options):
            super().__init__(["sleep", "60"], **options)
            children.append(self)

        def communicate(self, *args, **options):
            os.kill(os.getpid(), signal.SIGTERM)
            return super().communicate(*args, **options)

    monkeypatch.setattr(subprocess, "Popen", Sleeping)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        testing.run_test("a", tmp_path, "two", [])
    assert ended.value.code == 143
    assert children[0].returncode == -signal.SIGKILL
    assert not list((tmp_path / "tests").iterdir())
    assert signal.getsignal(signal.SIGTERM) is before


def test_help_needs_no_run(cli):
    done = cli("compare", "--help")
    assert done.code == 0
    assert "--reuse" in done.out


@pytest.mark.slow
def test_each_test_is_a_process_of_its_own(both):
    done = subprocess.run([sys.executable, "-m", "lit_robust", *BOTH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("comparison: comparisons/two-1")
    for run in (A, B):
        assert folders_of(run) == ["two-1", "two-2"]
        assert right(f"{run}/tests/two-2", "pgd") == right(f"{run}/tests/two-1", "pgd")
