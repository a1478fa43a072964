"""The page that `report` writes about made-up runs."""

import re
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import N, Reader, a_curve, a_run, a_test, an_audit, images, network
from scipy.stats import binomtest

from lit_robust import FGSM, PGD, ThreatModel
from lit_robust.attacks import GaussianNoise
from lit_robust.callbacks import EpsCurve
from lit_robust.report import report

HOSTILE = "<img src=x onerror=alert(1)>&\"'"
TESTED = f"{HOSTILE}/1 (last, 2)"  # its audit is of other weights
LINF, L2 = ThreatModel(eps=0.02), ThreatModel(eps=0.4, norm="l2")
FEW, MANY = PGD(threat=LINF, steps=2), PGD(threat=LINF, steps=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three runs: one that fails its audit, one that passes it, one of a hostile name that was not audited."""
    root = tmp_path_factory.mktemp("report")
    masked, honest, hostile = (
        a_run(root / "runs", name, seed=i) for i, name in enumerate(("masked", "honest", HOSTILE))
    )
    for seed, run in enumerate((masked, honest)):
        linf = a_test(run, "linf", {"fgsm": FGSM(threat=LINF), "pgd": MANY}, seed=seed)
        a_curve(linf, EpsCurve(attack=FEW, eps=[0.1]), {"clean": 0.9, "eps 0.1": 0.25})
    l2 = a_test(hostile, "l2", {"l2": PGD(threat=L2, steps=2), "noise": GaussianNoise(sigma=0.1)}, seed=2)
    a_curve(l2, EpsCurve(attack=PGD(threat=L2, steps=2), eps=[1.0]), {"clean": 0.9, "eps 1": 0.5})
    a_test(hostile, "few", {"pgd": FEW}, seed=2)
    an_audit(masked, "fail")
    an_audit(honest, "pass", seed=1)
    an_audit(hostile, "pass", digest="of other weights")
    return root


@pytest.fixture(scope="module")
def page(folder):
    names = [str(folder / "runs" / name / "1") for name in ("masked", "honest", HOSTILE)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        report(names)
    (found,) = folder.glob("reports/*/report.html")
    return found


@pytest.fixture(scope="module")
def read(page):
    return Reader(page.read_text())


def test_needs_nothing_else(page, read):
    text = page.read_text()
    assert "http:" not in text
    assert "https:" not in text
    assert not re.search(r"<script|<link|<iframe|url\(|@import", text)
    anchors = {value for _, key, value in read.attributes if key == "id"}
    for tag, key, value in read.attributes:
        assert not key.startswith("on")
        if key == "src":
            assert value.startswith("data:image/png;base64,")
        if key == "href":
            assert value[0] == "#"
            assert value[1:] in anchors
        assert tag != "img" or key in ("src", "alt", "width")
    assert all(value for tag, key, value in read.attributes if (tag, key) == ("img", "alt"))
    assert len([1 for tag, key, _ in read.attributes if (tag, key) == ("img", "alt")]) > 10


def test_pictures_lie_beside_the_page(page):
    assert {"training.png", "eps_curve.png", "eps_curve-2.png"} <= {path.name for path in page.parent.glob("*.png")}
    assert {path.suffix for path in page.parent.iterdir()} == {".png", ".html"}


def test_a_hostile_name_is_text(page, read):
    assert "<img src=x" not in page.read_text()
    assert any(row[0] == TESTED for row in read.tables["accuracy"][0])


def test_a_column_holds_one_threat_model(folder, read):
    table = read.tables["accuracy"][0]
    assert [cell.split("\n")[0] for cell in table[0]] == ["model", "clean", "L∞ 0.02", "L2 0.4"]
    rows = {row[0]: row for row in table[1:]}
    assert rows["masked/1"][3] == rows["honest/1"][3] == "not measured"
    other = rows[TESTED]
    assert "few-1" in other[2]
    assert "l2-1" in other[3]
    for label, seed in (("masked/1", 0), ("honest/1", 1)):
        x, y = images()
        clean = int((network(seed)(x).argmax(1) == y).sum())
        assert rows[label][1].startswith(f"{100 * clean / N:.1f} %\n95 %: ")
        assert f"{clean} of {N}" in rows[label][1]


def test_unlike_attacks_in_one_column_are_named(read):
    rows = {row[0]: row for row in read.tables["accuracy"][0]}
    assert "attack set A" in rows["masked/1"][2]
    assert "attack set A" in rows["honest/1"][2]
    assert "attack set B" in rows[TESTED][2]
    assert "attack set" not in rows[TESTED][3]
    assert re.search(r"attack set B: pgd: PGD \(steps 2,[^)]*\)\. .*few-1", read.text["accuracy"])
    assert "attack set A: the worst case of fgsm: FGSM" in read.text["accuracy"]
    assert "last.ckpt, seed 0, torch.float32 on cpu" in read.text["accuracy"]


def test_the_verdict_stands_beside_every_robust_accuracy(read):
    cells = [c for tables in read.tables.values() for table in tables for row in table for c in row if "at most" in c]
    assert len(cells) >= 12
    assert all("audit: " in cell or "not audited" in cell for cell in cells)
    for row in read.tables["accuracy"][0][1:]:
        wanted = {"masked/1": "audit: FAIL (steps <&>)", "honest/1": "audit: PASS"}.get(row[0], "not audited")
        for cell in row[2:]:
            assert wanted in cell or cell == "not measured"
    assert "masked/1: audit: FAIL (steps <&>); honest/1: audit: PASS" in read.text["curves"]


def test_an_audit_of_other_weights_is_another_row(read):
    rows = [row[0] for row in read.tables["accuracy"][0]]
    assert sum(row.startswith(HOSTILE) for row in rows) == 2


def test_findings_are_listed(read):
    assert ["steps <&>", "FAIL", "61 %", "W.", "N."] in read.tables["audit"][0]


def test_curves_of_unlike_norms_are_apart(read):
    described = [value for _, key, value in read.attributes if key == "alt" and value.startswith("Security curves")]
    assert len(described) == 2
    assert "masked/1, honest/1" in described[0]
    assert HOSTILE in described[1]
    assert not any("masked" in each and HOSTILE in each for each in described)


def test_paired_differences_are_of_the_same_images(read):
    x, y = images()
    right = [network(seed)(x).argmax(1) == y for seed in (0, 1)]
    only = [int((right[i] & ~right[1 - i]).sum()) for i in (0, 1)]
    row = next(row for row in read.tables["differences"][0] if row[0] == "clean")
    assert row[3].startswith(f"{100 * (only[1] - only[0]) / N:+.1f}\n")
    assert row[4].startswith(f"{only[0]} / {only[1]}\n{N} pairs")
    p = binomtest(only[0], sum(only)).pvalue
    assert row[5] == ("p < 0.001" if p < 0.001 else f"p = {p:.3f}")


def test_attacks_of_one_name_and_other_settings_are_not_paired(read):
    named = [row[0] for table in read.tables["differences"] for row in table]
    assert "pgd, L∞ 0.02\nlinf-1 and linf-1" in named
    assert not any("few" in name for name in named)


def test_the_hardest_images_are_those_of_the_smallest_margin_and_distance(folder, read):
    run = folder / "runs" / "masked" / "1" / "tests" / "linf-1"
    found = dict(np.load(run / "adversarials.npz"))
    x, y = images()
    logits = network(0)(x).detach()
    rest = logits.clone()
    rest[range(N), y] = -np.inf
    margin = (logits[range(N), y] - rest.max(1).values).numpy()
    hardest = min(found["index"].tolist(), key=lambda i: margin[i])
    nearest = int(found["distance"].argmin())
    said = int(network(0)(x.new_tensor(found["x_adv"][nearest][None])).argmax())
    text = read.text["hardest"].partition("honest/1")[0]
    assert f"image {hardest}, margin {margin[hardest]:.3g}" in text.partition("Broken with")[0]
    first = text.partition("Broken with")[2]
    assert f"{found['label'][nearest]} → {said}\nimage {found['index'][nearest]}," in first
    assert f"L∞ distance {found['distance'][nearest]:.3g}" in first


def test_what_is_missing_has_its_command(read):
    text = "".join(read.text.values())
    assert re.search(r"Certified accuracy: python -m lit_robust test --run \S*masked/1 --config certificate.yaml", text)
    assert re.search(r"Minimum norms: python -m lit_robust test --run \S*masked/1 --config fmn.yaml", text)


def test_the_page_can_be_named(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    report(["runs/honest/1", "--to", "some/where.html"])
    assert Path("some/where.html").is_file()
    assert Path("some/where-training.png").is_file()
    assert "some/where.html" in capsys.readouterr().out
