"""HaH through the front door: its variants, costs with other regimes, and what is refused before any work."""

import csv
from pathlib import Path

import pytest
import yaml
from tiny import TINY, variants

from lit_robust import shipped

BASE = ["--config", "hah_digits.yaml", "--model.network.width=0.125", *TINY]


def saved(name="hah_digits"):
    return yaml.safe_load((Path("runs") / name / "1" / "config.yaml").read_text())["model"]


def columns(name="hah_digits"):
    with (Path("runs") / name / "1" / "metrics.csv").open() as file:
        return next(csv.reader(file))


@pytest.mark.parametrize("path", variants("hah_"), ids=[p.stem for p in variants("hah_")])
def test_a_variant_lies_over_a_system_and_trains(cli, path):
    done = cli("fit", *BASE, "--config", path.name)
    assert done.code == 0, done.err
    assert "train/hah/block6" in columns()


def test_batch_normalisation_keeps_its_own_epsilon_where_it_takes_the_place_of_divisive(cli):
    assert cli("fit", *BASE, "--config", "hah_batch_norm.yaml").code == 0
    norm = saved()["init_args"]["network"]["init_args"]["norm"]
    assert norm["class_path"].endswith("BatchNorm2d")
    assert float(norm["init_args"]["eps"]) == pytest.approx(1e-5)


@pytest.mark.parametrize("path", variants("hah_"), ids=[p.stem for p in variants("hah_")])
def test_a_variant_says_what_it_is_and_how_to_run_it(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert f"--config {path.name}" in lines[1]


@pytest.mark.parametrize("blocks", range(8))
def test_any_number_of_blocks(cli, blocks):
    regime = [] if blocks else ["--model", "Natural"]
    done = cli("fit", *BASE, *regime, f"--model.network.hah_blocks={blocks}")
    assert done.code == 0, done.err
    assert sum(name.startswith("train/hah/") for name in columns()) == blocks


@pytest.mark.parametrize("regime", ["hah_pgd_at", "hah_trades"])
def test_costs_join_another_regimes_terms(cli, regime):
    config = yaml.safe_load((shipped.folder() / f"{regime}.yaml").read_text())
    assert config["model"]["init_args"]["layer_costs"] == [{"class_path": "HebbianCost"}]
    args = ["--data", "Digits", "--data.size=32", "--data.channels=3", "--model.network.width=0.125"]
    done = cli("fit", "--config", f"{regime}.yaml", *args, *TINY, "--model.attack.steps=2")
    assert done.code == 0, done.err
    wanted = {"train/ce", "train/hah/block1"} | ({"train/kl"} if regime == "hah_trades" else set())
    assert wanted <= set(columns(regime))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model.network.hah_blocks=14"], ["13 blocks", "got 14"]),
        (["--model.alphas=[0.1,0.1]"], ["6 HaH blocks", "got 2", "block3, block4, block5, block6"]),
        (["--model.lam=-1"], ["lambda", "0 or more", "-1"]),
        (["--model.network.norm.init_args.sigma=1.5"], ["sigma", "[0, 1]", "1.5"]),
        (["--model.fraction=1.0"], ["fraction", "between 0 and 1", "1.0"]),
        (["--model.network.width=0.01"], ["block1", "K"]),
        (["--model.network.hah_blocks=0"], ["HaH blocks", "HaHVGG16 has none"]),
        (["--model.network.threshold.init_args.keep=0"], ["keep", "above 0"]),
    ],
)
def test_bad_input_is_refused_before_any_work(cli, options, said):
    done = cli("fit", *BASE, *options)
    assert done.code == 2
    assert done.err.startswith("error: ")
    for word in said:
        assert word in done.err
    assert not Path("runs").exists() or not list(Path("runs").rglob("*.ckpt"))
