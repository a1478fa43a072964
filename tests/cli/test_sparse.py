"""The sparse coding front end through the command line: its systems one after the other, and its ablations."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from tiny import TINY, cut, cut_copy

from lit_robust import shipped
from lit_robust.nn.dct_atoms import dct_atoms
from lit_robust.nn.dictionary import PatchDictionary

DIGITS = ["--data", "Digits", "--data.size=16", "--data.channels=3"]
NOMINAL = "model.network.network.front_end"  # where an ensemble has its front end
PLAIN = "model.network.front_end"
SLOW = ("sparse_supervised", "sparse_small", "sparse_no_top", "sparse_unsigned", "sparse_blur", "sparse_first_layer")
TRAINED = ["sparse_supervised", "sparse_nonrandom", "sparse_small", "sparse_digits"]
ABLATIONS = {
    "sparse_no_activation": {"dictionary", "activation"},
    "sparse_no_top": {"dictionary", "activation", "top"},
    "sparse_unsigned": {"dictionary"},
    "sparse_trainable": {"dictionary"},
    "sparse_no_decoder": {"dictionary"},
    "sparse_dct": set(),
    "sparse_blur": set(),
    "sparse_first_layer": set(),
}


def marked(names):
    """The names, those of long tests marked."""
    return [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in names]


def narrow(encoder, decoder):
    """Options that put 48 atoms that need no learning under a front end, and few channels behind them."""
    PatchDictionary.of(dct_atoms(3, 4), alpha=1.0).save(Path("dictionary.pt"))
    options = [f"--{encoder}.dictionary=dictionary.pt", f"--{encoder}.atoms=48", f"--{encoder}.top.t=4"]
    return [*options, f"--{decoder}.atoms=48", f"--{decoder}.widths=[6,4]"]


def fitted(cli, name, *options):
    done = cli("fit", "--config", f"{name}.yaml", *options, *TINY)
    assert done.code == 0, done.err
    return Path("runs") / name / "1"


def saved(run):
    return yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["network"]


def columns(run):
    with (run / "metrics.csv").open() as file:
        return next(csv.reader(file))


def state(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("name", marked(TRAINED))
def test_front_end_and_classifier_train_together_and_are_attacked(cli, tmp_path, name):
    cut_copy(tmp_path, shipped.folder() / f"{name}.yaml")
    end = NOMINAL if name == "sparse_supervised" else PLAIN
    own = name == "sparse_digits"
    options = [] if own else [*narrow(f"{end}.encoder", f"{end}.decoder"), *DIGITS]
    run = fitted(cli, name, *options)
    done = cli("test", "--run", run, "--evaluation.draws=2")
    assert done.code == 0, done.err
    results = json.loads((run / "tests" / "test-1" / "results.json").read_text())
    assert results["protocol"]["random_network"] == (name == "sparse_supervised")
    assert list(results["attacks"]) == list(yaml.safe_load(Path(f"{name}.yaml").read_text())["evaluation"]["attacks"])


def test_a_decoder_alone_then_a_classifier_behind_it_frozen(cli, tmp_path):
    options = narrow("model.network.encoder", "model.network.decoder")
    decoder = fitted(cli, "sparse_decoder", *options, *DIGITS)
    assert "train/mse" in columns(decoder)
    refused = cli("test", "--run", decoder)
    assert refused.code == 2
    assert "an autoencoder has no classes" in refused.err
    cut_copy(tmp_path, shipped.folder() / "sparse_unsupervised.yaml")
    run = fitted(cli, "sparse_unsupervised", *DIGITS)
    before, after = state(decoder), state(run)
    front = {k: v for k, v in after.items() if ".stages.0.network." in k}
    assert len(front) == len([k for k in before if k.startswith("network.")]) == 7
    for name, value in front.items():
        assert torch.equal(value, before["network." + name.split(".stages.0.network.")[1]]), name
    assert cli("test", "--run", run, "--evaluation.draws=2").code == 0


def test_the_small_decoder_and_its_classifier(cli, tmp_path):
    cut_copy(tmp_path, shipped.folder() / "sparse_small.yaml")
    options = narrow("model.network.encoder", "model.network.decoder")
    small = ["--config", "sparse_small_decoder.yaml", *options, *DIGITS]
    assert "model.network.encoder.dropout" not in saved(fitted(cli, "sparse_decoder", *small))
    run = fitted(cli, "sparse_small", "--config", "sparse_frozen.yaml", *DIGITS)
    assert saved(run)["init_args"]["front_end"]["class_path"].endswith("FromRun")


@pytest.mark.parametrize("name", marked(ABLATIONS))
def test_an_ablation_lies_over_the_front_end_and_trains(cli, name):
    parts = ABLATIONS[name]
    options = narrow(f"{PLAIN}.encoder", f"{PLAIN}.decoder") if parts else []
    options = [o for o in options if "top" not in parts or ".top." not in o]
    if name == "sparse_no_decoder":
        options = [*(o for o in options if ".decoder." not in o), "--model.network.classifier.in_channels=48"]
    if name == "sparse_dct":
        options = [f"--{PLAIN}.decoder.widths=[6,4]"]
    run = fitted(cli, "sparse_nonrandom", "--config", f"{name}.yaml", *options, *DIGITS)
    encoder = saved(run)["init_args"]["front_end"]["init_args"].get("encoder", {}).get("init_args", {})
    assert all(encoder[part] is None for part in parts - {"dictionary"})
    trains = [k for k in state(run) if k.endswith("encoder.dictionary")]
    assert bool(trains) == (name not in ("sparse_blur", "sparse_first_layer"))


@pytest.mark.parametrize(
    ("base", "name"), [("sparse_supervised", "sparse_plain_code"), ("sparse_decoder", "sparse_source")]
)
def test_variants_of_the_random_encoder(cli, base, name):
    end = "model.network" if base == "sparse_decoder" else NOMINAL
    options = narrow(f"{end}.encoder", f"{end}.decoder")
    network = saved(fitted(cli, base, "--config", f"{name}.yaml", *options, *DIGITS))
    encoder = network if base == "sparse_decoder" else network["init_args"]["network"]["init_args"]["front_end"]
    settings = encoder["init_args"]["encoder"]["init_args"]
    assert settings["activation"] is None
    assert (settings["dropout"] is None) == (name == "sparse_plain_code")


def test_the_wide_resnet_of_figure_4_10_and_its_picture(cli):
    wide = fitted(
        cli,
        "resnet32_natural",
        "--config",
        "wide_resnet32.yaml",
        "--model.network.widen=2",
        "--model.network.stem=32",
        *DIGITS,
    )
    assert saved(wide)["init_args"]["final_norm"] is False
    done = cli("test", "--run", wide, "--config", "filter_responses.yaml")
    assert done.code == 0, done.err
    assert (wide / "tests" / "filter_responses-1" / "filter_responses.png").is_file()


def test_coefficients_are_set_from_the_command_line_and_in_a_sweep(cli):
    options = narrow(f"{PLAIN}.encoder", f"{PLAIN}.decoder")
    done = cli("fit", "--config", "sparse_nonrandom.yaml", *options, *DIGITS, *TINY, f"--{PLAIN}.encoder.top.t=49")
    assert done.code == 2
    assert "cannot keep 49 of 48 coefficients" in done.err
    sweep = yaml.safe_load((shipped.folder() / "sweeps" / "sparse_t.yaml").read_text())
    assert {next(iter(s.values()), 15) for s in sweep["grid"]["t"].values()} == {1, 2, 5, 10, 15, 20, 50}


@pytest.fixture
def defended(cli):
    """A run with a front end, which is its own surrogate."""
    run = fitted(cli, "sparse_nonrandom", *narrow(f"{PLAIN}.encoder", f"{PLAIN}.decoder"), *DIGITS)
    shutil.copytree(run, "runs/sparse_unsupervised/1")
    return run


@pytest.mark.parametrize(
    "name",
    ["sparse_codes", "table_b1", *(pytest.param(f"sparse_{n}", marks=pytest.mark.slow) for n in ("attacks", "norms"))],
)
def test_an_evaluation_of_a_front_end(cli, tmp_path, defended, name):
    path = shipped.folder() / "evaluation" / f"{name}.yaml"
    cut_copy(tmp_path, path)
    done = cli("test", "--run", defended, "--config", path.name, "--trainer.limit_test_batches=1")
    assert done.code == 0, done.err
    folder = defended / "tests" / f"{name}-1"
    results = json.loads((folder / "results.json").read_text())
    wanted = cut(yaml.safe_load(path.read_text()))["evaluation"]["attacks"]
    adaptive = [key for key, attack in wanted.items() if attack["class_path"] == "Adaptive"]
    assert {row.partition("/")[0] for row in results["attacks"]} == set(wanted)
    for key in adaptive:
        assert len([row for row in results["attacks"] if row.startswith(f"{key}/")]) == 4, "screened, and three kept"
        combinations = results["screening"][key]["combinations"]
        assert len(combinations) == 5 * 6 + 1, "of top T and activation, and the identity of the whole"
    assert "notes" not in results
    assert (folder / "sparse_codes.png").is_file() == (name == "sparse_codes")


def test_an_attack_beyond_the_design_is_said(cli, defended):
    stronger = "{fgsm: {class_path: FGSM, init_args: {threat: {eps: 9/255}}}}"
    done = cli("test", "--run", defended, f"--evaluation.attacks={stronger}")
    assert done.code == 0, done.err
    said = "fgsm: L∞ 9/255 is above the 8/255 that the sparse code was designed for"
    assert said in done.out
    assert json.loads((defended / "tests" / "test-1" / "results.json").read_text())["notes"] == [said]


@pytest.mark.parametrize("folder", ["", "variants"])
def test_a_config_says_what_it_is_and_how_to_run_it(folder):
    paths = sorted((shipped.folder() / folder).glob("sparse_*.yaml"))
    assert len(paths) >= 7
    for path in paths:
        lines = path.read_text().splitlines()
        assert lines[0].startswith("# ")
        assert f"--config {path.name}" in lines[1]
        assert len(lines) <= 45
