"""Minimum-norm attacks in an evaluation: verdicts, figures, the table, the picture, and a whole test."""

import json
import math
from dataclasses import dataclass

import lightning.pytorch as pl
import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from evaluated import evaluated, images, network
from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure
from rich.console import Console
from scipy import stats

from lit_robust.attacks import EOT, FMN, PGD, MinimumNormAttack
from lit_robust.callbacks import RobustEval
from lit_robust.data import Digits
from lit_robust.errors import UserError
from lit_robust.evaluation import evaluate_block, summarise
from lit_robust.evaluation.minimum_norms import OVER, minimum_norms
from lit_robust.evaluation.norms_figure import norms_figure
from lit_robust.evaluation.table import results_table
from lit_robust.nn import SmallCNN
from lit_robust.regimes import Natural
from lit_robust.threat import ThreatModel

matplotlib.use("Agg")
N = 30
L2 = ThreatModel("0.2", "l2")


@dataclass(frozen=True, kw_only=True)
class Outside(MinimumNormAttack):
    """Answers out of the box."""

    def search(self, model, x, y, noise):
        return x + 1.5


# --- verdicts ---


@pytest.fixture(scope="module")
def case():
    model = network("norm")
    x, y = images(model, N, wrong_every=7)
    return model, x, y


@pytest.fixture(scope="module")
def verdicts(case):
    model, x, y = case
    attacks = {
        "any": FMN(norm="l2", steps=20),
        "within": FMN(norm="l2", steps=20, eps=L2.eps),
        "short": FMN(norm="l2", steps=2),
        "pgd": PGD(threat=L2, steps=5),
    }
    return evaluated(model, x, y, attacks, size=12)


def test_the_distance_is_that_of_the_nearest_adversarial_and_0_where_none_was_needed_or_found(case, verdicts):
    model, x, y = case
    wrong = torch.arange(N) % 7 == 0
    for name in ("any", "short"):
        rows = verdicts[name]
        with torch.no_grad():
            assert torch.equal(rows["broken"], model(rows["x_adv"]).argmax(1) != y)
        found = rows["broken"] & ~wrong
        torch.testing.assert_close(rows["distance"], (rows["x_adv"] - x).flatten(1).norm(dim=1))
        assert torch.equal(rows["distance"] > 0, found)
        assert torch.equal(rows["x_adv"][~found], x[~found])
        steps = {"any": 20, "short": 2}[name]
        assert rows["forwards"].tolist() == [0 if w else steps for w in wrong]
        assert rows["backwards"].tolist() == [0 if w else steps - 1 for w in wrong]  # none after the last look
    assert verdicts["any"]["broken"].all()
    assert 0 < (verdicts["short"]["broken"] & ~wrong).sum() < (~wrong).sum()


def test_with_a_radius_only_what_lies_within_it_counts_and_the_search_is_the_same(verdicts):
    any_, within = verdicts["any"], verdicts["within"]
    assert torch.equal(within["distance"], any_["distance"])
    assert torch.equal(within["x_adv"], any_["x_adv"])
    assert torch.equal(within["broken"], any_["distance"] <= L2.radius + 1e-6)
    assert 6 < within["broken"].sum() < N - 2
    assert (within["margin"] < 0).all()


def test_leaving_changes_nothing(case, verdicts):
    model, x, y = case
    attack = {"within": FMN(norm="l2", steps=20, eps=L2.eps)}
    staying = evaluated(model, x, y, attack, size=12, leave=False)["within"]
    for column, values in verdicts["within"].items():
        assert torch.equal(staying[column], values)


def test_a_cascade_asks_of_what_is_left_whether_it_breaks_within_the_radius(case, verdicts):
    model, x, y = case
    attacks = {
        "pgd": PGD(threat=L2, steps=2),
        "any": FMN(norm="l2", steps=20),
        "fmn": FMN(norm="l2", steps=20, eps=L2.eps),
        "again": PGD(threat=L2, steps=1),
    }
    cascade = evaluated(model, x, y, attacks, size=12, cascades=dict.fromkeys(attacks, "all"))
    pgd, fmn, within = cascade["pgd"], cascade["fmn"], verdicts["within"]
    # It sees what PGD left, and a sample leaves once it is broken within the radius.
    assert torch.equal(fmn["broken"], pgd["broken"] | within["broken"])
    assert (fmn["broken"] & ~pgd["broken"]).sum() > 2
    assert torch.equal(fmn["forwards"] == 0, pgd["broken"])
    assert torch.equal(fmn["x_adv"][pgd["broken"]], pgd["x_adv"][pgd["broken"]])
    left = ~pgd["broken"]
    assert (fmn["forwards"] < within["forwards"])[left & fmn["broken"]].all()
    assert torch.equal(fmn["forwards"][~fmn["broken"]], within["forwards"][~fmn["broken"]])
    # It hands on what it broke.
    assert torch.equal(cascade["again"]["forwards"] == 0, fmn["broken"])
    # Without a radius it measures distances, of all samples and to the end.
    for column, values in verdicts["any"].items():
        assert torch.equal(cascade["any"][column], values)


def test_an_answer_out_of_the_box_raises(case):
    model, x, y = case
    with pytest.raises(ValueError, match="'bad' left its threat model L1, any distance"):
        evaluate_block(model, x, y, torch.arange(N), {"bad": Outside(norm="l1", eps=4)}, size=N)


def test_a_random_network_is_judged_on_fresh_draws():
    model = network("random")
    x, y = images(model, 100)
    attacks = {"fmn": FMN(norm="l2", steps=15), "eot": EOT(attack=FMN(norm="l2", steps=15, eps=5), draws=8)}
    rows = evaluated(model, x, y, attacks, size=50)
    for row in rows.values():
        assert torch.equal(row["broken"], row["right"] <= 0.5)
        assert len(row["right"].unique()) > 3
    lucky, mean = rows["fmn"], rows["eot"]
    assert (~lucky["broken"] & (lucky["distance"] > 0)).sum() > 10  # one lucky draw is no adversarial
    assert mean["broken"].sum() > 30


# --- figures ---


def test_norms_are_of_the_right_images_with_an_adversarial():
    #                      wrong  found  found  none   found  found
    distance = np.array([0.0, 3.0, 1.0, 0.0, 5.0, 7.0])
    found = np.array([1, 1, 1, 0, 1, 1], dtype=bool)
    right = np.array([0, 1, 1, 1, 1, 1], dtype=bool)
    figures = minimum_norms(distance, found, right)
    assert (figures["mean"], figures["found"], figures["n"]) == (4.0, 4, 5)
    assert figures["median"] == 5.0  # of 1, 3, 5, 7 and one that is infinitely far
    assert (figures["mean_with_misclassified"], figures["found_with_misclassified"]) == (16 / 5, 5)
    low, high = stats.t.interval(0.95, 3, 4.0, stats.sem([1, 3, 5, 7]))
    assert figures["interval_95"] == pytest.approx([max(0.0, low), high])
    assert figures["curve"]["radius"] == [0, 1, 3, 5, 7]
    assert figures["curve"]["accuracy"] == [5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert (figures["bound"], figures["over"]) == ("at most", OVER)


@pytest.mark.parametrize(
    ("norms", "none", "median"),
    [([1, 2, 3], 0, 2), ([1, 2, 3, 5], 0, 2.5), ([1, 2], 1, 2), ([1, 2], 2, None), ([], 3, None), ([4], 0, 4)],
)
def test_the_median_takes_images_without_an_adversarial_as_infinitely_far(norms, none, median):
    distance = np.array([*norms, *[0.0] * none])
    found = np.arange(len(distance)) < len(norms)
    figures = minimum_norms(distance, found, np.ones(len(distance), dtype=bool))
    assert figures["median"] == median
    assert (figures["mean"] is None) == (not norms)
    assert (figures["interval_95"] is None) == (len(norms) < 2)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_nothing_right_and_nothing_at_all():
    none = np.zeros(0, dtype=bool)
    assert minimum_norms(np.zeros(0), none, none)["curve"] == {"radius": [0.0], "accuracy": [0.0]}
    wrong = minimum_norms(np.zeros(3), np.ones(3, dtype=bool), np.zeros(3, dtype=bool))
    assert (wrong["mean"], wrong["mean_with_misclassified"], wrong["n"]) == (None, 0.0, 0)


def test_the_curve_is_short_and_exact_where_it_is_drawn_also_at_ties():
    generator = np.random.default_rng(0)
    distance = generator.integers(1, 200, 5000).astype(float)
    right = generator.random(5000) < 0.8
    found = generator.random(5000) < 0.9
    curve = minimum_norms(distance, found, right)["curve"]
    assert 30 < len(curve["radius"]) <= 41
    assert curve["radius"][-1] == distance[found & right].max()
    for radius, accuracy in zip(curve["radius"], curve["accuracy"], strict=True):
        assert accuracy == pytest.approx((right & ~(found & (distance <= radius))).mean())


ATTACKS = {
    "fmn": FMN(norm="l2"),
    "eot": EOT(attack=FMN(norm="l0"), draws=3),
    "fmn_eps": FMN(norm="l2", eps="0.2"),
    "pgd": PGD(threat=L2),
    "linf": PGD(threat=ThreatModel("0.2")),
}
# Sample 0 is wrong from the beginning; of sample 3 nothing was found; what fmn_eps found for sample 2 is too far.
BROKEN = {
    "clean": [1, 0, 0, 0],
    "fmn": [1, 1, 1, 0],
    "eot": [1, 1, 1, 0],
    "fmn_eps": [1, 1, 0, 0],
    "pgd": [1, 0, 0, 1],
    "linf": [1, 0, 1, 1],
}
MARGIN = {"fmn": [-1, -0.1, -0.1, 1], "fmn_eps": [-1, -0.1, -0.1, 1]}


def results(cascades=()):
    rows = [
        {
            "index": i,
            "label": 1,
            "prediction": int(i > 0),
            "clean_margin": 1.0,
            "attack": name,
            "broken": bool(broken[i]),
            "right": float(not broken[i]),
            "right_before": float(not broken[i]),
            "margin": float(MARGIN.get(name, [1] * 4)[i]),
            "distance": [0.0, 0.1, 0.4, 0.0][i],
            "survives_8_bit": bool(broken[i]),
            "forwards": 10,
            "backwards": 9,
        }
        for name, broken in BROKEN.items()
        for i in range(4)
    ]
    return summarise(pa.Table.from_pylist(rows), ATTACKS, seconds={}, protocol={"seed": 0}, cascades=cascades)


def test_without_a_radius_there_are_norms_and_no_accuracy():
    figures = results()["attacks"]
    for name, norm in (("fmn", "l2"), ("eot", "l0")):
        figure = figures[name]
        assert not {"accuracy", "correct", "interval_95", "n"} & set(figure)
        assert figure["threat_model"] == f"{norm.upper()}, any distance"
        assert (figure["bound"], figure["kind"], figure["forwards"]) == ("at most", "adversary", 40)
        norms = figure["minimum_norm"]
        assert (norms["norm"], norms["mean"], norms["found"], norms["n"]) == (norm, 0.25, 2, 3)
        assert norms["median"] == 0.4
        assert norms["mean_with_misclassified"] == pytest.approx(0.5 / 3)
    assert figures["fmn"]["attack"]["eps"] is None
    assert "minimum_norm" not in figures["pgd"]


def test_with_a_radius_there_are_both_and_far_adversarials_still_count_for_the_norm():
    figure = results()["attacks"]["fmn_eps"]
    assert (figure["accuracy"], figure["correct"], figure["n"]) == (0.5, 2, 4)
    assert figure["threat_model"] == "L2 0.2"
    assert figure["mean_distance_of_broken"] == pytest.approx(0.1)
    assert figure["minimum_norm"] == results()["attacks"]["fmn"]["minimum_norm"]


def test_a_cascade_leaves_out_norms_where_the_search_ended_at_the_first_adversarial_and_nowhere_else():
    alone, cascade = results()["attacks"], results(cascades=ATTACKS)["attacks"]
    assert "minimum_norm" not in cascade["fmn_eps"]
    assert cascade["fmn_eps"] == {key: value for key, value in alone["fmn_eps"].items() if key != "minimum_norm"}
    for name in ("fmn", "eot", "pgd", "linf"):
        assert cascade[name] == alone[name]


def test_worst_cases_take_in_what_lies_within_the_same_radius_alone():
    worst = results()["worst_case"]
    assert {threat: figure["attacks"] for threat, figure in worst.items()} == {
        "L2 0.2": ["fmn_eps", "pgd"],
        "L∞ 0.2": ["linf"],
    }
    assert worst["L2 0.2"]["correct"] == 1
    assert json.loads(json.dumps(results(), allow_nan=False)) == results()


def table():
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(results_table(results(), "fmn"))
    lines = [[c.strip() for c in line.split("│")] for line in console.export_text().splitlines() if "│" in line]
    return {line[1]: line[2:7] for line in lines}


def test_the_table_shows_norms_where_there_is_no_accuracy_and_below_it_where_there_is():
    rows = table()
    assert list(rows) == [
        "clean",
        "fmn, mean L2 norm",
        "eot, mean L0 norm",
        "fmn_eps, L2 0.2",
        "fmn_eps, mean L2 norm",
        "pgd, L2 0.2",
        "linf, L∞ 0.2",
        "worst case, L2 0.2",
    ]
    assert rows["fmn, mean L2 norm"] == ["at most 0.25, median 0.4", "0 to 2.16", "found 2 of 3", "40 / 36", "0.0"]
    assert rows["fmn_eps, L2 0.2"] == ["at most 50.0 %", "15.0 to 85.0", "2 of 4", "40 / 36", "0.0"]
    assert rows["fmn_eps, mean L2 norm"] == ["at most 0.25, median 0.4", "0 to 2.16", "found 2 of 3", "", ""]


# --- the figure ---


def run(norms):
    """What `results.json` holds of a run: norms of each attack, of which every second image has an adversarial."""
    attacks = {}
    for name, (norm, scale) in norms.items():
        found = np.arange(8) % 2 == 0 if scale else np.zeros(8, dtype=bool)
        attacks[name] = {
            "minimum_norm": {"norm": norm, **minimum_norms(scale * np.arange(1.0, 9), found, found | True)}
        }
    return {"attacks": {**attacks, "pgd": {"accuracy": 0.5}}}


ONE = {"a": ("linf", 0.01), "b": ("l0", 3), "c": ("l2", 0.2), "d": ("l1", 1)}


def test_a_column_a_norm_and_a_bar_and_a_curve_a_run(tmp_path):
    other = {name: (norm, 2 * scale) for name, (norm, scale) in ONE.items()}
    figure = norms_figure({"standard/1": run(ONE), "hah/1": run(other)})
    assert isinstance(figure, Figure)
    above, below = figure.axes[:4], figure.axes[4:]
    assert [axis.get_title() for axis in above] == ["L0", "L1", "L2", "L∞"]
    assert [axis.get_xlabel() for axis in below] == [f"{norm} radius" for norm in ("L0", "L1", "L2", "L∞")]
    for axis, scale in zip(above, (3, 1, 0.2, 0.01), strict=True):
        assert [bar.get_height() for bar in axis.patches] == pytest.approx([4 * scale, 8 * scale])
        assert axis.texts[0].get_text() == f"{4 * scale:.3g}\n4 of 8"
        assert len({bar.get_facecolor() for bar in axis.patches}) == 2
    for axis, scale in zip(below, (3, 1, 0.2, 0.01), strict=True):
        first, second = (line.get_xydata() for line in axis.lines)
        assert first[0].tolist() == [0, 100]
        assert first[1:5, 0].tolist() == pytest.approx([scale * d for d in (1, 3, 5, 7)])
        assert first[1:5, 1].tolist() == pytest.approx([87.5, 75, 62.5, 50])
        assert first[-1].tolist() == pytest.approx(second[-1].tolist())  # both go on to the end
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["standard/1", "hah/1"]
    assert OVER in " ".join(figure.get_supxlabel().split())
    figure.savefig(tmp_path / "norms.png")


def test_only_the_norms_that_were_measured_are_drawn_and_several_attacks_have_their_names(tmp_path):
    figure = norms_figure({"a": run({"x": ("l2", 1), "y": ("l2", 2)}), "b": run({"x": ("l2", 0), "z": ("l1", 1)})})
    l1, l2 = figure.axes[:2]
    assert [axis.get_title() for axis in (l1, l2)] == ["L1", "L2"]
    assert [bar.get_height() for bar in l2.patches] == pytest.approx([4, 8, 0])
    assert [text.get_text() for text in l2.texts] == ["4\n4 of 8", "8\n4 of 8", "none found"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(labels) == ["a, x", "a, y", "b"]
    # A label has one colour in all columns.
    assert l1.patches[0].get_facecolor() == l2.patches[2].get_facecolor()
    figure.savefig(tmp_path / "norms.png")


@pytest.mark.parametrize("empty", [{}, {"a": {"attacks": {"pgd": {"accuracy": 0.5}}}}])
def test_no_minimum_norm_is_said(empty, tmp_path):
    figure = norms_figure(empty)
    assert figure.get_suptitle() == "no minimum-norm attack"
    figure.savefig(tmp_path / "norms.png")


# --- a whole test ---


class Keeps(Logger):
    name = version = "x"

    def __init__(self):
        super().__init__()
        self.rows = {}

    def log_metrics(self, metrics, step=None):
        self.rows |= metrics

    def log_hyperparams(self, params, *args, **kwargs):
        pass


def regime():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Natural(SmallCNN(size=16, width=0.25), optimizer=lambda p: torch.optim.SGD(p, lr=0.0))


def trainer(folder, callback, logger=False):
    quiet = {"accelerator": "cpu", "devices": 1, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "limit_test_batches": 2, "max_epochs": 1, "limit_train_batches": 1}
    return pl.Trainer(default_root_dir=folder, callbacks=[callback], logger=logger, **quiet)


def test_a_test_writes_norms_and_their_picture(tmp_path, monkeypatch, capsys):
    shown = []
    monkeypatch.setattr("lit_robust.callbacks.robust_report.log_figure", lambda loggers, tag, *rest: shown.append(tag))
    attacks = {"fmn": FMN(norm="linf", steps=8), "fmn_eps": FMN(norm="linf", eps="16/255", steps=8)}
    logger, evaluation = Keeps(), RobustEval(attacks, pictures=1)
    evaluation.provenance = {"title": "norms", "run": "runs/small/3"}
    data = Digits(size=16, eval_batch_size=20)
    trainer(tmp_path, evaluation, logger).test(regime(), datamodule=data, verbose=False)
    written = json.loads((tmp_path / "results.json").read_text())
    rows = pq.read_table(tmp_path / "per_sample.parquet").to_pylist()
    mine = [r["distance"] for r in rows if r["attack"] == "fmn" and r["broken"] and r["prediction"] == r["label"]]
    norms = written["attacks"]["fmn"]["minimum_norm"]
    assert len(mine) == norms["found"] > 0
    assert norms["mean"] == pytest.approx(np.mean(mine))
    assert norms["n"] == written["clean"]["correct"]
    assert (tmp_path / "minimum_norms.png").read_bytes().startswith(b"\x89PNG")
    assert shown == ["test/adversarial", "test/minimum_norms"]
    assert logger.rows["test/fmn mean norm"] == logger.rows["test/fmn_eps mean norm"] == norms["mean"]
    assert "test/fmn" not in logger.rows
    assert logger.rows["test/fmn_eps"] == written["attacks"]["fmn_eps"]["accuracy"]
    assert "fmn, mean L∞ norm" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attacks": {"a": FMN(norm="l2", eps=17)}}, r"at most 16, the L2 diameter.*did you mean 17/255"),
        ({"val_attack": FMN(norm="l2")}, "val_attack breaks images at any distance, which val/robust cannot tell"),
        ({"val_attack": EOT(attack=FMN(norm="l2"), draws=2)}, "set its eps"),
    ],
    ids=["eps", "val", "val eot"],
)
def test_what_cannot_be_counted_is_refused_before_any_work(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        trainer(tmp_path, RobustEval(**options)).fit(regime(), datamodule=Digits(size=16))


def test_while_training_what_lies_within_the_radius_counts(tmp_path):
    robust = {}
    for name, eps in (("none", 0), ("all", 1)):
        run = trainer(tmp_path, RobustEval(val_attack=FMN(norm="linf", eps=eps, steps=20), val_samples=20))
        run.validate(regime(), datamodule=Digits(size=16, eval_batch_size=20), verbose=False)
        robust[name] = float(run.callback_metrics["val/robust"]), float(run.callback_metrics["val/acc"])
    assert robust["all"][0] < robust["none"][0]
    assert math.isfinite(robust["none"][0])
