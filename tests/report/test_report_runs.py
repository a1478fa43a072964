"""Which runs and tests a report takes, and which it refuses."""

import json

import numpy as np
import pytest
from made_up_runs import N, Reader, a_run, a_test, provenance
from scipy import stats

from lit_robust import FGSM, ThreatModel
from lit_robust.cli import run as command
from lit_robust.report.stored_images import columns
from lit_robust.report.stored_images import images as stored

FAST = {"fgsm": FGSM(threat=ThreatModel(eps=0.02))}


@pytest.fixture
def written(tmp_path, monkeypatch, capsys):
    """Runs `report` in a folder of its own; the page if there is one, the exit code and what was said."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        code = command(["report", *map(str, argv), "--to", "page.html"])
        said = capsys.readouterr()
        path = tmp_path / "page.html"
        return (Reader(path.read_text()) if path.is_file() else None), code, said.out + said.err

    return run


def refused(written, *argv):
    page, code, said = written(*argv)
    assert (page, code) == (None, 2)
    return said


def test_a_run_without_results_is_refused_with_the_command_that_makes_some(tmp_path, written):
    tested, bare = a_run(tmp_path / "runs", "tested"), a_run(tmp_path / "runs", "bare")
    a_test(tested, "linf", FAST)
    said = refused(written, "runs/tested/1", "runs/bare/1")
    assert "bare/1 has no results" in said
    assert "python -m lit_robust test --run runs/bare/1 --config" in said
    assert bare.is_dir()


def test_runs_of_different_data_are_refused(tmp_path, written):
    for name, data in (("one", "lit_robust.data.Digits"), ("two", "lit_robust.data.MNIST")):
        a_test(a_run(tmp_path / "runs", name, data=data), "linf", FAST)
    said = refused(written, "runs/one/1", "runs/two/1")
    assert "one/1 is on Digits and two/1 on MNIST" in said


def test_the_same_run_twice_is_refused(tmp_path, written):
    a_test(a_run(tmp_path / "runs"), "linf", FAST)
    assert "the same run" in refused(written, "runs/plain/1", "runs/../runs/plain/1")


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["runs/nowhere/1"], "no run folder"),
        (["runs/plain"], "there are runs/plain/1"),
        (["runs/plain/1/tests/linf-1"], "is a test"),
        ([], "needs a run"),
        (["runs/plain/1", "--strict"], "no option --strict"),
        (["runs/plain/1", "--to", "--runs"], "expected a value after --to"),
        (["runs/plain/1", "--to", "results.json"], "HTML page"),
    ],
)
def test_what_is_no_request_is_refused(tmp_path, monkeypatch, capsys, argv, part):
    monkeypatch.chdir(tmp_path)
    a_test(a_run(tmp_path / "runs"), "linf", FAST)
    assert command(["report", *argv]) == 2
    assert part in capsys.readouterr().err
    assert not list(tmp_path.glob("reports/*"))


def test_an_unfinished_test_is_left_out_and_said(tmp_path, written):
    run = a_run(tmp_path / "runs")
    a_test(run, "linf", FAST, n=8)
    later = run / "tests" / "linf-2"
    later.mkdir()
    (later / "state.json").write_text("{}")
    page, code, said = written("runs/plain/1")
    assert code == 0
    for text in (said, "".join(page.text.values())):
        assert "runs/plain/1/tests/linf-2 is not finished" in text
        assert "--resume runs/plain/1/tests/linf-2" in text
    assert "of 8" in page.tables["accuracy"][0][1][1]


def test_results_that_cannot_be_read_are_left_out_and_said(tmp_path, written):
    run = a_run(tmp_path / "runs")
    a_test(run, "linf", FAST)
    (run / "tests" / "torn-1").mkdir()
    (run / "tests" / "torn-1" / "results.json").write_text("{")
    (run / "tests" / "old-1").mkdir()
    (run / "tests" / "old-1" / "results.json").write_text(json.dumps({"schema": 1, "attacks": {}}))
    _, code, said = written("runs/plain/1")
    assert code == 0
    assert "torn-1 was left out" in said
    assert "old-1 was left out: it was written by another version" in said


def test_the_newest_test_of_a_title_counts(tmp_path, written):
    run = a_run(tmp_path / "runs")
    for number, n in ((2, 8), (10, 12), (9, 16)):
        a_test(run, "linf", FAST, number=number, n=n)
    page, _, _ = written("runs/plain/1")
    cell = page.tables["accuracy"][0][1][2]
    assert "of 12" in cell
    assert "linf-10" in cell
    assert "linf-9" not in cell


def test_other_images_of_one_data_set_are_other_columns_and_no_pairs(tmp_path, written):
    small, large = a_run(tmp_path / "runs", "small"), a_run(tmp_path / "runs", "large", seed=1, size=32)
    a_test(small, "linf", FAST)
    a_test(large, "linf", FAST, seed=1, of="larger images")
    page, code, _ = written("runs/small/1", "runs/large/1")
    assert code == 0
    table = page.tables["accuracy"][0]
    assert table[0][2:] == ["L∞ 0.02\non Digits, size 16", "L∞ 0.02\non Digits, size 32"]
    assert [row[3] == "not measured" for row in table[1:]] == [True, False]
    assert "other images" in "".join(page.text.values())
    assert "differences" not in page.tables


def test_tests_of_different_weights_have_a_row_each(tmp_path, written):
    run = a_run(tmp_path / "runs")
    a_test(run, "linf", FAST)
    a_test(run, "fmn", FAST, digest="of other weights")
    page, _, said = written("runs/plain/1")
    assert len(page.tables["accuracy"][0]) == 3
    assert "2 different weights" in said


def test_over_seeds_there_is_an_interval_of_the_mean(tmp_path, written):
    for name, seeds in (("plain", (0, 1, 2)), ("other", (3, 4))):
        for number, seed in enumerate(seeds, start=1):
            a_test(a_run(tmp_path / "runs", name, number, seed=seed), "linf", FAST, seed=seed)
    runs = [*(f"runs/plain/{i}" for i in (1, 2, 3)), *(f"runs/other/{i}" for i in (1, 2))]
    page, _, _ = written(*runs)
    clean = {}
    for folder in runs:
        results = json.loads((tmp_path / folder / "tests" / "linf-1" / "results.json").read_text())
        clean.setdefault(folder.split("/")[1], []).append(100 * results["clean"]["accuracy"])
    row = next(row for row in page.tables["seeds"][0] if row[0].startswith("clean,"))
    values = clean["plain"]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert row[1] == f"{np.mean(values):.1f} %\n95 %: {max(0, low):.1f} to {min(100, high):.1f}, 3 runs"
    gain = stats.ttest_ind(clean["other"], values, equal_var=False).confidence_interval()
    assert f"({gain.low:+.1f} to {gain.high:+.1f})" in row[3]
    assert "Not independent" not in page.text["seeds"]


def test_runs_of_one_seed_are_no_repetitions(tmp_path, written):
    for number in (1, 2):
        a_test(a_run(tmp_path / "runs", number=number), "linf", FAST)
    page, _, _ = written("runs/plain/1", "runs/plain/2")
    assert "Not independent: plain/1 and plain/2 have the seed 0" in page.text["seeds"]


def test_some_stored_images_are_those_of_their_rows(tmp_path):
    folder = a_test(a_run(tmp_path), "linf", {"fgsm": FGSM(threat=ThreatModel(eps=0.3))})
    whole = dict(np.load(folder / "adversarials.npz"))
    rows = [len(whole["index"]) - 1, 0, 3]
    for name in ("x", "x_adv"):
        np.testing.assert_array_equal(stored(folder / "adversarials.npz", name, rows), whole[name][rows])
    found = columns(folder / "adversarials.npz")
    assert set(found) == set(whole) - {"x", "x_adv"}
    np.testing.assert_array_equal(found["index"], whole["index"])
    assert N > 3


def test_a_measurement_that_is_not_found_is_told(tmp_path, written):
    run = a_run(tmp_path / "runs")
    folder = a_test(run, "own", FAST)
    content = {"measurement": "nowhere.Own", **provenance(run, "own", None), "protocol": {}, "table": {"own": 1.5}}
    (folder / "own.json").write_text(json.dumps(content))
    page, code, _ = written("runs/plain/1")
    assert code == 0
    assert "'nowhere.Own' is not found" in page.text["measurements"]
    assert ["own", "1.5"] in page.tables["measurements"][0]
