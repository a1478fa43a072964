"""Adaptive attacks in a test: screening, rows, the table, and going on after an end by force."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from digit_runs import digits, still, trained, trainer
from lightning.pytorch import Callback

from lit_robust.__main__ import main
from lit_robust.attacks import FGSM, PGD
from lit_robust.attacks.adaptive import Adaptive
from lit_robust.attacks.through import Through
from lit_robust.backward import SurrogateLayer, replace_gradient
from lit_robust.callbacks import RobustEval
from lit_robust.errors import UserError
from lit_robust.nn import Pipeline
from lit_robust.threat import ThreatModel

LINF = ThreatModel("0.1")
PGD2 = PGD(threat=LINF, steps=2, step_size="eps", start="clean")


class Ternary(SurrogateLayer):
    """Three grey levels; of its gradients only the identity shows the way."""

    offered = ("exact", "reverse", "identity")

    def forward(self, x):
        soft = {"exact": 0 * x, "reverse": -x, "identity": x}[self.kind]
        return replace_gradient((2 * x).round() / 2, soft)


ATTACKS = {"pgd": PGD2, "adaptive": Adaptive(attack=PGD2, screen=30, keep=1)}
ROWS = ["pgd", "adaptive/screened", "adaptive/stages.0=identity"]


def defended():
    return Pipeline([Ternary(), trained()]).eval()


def measured(folder, attacks=ATTACKS, network=None, *extra, goes_on=False, **options):
    evaluation = RobustEval(attacks, pictures=1, **options)
    evaluation.goes_on = goes_on
    run = trainer(folder, evaluation, *extra, limit_test_batches=3)
    run.test(still(network or defended()), datamodule=digits(eval_batch_size=20), verbose=False)
    results = json.loads((Path(folder) / "results.json").read_text())
    rows = pq.read_table(Path(folder) / "per_sample.parquet").to_pylist()
    return results, {name: {r["index"]: r for r in rows if r["attack"] == name} for name in results["attacks"]}


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adaptive")
    return folder, *measured(folder)


def test_the_combination_that_was_strongest_is_a_row_and_all_are_in_a_table(evaluation):
    folder, results, rows = evaluation
    assert list(results["attacks"]) == ROWS
    assert results["attacks"]["pgd"]["accuracy"] == results["clean"]["accuracy"] > 0.5  # as the gradient is 0
    assert results["attacks"][ROWS[2]]["accuracy"] < results["clean"]["accuracy"] - 0.1
    assert results["attacks"][ROWS[2]]["attack"]["backward"] == {"stages.0": "identity"}
    table = results["screening"]["adaptive"]
    assert table["images"] == 30
    assert table["attack"]["class"] == "PGD"
    assert [(row["label"], row["backward"], row["kept"]) for row in table["combinations"]] == [
        ("default", {"stages.0": "exact"}, False),
        ("stages.0=reverse", {"stages.0": "reverse"}, False),
        ("stages.0=identity", {"stages.0": "identity"}, True),
    ]
    kept = table["combinations"][2]
    assert kept["correct"] == sum(not rows[ROWS[2]][i]["broken"] for i in range(30))
    assert not (folder / "parts").exists()


def test_the_worst_case_is_over_all_that_ran(evaluation):
    folder, results, rows = evaluation
    worst = results["worst_case"]["L∞ 0.1"]
    assert worst["attacks"] == ROWS
    assert worst["correct"] == sum(not any(rows[name][i]["broken"] for name in ROWS) for i in range(60))
    replayed = [rows["adaptive/screened"][i] for i in range(60)]
    assert all(row["forwards"] == 0 for row in replayed)
    assert all(row["broken"] == (row["prediction"] != row["label"]) for row in replayed[30:])
    assert sum(row["broken"] for row in replayed[:30]) >= sum(rows[ROWS[2]][i]["broken"] for i in range(30))
    with np.load(folder / "adversarials.npz") as found:
        assert "adaptive/screened" in found["attack"].tolist()


def test_both_tables_are_printed(tmp_path, capsys):
    measured(tmp_path)
    out = capsys.readouterr().out
    assert "adaptive: screening 3 of 3 combinations of backward passes on 30 images" in out
    assert "adaptive: every combination of backward passes on the first 30 images" in out
    assert "adaptive/screened (first 30), L∞" in out
    lines = [line for line in out.splitlines() if "default" in line or "identity" in line]
    assert "identity" in lines[0]  # the strongest first
    assert "yes" in lines[0]
    assert "yes" not in next(line for line in lines if "default" in line)


class Stops(Callback):
    """Ends a test before a combination is screened, or before a block."""

    def __init__(self, row=None, block=None):
        self.row, self.block = row, block

    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if batch_idx == self.block:
            raise RuntimeError("the power is gone")


def without_times(results):
    return json.loads(json.dumps(results), object_hook=lambda node: {k: v for k, v in node.items() if k != "seconds"})


@pytest.mark.parametrize("when", ["screening", "first block", "second block"])
def test_a_test_that_was_ended_goes_on_and_screens_nothing_twice(evaluation, tmp_path, when, monkeypatch):
    asked, evaluate = [], RobustEval._evaluate

    def spied(self, pl_module, batch, attacks, *args):
        if when == "screening" and len(asked) == 3:  # in the second combination
            asked.append("end")
            raise RuntimeError("the power is gone")
        asked.append((int(batch[2][0]), *attacks))
        return evaluate(self, pl_module, batch, attacks, *args)

    monkeypatch.setattr(RobustEval, "_evaluate", spied)
    stops = Stops(block={"first block": 0, "second block": 1}.get(when))
    with pytest.raises(RuntimeError, match="the power is gone"):
        measured(tmp_path, ATTACKS, None, stops)
    before = [each for each in asked if each != "end"]
    asked[:] = ["going on"] * 4
    results, rows = measured(tmp_path, goes_on=True)
    after = asked[4:]
    screening = [
        (start, f"adaptive/{label}")
        for label in ("default", "stages.0=reverse", "stages.0=identity")
        for start in (0, 20)
    ]
    blocks = [(start, *ROWS) for start in (0, 20, 40)]
    if when == "screening":
        assert (before, after) == (screening[:3], [*screening[2:], *blocks])
    else:
        done = {"first block": 0, "second block": 1}[when]
        assert (before, after) == ([*screening, *blocks[:done]], blocks[done:])
    assert rows == evaluation[2]
    assert without_times(results) == without_times(evaluation[1])


def test_without_going_on_what_was_screened_before_is_not_used(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError, match="the power is gone"):
        measured(tmp_path, ATTACKS, None, Stops(block=0))
    part = tmp_path / "parts" / "screening" / "001-0000.npz"
    old = part.stat().st_mtime_ns
    with pytest.raises(RuntimeError, match="the power is gone"):
        measured(tmp_path, ATTACKS, None, Stops(block=0))
    assert part.stat().st_mtime_ns != old


def test_a_cascade_has_the_same_worst_case_and_searches_no_screened_image_twice(evaluation, tmp_path):
    _, alone, _ = evaluation
    results, rows = measured(tmp_path, cascade=True)
    assert results["worst_case"] == alone["worst_case"]
    assert results["screening"]["adaptive"]["images"] == 30
    last = rows[ROWS[2]]
    assert all((last[i]["forwards"] == 0) == rows["adaptive/screened"][i]["broken"] for i in range(60))


def test_a_second_test_screens_its_own_network(tmp_path):
    evaluation = RobustEval({"adaptive": Adaptive(attack=PGD2, screen=10, keep=1)})
    run = trainer(tmp_path, evaluation, limit_test_batches=1)
    names = []
    for network in (
        defended(),
        trained(),
        Pipeline(
            [
                trained(),
            ]
        ).eval(),
        defended(),
    ):
        run.test(still(network), datamodule=digits(eval_batch_size=20), verbose=False)
        results = json.loads((tmp_path / "results.json").read_text())
        names.append((list(results["attacks"]), list(results.get("screening", {}))))
    defence = ["adaptive/screened", "adaptive/stages.0=identity"]
    assert names == [(defence, ["adaptive"]), (["adaptive"], []), (["adaptive"], []), (defence, ["adaptive"])]


def test_no_more_images_are_screened_than_are_tested(tmp_path):
    results, _ = measured(tmp_path, {"adaptive": Adaptive(attack=PGD2, screen=500, keep=1)})
    assert results["screening"]["adaptive"]["images"] == results["clean"]["n"] == 60


@pytest.mark.parametrize("stage", ["fit", "test"])
@pytest.mark.parametrize(
    "attack",
    [
        Adaptive(attack=PGD2, surrogates={"stages.9": ["identity"]}),
        Through(attack=PGD2, backward={"stages.9": "identity"}),
    ],
    ids=["adaptive", "through"],
)
def test_layers_that_the_network_does_not_have_are_refused_before_any_work(tmp_path, attack, stage):
    run = trainer(tmp_path, RobustEval({"a": attack}))
    with pytest.raises(UserError, match=r"no layer matches 'stages\.9'; Pipeline has stages, stages\.0"):
        getattr(run, stage)(still(defended()), datamodule=digits())


def test_the_attack_of_the_validation_set_may_be_adaptive(tmp_path):
    evaluation = RobustEval(val_attack=Adaptive(attack=FGSM(threat=LINF)), val_samples=40)
    run = trainer(tmp_path, evaluation)
    run.fit(still(defended()), datamodule=digits(eval_batch_size=40))
    plain = trainer(tmp_path, RobustEval(val_attack=FGSM(threat=LINF), val_samples=40))
    plain.fit(still(defended()), datamodule=digits(eval_batch_size=40))
    assert run.callback_metrics["val/robust"] < plain.callback_metrics["val/robust"]


# --- from a config ---

CONFIG = {
    "evaluation": {
        "attacks": {
            "adaptive": {
                "class_path": "lit_robust.attacks.adaptive.Adaptive",
                "init_args": {
                    "attack": {"class_path": "PGD", "init_args": {"threat": {"eps": 0.1}, "steps": 2}},
                    "surrogates": {"stages.0": ["exact", "identity", "smooth(0.5)", "torch.tanh"]},
                    "screen": 10,
                    "keep": 2,
                },
            },
            "through": {
                "class_path": "lit_robust.attacks.through.Through",
                "init_args": {
                    "attack": {"class_path": "FGSM", "init_args": {"threat": {"eps": 0.1}}},
                    "backward": {"stages.0": "identity"},
                },
            },
        }
    }
}
STAGES = [
    {"class_path": "Standardize", "init_args": {"mean": [0.5], "std": [0.5]}},
    {"class_path": "SmallCNN", "init_args": {"size": 16}},
]
NETWORK = {"model": {"init_args": {"network": {"class_path": "Pipeline", "init_args": {"stages": STAGES}}}}}
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
QUIET += ["--data.eval_batch_size=20"]
FIT = ["fit", "--config", "natural_digits.yaml", "--config", "stages.yaml", *QUIET]
FIT += ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2"]
TEST = ["test", "--run", "runs/natural_digits/1", "--config", "adaptive.yaml", *QUIET, "--trainer.limit_test_batches=1"]


def test_a_config_names_surrogates_of_any_network(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("adaptive.yaml").write_text(yaml.safe_dump(CONFIG))
    Path("stages.yaml").write_text(yaml.safe_dump(NETWORK))
    assert main(FIT) == 0, capsys.readouterr().err
    assert main(TEST) == 0, capsys.readouterr().err
    results = json.loads(Path("runs/natural_digits/1/tests/adaptive-1/results.json").read_text())
    labels = [row["label"] for row in results["screening"]["adaptive"]["combinations"]]
    assert labels == ["default", "stages.0=identity", "stages.0=smooth(0.5)", "stages.0=torch.tanh"]
    assert len(results["attacks"]) == 4
    assert results["attacks"]["through"]["attack"]["backward"] == {"stages.0": "identity"}
    capsys.readouterr()
    assert main([*TEST, "--evaluation.attacks.adaptive.surrogates", '{"stages.99": ["identity"]}']) == 2
    assert "no layer matches 'stages.99'; Pipeline has" in capsys.readouterr().err
