"""Interval training and certificates through the front door, with and without a polarizing front end."""

import json
from pathlib import Path

import pytest
import yaml
from tiny import TINY, cut_copy

from lit_robust import shipped

DIGITS = ["--data", "Digits", "--data.channels=1"]


def certified(run):
    results = json.loads((run / "tests" / "certificate-1" / "certified.json").read_text())
    assert (run / "tests" / "certificate-1" / "certified.png").is_file()
    assert len(results["curve"]) == 11
    return results["curve"]


def test_the_last_stage_of_a_polarizing_run_and_its_certificate(cli):
    fit = ["fit", "--config", "polarizing_digits.yaml", "--config", "polarizing_interval.yaml", *TINY, "--name=ours"]
    done = cli(*fit, "--trainer.max_epochs=3")
    assert done.code == 0, done.err
    run = Path("runs/ours/1")
    model = yaml.safe_load((run / "config.yaml").read_text())["model"]
    assert model["class_path"].endswith("IntervalPolarizing")
    assert model["init_args"]["network"]["class_path"].endswith("Pipeline"), "the system's settings stay"
    assert "train/worst" in (run / "metrics.csv").read_text().splitlines()[0]
    done = cli("test", "--run", run, "--config", "certificate.yaml")
    assert done.code == 0, done.err
    assert certified(run)[0]["undecided_mean"] > 0


@pytest.mark.parametrize("variant", ["frozen", pytest.param("filters", marks=pytest.mark.slow)])
def test_a_classifier_behind_the_front_end_of_another_run(cli, tmp_path, variant):
    base = cut_copy(tmp_path, shipped.folder() / "polarizing_mnist.yaml")
    done = cli("fit", "--config", base, *DIGITS, "--data.size=28", *TINY)
    assert done.code == 0, done.err
    over = f"polarizing_interval_{variant}.yaml"
    done = cli(
        "fit", "--config", "interval_mnist.yaml", "--config", over, *DIGITS, "--data.size=28", *TINY, "--name=ours"
    )
    assert done.code == 0, done.err
    done = cli("test", "--run", "runs/ours/1", "--config", "certificate.yaml")
    assert done.code == 0, done.err
    assert certified(Path("runs/ours/1"))[0]["undecided_mean"] is not None
