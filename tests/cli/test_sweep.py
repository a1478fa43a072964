"""`sweep`: every cell once, whoever asks and however it ends; nothing is mixed, lost or done twice."""

import csv
import fcntl
import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from sweep_runs import (
    FAKE,
    ONE,
    PLAIN,
    alive,
    calls,
    cell_record,
    hanging,
    one,
    start,
    states,
    sweeping,  # noqa: F401 - the fixture `sweep`
    wait_for,
)
from tiny import TINY

from lit_robust.__main__ import main
from lit_robust.errors import UserError
from lit_robust.sweep import cell_run, claim, command, queue, table
from lit_robust.sweep.file import load

# --- what runs ---


def test_every_cell_is_trained_and_tested_once_and_never_again(sweep):
    done = sweep(PLAIN)
    assert done.code == 0, done.err
    names = ["a-seed0", "a-seed1", "b-seed0", "b-seed1"]
    expected = [[("fit", f"--name={n}"), ("test", f"--run=runs/sweeps/study/{n}/1")] for n in names]
    assert calls() == [call for cell in expected for call in cell]
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[0] == ["study:", "4", "cells,", "4", "waiting"]
    assert [line[:3] for line in lines[1:5]] == [[f"{i}/4", name, "finished"] for i, name in enumerate(names, 1)]
    assert sweep(None).code == 0
    assert calls() == []
    assert states() == ["finished"] * 4
    assert not [p for p in Path("runs").rglob(".*") if p.is_file()], "nothing written aside stays"


def test_a_failed_cell_is_recorded_and_the_others_go_on(sweep):
    text = PLAIN.replace("a: {}", "a: {mode: fail}")
    done = sweep(text)
    assert done.code == 1
    assert [call[0] for call in calls()] == ["fit", "fit", "fit", "test", "fit", "test"]
    assert done.out.count("failed  0 s: error: it cannot be") == 2
    status = sweep(None, status=True)
    assert status.code == 1
    assert "study: 4 cells, 2 failed, 2 finished" in status.out
    assert "failed       a-seed0: fit, exit code 3; runs/sweeps/study/a-seed0/log.txt\n    $ python" in status.out
    assert "\n    error: it cannot be" in status.out
    assert sweep(None).code == 1
    assert calls() == [], "a failed cell is not tried again by itself"
    assert sweep(None, "--retry-failed").code == 1
    assert calls() == [("fit", "--name=a-seed0"), ("fit", "--name=a-seed1")], "once each"


def test_a_fit_that_leaves_no_checkpoint_has_failed(sweep):
    done = sweep(one("no_checkpoint"))
    assert done.code == 1
    assert "`fit` ended without a checkpoint" in done.out
    assert [call[0] for call in calls()] == ["fit"]


def test_a_cell_whose_child_was_killed_alone_has_failed_and_goes_on_when_asked(sweep):
    process = start(one("hang"))
    os.kill(hanging(), signal.SIGKILL)
    process.join()
    assert process.exitcode == 1
    assert cell_record().exit_code == -signal.SIGKILL
    calls()
    assert sweep(None, "--retry-failed").code == 0
    assert calls() == [("fit", f"--resume={ONE}/1"), ("test", f"--run={ONE}/1")]


# --- stopped and killed ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("mode", ["hang", "deaf"])
def test_a_sweep_that_is_told_to_stop_takes_its_child_along(sweep, monkeypatch, capfd, number, mode):
    monkeypatch.setattr(cell_run, "_PATIENCE", 20.0 if mode == "hang" else 0.1)
    process = start(one(mode))
    child = hanging()
    assert states() == ["running"]
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == command.INTERRUPTED == 130
    assert not alive(child)
    assert "Traceback" not in capfd.readouterr().err
    assert cell_record().state == "interrupted"
    assert states() == ["interrupted"]
    calls()
    assert sweep(None).code == 0
    assert calls() == [("fit", f"--resume={ONE}/1"), ("test", f"--run={ONE}/1")]


def test_a_killed_sweep_s_child_keeps_the_cell_and_when_it_dies_the_cell_is_taken_over(sweep):
    process = start(one("hang"))
    child = hanging()
    for killed in (False, True):
        if killed:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        assert states() == ["running"]
        done = sweep(None)
        assert done.code == 0
        assert f"running      study-seed0: fit, process {process.pid} on " in done.out
        assert len(calls()) == (0 if killed else 1), "the cell is left to its child"
    os.kill(child, signal.SIGKILL)
    wait_for(lambda: states() == ["lost"])
    assert "lost         study-seed0: fit" in sweep(None, status=True).out
    assert sweep(None).code == 0
    assert calls() == [("fit", f"--resume={ONE}/1"), ("test", f"--run={ONE}/1")]
    assert states() == ["finished"]


def test_a_fit_killed_before_its_first_checkpoint_starts_afresh_in_a_new_folder(sweep):
    process = start(one("hang_early"))
    child = hanging()
    for pid in (process.pid, child):
        os.kill(pid, signal.SIGKILL)
    process.join()
    wait_for(lambda: states() == ["lost"])
    calls()
    assert sweep(one("ok")).code == 0, "nothing was trained, so that the settings may change"
    assert calls() == [("fit", "--name=study-seed0"), ("test", f"--run={ONE}/2")]


def test_an_interrupted_test_is_repeated_and_its_training_not(sweep):
    process = start(one("hang_test", "[own, norms.yaml]"))
    hanging()
    os.kill(process.pid, signal.SIGINT)
    process.join()
    calls()
    assert sweep(None).code == 0
    assert calls() == [("test", f"--run={ONE}/1"), ("test", f"--run={ONE}/1", "--config=norms.yaml")]
    assert cell_record().tests["test"]["folder"] == "1/tests/test-2"


# --- several processes ---


def test_processes_share_the_cells_and_none_is_run_twice(sweep):
    settings = ", ".join(f"s{i}: {{}}" for i in range(12))
    text = one("together").replace("seeds: 0", f"grid: {{x: {{{settings}}}}}, seeds: 0")
    processes = [start(text), start(), start()]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    called = calls()
    assert sorted(call[1] for call in called if call[0] == "fit") == sorted(f"--name=s{i}-seed0" for i in range(12))
    assert len({call for call in called if call[0] == "test"}) == len(called) / 2 == 12
    assert states() == ["finished"] * 12
    assert len({cell_record(f"s{i}-seed0").pid for i in range(12)}) > 1, "they shared the work"


def test_cells_that_another_process_ended_a_moment_before_the_claim_are_left(sweep, monkeypatch):
    def late(home):
        monkeypatch.setattr(queue, "claim", claim.claim)
        assert main(["sweep", "study.yaml"]) == 1
        return claim.claim(home)

    monkeypatch.setattr(queue, "claim", late)
    assert sweep(PLAIN.replace("a: {}", "a: {mode: fail}")).code == 1
    assert [call[0] for call in calls()] == ["fit", "fit", "fit", "test", "fit", "test"], "once each"


def test_a_claim_ends_with_the_last_process_that_inherited_it(tmp_path):
    assert not claim.claimed(tmp_path / "cell")
    with claim.claim(tmp_path / "cell") as lock:
        assert lock is not None
        with claim.claim(tmp_path / "cell") as other:
            assert other is None
        child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,))
    assert claim.claimed(tmp_path / "cell"), "the child has it"
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    assert not claim.claimed(tmp_path / "cell")


def test_somebody_who_looks_at_a_claim_does_not_keep_others_from_it(tmp_path, monkeypatch):
    """`claimed` has the lock for a moment; here until the claim is tried again."""
    (tmp_path / "lock").touch()
    looking = os.open(tmp_path / "lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    assert not claim.claimed(tmp_path), "two may look at once"
    monkeypatch.setattr(claim.time, "sleep", lambda seconds: os.close(looking))
    with claim.claim(tmp_path) as lock:
        assert lock is not None


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def none(*args):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(claim.fcntl, "flock", none)
    with (
        pytest.raises(UserError, match=r"has no locks \(No locks available\).*--runs FOLDER"),
        claim.claim(tmp_path),
    ):
        pass


# --- what must not be mixed ---


def test_other_settings_than_those_of_a_trained_cell_are_refused_by_name(sweep):
    assert sweep(one(), "--data.root", "x").code == 0
    calls()
    for text, argv, said in [
        (one(), [], "command_line.data.root changed"),
        (one(), ["--data.root=y"], "command_line.data.root changed"),
        (one("other"), ["--data.root=x"], "overrides.mode changed"),
        (one().replace("natural_digits", "quickstart"), ["--data.root=x"], "configs, contents.natural_digits.yaml, "),
    ]:
        done = sweep(text, *argv)
        assert done.code == 2
        assert said in done.err
    assert calls() == []
    Path("natural_digits.yaml").write_text("trainer: {max_epochs: 31}")
    edited = sweep(one(), "--data.root=x")
    assert "contents.natural_digits.yaml.model, contents.natural_digits.yaml.data, contents" in edited.err
    assert "natural_digits.yaml.trainer.max_epochs" in edited.err
    status = sweep(None, status=True)
    assert "changed      study-seed0: contents.natural_digits.yaml.model" in status.out
    Path("natural_digits.yaml").unlink()
    assert "1 finished" in sweep(None, status=True).out, "which does not know the command line"


def test_a_finished_cell_whose_checkpoints_were_removed_is_still_finished(sweep):
    assert sweep(one()).code == 0
    Path(ONE, "1/checkpoints/last.ckpt").unlink()
    calls()
    assert sweep(None).code == 0
    assert "overrides.mode changed" in sweep(one("other")).err
    assert calls() == []
    assert sweep(one(test="[own, norms.yaml]")).code == 0
    assert calls() == [("test", f"--run={ONE}/1", "--config=norms.yaml")], "it is not trained again"


def test_a_config_that_is_edited_while_the_sweep_runs_ends_it(sweep, monkeypatch):
    def run_and_edit(*args):
        done = cell_run.run_cell(*args)
        Path("natural_digits.yaml").write_text("{}")
        return done

    monkeypatch.setattr(queue, "run_cell", run_and_edit)
    done = sweep(PLAIN)
    assert done.code == 2
    assert "a config of it changed while it ran" in done.err
    assert calls() == [("fit", "--name=a-seed0"), ("test", "--run=runs/sweeps/study/a-seed0/1")]


def test_a_cell_that_failed_before_it_was_trained_may_be_mended(sweep):
    assert sweep(one("fail")).code == 1
    assert "1 failed" in sweep(None, status=True).out
    assert sweep(one("ok")).code == 0
    assert [call[0] for call in calls()] == ["fit", "fit", "test"]


def test_a_test_that_is_added_later_is_all_that_runs_and_an_edited_one_is_refused(sweep):
    Path("norms.yaml").write_text("evaluation: {seed: 1}")
    assert sweep(one()).code == 0
    calls()
    more = one(test="[own, norms.yaml]")
    Path("study.yaml").write_text(more)
    assert states() == ["waiting"]
    assert sweep(more).code == 0
    assert calls() == [("test", f"--run={ONE}/1", "--config=norms.yaml")]
    Path("norms.yaml").write_text("evaluation: {seed: 2}")
    assert "test.norms.evaluation.seed changed" in sweep(more).err
    assert sweep(one()).code == 0, "nobody asks for it any more"


def test_a_damaged_record_is_named(sweep):
    assert sweep(one()).code == 0
    Path(ONE, "cell.json").write_text("{")
    done = sweep(None)
    assert done.code == 2
    assert f"{ONE}/cell.json is damaged" in done.err


# --- the table ---


def test_the_table_is_mean_and_deviation_over_finished_seeds(sweep, tmp_path):
    done = sweep(PLAIN.replace("[0, 1]", "[0, 1, 3]").replace("b: {}", "b: {mode: fail}"))
    assert done.code == 1
    values = [0.5, 0.6, 0.8]
    results = json.loads(Path("runs/sweeps/study/results.json").read_text())
    a, b = results["cells"]["a"], results["cells"]["b"]
    assert a["mean"]["test/pgd"] == pytest.approx(sum(values) / 3)
    assert a["deviation"]["test/pgd"] == pytest.approx(statistics.stdev(values))
    assert a["choices"] == {"x": "a"}
    assert [run["values"]["test/pgd"] for run in a["seeds"].values()] == values
    for run in a["seeds"].values():
        found = json.loads((tmp_path / "runs/sweeps/study" / run["results"]["test"]).read_text())
        assert found["attacks"]["pgd"]["accuracy"] == run["values"]["test/pgd"]
    assert (b["mean"], [run["state"] for run in b["seeds"].values()]) == ({}, ["failed"] * 3)
    with Path("runs/sweeps/study/table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["cell"], row["x"], row["finished"], row["seeds"]) for row in rows] == [
        ("a", "a", "3", "3"),
        ("b", "b", "0", "3"),
    ]
    assert float(rows[0]["test/pgd std"]) == pytest.approx(statistics.stdev(values))
    assert rows[1]["test/pgd mean"] == ""
    cells = [[part.strip() for part in line.split("│")[1:-1]] for line in done.out.splitlines() if "│" in line]
    assert cells == [["a", "3 of 3", "90.0 ± 0.0", "63.3 ± 15.3"], ["b", "0 of 3", "", ""]]


def test_columns_of_minimum_norms_and_of_other_measurements(sweep):
    assert sweep(PLAIN).code == 0
    for cell, norm in (("a-seed0", 0.25), ("a-seed1", 0.5), ("b-seed0", None), ("b-seed1", 0.125)):
        folder = Path("runs/sweeps/study", cell, "1/tests/test-1")
        attacks = {"fmn": {"minimum_norm": {"mean": norm, "median": 9}}, "none": {"minimum_norm": None}}
        (folder / "results.json").write_text(json.dumps({"clean": {"accuracy": 1}, "attacks": attacks}))
        (folder / "activity.json").write_text(
            json.dumps({"table": {"zeros": 3, "name": "x", "yes": True, "none": None}, "n": 7})
        )
        (folder / "list.json").write_text("[1]")
        (folder / "other.json").write_text('{"table": [1], "accuracy": 0.5}')
    study = load(Path("study.yaml"))
    results = table.summarise(study, Path("runs/sweeps/study"))
    assert results["columns"] == {"test/clean": "accuracy", "test/fmn mean norm": "number", "test/zeros": "number"}
    assert list(results["columns"]) == ["test/clean", "test/fmn mean norm", "test/zeros"], "accuracies first"
    a, b = results["cells"]["a"], results["cells"]["b"]
    assert a["mean"] == {"test/clean": 1, "test/fmn mean norm": 0.375, "test/zeros": 3}
    assert b["n"]["test/fmn mean norm"] == 1
    assert "test/fmn mean norm" not in b["deviation"]
    shown = sweep(None, status=True).out
    assert "0.375 ± 0.18" in shown
    assert "0.125 (1)" in shown, "not every seed has it"
    assert "100.0 ± 0.0" in shown


def test_status_of_a_sweep_that_was_not_begun_touches_nothing(sweep):
    done = sweep(PLAIN, status=True)
    assert (done.code, done.out) == (0, "study: 4 cells, 4 waiting\n")
    assert not Path("runs").exists()


# --- the command line ---


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "usage: "),
        (["--help"], "usage: "),
        (["quickstart.yaml.yaml"], "no sweep 'quickstart.yaml.yaml'"),
        (["a.yaml", "b.yaml"], "expected one sweep file"),
        (["status"], "expected one sweep file"),
        (["status", "digits_eps.yaml", "--data.root=x"], "expected one sweep file"),
        (["digits_eps.yaml", "--data.root"], "expected a value after --data.root"),
        (["digits_eps.yaml", "--data.root", "--runs", "x"], "expected a value after --data.root"),
        (["digits_eps.yaml", "-c", "x"], "no option -c"),
        (["digits_eps.yaml", "--runs", "/proc/nowhere"], "--runs FOLDER"),
        (["digits_eps.yaml", "--trainr.max_epochs=1"], "did you mean trainer.max_epochs"),
    ],
)
def test_a_command_that_cannot_run(cli, monkeypatch, argv, said):
    monkeypatch.setattr(cell_run, "COMMAND", FAKE)
    done = cli("sweep", *argv)
    assert said in done.out + done.err
    assert done.code == (0 if said == "usage: " else 2)
    assert not Path("runs").exists()


# --- the real thing ---


def test_two_seeds_of_real_runs(cli, monkeypatch):
    """The commands of a sweep are commands of the package; here they run in this process."""

    def here(argv, output, locks, environment):
        with os.fdopen(os.dup(output), "w") as log, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", log)
            return main(argv[len(cell_run.COMMAND) :])

    monkeypatch.setattr(cell_run, "_child", here)
    Path("study.yaml").write_text("{base: natural_digits.yaml, seeds: [0, 1], test: gaussian_noise.yaml}")
    done = cli("sweep", "study.yaml", *TINY)
    assert done.code == 0, done.out + done.err
    results = json.loads(Path("runs/sweeps/study/results.json").read_text())
    assert list(results["columns"]) == [
        f"gaussian_noise/{n}" for n in ("clean", "noise_0.05", "noise_0.1", "noise_0.2")
    ]
    weights = []
    for seed in (0, 1):
        run = Path(f"runs/sweeps/study/study-seed{seed}/1")
        assert yaml.safe_load((run / "config.yaml").read_text())["seed_everything"] == seed
        weights.append(torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"])
    assert not torch.equal(weights[0]["network.conv1.weight"], weights[1]["network.conv1.weight"])
    assert cli("test", "--run", run, *TINY).code == 0, "its runs are ordinary ones"
    assert cli("sweep", "study.yaml", *TINY).out.startswith("study: 2 cells, 2 finished"), "and were not run again"


@pytest.mark.slow
def test_a_real_sweep_that_is_killed_ends_with_the_weights_of_one_that_was_not(tmp_path):
    """41 batches an epoch, a checkpoint every 7."""
    options = ["--trainer.max_epochs=2", "--data.batch_size=32", "--checkpoints.every_n_steps=7"]
    (tmp_path / "study.yaml").write_text("{base: natural_digits.yaml, seeds: 0, test: gaussian_noise.yaml}")
    sweep = [sys.executable, "-m", "lit_robust", "sweep", "study.yaml", "--trainer.accelerator=cpu", *options]
    assert subprocess.run([*sweep, "--runs=whole"], cwd=tmp_path).returncode == 0
    process = subprocess.Popen([*sweep, "--runs=killed"], cwd=tmp_path, start_new_session=True)
    checkpoint = "sweeps/study/study-seed0/1/checkpoints/last.ckpt"
    wait_for(lambda: (tmp_path / "killed" / checkpoint).exists() or process.poll() is not None, 300)
    child = next(
        int(p.parent.name)
        for p in Path("/proc").glob("[0-9]*/stat")
        if p.read_text().rpartition(")")[2].split()[1] == str(process.pid)
    )
    for pid in (process.pid, child):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    assert torch.load(tmp_path / "killed" / checkpoint, weights_only=True)["global_step"] < 82
    again = subprocess.run([*sweep, "--runs=killed"], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    one, two = (
        torch.load(tmp_path / runs / checkpoint, weights_only=True)["state_dict"] for runs in ("whole", "killed")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)
    log = (tmp_path / "killed/sweeps/study/study-seed0/log.txt").read_text()
    assert "fit --resume=killed/sweeps/study/study-seed0/1" in log
    one, two = (
        json.loads((tmp_path / runs / "sweeps/study/results.json").read_text())["cells"]["study"]["mean"]
        for runs in ("whole", "killed")
    )
    assert one == two


@pytest.mark.parametrize(("figures", "first"), [(2, ["cell", "seeds", "t\nf0, %", "t\nf1, %"]), (40, ["", "a", "b"])])
def test_a_table_of_many_figures_has_a_row_for_each(figures, first):
    columns = {f"t/f{number}": table.ACCURACY for number in range(figures)}
    seed = {"0": {"state": "finished"}}
    cell = {"seeds": seed, "mean": dict.fromkeys(columns, 0.5), "deviation": {}, "n": dict.fromkeys(columns, 1)}
    shown = table.results_table({"sweep": "study", "columns": columns, "cells": {"a": cell, "b": cell}})
    assert [column.header for column in shown.columns] == first
    assert shown.row_count == (2 if figures == 2 else 1 + figures)
    assert list(shown.columns[-1].cells)[-1] == "50.0"
