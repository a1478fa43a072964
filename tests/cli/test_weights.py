"""Statistics of weights through the front door: over a run, for several runs, and the networks of Figure 3.20."""

import json
from pathlib import Path

import pytest
import yaml
from tiny import TINY, cut_copy, variants

from lit_robust import shipped

NETWORK = ["--data", "Digits", "--data.size=32", "--data.channels=3", *TINY]


@pytest.mark.slow
@pytest.mark.parametrize("config", ["weights.yaml", "spectra.yaml"])
def test_statistics_of_two_runs(cli, tmp_path, config):
    system = cut_copy(tmp_path, shipped.folder() / "layers_resnet18_natural.yaml")
    for seed in (1, 2):
        fit = cli("fit", "--config", system, *NETWORK, f"--seed_everything={seed}", f"--name=net{seed}")
        assert fit.code == 0, fit.err
    done = cli("test", "--config", config, "--run", "runs/net1/1")
    assert done.code == 0, done.err
    folder = Path("runs/net1/1/tests") / f"{Path(config).stem}-1"
    spectra = json.loads((folder / "singular_values.json").read_text())
    assert len(spectra["layers"]) == 20
    assert spectra["padding"] == ("zeros" if config == "spectra.yaml" else "circular")
    if config == "weights.yaml":
        assert len(json.loads((folder / "batch_norm.json").read_text())["layers"]) == 20
        both = cli("compare", "--config", config, "--run", "runs/net1/1", "--run", "runs/net2/1")
        assert both.code == 0, both.err
        for name in ("batch_norm", "filter_sparsity", "singular_values"):
            assert Path("comparisons/weights-1", f"{name}.png").is_file()


def test_a_network_without_batch_normalisation_is_refused_before_any_work(cli):
    fit = cli("fit", "--config", "quickstart.yaml", *TINY, "--evaluation.val_attack.steps=1", "--name=base")
    assert fit.code == 0, fit.err
    done = cli("test", "--config", "weights.yaml", "--run", "runs/base/1")
    assert done.code == 2
    assert "SmallCNN has no batch normalisation" in done.err


@pytest.mark.parametrize("path", variants("layers_"), ids=[p.stem for p in variants("layers_")])
def test_a_variant_of_chapter_3_lies_over_a_system_and_trains(cli, tmp_path, path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert f"--config {path.name}" in lines[1]
    base = "layers_vgg16_natural.yaml" if path.stem == "layers_sgd" else "layers_resnet18_natural.yaml"
    done = cli("fit", "--config", cut_copy(tmp_path, shipped.folder() / base), "--config", path.name, *NETWORK)
    assert done.code == 0, done.err
    (config,) = Path("runs").glob("*/1/config.yaml")
    saved = yaml.safe_load(config.read_text())["model"]["init_args"]
    if path.stem == "layers_resnet34":
        assert saved["network"]["class_path"].endswith("CIFARResNet34")
    else:
        assert saved["optimizer"]["class_path"].lower().endswith(path.stem.removeprefix("layers_"))
