"""Sweeps over partial training: networks that guess are results, and `draw` makes figures 3.6 to 3.11."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from scipy.stats import ttest_1samp
from sweep_runs import calls, cell_record, sweeping  # noqa: F401 - the fixture `sweep`
from torch import nn

from lit_robust import shipped
from lit_robust.errors import UserError
from lit_robust.nn import VGG16, CIFARResNet18
from lit_robust.sweep import drawing, partial_cells, partial_curves
from lit_robust.sweep.file import load
from lit_robust.sweep.guessing import guesses
from lit_robust.sweep.partial_cells import CUTOFF, LAYER, Places
from lit_robust.sweep.record import Record

STUDY = Path("runs/sweeps/study")
LAYERS = tuple(f"layer{number}" for number in range(5))
PARTIAL = """
base: natural_digits.yaml
first: {natural: {}, adversarial: {}}
grid:
  code:
    A1N2: {model.code: A1N2, model.first_stage: "{first.adversarial}"}
    N1A2: {model.code: N1A2, model.first_stage: "{first.natural}"}
    N2A1: {model.code: N2A1, model.first_stage: "{first.adversarial}"}
  model.cutoff: [1, 2, 3, 4]
seeds: [0, 1, 2]
test: own
"""


# --- guessing ---


def with_results(folder, right, labels):
    """A test's folder with results of images; those of an attack are in it too, and do not count."""
    folder.mkdir()
    n = len(labels)
    columns = {"attack": ["clean"] * n + ["pgd"] * n, "label": [*labels, *labels], "right": [*right, *[0.0] * n]}
    parquet.write_table(pa.table(columns), folder / "per_sample.parquet")
    return folder


@pytest.mark.parametrize(
    ("share", "counts", "guessed"),
    [
        (0.10, [100] * 10, True),
        (0.115, [100] * 10, True),  # the interval begins at 9.7 %
        (0.13, [100] * 10, False),  # at 11.1 %
        (0.02, [100] * 10, True),
        (0.32, [300, *[100] * 7], True),  # the most frequent class is 30 %
        (0.36, [300, *[100] * 7], False),
    ],
)
def test_a_network_guesses_where_its_interval_reaches_the_most_frequent_class(tmp_path, share, counts, guessed):
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    right = [1.0] * round(share * len(labels)) + [0.0] * (len(labels) - round(share * len(labels)))
    (tmp_path / "norms-1").mkdir()
    assert guesses([tmp_path / "norms-1", with_results(tmp_path / "test-1", right, labels)]) is guessed
    assert guesses([tmp_path / "norms-1"]) is None


def test_a_run_that_guesses_is_finished_and_marked(sweep, monkeypatch):
    monkeypatch.setattr("lit_robust.sweep.cell_run.guesses", lambda folders: "b-seed0" in str(next(iter(folders))))
    done = sweep("{base: natural_digits.yaml, grid: {x: {a: {}, b: {}}}, seeds: [0, 1], test: own}")
    assert done.code == 0
    assert " s, no better than chance\n4/4" in done.out
    assert "collapsed    b-seed0: no better than chance on clean images" in done.out
    assert "2 of 2, 1 collapsed" in done.out
    assert [cell_record(f"{x}-seed0").collapsed for x in "ab"] == [False, True]
    results = json.loads((STUDY / "results.json").read_text())["cells"]
    assert [results["b"]["seeds"][seed]["collapsed"] for seed in "01"] == [True, False]
    calls()
    assert sweep(None).code == 0
    assert calls() == [], "it is not run again"


# --- what is drawn ---


def value(group, seed):
    """Adversarial accuracy and loss of a cell, made up: a decay with adversarial layers, and its mirror."""
    k = {"natural": 0, "adversarial": 5}.get(group)
    if k is None:
        code, cutoff = group.split("-")
        k = int(cutoff) if code.startswith("A") else 5 - int(cutoff)
    loss = 8 * np.exp(-0.7 * k) + 1 + (0.1, -0.04, 0.0)[seed] * (1 + 0.2 * k)
    return 0.6 - 0.05 * loss, loss


@pytest.fixture
def drawn(cli, monkeypatch):
    """Leaves the folders of a sweep that is finished but for some cells, with made-up numbers, and draws it."""
    of = {(CUTOFF, str(k)): k for k in range(1, 5)} | {(LAYER, name): i for i, name in enumerate(LAYERS)}
    monkeypatch.setattr(drawing, "places", lambda run, parts: Places(LAYERS, of))

    def run(text=PARTIAL, collapsed=(), missing=()):
        Path("study.yaml").write_text(text)
        study = load(Path("study.yaml"), [])
        for cell in study.cells:
            if cell.name in missing:
                continue
            accuracy, loss = value(cell.group, cell.seed)
            folder = STUDY / cell.name / "1/tests/test-1"
            folder.mkdir(parents=True)
            attacks = {"pgd": {"accuracy": accuracy}}
            (folder / "results.json").write_text(json.dumps({"clean": {"accuracy": 0.9}, "attacks": attacks}))
            (folder / "loss.json").write_text(json.dumps({"table": {"loss/pgd": loss, "other": 1}}))
            tests = {"test": {"folder": "1/tests/test-1", "settings": None}}
            known = Record(settings=study.settings(cell), state="finished", run="1", tests=tests)
            known.collapsed = cell.name in collapsed
            known.write(STUDY / cell.name)
        done = cli("sweep", "draw", "study.yaml")
        path = STUDY / "partial.json"
        return done, json.loads(path.read_text()) if path.exists() else None

    return run


def test_figures_of_each_accuracy_and_loss_and_their_numbers(drawn):
    done, numbers = drawn(collapsed=["N1A2-4-seed1"])
    assert done.code == 0, done.err
    assert sorted(path.name for path in STUDY.glob("*.png")) == [
        "cutoffs_test_clean.png",
        "cutoffs_test_loss_pgd.png",
        "cutoffs_test_pgd.png",
    ]
    assert numbers["layers"] == list(LAYERS)
    curve = numbers["columns"]["test/loss/pgd"]["A1N2"]
    assert [(p["place"], p["name"], p["adversarial"]) for p in curve["points"]] == [
        (0, "none", 0),
        *((k, str(k), k) for k in range(1, 5)),
        (5, "all", 5),
    ]
    third = curve["points"][2]
    values = [value("A1N2-2", seed)[1] for seed in range(3)]
    assert list(third["values"].values()) == pytest.approx(values)
    assert (third["mean"], third["low"], third["high"]) == pytest.approx((np.mean(values), min(values), max(values)))
    assert curve["control"] == "all-adversarial"
    pairs = [value("A1N2-2", seed)[1] - value("adversarial", seed)[1] for seed in range(3)]
    interval = ttest_1samp(pairs, 0).confidence_interval(0.95)
    assert third["difference"]["mean"] == pytest.approx(np.mean(pairs))
    assert third["difference"]["interval_95"] == pytest.approx([interval.low, interval.high])
    assert curve["fits"]["decay"]["b"] == pytest.approx(0.7, abs=0.05)
    assert curve["fits"]["aic_difference"]["value"] < 0
    assert curve["fits"]["points"] == 18
    assert "0.9" in done.out
    assert "A1N2" in done.out


def test_end_points_and_adversarial_layers_of_a_code_with_natural_early_layers(drawn):
    _, numbers = drawn()
    for label, control in (("N2A1", "all-adversarial"), ("N1A2", "all-natural")):
        curve = numbers["columns"]["test/loss/pgd"][label]
        points = curve["points"]
        assert [point["adversarial"] for point in points] == [5, 4, 3, 2, 1, 0]
        assert points[0]["values"]["1"] == pytest.approx(value("adversarial", 1)[1])
        assert points[-1]["values"]["1"] == pytest.approx(value("natural", 1)[1])
        assert curve["control"] == control
    assert numbers["columns"]["test/loss/pgd"]["N2A1"]["points"][0]["difference"]["mean"] == pytest.approx(0)


def test_a_collapsed_run_is_in_no_mean_difference_or_fit(drawn):
    _, numbers = drawn(collapsed=["N1A2-4-seed1", *(f"N1A2-3-seed{s}" for s in range(3))])
    curve = numbers["columns"]["test/pgd"]["N1A2"]
    third, fourth = curve["points"][3:5]
    assert (third["mean"], third["low"], third["difference"]["n"]) == (None, None, 0)
    assert third["collapsed"] == ["0", "1", "2"]
    kept = [value("N1A2-4", seed)[0] for seed in (0, 2)]
    assert fourth["mean"] == pytest.approx(np.mean(kept))
    assert (fourth["collapsed"], fourth["difference"]["n"], len(fourth["values"])) == (["1"], 2, 3)
    assert curve["fits"]["points"] == 14


def test_the_control_is_the_code_of_one_kind_where_the_sweep_has_it(drawn):
    more = 'A1A2: {model.code: A1A2, model.first_stage: "{first.adversarial}"}\n    N1A2:'
    _, numbers = drawn(PARTIAL.replace("N1A2:", more))
    curves = numbers["columns"]["test/pgd"]
    assert curves["A1N2"]["control"] == "A1A2"
    assert curves["N2A1"]["control"] == "all-adversarial", "the other part is retrained"
    assert curves["A1N2"]["points"][1]["difference"]["mean"] == pytest.approx(0), "made up alike"
    assert (curves["A1A2"]["control"], curves["A1A2"]["fits"]) == (None, None)
    assert {point["adversarial"] for point in curves["A1A2"]["points"]} == {5}


def test_half_a_sweep_is_drawn_as_far_as_it_is(drawn):
    names = [f"A1N2-{k}-seed{s}" for k in (3, 4) for s in range(3)]
    done, numbers = drawn(missing=[*names, "A1N2-2-seed0", "natural-seed2"])
    assert done.code == 0, done.err
    points = numbers["columns"]["test/pgd"]["A1N2"]["points"]
    assert [(point["name"], len(point["values"])) for point in points] == [("none", 2), ("1", 3), ("2", 2), ("all", 3)]


def test_single_layers(drawn, monkeypatch):
    text = PARTIAL.replace("model.cutoff: [1, 2, 3, 4]", f"model.layer: [{', '.join(LAYERS)}]")
    monkeypatch.setattr(
        f"{__name__}.value", lambda group, seed: (0.5 if group == "adversarial" else 0.3 + 0.01 * seed, 2.0)
    )
    done, numbers = drawn(text)
    assert done.code == 0, done.err
    assert (STUDY / "layers_test_pgd.png").is_file()
    curve = numbers["columns"]["test/pgd"]["N2A1"]
    assert [point["name"] for point in curve["points"]] == list(LAYERS), "no end points"
    assert {point["adversarial"] for point in curve["points"]} == {4}
    assert curve["points"][0]["difference"]["mean"] == pytest.approx(-0.19)
    assert curve["fits"] is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{base: natural_digits.yaml, grid: {x: {a: {}}}, seeds: 0, test: own}", "expected cells that set model.code"),
        (PARTIAL.replace("test: own", ""), "has no finished run with an accuracy to draw"),
    ],
)
def test_what_cannot_be_drawn(cli, text, said):
    Path("study.yaml").write_text(text)
    done = cli("sweep", "draw", "study.yaml")
    assert done.code == 2
    assert said in done.err
    assert not Path("runs").exists()


# --- the shipped sweeps ---


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Conv2d(2, 2, 3))
        self.classifier = nn.Linear(2, 10)


def located(monkeypatch, network, parts):
    monkeypatch.setattr(partial_cells, "FromRun", lambda run: type("Run", (), {"network": network}))
    return partial_cells.places(Path("run"), parts)


@pytest.mark.parametrize(
    ("name", "network", "kind", "layers"),
    [
        ("partial_cutoffs_resnet18", CIFARResNet18, CUTOFF, 41),
        ("partial_cutoffs_vgg16", VGG16, CUTOFF, 27),
        ("partial_single_layer", CIFARResNet18, LAYER, 41),
    ],
)
def test_the_dissertation_s_cutoffs_and_layers_are_all_there_is(monkeypatch, name, network, kind, layers):
    parts = partial_cells.partial_cells(load(shipped.find(f"{name}.yaml", shipped.SWEEPS)))
    where = located(monkeypatch, network(width=0.125), parts)
    assert len(where.layers) == layers
    codes = ["N2A1"] if kind == LAYER else ["A1N2", "N1A2", "A2N1", "N2A1"]
    assert [part.code for part in parts] == [part.label for part in parts] == codes
    for part in parts:
        found = [where.of[kind, name] for name in part.groups]
        assert found == list(range(kind == CUTOFF, layers))


def test_a_place_is_the_number_of_layers_before_it(monkeypatch):
    parts = [
        partial_cells.PartialCells(label="x", code="A1N2", kind=kind, groups=groups, stages={}, rest=())
        for kind, groups in ((CUTOFF, {"features.2": "", "3": ""}), (LAYER, {"features.1": "", "3": ""}))
    ]
    where = located(monkeypatch, Small(), parts)
    assert where.of == {(CUTOFF, "features.2"): 2, (CUTOFF, "3"): 3, (LAYER, "features.1"): 1, (LAYER, "3"): 3}
    unknown = [partial_cells.PartialCells(label="", code="A1N2", kind=CUTOFF, groups={"x": ""}, stages={}, rest=())]
    with pytest.raises(UserError, match="no layer"):
        located(monkeypatch, Small(), unknown)


def test_further_axes_are_in_the_label_and_compare_with_their_own_control(monkeypatch, tmp_path):
    grid = PARTIAL.replace("grid:", "grid:\n  width: {w8: {}, w16: {model.width: 16}}").replace("N1A2", "A1A2")
    (tmp_path / "study.yaml").write_text(grid)
    parts = partial_cells.partial_cells(load(tmp_path / "study.yaml"))
    assert [part.label for part in parts] == [f"{c}, {w}" for w in ("w8", "w16") for c in ("A1N2", "A1A2", "N2A1")]
    assert parts[3].groups["2"] == "w16-A1N2-2"
    runs = {"seeds": {"0": {"values": {"c": 1.0}}}}
    other = {"seeds": {"0": {"values": {"c": 3.0}}}}
    cells = {
        cell.group: other if cell.group.startswith("w16") else runs for cell in load(tmp_path / "study.yaml").cells
    }
    of = {(CUTOFF, str(k)): k for k in range(1, 5)}
    curves = partial_curves.curves(parts, {"cells": cells}, Places(LAYERS, of), "c")
    assert curves["A1N2, w16"]["control"] == "A1A2, w16"
    assert curves["A1N2, w16"]["points"][1]["difference"]["mean"] == 0
    assert curves["N2A1, w16"]["points"][1]["difference"]["mean"] == 2
