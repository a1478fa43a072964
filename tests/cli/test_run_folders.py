"""Run folders, checkpoints and the order of options: what ran is what was asked for."""

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tiny import TINY

QUICK = ["--config", "quickstart.yaml", *TINY, "--evaluation.val_attack.steps=1"]
ONE_ATTACK = "evaluation:\n  attacks:\n    only:\n      class_path: FGSM\n      init_args: {threat: {eps: 3/255}}\n"


@pytest.fixture
def run(cli):
    fit = cli("fit", *QUICK)
    assert fit.code == 0, fit.err
    (Path("one.yaml")).write_text(ONE_ATTACK)
    return Path("runs/quickstart/1")


def results(folder):
    return json.loads((Path(folder) / "results.json").read_text())


def test_runs_are_numbered(cli, run):
    assert cli("fit", *QUICK).out.strip().endswith("runs/quickstart/2")
    assert cli("fit", *QUICK, "--name", "other").out.strip().endswith("runs/other/1")
    assert cli("fit", *QUICK, "--runs", "elsewhere").out.strip().endswith("elsewhere/quickstart/1")


def test_without_run_the_newest_trained_run_of_the_name_is_tested(cli, run):
    assert cli("fit", *QUICK).code == 0
    Path("runs/quickstart/7").mkdir()  # claimed by a run that has no checkpoint yet
    done = cli("test", *QUICK)
    assert done.out.splitlines()[0] == "checkpoint: runs/quickstart/2/checkpoints/best.ckpt"


def orders():
    """Every order of the four options of a test."""
    options = [("--run", "RUN"), ("--config", "one.yaml"), ("--evaluation.seed", "5"), ("--data.eval_batch_size", "3")]
    return list(itertools.permutations(options))


@pytest.mark.parametrize("order", orders()[::4])
def test_what_runs_does_not_depend_on_the_order_of_options(cli, run, order):
    argv = [str(run) if part == "RUN" else part for option in order for part in option]
    done = cli("test", *argv)
    assert done.code == 0, done.err
    saved = yaml.safe_load((run / "tests/one-1/config.yaml").read_text())
    assert saved["model"]["class_path"].endswith("AdversarialTraining"), "the regime is the run's"
    assert list(saved["evaluation"]["attacks"]) == ["only"], "the attacks are the evaluation's"
    assert saved["evaluation"]["attacks"]["only"]["init_args"]["threat"]["eps"] == "3/255", "as it was written"
    assert saved["evaluation"]["seed"] == 5
    assert saved["data"]["init_args"]["eval_batch_size"] == 3
    found = results(run / "tests/one-1")
    assert list(found["attacks"]) == ["only"]
    assert found["attacks"]["only"]["threat_model"] == "L∞ 3/255"
    assert found["protocol"]["seed"] == 5
    assert found["protocol"]["block_size"] == 3
    assert found["checkpoint"] == str(run / "checkpoints/best.ckpt")


@pytest.mark.parametrize("which", ["best", "last", "FILE"])
def test_the_weights_that_ran_are_those_asked_for(cli, run, which):
    """The two checkpoints and a copy are given different final biases, which decide every prediction."""
    shutil.copy(run / "checkpoints/last.ckpt", "FILE")
    for winner, path in enumerate([run / "checkpoints/best.ckpt", run / "checkpoints/last.ckpt", Path("FILE")]):
        content = torch.load(path, weights_only=True)
        content["state_dict"]["network.linear.weight"].zero_()
        content["state_dict"]["network.linear.bias"] = torch.nn.functional.one_hot(torch.tensor(winner), 10) * 5.0
        torch.save(content, path)
    done = cli("predict", "--run", run, "--ckpt_path", which, "--trainer.limit_predict_batches=2")
    assert done.code == 0, done.err
    lines = next(run.glob("predictions/*/predictions.csv")).read_text().splitlines()[1:]
    expected = {"best": "0", "last": "1", "FILE": "2"}[which]
    assert [line.split(",")[2] for line in lines] == [expected] * 4


def test_untrained_weights_only_when_they_are_asked_for(cli, tmp_path):
    refused = cli("test", *QUICK)
    assert refused.code == 2
    assert "no trained run called 'quickstart'" in refused.err
    asked = cli("test", *QUICK, "--ckpt_path", "none")
    assert asked.code == 0, asked.err
    assert results("runs/quickstart/1/tests/quickstart-1")["selected"] == "untrained"


def test_a_checkpoint_overrides_no_setting(cli, run):
    done = cli(
        "test", "--run", run, "--evaluation.attacks", json.dumps(yaml.safe_load(ONE_ATTACK)["evaluation"]["attacks"])
    )
    assert done.code == 0, done.err
    assert list(results(run / "tests/test-1")["attacks"]) == ["only"]


def test_validate_and_predict_have_folders_of_their_own(cli, run):
    assert cli("validate", "--run", run).code == 0
    assert (run / "validations/validate-1/metrics.csv").is_file()
    assert cli("predict", "--run", run, "--trainer.limit_predict_batches=1").code == 0
    assert (run / "predictions/predict-1/predictions.csv").is_file()


def test_a_config_in_the_current_folder_goes_before_a_shipped_one(cli, tmp_path):
    Path("natural_digits.yaml").write_text(
        "model: {class_path: Natural, init_args: {network: SmallCNN}}\ndata: Digits\n"
    )
    done = cli("fit", "--config", "natural_digits.yaml", *TINY, "--data.size=28")
    assert done.code == 0, done.err
    saved = yaml.safe_load(Path("runs/natural_digits/1/config.yaml").read_text())
    assert saved["model"]["init_args"]["network"]["init_args"]["size"] == 28, "the shipped one has 16"


def test_settings_on_the_command_line_go_over_every_config_wherever_they_stand(cli):
    done = cli("fit", "--data.seed", "9", *QUICK)
    assert done.code == 0, done.err
    assert yaml.safe_load(Path("runs/quickstart/1/config.yaml").read_text())["data"]["init_args"]["seed"] == 9


def test_any_torch_module_trains_by_class_path(cli):
    network = ["--model.network", "torchvision.models.SqueezeNet", "--model.network.num_classes", "10"]
    done = cli("fit", *QUICK, "--data.size=32", "--data.channels=3", *network)
    assert done.code == 0, done.err
    saved = yaml.safe_load(Path("runs/quickstart/1/config.yaml").read_text())
    assert saved["model"]["init_args"]["network"]["class_path"].endswith("SqueezeNet")


def test_a_network_from_a_run_trains_on_or_is_frozen(cli, run):
    frozen = {"class_path": "FromRun", "init_args": {"run": str(run)}}
    refused = cli("fit", *QUICK, "--model.network", json.dumps(frozen))
    assert refused.code == 2
    assert "no trainable parameter" in refused.err
    frozen["init_args"]["frozen"] = False
    done = cli("fit", *QUICK, "--model.network", json.dumps(frozen))
    assert done.code == 0, done.err
    other = cli("fit", *QUICK, "--model.network", json.dumps(frozen), "--data.channels=3")
    assert other.code == 2
    assert "in_channels 1, but 3" in other.err


@pytest.mark.parametrize("logger", ["WandbLogger", "TensorBoard"])
def test_a_logger_is_one_flag_away_and_gets_the_config_and_the_figures(cli, run, monkeypatch, logger):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    done = cli("test", "--run", run, "--trainer.logger", logger)
    assert done.code == 0, done.err
    folder = run / "tests/test-1"
    assert (folder / "metrics.csv").is_file(), "the CSV is always there"
    pattern = {"WandbLogger": "wandb/offline-run-*/files/media/images/test/*.png", "TensorBoard": "**/events.out.*"}[
        logger
    ]
    assert list(folder.glob(pattern))
    if logger == "TensorBoard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(next(folder.glob(pattern)).parent))
        events.Reload()
        assert events.Tags()["images"] == ["test/adversarial"]
        assert any("AdversarialTraining" in p.read_text() for p in folder.rglob("hparams.yaml"))


def test_a_new_run_starts_from_the_best_weights_of_another_unless_told_otherwise(cli, run):
    still = ["--model.optimizer", '{"class_path": "torch.optim.SGD", "init_args": {"lr": 0}}']
    best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    for options, equal in (([], True), (["--ckpt_path", "none"], False)):
        done = cli("fit", "--run", run, *still, *options)
        assert done.code == 0, done.err
        folder = Path(done.out.strip().splitlines()[-1].removeprefix("run: "))
        state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        assert torch.equal(state["network.conv1.weight"], best["network.conv1.weight"]) is equal


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_other_precisions_train_and_test(cli, precision):
    fit = cli("fit", *QUICK, f"--trainer.precision={precision}")
    assert fit.code == 0, fit.err
    test = cli("test", *QUICK, f"--trainer.precision={precision}")
    assert test.code == 0, test.err
    expected = {"64-true": "torch.float64", "bf16-mixed": "torch.float32"}[precision]
    assert results("runs/quickstart/1/tests/quickstart-1")["protocol"]["dtype"] == expected


def test_16_bit_weights_are_refused(cli):
    done = cli("fit", *QUICK, "--trainer.precision=bf16-true")
    assert done.code == 2
    assert "bf16-mixed" in done.err


OTHERS = [pytest.param(command, marks=pytest.mark.slow) for command in ("validate", "test", "predict")]


@pytest.mark.parametrize("command", ["fit", *OTHERS])
def test_every_command_has_help_and_prints_its_config_without_a_run(command, tmp_path):
    for argv in (["--help"], ["--config", "quickstart.yaml", "--print_config"]):
        done = subprocess.run([sys.executable, "-m", "lit_robust", command, *argv], cwd=tmp_path, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert b"checkpoints" in done.stdout


def test_help_lists_the_commands():
    done = subprocess.run([sys.executable, "-m", "lit_robust", "--help"], capture_output=True, text=True, check=True)
    for command in ("fit", "validate", "test", "predict"):
        assert f"\n  {command} " in done.stdout
