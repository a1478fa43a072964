"""Every shipped config through the command line: two batches of two images, a test, and a test from its run."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from tiny import TINY, cut, cut_copy, embedded, evaluations, systems


def names(paths):
    return [path.stem for path in paths]


@pytest.mark.parametrize("path", systems(), ids=names(systems()))
def test_a_system_trains_tests_and_tests_again_from_its_run(cli, tmp_path, path):
    config = cut_copy(tmp_path, path)
    fit = cli("fit", "--config", config, *embedded(path), *TINY)
    assert fit.code == 0, fit.err
    run = Path("runs") / path.stem / "1"
    assert (run / "checkpoints" / "last.ckpt").is_file()
    fitted = {p.name: p.read_bytes() for p in [run / "config.yaml", run / "metrics.csv"]}

    newest = cli("test", "--config", config, *embedded(path), *TINY)
    again = cli("test", "--run", run)
    for done in (newest, again):
        assert done.code == 0, done.err
        assert done.out.startswith(f"checkpoint: {run}"), "the checkpoint is the first line"
    first, second = (json.loads((run / "tests" / f / "results.json").read_text()) for f in (f"{path.stem}-1", "test-1"))
    wanted = yaml.safe_load(path.read_text())["evaluation"]["attacks"]
    assert list(first["attacks"]) == list(second["attacks"]) == list(wanted), "the attacks asked for, no others"
    assert first["clean"] == second["clean"]
    assert first["clean"]["n"] == 4
    table = pq.read_table(run / "tests" / "test-1" / "per_sample.parquet")
    assert table.schema.metadata[b"schema"] == b"2"
    assert table.num_rows == 4 * (1 + len(wanted))
    assert (run / "tests" / "test-1" / "adversarial.png").is_file()
    assert {p.name: p.read_bytes() for p in [run / "config.yaml", run / "metrics.csv"]} == fitted, (
        "a test changes nothing"
    )


@pytest.mark.parametrize("path", evaluations(), ids=names(evaluations()))
def test_an_evaluation_lies_over_a_run_and_replaces_its_attacks(cli, tmp_path, tiny_run, path):
    config = cut_copy(tmp_path, path)
    for surrogate in ("natural_small", "resnet32_pgd_at"):  # of transfer.yaml and sparse_transfer.yaml
        shutil.copytree(tiny_run, f"runs/{surrogate}/1")
    done = cli("test", "--config", config, "--run", tiny_run)
    assert done.code == 0, done.err
    results = json.loads((tiny_run / "tests" / f"{path.stem}-1" / "results.json").read_text())
    wanted = cut(yaml.safe_load(path.read_text()))["evaluation"]["attacks"]
    rows = [row for name, attack in wanted.items() for row in rows_of(name, attack)]
    assert list(results["attacks"]) == rows
    for name, attack in wanted.items():
        if attack["class_path"] == "Adaptive":
            attack = attack["init_args"]["attack"]  # a network with nothing to adapt to is attacked by that alone
        if attack["class_path"] != "AutoAttack":
            assert results["attacks"][name]["attack"]["class"] == attack["class_path"]


def rows_of(name, attack):
    """Rows of an attack in the results: the members of AutoAttack have one each, and are never fewer."""
    members = ("apgd-ce", "apgd-t", "fab-t", "square")
    return [f"{name}/{member}" for member in members] if attack["class_path"] == "AutoAttack" else [name]


@pytest.fixture
def tiny_run(cli):
    """A trained run of the quickstart."""
    fit = cli("fit", "--config", "quickstart.yaml", *TINY, "--evaluation.val_attack.steps=1", "--name=base")
    assert fit.code == 0, fit.err
    return Path("runs/base/1").resolve()


@pytest.mark.parametrize("path", [*systems(), *evaluations()], ids=names([*systems(), *evaluations()]))
def test_a_config_says_what_it_is_and_how_to_run_it(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert f"--config {path.name}" in lines[1]
    assert len(lines) <= 45


@pytest.mark.slow
@pytest.mark.parametrize("path", systems(), ids=names(systems()))
def test_a_saved_config_trains_the_same_weights_again(cli, tmp_path, path):
    import torch

    config = cut_copy(tmp_path, path)
    assert cli("fit", "--config", config, *embedded(path), *TINY).code == 0
    saved = Path("runs") / path.stem / "1" / "config.yaml"
    assert cli("fit", "--config", saved, "--name", "again").code == 0
    first, second = (
        torch.load(p / "1" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for p in (Path("runs") / path.stem, Path("runs/again"))
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
    configs = [yaml.safe_load((Path("runs") / n / "1" / "config.yaml").read_text()) for n in (path.stem, "again")]
    assert configs[0] == configs[1]
