"""Figures from a table made by hand."""

import json

import pyarrow as pa
import pytest

from lit_robust.attacks import FGSM, PGD, GaussianNoise, Restarts
from lit_robust.evaluation import summarise, wilson
from lit_robust.losses import dlr
from lit_robust.threat import ThreatModel

LINF, L2 = ThreatModel("8/255"), ThreatModel("0.5", "l2")
ATTACKS = {
    "fgsm": FGSM(threat=LINF),
    "pgd": Restarts(attack=PGD(threat=LINF, steps=40, step_size="1/255", loss=dlr), n=3),
    "l2": PGD(threat=L2, steps=2),
    "noise": GaussianNoise(sigma="0.1"),
}
# Five samples, of which number 3 is wrong from the beginning.
LABEL, PREDICTION = [0, 1, 2, 3, 4], [0, 1, 2, 0, 4]
BROKEN = {
    "clean": [0, 0, 0, 1, 0],
    "fgsm": [1, 0, 0, 1, 0],
    "pgd": [0, 1, 0, 1, 0],
    "l2": [0, 0, 0, 1, 0],
    "noise": [0, 0, 1, 0, 1],
}
DISTANCE = {"fgsm": [0.02, 9, 9, 0, 9], "pgd": [9, 0.03, 9, 0, 9], "l2": [9] * 5, "noise": [9, 9, 0.2, 9, 0.4]}
MARGIN = {"pgd": [5e-5, -1.0, 2e-4, -5e-5, 1.0]}
INDEX = [10, 20, 30, 40, 50]


def rows(name):
    return [
        {
            "index": INDEX[i],
            "label": LABEL[i],
            "prediction": PREDICTION[i],
            "clean_margin": 1.0,
            "attack": name,
            "broken": bool(BROKEN[name][i]),
            "right": float(not BROKEN[name][i]),
            "right_before": float(not BROKEN[name][i]),
            "margin": MARGIN.get(name, [1.0] * 5)[i],
            "distance": float(DISTANCE.get(name, [0.0] * 5)[i]),
            "survives_8_bit": bool(BROKEN[name][i]) and i != 1,
            "forwards": i,
            "backwards": 2 * i,
        }
        for i in range(5)
    ]


def table(change=lambda rows: rows):
    return pa.Table.from_pylist(change([row for name in BROKEN for row in rows(name)]))


def summary(change=lambda rows: rows):
    seconds = {"fgsm": 1.23456, "pgd": 2.0}
    return summarise(table(change), ATTACKS, seconds=seconds, protocol={"seed": 3, "block_size": 256})


def test_accuracies_are_of_all_samples():
    figures = summary()
    assert figures["clean"] == {"accuracy": 0.8, "correct": 4, "n": 5, "interval_95": list(wilson(4, 5))}
    correct = {name: figure["correct"] for name, figure in figures["attacks"].items()}
    assert correct == {"fgsm": 3, "pgd": 3, "l2": 4, "noise": 3}
    for figure in figures["attacks"].values():
        assert figure["n"] == 5
        assert figure["accuracy"] == figure["correct"] / 5
        assert figure["interval_95"] == list(wilson(figure["correct"], 5))


def test_the_worst_case_is_per_sample_within_a_threat_model_and_without_noise():
    worst = summary()["worst_case"]
    assert list(worst) == ["L∞ 8/255", "L2 0.5"]
    assert worst["L∞ 8/255"] == {
        "attacks": ["fgsm", "pgd"],
        "bound": "at most",
        "accuracy": 0.4,
        "correct": 2,
        "n": 5,
        "interval_95": list(wilson(2, 5)),
    }
    assert (worst["L2 0.5"]["attacks"], worst["L2 0.5"]["correct"]) == (["l2"], 4)


def test_each_figure_says_how_it_was_measured():
    figures = summary()
    pgd, noise = figures["attacks"]["pgd"], figures["attacks"]["noise"]
    assert (pgd["kind"], noise["kind"]) == ("adversary", "noise")
    assert (pgd["threat_model"], noise["threat_model"]) == ("L∞ 8/255", "box")
    assert (pgd["forwards"], pgd["backwards"]) == (10, 20)
    assert (pgd["seconds"], figures["attacks"]["fgsm"]["seconds"], noise["seconds"]) == (2.0, 1.235, 0.0)
    described = pgd["attack"]
    assert (described["class"], described["n"]) == ("Restarts", 3)
    inner = described["attack"]
    assert (inner["class"], inner["steps"], inner["step_size"]) == ("PGD", 40, "1/255")
    assert (inner["start"], inner["loss"]) == ("random", "lit_robust.losses.dlr")
    assert inner["threat"] == {"class": "ThreatModel", "eps": "8/255", "norm": "linf"}
    assert figures["protocol"] == {"seed": 3, "block_size": 256}
    assert figures["schema"] == 2
    assert json.loads(json.dumps(figures)) == figures


def test_the_mean_distance_is_of_what_the_attack_broke():
    figures = summary()["attacks"]
    assert figures["fgsm"]["mean_distance_of_broken"] == pytest.approx(0.02)  # sample 3 was wrong before
    assert figures["pgd"]["mean_distance_of_broken"] == pytest.approx(0.03)
    assert figures["noise"]["mean_distance_of_broken"] == pytest.approx(0.3)
    assert figures["l2"]["mean_distance_of_broken"] is None


def test_near_ties_are_named_by_their_index():
    figures = summary()["attacks"]
    assert figures["pgd"]["near_ties"] == [10, 40]
    assert figures["fgsm"]["near_ties"] == []


def test_the_order_of_the_rows_does_not_matter():
    expected = summary()
    swapped = summary(lambda rows: [*rows[:5], rows[6], rows[5], *rows[7:]])  # within one attack
    for other in (swapped, summary(lambda rows: rows[::-1])):
        assert other["worst_case"] == expected["worst_case"]
        assert other["attacks"] == {**expected["attacks"], "pgd": other["attacks"]["pgd"]}


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: [*rows, rows[7]],
        lambda rows: rows[:7] + rows[8:],
        lambda rows: rows[1:],
        lambda rows: [*rows[1:], rows[1]],
        lambda rows: [{**row, "index": 11} if i == 7 else row for i, row in enumerate(rows)],
        lambda rows: [{**row, "index": 10} if i == 7 else row for i, row in enumerate(rows)],
        lambda rows: [row for row in rows if row["attack"] != "l2"],
    ],
    ids=["twice", "missing", "clean missing", "clean twice and missing", "another", "twice and missing", "attack"],
)
def test_a_sample_that_is_missing_or_counted_twice_raises(change):
    with pytest.raises(RuntimeError, match="samples"):
        summary(change)


def test_what_was_found_is_counted_and_what_of_it_is_left_in_8_bit():
    figures = summary()["attacks"]
    found = {name: (figure["found"], figure["found_in_8_bit"]) for name, figure in figures.items()}
    assert found == {"fgsm": (1, 1), "pgd": (1, 0), "l2": (0, 0), "noise": (2, 2)}  # sample 3 was wrong before


# --- random networks ---

#            a is preferred for samples 0 and 1, b for 2 and 3; at a tie the first
BEFORE = {"a": [0.2, 0.5, 0.9, 1.0], "b": [0.4, 0.6, 0.8, 0.0]}
RIGHT = {"clean": [1.0, 0.9, 0.8, 0.65], "a": [0.3, 0.6, 0.1, 1.0], "b": [0.1, 0.2, 0.85, 0.15]}


def drawn():
    rows = [
        {
            **row(i),
            "attack": name,
            "right": right[i],
            "right_before": BEFORE.get(name, right)[i],
            "broken": right[i] <= 0.5,
        }
        for name, right in RIGHT.items()
        for i in range(4)
    ]
    attacks = {"a": PGD(threat=LINF), "b": FGSM(threat=LINF)}
    return summarise(pa.Table.from_pylist(rows), attacks, seconds={}, protocol={})


def row(i):
    return {"index": i, "label": 0, "prediction": 0, "clean_margin": 1.0, "margin": 1.0, "distance": 0.1,
            "survives_8_bit": False, "forwards": 1, "backwards": 1}  # fmt: skip


def test_the_accuracy_of_a_random_network_is_the_mean_share_of_right_draws():
    figures = drawn()
    assert figures["clean"]["correct"] == 3.35
    assert figures["clean"]["accuracy"] == pytest.approx(3.35 / 4)
    assert figures["clean"]["interval_95"] == list(wilson(3.35, 4))
    assert figures["attacks"]["a"]["correct"] == 2  # a whole number is one
    assert json.dumps(figures["attacks"]["a"]["correct"]) == "2"
    assert figures["attacks"]["b"]["correct"] == 1.3


def test_the_worst_case_is_chosen_by_some_draws_and_counted_by_others():
    assert drawn()["worst_case"]["L∞ 8/255"]["correct"] == pytest.approx(0.3 + 0.6 + 0.85 + 0.15)


def test_a_share_is_not_written_with_the_rounding_of_its_sum():
    rows = [{**row(i), "attack": "clean", "right": 0.1, "right_before": 0.1, "broken": True} for i in range(30)]
    assert summarise(pa.Table.from_pylist(rows), {}, seconds={}, protocol={})["clean"]["correct"] == 3
