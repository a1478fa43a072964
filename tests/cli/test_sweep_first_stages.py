"""First stages of a sweep, once a seed and before what starts from them; and many processes at once, some killed."""

import os
import signal
from pathlib import Path

import pytest
from sweep_runs import (
    alive,
    calls,
    cell_record,
    hanging,
    start,
    states,
    sweeping,  # noqa: F401 - the fixture `sweep`
    wait_for,
)

from lit_robust.sweep import cell_run, queue
from lit_robust.sweep.claim import claim
from lit_robust.sweep.device import Device
from lit_robust.sweep.file import load

STUDY = Path("runs/sweeps/study")
STAGES = """
base: natural_digits.yaml
overrides: {mode: ok}
first:
  natural: {}
  adversarial: {MORE}
grid:
  code:
    A1N2: {from: "{first.adversarial}"}
    N1A2: {list: ["{first.natural}/x"]}
  data.cutoff: [1, 2]
seeds: [0, 1]
test: own
"""


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch):
    monkeypatch.setattr(queue, "_POLL", 0.02)


def stages(more=""):
    return STAGES.replace("MORE", more)


def fits():
    """The options of each `fit` that was asked for since the last look, by the name of its cell."""
    lines = [line.split() for line in Path("calls.txt").read_text().splitlines()]
    found = {}
    for words in lines:
        if words[0] == "fit" and not words[1].startswith("--resume"):
            options = dict(word.removeprefix("--").partition("=")[::2] for word in words[1:])
            assert options["name"] not in found, "trained twice"
            found[options["name"]] = options
    return found


def test_a_first_stage_is_trained_once_a_seed_and_its_cells_start_from_their_own_seed_s(sweep):
    assert sweep(stages()).code == 0
    found = fits()
    assert list(found)[:4] == ["natural-seed0", "natural-seed1", "adversarial-seed0", "adversarial-seed1"]
    assert len(found) == 12
    for seed in (0, 1):
        for cutoff in (1, 2):
            own = found[f"A1N2-{cutoff}-seed{seed}"]
            assert own["from"] == f"{STUDY}/adversarial-seed{seed}/1"
            assert own["data.cutoff"] == str(cutoff)
            assert found[f"N1A2-{cutoff}-seed{seed}"]["list"] == f'["{STUDY}/natural-seed{seed}/1/x"]'
        assert not {"from", "list", "data.cutoff"} & set(found[f"natural-seed{seed}"])
    assert "{first.adversarial}" in (STUDY / "A1N2-1-seed0/cell.json").read_text(), "settings are those of the file"
    table = (STUDY / "table.csv").read_text().splitlines()
    assert table[0].startswith("cell,code,data.cutoff,finished,seeds,collapsed,")
    assert table[1].startswith("natural,,,2,2,0,")
    assert table[3].startswith("A1N2-1,A1N2,1,2,2,0,")


def test_cells_of_a_failed_first_stage_never_start_and_go_on_when_it_is_tried_again(sweep):
    done = sweep(stages("mode: fail"))
    assert done.code == 1
    assert set(fits()) == {f"{g}-seed{s}" for g in ("natural", "adversarial", "N1A2-1", "N1A2-2") for s in (0, 1)}
    assert "study: 12 cells, 2 failed, 6 finished, 4 waiting" in done.out
    assert "2 cells cannot start: adversarial-seed0 has failed (--retry-failed tries it again)" in done.out
    Path("calls.txt").unlink()
    Path("study.yaml").write_text(stages("mode: ok"))
    assert sweep(None, "--retry-failed").code == 0
    assert list(fits())[:2] == ["adversarial-seed0", "adversarial-seed1"]
    assert states() == ["finished"] * 12


def test_a_process_with_nothing_else_to_do_waits_for_a_first_stage_of_another(sweep, capfd):
    only = stages("mode: hang_early").replace("seeds: [0, 1]", "seeds: 0")
    first = start(only)
    child = hanging()
    second = start()
    wait_for(lambda: states() == ["finished", "running", "waiting", "waiting", "finished", "finished"])
    wait_for(lambda: "waiting for adversarial-seed0, which another process is at" in capfd.readouterr().out)
    assert alive(second.pid)
    for pid in (first.pid, child):
        os.kill(pid, signal.SIGKILL)
    first.join()
    again = hanging()  # the second process took the first stage over
    assert cell_record("adversarial-seed0").pid == second.pid
    os.kill(again, signal.SIGKILL)  # and it fails, so that nobody waits any longer
    second.join()
    assert second.exitcode == 1
    assert states() == ["finished", "failed", "waiting", "waiting", "finished", "finished"]


def test_a_process_that_waits_can_be_stopped(sweep):
    first = start(stages("mode: hang_early").replace("seeds: [0, 1]", "seeds: 0"))
    child = hanging()
    second = start()
    wait_for(lambda: states()[5] == "finished")
    os.kill(second.pid, signal.SIGTERM)
    second.join()
    assert second.exitcode == 130
    os.kill(first.pid, signal.SIGTERM)
    first.join()
    assert not alive(child)


def test_eight_processes_at_once_run_every_cell_exactly_once(sweep):
    text = stages().replace("[1, 2]", "[1, 2, 3, 4]")
    processes = [start(text), *(start() for _ in range(7))]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 8
    assert len(fits()) == 20
    called = calls()
    assert sum(call[0] == "fit" for call in called) == 20
    assert len({call for call in called if call[0] == "test"}) == len(called) - 20 == 20
    assert states() == ["finished"] * 20
    pids = {cell_record(cell.name).pid for cell in load(Path("study.yaml")).cells}
    assert len(pids) > 1, "they shared the work"


def test_a_killed_process_leaves_a_lost_cell_that_the_others_take_over(sweep):
    """Four processes at once, of which the one that hangs is killed with its child; nothing is run twice."""
    text = (
        "{base: natural_digits.yaml, grid: {x: {hung: {mode: hang}, a: {}, b: {}, c: {}, d: {}}}, seeds: 0, test: own}"
    )
    processes = [start(text), *(start() for _ in range(3))]
    child = hanging()
    killed = cell_record("hung-seed0").pid
    for process in processes:
        if process.pid != killed:
            process.join()
    assert states() == ["running"] + ["finished"] * 4
    for pid in (killed, child):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: states()[0] == "lost")
    status = sweep(None, status=True)
    assert "study: 5 cells, 4 finished, 1 lost" in status.out
    assert f"lost         hung-seed0: fit, process {killed} on " in status.out
    assert ", which is dead" in status.out
    assert "hours left for one process; none is running" in status.out
    calls()
    assert sweep(None).code == 0
    assert calls() == [("fit", f"--resume={STUDY}/hung-seed0/1"), ("test", f"--run={STUDY}/hung-seed0/1")]
    assert states() == ["finished"] * 5


# --- the order of those that were begun ---


def begun(monkeypatch, sweep, cells, job):
    """Leaves cells interrupted, as a SLURM job of some name."""

    def stop(argv, output, locks, environment):
        raise KeyboardInterrupt

    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", job)
    study = load(Path("study.yaml"), [])
    for cell in study.cells:
        if cell.name in cells:
            (STUDY / cell.name).mkdir(parents=True)
            with monkeypatch.context() as patch:
                patch.setattr(cell_run, "_child", stop)
                with pytest.raises(KeyboardInterrupt):
                    cell_run.run_cell(study, cell, STUDY / cell.name, 0, Device())


def test_a_requeued_job_returns_to_its_own_cell_and_then_to_what_others_began(sweep, monkeypatch):
    text = "{base: natural_digits.yaml, grid: {x: {a: {}, b: {}, c: {}, d: {}}}, seeds: 0}"
    Path("study.yaml").write_text(text)
    begun(monkeypatch, sweep, ["c-seed0"], "1")
    begun(monkeypatch, sweep, ["d-seed0"], "2")
    assert states() == ["waiting", "waiting", "interrupted", "interrupted"]
    assert sweep(None).code == 0
    assert list(fits()) == ["d-seed0", "c-seed0", "a-seed0", "b-seed0"]


# --- hours left ---


def test_hours_left_are_those_of_other_seeds_over_the_processes(sweep):
    text = "{base: natural_digits.yaml, grid: {x: {long: {}, short: {}}}, seeds: [0, 1], test: own}"
    Path("study.yaml").write_text(text)
    assert "hours left" not in sweep(None, status=True).out, "nobody knows yet"
    assert sweep(text.replace("[0, 1]", "0")).code == 0
    assert sweep(text.replace("long: {}, ", "")).code == 0
    for name in ("long-seed0", "short-seed0", "short-seed1"):
        known = cell_record(name)
        known.seconds = {"fit": 7200, "test": 3600} if name == "long-seed0" else {"fit": 1800, "test": 0}
        known.write(STUDY / name)

    def said(text):
        Path("study.yaml").write_text(text)
        return next(line for line in sweep(None, status=True).out.splitlines() if "hours left" in line)

    assert said(text) == "about 3.0 hours left for one process; none is running", "as its other seed"
    assert said(text.replace("[0, 1]", "[0, 1, 2]")).startswith("about 6.5 hours left")
    new = text.replace("short: {}", "short: {}, new: {}").replace("[0, 1]", "0")
    assert said(new).startswith("about 1.8 hours left"), "a cell that no seed of is done: as all did"
    with claim(STUDY / "long-seed1"), claim(STUDY / "long-seed2"):
        running = said(text.replace("[0, 1]", "[0, 1, 2]"))
    assert running == "about 3.2 hours left with 2 processes"
