"""Polarizing training through the front door: its variants, a resume, and what is refused before any work."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from tiny import TINY

SHORT = [*TINY, "--trainer.max_epochs=4", "--data.channels=1"]


def rows(run):
    with (run / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row.get("train/stage")]


@pytest.mark.parametrize(
    ("variant", "stages"), [pytest.param("text", 3, marks=pytest.mark.slow), ("levels", 4), ("dead_zone", 0)]
)
def test_a_variant_lies_over_a_system_and_trains(cli, variant, stages):
    config = ["--config", "polarizing_fashion.yaml", "--config", f"polarizing_{variant}.yaml"]
    done = cli("fit", *config, "--data", "Digits", "--data.size=28", *SHORT, "--name=short")
    assert done.code == 0, done.err
    run = Path("runs/short/1")
    assert len({row["train/stage"] for row in rows(run)}) == stages
    assert (run / "polarization_filters.png").exists() == bool(stages)
    if variant == "text":
        model = yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]
        assert model["lr_scheduler"] is None
        assert max(float(row["train/lambda"]) for row in rows(run)) == 1


def test_a_run_that_is_resumed_ends_as_an_uninterrupted_one(cli):
    import torch

    base = ["--config", "polarizing_digits.yaml", *TINY, "--trainer.max_epochs=6"]
    assert cli("fit", *base, "--name=whole").code == 0
    assert cli("fit", *base, "--trainer.max_steps=10", "--name=cut").code == 0  # after an epoch of the third stage
    done = cli("fit", "--resume", "runs/cut/1", "--trainer.max_steps=-1")
    assert done.code == 0, done.err
    whole, cut = (
        torch.load(Path("runs") / name / "1" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "cut")
    )
    assert all(torch.equal(whole[key], cut[key]) for key in whole)
    seen = [json.loads((Path("runs") / name / "1" / "polarization.json").read_text()) for name in ("whole", "cut")]
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model.peak=-1"], "peak of 0 or more"),
        (["--model.sigma2=0"], "above 0"),
        (["--model.network", "SmallCNN", "--model.network.size=16"], "one PolarizingFrontEnd, got 0"),
    ],
)
def test_bad_input_is_refused_before_any_work(cli, options, said):
    done = cli("fit", "--config", "polarizing_digits.yaml", *TINY, *options)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert said in done.err
    assert not list(Path().rglob("*.ckpt"))


@pytest.mark.parametrize(("thresholds", "said"), [(1.5, "in (0, 1), got 1.5"), ([0.2, 0.1], "ascending")])
def test_thresholds_are_checked_before_any_work(cli, tmp_path, thresholds, said):
    front = {"class_path": "PolarizingFrontEnd", "init_args": {"thresholds": thresholds}}
    stages = [front, {"class_path": "SmallCNN", "init_args": {"in_channels": 25, "size": 16}}]
    network = {"class_path": "Pipeline", "init_args": {"stages": stages}}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"network": network}}}))
    done = cli("fit", "--config", "polarizing_digits.yaml", "--config", "wrong.yaml", *TINY)
    assert done.code == 2
    assert said in done.err
