"""What tests of sweeps share: the command with children that only pretend to train, and a look at what they did."""

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from lit_robust.__main__ import main
from lit_robust.sweep import cell_run, queue, record
from lit_robust.sweep.file import load

FAKE = (sys.executable, "-S", str(Path(__file__).with_name("fake_child.py")))
PLAIN = "{base: natural_digits.yaml, grid: {x: {a: {}, b: {}}}, seeds: [0, 1], test: own}"
FORK = multiprocessing.get_context("fork")
ONE = "runs/sweeps/study/study-seed0"


@pytest.fixture(name="sweep")
def sweeping(cli, monkeypatch):
    """Runs `sweep` on a file of the text given, with children that only pretend to train."""
    monkeypatch.setattr(cell_run, "COMMAND", FAKE)
    monkeypatch.setattr(queue, "refuse_mistakes", lambda *cells: None)

    def run(text, *argv, status=False):
        if text is not None:
            Path("study.yaml").write_text(text)
        return cli("sweep", *(["status"] if status else []), "study.yaml", *argv)

    return run


def one(mode="ok", test="own"):
    """A sweep of one cell in a mode of the fake child."""
    return f"{{base: natural_digits.yaml, overrides: {{mode: {mode}}}, seeds: 0, test: {test}}}"


def calls():
    """What children were asked for since the last look, in order: the command and where."""
    path = Path("calls.txt")
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    where = ("--name=", "--resume=", "--run=", "--config=norms")
    return [tuple(part for part in line.split() if part in ("fit", "test") or part.startswith(where)) for line in lines]


def cell_record(name="study-seed0"):
    return record.read(Path("runs/sweeps/study") / name)


def states():
    study = load(Path("study.yaml"))
    return [record.state(study, cell, Path("runs/sweeps/study") / cell.name) for cell in study.cells]


def wait_for(condition, seconds=60):
    for _ in range(seconds * 100):
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError("it did not come in time")


def hanging():
    """Process id of the child that hangs, once it does."""
    text = wait_for(lambda: Path("pids.txt").exists() and Path("pids.txt").read_text())
    Path("pids.txt").unlink()
    return int(text)


def alive(pid):
    """Whether a process runs; one that has ended and that nobody asked for its exit code does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def start(text=None):
    """The command in a process of its own, on a file of the text given."""
    if text is not None:
        Path("study.yaml").write_text(text)

    def target():
        # As a shell starts it; under `nohup`, tests inherit that hangups are ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os._exit(main(["sweep", "study.yaml"]))

    process = FORK.Process(target=target)
    process.start()
    return process
