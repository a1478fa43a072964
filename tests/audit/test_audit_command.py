"""The command: what it takes from a command line and a run's config, what it prints, and its exit code."""

import json

import pytest
import yaml

from lit_robust.__main__ import main
from lit_robust.attacks import PGD
from lit_robust.audit.command import read
from lit_robust.audit.progress import Progress
from lit_robust.audit.threat_of import threat_of
from lit_robust.errors import UserError
from lit_robust.threat import ThreatModel

TINY = ["steps=10", "auto_steps=2", "restarts=2", "queries=2", "points=2", "substitute_images=100"]
EFFORT = [f"--trainer.callbacks.init_args.effort.{each}" for each in TINY]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
NET = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self, factor: float = 1.0):
        super().__init__(nn.Flatten(), nn.Linear(256, 10))
        self.factor = factor
    def forward(self, x):
        return self.factor * super().forward(x)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit_command")
    (folder / "audited_net.py").write_text(NET)
    attack = {"class_path": "PGD", "init_args": {"threat": {"eps": "1/50"}, "steps": 2}}
    config = {
        "model": {"class_path": "Natural", "init_args": {"optimizer": {"class_path": "torch.optim.Adam"}}},
        "data": {"class_path": "Digits", "init_args": {"size": 16, "batch_size": 32}},
        "trainer": {"max_epochs": 4},
        "evaluation": {
            "attacks": {"noise": {"class_path": "UniformNoise", "init_args": {"amplitude": 0.5}}, "p": attack}
        },
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    net = ["--model-file", str(folder / "audited_net.py:Net")]
    assert main(["fit", "--config", str(folder / "tiny.yaml"), "--runs", str(folder / "runs"), *net, *QUIET]) == 0
    return folder / "runs" / "tiny" / "1"


def test_a_run_is_audited_in_the_ball_of_its_first_adversary(run, capfd):
    assert main(["audit", "--run", str(run), "--images", "30", "--strict", *EFFORT, *QUIET]) == 0
    content = json.loads((run / "tests" / "audit-1" / "audit.json").read_text())
    assert content["threat_model"] == "L∞ 0.02"
    assert content["protocol"]["samples"] == 30
    assert content["effort"]["steps"] == 10
    assert len(content["findings"]) == 11
    assert set(content["findings"][0]) >= {"check", "verdict", "figure", "value", "why", "next"}
    assert (run / "tests" / "audit-1" / "audit.png").stat().st_size > 20_000
    out = capfd.readouterr().out
    assert "unbounded attack" in out
    assert f"audit: {content['verdict']}" in out


def test_a_check_that_fails_is_told_and_with_strict_is_the_exit_code(run, capfd):
    masked = ["--model.network.init_args.factor=10000", "--trainer.callbacks.init_args.effort.queries=1"]
    assert (
        main(["audit", "--run", str(run), "--images", "20", "--eps", "0.05", "--strict", *EFFORT, *QUIET, *masked]) == 1
    )
    out = capfd.readouterr().out
    assert "audit: fail" in out
    assert "Athalye" in out


def test_a_model_that_guesses_is_refused_and_leaves_no_folder(run, capfd):
    folders = sorted((run / "tests").glob("*"))
    guess = ["--model.network.init_args.factor=0"]
    assert main(["audit", "--run", str(run), "--images", "20", "--eps", "0.05", *EFFORT, *QUIET, *guess]) == 2
    assert "no better than chance" in capfd.readouterr().err
    assert sorted((run / "tests").glob("*")) == folders


def test_a_class_path_that_does_not_exist_is_named(run, capfd):
    assert main(["audit", "--run", str(run), "--eps", "0.05", "--model.network", "nowhere.Net", *QUIET]) == 2
    assert "nowhere.Net" in capfd.readouterr().err


def config(folder, attacks):
    path = folder / "one.yaml"
    path.write_text(yaml.safe_dump({"evaluation": {"attacks": attacks}}, sort_keys=False))
    return path


def test_the_ball_is_that_of_the_first_attack_with_a_radius(tmp_path):
    inner = {"class_path": "PGD", "init_args": {"threat": {"eps": "8/255", "norm": "l2"}}}
    attacks = {
        "noise": {"class_path": "GaussianNoise", "init_args": {"sigma": 0.1}},
        "fmn": {"class_path": "FMN", "init_args": {"threat": {"eps": None}}},
        "sparse": {"class_path": "PGD", "init_args": {"threat": {"eps": 5, "norm": "l0"}}},
        "many": {"class_path": "Restarts", "init_args": {"n": 2, "attack": inner}},
        "later": {"class_path": "PGD", "init_args": {"threat": {"eps": 0.1}}},
    }
    assert threat_of([config(tmp_path, attacks)]) == ThreatModel("8/255", "l2")


def test_without_a_ball_one_is_asked_for(tmp_path):
    with pytest.raises(UserError, match="--eps 8/255"):
        threat_of([config(tmp_path, {"noise": {"class_path": "GaussianNoise", "init_args": {"sigma": 0.1}}})])
    with pytest.raises(UserError, match="--eps 8/255"):
        threat_of([])


def test_options_become_settings_of_the_measurement(tmp_path):
    options = ["--surrogate", str(tmp_path), "--backward", "stages.0=identity", "--backward=q=smooth(4)"]
    asked = read(["--eps", "1/4", "--norm", "l2", *options, "--run", "x", "--strict", "--data.root=y"])
    assert asked.settings == {
        "eps": "1/4",
        "norm": "l2",
        "images": 500,
        "surrogates": [{"class_path": "lit_robust.nn.FromRun", "init_args": {"run": str(tmp_path)}}],
        "backward": {"stages.0": "identity", "q": "smooth(4)"},
    }
    assert asked.strict
    assert asked.options == ["--run", "x", "--data.root=y"]
    assert asked.arguments(tmp_path)[-2:] == ["--data.eval_batch_size", "100"]
    assert read(["--eps", "1", "--images", "30"]).arguments(tmp_path)[-1] == "30"
    assert read(["--eps", "1", "--trainer.limit_test_batches=2"]).settings["images"] is None


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--eps", "0.1", "--images", "none"], "--images"),
        (["--eps", "0.1", "--images", "0"], "--images"),
        (["--eps", "0.1", "--backward", "identity"], "quantizer=identity"),
        (["--eps", "0.1", "--surrogate", "nowhere"], "no run folder nowhere"),
        (["--norm", "l2"], "needs the radius"),
        (["--eps"], "expected a value"),
    ],
)
def test_mistakes_on_the_command_line_are_named(argv, message):
    with pytest.raises(UserError, match=message):
        read(argv)


def test_help_is_printed(capsys):
    assert main(["audit", "--help"]) == 0
    assert "--strict" in capsys.readouterr().out


def test_progress_foresees_the_end_where_every_pass_takes_as_long():
    now, lines, names = [100.0], [], []
    rows = {"short": PGD(threat=ThreatModel("0.1"), steps=10), "long": PGD(threat=ThreatModel("0.1"), steps=30)}
    work = {"short": 31.0, "long": 91.0}  # a pass to judge, and three for each step
    progress = Progress(rows, 10, 3, show=lines.append, name=names.append, clock=lambda: now[0])
    assert progress.left() is None
    progress.begin()
    progress.end_block(skipped=True)
    for _ in range(2):
        for row in rows:
            progress.before(row)
            now[0] += work[row]
        progress.end_block()
        if len(names) == 2:
            assert progress.left() == pytest.approx(122)
    assert progress.left() == 0
    assert names[1] == "long, about 4 min left"
    assert lines[0] == "audit: 42%, about 4 min left (block 2 of 3, long)"
