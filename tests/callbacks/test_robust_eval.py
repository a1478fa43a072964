"""Robust evaluation under a real trainer, against results worked out from the images and the per-sample file."""

import errno
import itertools
import json
import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from digit_runs import digits, still, trained, trainer, untrained
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure

from lit_robust.attacks import FGSM, PGD, GaussianNoise, Restarts
from lit_robust.callbacks import RobustEval, robust_report
from lit_robust.errors import UserError
from lit_robust.evaluation import wilson
from lit_robust.nn import AdditiveNoise, Pipeline
from lit_robust.threat import ThreatModel

LINF = ThreatModel("12/255")
ATTACKS = {
    "fgsm": FGSM(threat=LINF),
    "eps0": PGD(threat=ThreatModel(0), steps=2, step_size="1/255"),
    "pgd": Restarts(attack=PGD(threat=LINF, steps=2, step_size="eps/2"), n=2),
    "noise": GaussianNoise(sigma=0.3),
}


def measured(folder, attacks=ATTACKS, network=None, data=None, *, trainer_options=(), extra=(), **options):
    folder.mkdir(exist_ok=True)
    evaluation = RobustEval(attacks, **options)
    run = trainer(folder, evaluation, *extra, **dict(trainer_options))
    run.test(still(network or trained()), datamodule=data or digits(), verbose=False)
    return json.loads((folder / "results.json").read_text()), evaluation


def per_sample(folder):
    """For each attack its rows, in the order of the samples."""
    rows = sorted(pq.read_table(folder / "per_sample.parquet").to_pylist(), key=lambda row: row["index"])
    return {name: [row for row in rows if row["attack"] == name] for name in dict.fromkeys(r["attack"] for r in rows)}


@contextmanager
def pictured():
    """Collects what pictures of adversarials show."""
    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            robust_report,
            "adversarial_figure",
            lambda examples, title: shown.append(examples) or Figure(figsize=(1, 1)),
        )
        yield shown


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("test")
    results, _ = measured(folder)
    return folder, results, per_sample(folder)


def images(data, rows=None):
    stored = data.images(train=rows is not None)
    rows = torch.arange(len(stored)) if rows is None else rows
    return stored.x[rows].float() / 255, stored.y[rows]


def clean_and_fgsm(network, x, y):
    x = x.clone().requires_grad_()
    logits = network(x)
    (gradient,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, y, reduction="sum"), x)
    with torch.no_grad():
        attacked = network((x + 12 / 255 * gradient.sign()).clamp(0, 1))
    right = logits.argmax(1) == y
    return right, right & (attacked.argmax(1) == y)


def test_the_figures_are_those_of_the_images(evaluation):
    _, results, _ = evaluation
    clean, robust = clean_and_fgsm(trained(), *images(digits()))
    assert results["clean"]["correct"] == int(clean.sum())
    assert results["attacks"]["fgsm"]["correct"] == int(robust.sum())
    assert 0.3 < results["attacks"]["fgsm"]["accuracy"] < results["clean"]["accuracy"] - 0.1
    assert results["clean"]["n"] == results["attacks"]["fgsm"]["n"] == 360


def test_with_radius_0_the_accuracy_is_the_clean_one(evaluation):
    _, results, _ = evaluation
    assert results["attacks"]["eps0"]["correct"] == results["clean"]["correct"]
    assert results["worst_case"]["L∞ 0"]["correct"] == results["clean"]["correct"]


def test_every_figure_follows_from_the_per_sample_file(evaluation):
    _, results, rows = evaluation
    assert list(rows) == ["clean", *ATTACKS]
    y = digits().images(train=False).y.tolist()
    for name, mine in rows.items():
        assert [row["index"] for row in mine] == list(range(360))
        assert [row["label"] for row in mine] == y
        figure = results["clean"] if name == "clean" else results["attacks"][name]
        correct = sum(not row["broken"] for row in mine)
        assert figure["correct"] == correct
        assert figure["accuracy"] == correct / 360
        assert figure["interval_95"] == list(wilson(correct, 360))
        if name != "clean":
            assert figure["forwards"] == sum(row["forwards"] for row in mine)
            assert figure["backwards"] == sum(row["backwards"] for row in mine)
    survived = sum(not (a["broken"] or b["broken"]) for a, b in zip(rows["fgsm"], rows["pgd"], strict=True))
    assert results["worst_case"]["L∞ 12/255"]["correct"] == survived
    assert results["worst_case"]["L∞ 12/255"]["attacks"] == ["fgsm", "pgd"]


def test_noise_is_reported_as_noise_and_is_no_worst_case(evaluation):
    _, results, rows = evaluation
    assert results["attacks"]["noise"]["kind"] == "noise"
    assert list(results["worst_case"]) == ["L∞ 12/255", "L∞ 0"]
    assert results["attacks"]["noise"]["correct"] == sum(not row["broken"] for row in rows["noise"])
    assert results["attacks"]["noise"]["forwards"] == 0


def test_fgsm_counts_a_pass_for_each_image_that_was_right(evaluation):
    _, results, _ = evaluation
    right = results["clean"]["correct"]
    assert (results["attacks"]["fgsm"]["forwards"], results["attacks"]["fgsm"]["backwards"]) == (right, right)


def test_the_protocol_is_written_down(evaluation):
    _, results, _ = evaluation
    assert results["protocol"] == {
        "seed": 0,
        "block_size": 100,
        "cascade": False,
        "leave": True,
        "random_network": False,
        "dtype": "torch.float32",
        "device": "cpu",
        "processes": 1,
    }
    for name, figure in results["attacks"].items():
        assert figure["threat_model"] == str(ATTACKS[name].threat_model)
        assert figure["seconds"] >= 0
    assert results["attacks"]["pgd"]["attack"]["n"] == 2
    assert results["attacks"]["pgd"]["attack"]["attack"]["steps"] == 2


def test_the_folder_holds_the_results_and_nothing_else(evaluation):
    folder, _, _ = evaluation
    assert {p.name for p in folder.iterdir()} == {
        "results.json",
        "per_sample.parquet",
        "adversarials.npz",
        "adversarial.png",
    }
    assert (folder / "adversarial.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_shows_images_that_broke_in_the_last_adversary_s_threat_model(evaluation, tmp_path):
    # Names with confidence come from the network, on the images before and after.
    _, _, rows = evaluation
    broken = zip(rows["fgsm"], rows["pgd"], strict=True)
    first = [a for a, b in broken if (a["broken"] or b["broken"]) and a["prediction"] == a["label"]]
    two = {"size": 16, "batch_size": 64, "eval_batch_size": 2}  # so that a picture is of several parts
    with pictured() as shown:
        measured(tmp_path, data=digits(**two), pictures=5, trainer_options={"limit_test_batches": 12}.items())
    (examples,) = shown
    assert len(examples) == 5
    shown_rows = sorted(first[:5], key=lambda row: row["index"])
    x, _ = images(digits())
    by_index = sorted(examples, key=lambda e: next(i for i in range(30) if torch.equal(e.x, x[i])))
    for example, row in zip(by_index, shown_rows, strict=True):
        assert torch.equal(example.x, x[row["index"]])
        assert 0 < (example.x_adv - example.x).abs().max() <= 12.001 / 255
        for image, (name, confidence) in ((example.x, example.before), (example.x_adv, example.after)):
            with torch.no_grad():
                p = trained()(image[None]).softmax(1)[0]
            assert name == str(int(p.argmax()))
            assert confidence == pytest.approx(float(p.max()), abs=1e-4)
        assert example.before[0] == str(row["label"]) != example.after[0]


def counted(results):
    return {name: (f["correct"], f["forwards"]) for name, f in results["attacks"].items()}


@pytest.mark.parametrize("size", [7, 360, 1000])
def test_blocks_of_another_size_count_the_same(evaluation, tmp_path, size):
    _, results, rows = evaluation
    other, _ = measured(tmp_path / "other", data=digits(eval_batch_size=size))
    for name, mine in per_sample(tmp_path / "other").items():
        differ = [row for row, its in zip(mine, rows[name], strict=True) if row["broken"] != its["broken"]]
        assert len(differ) <= 1
        assert all(abs(row["margin"]) < 1e-4 for row in differ)
    assert other["clean"] == results["clean"]
    assert other["protocol"]["block_size"] == size


@pytest.fixture(scope="module")
def noisy():
    return Pipeline([AdditiveNoise(0.1), trained()]).eval()


def test_a_random_network_is_measured_the_same_again_and_not_with_another_seed(noisy, tmp_path):
    options = {"network": noisy, "draws": 5, "trainer_options": {"limit_test_batches": 1}.items()}
    first, _ = measured(tmp_path / "1", **options)
    torch.manual_seed(1)
    again, _ = measured(tmp_path / "2", **options)
    other, _ = measured(tmp_path / "3", seed=1, **options)
    assert counted(first) == counted(again)
    assert first["clean"] == again["clean"]
    assert counted(first) != counted(other)
    rows = [per_sample(tmp_path / name) for name in "123"]
    assert rows[0] == rows[1]
    assert rows[0] != rows[2]
    # A figure is the mean of the samples' shares of right draws.
    protocol = first["protocol"]
    assert (protocol["random_network"], protocol["draws"], protocol["leave"]) == (True, 5, False)
    for name, mine in rows[0].items():
        assert {round(5 * row["right"], 9) for row in mine} <= {0, 1, 2, 3, 4, 5}
        assert [row["broken"] for row in mine] == [row["right"] <= 0.5 for row in mine]
        figure = first["clean"] if name == "clean" else first["attacks"][name]
        assert figure["correct"] == pytest.approx(sum(row["right"] for row in mine))
        assert figure["accuracy"] == pytest.approx(figure["correct"] / 100)


def test_a_cascade_has_the_same_worst_case(evaluation, tmp_path):
    _, alone, _ = evaluation
    cascade, _ = measured(tmp_path / "cascade", cascade=True)
    assert cascade["worst_case"] == alone["worst_case"]
    assert cascade["attacks"]["pgd"]["correct"] == alone["worst_case"]["L∞ 12/255"]["correct"]
    assert cascade["attacks"]["pgd"]["forwards"] < alone["attacks"]["pgd"]["forwards"]
    assert cascade["attacks"]["pgd"]["mean_distance_of_broken"] > 8 / 255
    assert cascade["attacks"]["noise"]["correct"] == alone["attacks"]["noise"]["correct"]


def test_without_attacks_there_is_the_clean_figure_and_no_picture(tmp_path, capsys):
    results, _ = measured(tmp_path, attacks={})
    assert results["clean"]["n"] == 360
    assert results["attacks"] == results["worst_case"] == {}
    assert not (tmp_path / "adversarial.png").exists()
    assert "clean" in capsys.readouterr().out


def test_a_part_of_the_test_set_is_said_to_be_that(tmp_path):
    results, _ = measured(tmp_path, {"fgsm": FGSM(threat=LINF)}, trainer_options={"limit_test_batches": 2}.items())
    assert results["clean"]["n"] == results["attacks"]["fgsm"]["n"] == 200


def test_a_second_test_starts_from_nothing(tmp_path, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr("lit_robust.evaluation.block.time.perf_counter", lambda: float(next(clock)))
    evaluation = RobustEval({"fgsm": FGSM(threat=LINF)})
    run = trainer(tmp_path, evaluation)
    seconds = []
    with pictured() as shown:
        for network in (trained(), untrained()):
            run.test(still(network), datamodule=digits(), verbose=False)
            seconds.append(json.loads((tmp_path / "results.json").read_text())["attacks"]["fgsm"]["seconds"])
    assert seconds == [4.0, 4.0]  # one a block
    assert len(shown) == 2
    for example in shown[1]:
        with torch.no_grad():
            assert example.before[0] == str(int(untrained()(example.x[None]).argmax()))


class Loses(Callback):
    """Loses a part of the results, as a folder that processes do not share would."""

    def on_test_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        parts = list(Path(trainer.default_root_dir, "parts", "per_sample").glob("*.parquet")) if batch_idx == 2 else []
        for part in parts[:1]:
            part.unlink()


def test_a_block_that_got_lost_raises(tmp_path):
    evaluation = RobustEval({"fgsm": FGSM(threat=LINF)})
    run = trainer(tmp_path, evaluation, Loses())
    with pytest.raises(RuntimeError, match=r"260 .*360 samples|360 samples.*260"):
        run.test(still(trained()), datamodule=digits(), verbose=False)


class Stops(Callback):
    """Ends a test before a block."""

    def __init__(self, block):
        self.block = block

    def on_test_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if batch_idx == self.block:
            raise RuntimeError("the power is gone")


@contextmanager
def counted_blocks():
    """Collects the first indices of the blocks that are evaluated."""
    asked, evaluate = [], RobustEval._evaluate

    def spied(self, pl_module, batch, *args, **options):
        asked.append(int(batch[2][0]))
        return evaluate(self, pl_module, batch, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RobustEval, "_evaluate", spied)
        yield asked


@pytest.mark.parametrize("goes_on", [True, False])
def test_an_interrupted_test_goes_on_with_its_blocks_or_starts_from_nothing(evaluation, tmp_path, goes_on):
    with pytest.raises(RuntimeError, match="the power is gone"):
        trainer(tmp_path, RobustEval(ATTACKS), Stops(2)).test(still(trained()), datamodule=digits(), verbose=False)
    again = RobustEval(ATTACKS)
    again.goes_on = goes_on
    with counted_blocks() as asked:
        trainer(tmp_path, again).test(still(trained()), datamodule=digits(), verbose=False)
    assert asked == ([200, 300] if goes_on else [0, 100, 200, 300])
    folder, results, rows = evaluation
    assert per_sample(tmp_path) == rows
    mine = json.loads((tmp_path / "results.json").read_text())
    for figure in (*mine["attacks"].values(), *results["attacks"].values()):
        assert figure.pop("seconds", 0.0) >= 0
    assert mine == results
    whole, parts = (np.load(place / "adversarials.npz") for place in (folder, tmp_path))
    assert all(np.array_equal(parts[name], whole[name]) for name in whole.files)
    assert not (tmp_path / "parts").exists()


def test_a_part_that_cannot_be_read_is_computed_again(tmp_path):
    with pytest.raises(RuntimeError, match="the power is gone"):
        trainer(tmp_path, RobustEval({}), Stops(3)).test(still(trained()), datamodule=digits(), verbose=False)
    part = tmp_path / "parts" / "per_sample" / "000001.parquet"
    part.write_bytes(part.read_bytes()[:200])
    again = RobustEval({})
    again.goes_on = True
    with counted_blocks() as asked:
        trainer(tmp_path, again).test(still(trained()), datamodule=digits(), verbose=False)
    assert asked == [100, 300]
    assert json.loads((tmp_path / "results.json").read_text())["clean"]["n"] == 360


def no_space(*args, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("what", ["SampleStore.merge", "AdversarialStore.merge", "picture", "results.json"])
def test_a_disk_that_is_full_at_the_end_keeps_all_blocks(tmp_path, what, monkeypatch):
    def half(path, text):
        path.write_bytes(text.encode()[:10])
        no_space()

    attacks = {"fgsm": FGSM(threat=ThreatModel(0.1))} if what == "picture" else {}
    with monkeypatch.context() as patch:
        if what == "results.json":
            patch.setattr(Path, "write_text", half)
        elif what == "picture":
            patch.setattr("matplotlib.figure.Figure.savefig", no_space)
        else:
            owner, _, method = f"lit_robust.callbacks.robust_eval.{what}".rpartition(".")
            patch.setattr(f"{owner}.{method}", no_space)
        with pytest.raises(UserError, match=r"cannot write .*: No space left on device; blocks"):
            trainer(tmp_path, RobustEval(attacks)).test(still(trained()), datamodule=digits(), verbose=False)
    assert not (tmp_path / "results.json").exists()  # which says that a test is finished
    again = RobustEval(attacks)
    again.goes_on = True
    with counted_blocks() as asked:
        trainer(tmp_path, again).test(still(trained()), datamodule=digits(), verbose=False)
    assert asked == []
    assert json.loads((tmp_path / "results.json").read_text())["clean"]["n"] == 360


class Keeps(Logger):
    name = version = "x"

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append(metrics)

    def log_hyperparams(self, params, *args, **kwargs):
        pass


def test_loggers_get_every_accuracy(tmp_path):
    logger = Keeps()
    results, _ = measured(tmp_path, trainer_options={"logger": logger}.items())
    logged = {name: value for row in logger.rows for name, value in row.items()}
    for name, figure in results["attacks"].items():
        assert logged[f"test/{name}"] == figure["accuracy"]
    assert logged["test/worst L∞ 12/255"] == results["worst_case"]["L∞ 12/255"]["accuracy"]
    assert logged["test/acc"] == pytest.approx(results["clean"]["accuracy"])


def test_provenance_stands_first(tmp_path):
    evaluation = RobustEval({})
    evaluation.provenance = {"title": "table_1", "run": "runs/a/1"}
    trainer(tmp_path, evaluation).test(still(trained()), datamodule=digits(), verbose=False)
    assert list(json.loads((tmp_path / "results.json").read_text()))[:2] == ["title", "run"]


# --- while training ---


class Recorded(Callback):
    def __init__(self):
        self.robust = []

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            value = trainer.callback_metrics.get("val/robust")
            self.robust.append(None if value is None else float(value))


@pytest.mark.parametrize("samples", [1, 40, 50, 65, 144, 10_000])
def test_val_robust_is_of_the_first_samples_of_the_validation_set(samples, tmp_path):
    data, recorded = digits(eval_batch_size=50), Recorded()
    evaluation = RobustEval(val_attack=FGSM(threat=LINF), val_samples=samples)
    trainer(tmp_path, evaluation, recorded).fit(still(trained()), datamodule=data)
    _, robust = clean_and_fgsm(trained(), *images(data, data.split[1]))
    assert recorded.robust == [pytest.approx(float(robust[:samples].double().mean()), abs=1e-6)]


def test_the_samples_beyond_are_not_attacked(tmp_path, monkeypatch):
    asked = []
    falsify = FGSM.falsify
    monkeypatch.setattr(
        FGSM, "falsify", lambda self, model, x, *a, **k: asked.append(len(x)) or falsify(self, model, x, *a, **k)
    )
    evaluation = RobustEval(val_attack=FGSM(threat=LINF), val_samples=40)
    trainer(tmp_path, evaluation).fit(still(trained()), datamodule=digits(eval_batch_size=50))
    assert len(asked) == 1


def test_it_is_measured_every_n_epochs_and_not_in_the_sanity_check(tmp_path, monkeypatch):
    epochs = []
    evaluate = RobustEval._evaluate

    def spied(self, pl_module, *args, **options):
        epochs.append((pl_module.current_epoch, pl_module.training))
        return evaluate(self, pl_module, *args, **options)

    monkeypatch.setattr(RobustEval, "_evaluate", spied)
    evaluation = RobustEval(val_attack=FGSM(threat=LINF), val_samples=10, every_n_epochs=2)
    options = {"max_epochs": 4, "num_sanity_val_steps": 1, "limit_train_batches": 1, "limit_val_batches": 1}
    regime = still(trained())
    trainer(tmp_path, evaluation, **options).fit(regime, datamodule=digits())
    assert epochs == [(0, False), (2, False)]
    assert regime.training


def test_it_is_measured_also_where_validation_itself_is_not_in_every_epoch(tmp_path):
    recorded = Recorded()
    evaluation = RobustEval(val_attack=FGSM(threat=LINF), val_samples=10, every_n_epochs=2)
    options = {"max_epochs": 4, "check_val_every_n_epoch": 2, "limit_train_batches": 1, "limit_val_batches": 1}
    trainer(tmp_path, evaluation, recorded, **options).fit(still(trained()), datamodule=digits())
    assert len(recorded.robust) == 2
    assert None not in recorded.robust


def test_validation_on_its_own_is_always_measured(tmp_path):
    evaluation = RobustEval(val_attack=FGSM(threat=LINF), val_samples=10, every_n_epochs=2)
    run = trainer(tmp_path, evaluation, limit_train_batches=1, limit_val_batches=1)
    regime = still(trained())
    run.fit(regime, datamodule=digits())
    for _ in range(2):
        (metrics,) = run.validate(regime, datamodule=digits(), verbose=False)
        assert "val/robust" in metrics


def test_training_goes_on_as_without_it(tmp_path):
    states = []
    for evaluation in ([], [RobustEval(val_attack=PGD(threat=LINF, steps=2), val_samples=50)]):
        regime = still(untrained())
        regime._optimizer = lambda parameters: torch.optim.Adam(parameters)
        torch.manual_seed(0)
        options = {"max_epochs": 2, "limit_val_batches": 1}
        trainer(tmp_path, *evaluation, **options).fit(regime, datamodule=digits())
        states.append(regime.network.state_dict())
        assert all(p.requires_grad for p in regime.parameters())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_the_running_attack_is_named_while_it_runs(tmp_path):
    seen = []

    class Watched(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = trained()

        def forward(self, x):
            seen.append(evaluation.running)
            return self.inner(x)

    evaluation = RobustEval({"a": FGSM(threat=LINF), "b": PGD(threat=LINF, steps=3)})
    trainer(tmp_path, evaluation).test(still(Watched()), datamodule=digits(), verbose=False)
    assert {"FGSM", "PGD-3"} <= set(seen)
    assert evaluation.running == ""


# --- refusals ---


def test_an_attack_cannot_be_called_clean():
    with pytest.raises(UserError, match="an attack cannot be called 'clean'"):
        RobustEval({"clean": FGSM(threat=LINF)})


@pytest.mark.parametrize(
    "wrong", [{"val_samples": 0}, {"every_n_epochs": 0}, {"val_samples": -3}, {"draws": 0}, {"pictures": -1}]
)
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match="expected val_samples, every_n_epochs and draws above 0 and pictures of 0 or"):
        RobustEval(**wrong)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (FGSM(threat=ThreatModel(17, "l2")), r"at most 16, the L2 diameter.*did you mean 17/255"),
        (PGD(threat=LINF, targeted=True), "targeted attacks need classes to reach"),
    ],
)
@pytest.mark.parametrize("where", ["attacks", "val_attack"])
def test_attacks_that_cannot_be_measured_are_refused_before_any_work(attack, message, where, tmp_path):
    evaluation = RobustEval({"a": attack}) if where == "attacks" else RobustEval(val_attack=attack)
    with pytest.raises(UserError, match=message):
        trainer(tmp_path, evaluation).fit(still(trained()), datamodule=digits())


def test_a_loader_instead_of_a_data_module_is_refused(tmp_path):
    with pytest.raises(UserError, match="needs a data module"):
        trainer(tmp_path, RobustEval({})).test(still(trained()), dataloaders=[1], verbose=False)


class Contrary(torch.nn.Module):
    """Never right: the least likely class of a trained network."""

    def __init__(self):
        super().__init__()
        self.network = trained()

    def forward(self, x):
        return -self.network(x)


def test_where_no_image_is_right_the_result_is_0_and_says_so(tmp_path, capsys):
    results, _ = measured(tmp_path / "test", network=Contrary())
    assert results["clean"]["correct"] == 0
    assert all(
        f["correct"] == 0 and f["forwards"] == 0 for f in results["attacks"].values() if f["kind"] == "adversary"
    )
    assert "nothing to attack" in capsys.readouterr().out
    with np.load(tmp_path / "test" / "adversarials.npz") as found:
        assert len(found["x_adv"]) == 0
