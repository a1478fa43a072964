"""Stands in for `python -m lit_robust` in tests of sweeps: the same folders within milliseconds, and trouble on demand.

`--mode=` in the options of `fit` is one of: ok; fail (exit code 3); hang_early (before a checkpoint); hang (after one,
until it is resumed); deaf (the same, and Ctrl-C does not help); hang_test (trains, but its first test hangs);
no_checkpoint; together (waits until a second child has begun).
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def options(argv):
    """Values by key, the last one of each."""
    return dict(part.removeprefix("--").partition("=")[::2] for part in argv)


def note(path, line):
    with Path(path).open("a") as file:
        file.write(f"{line}\n")  # one write: lines of several processes do not mix


def hang():
    note("pids.txt", os.getpid())
    time.sleep(120)


def claim(folder, prefix=""):
    number = 1
    while (folder / f"{prefix}{number}").exists():
        number += 1
    (folder / f"{prefix}{number}").mkdir(parents=True)
    return folder / f"{prefix}{number}"


def fit(given):
    if "resume" in given:
        return 0
    mode = given.get("mode", "ok")
    if mode == "fail":
        print("error: it cannot be", flush=True)
        return 3
    run = claim(Path(given["runs"]) / given["name"])
    if mode == "hang_early":
        hang()
    (run / "seed").write_text(given["seed_everything"])
    (run / "mode").write_text(mode)
    (run / "checkpoints").mkdir()
    if mode != "no_checkpoint":
        (run / "checkpoints" / "last.ckpt").write_text("")
    if mode == "deaf":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    while mode == "together" and Path("calls.txt").read_text().count("fit ") < 2:
        time.sleep(0.01)
    if mode in ("hang", "deaf"):
        hang()
    return 0


def test(given):
    run = Path(given["run"])
    folder = claim(run / "tests", f"{Path(given.get('config', 'test')).stem}-")
    if (run / "mode").read_text() == "hang_test" and folder.name == "test-1":
        hang()
    seed = int((run / "seed").read_text())
    results = {"clean": {"accuracy": 0.9}, "attacks": {"pgd": {"accuracy": 0.5 + seed / 10}}}
    (folder / "results.json").write_text(json.dumps(results))
    return 0


if __name__ == "__main__":
    note("calls.txt", " ".join(sys.argv[1:]))
    print("begun")
    sys.exit({"fit": fit, "test": test}[sys.argv[1]](options(sys.argv[2:])))
