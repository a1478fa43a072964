"""A test that was interrupted goes on with what it has, if it is still the same test, and says so if it is not."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny import TINY

from lit_robust import unfinished
from lit_robust.data.images import Images
from lit_robust.errors import UserError

RUN = "runs/natural_digits/1"
FIT = ["fit", "--config", "natural_digits.yaml", *TINY]
FGSM = '{"fgsm": {"class_path": "FGSM", "init_args": {"threat": {"eps": 0.05}}}}'
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
SMALL = ["--trainer.limit_test_batches=3", "--data.eval_batch_size=20", *QUIET]  # three blocks of 20 images
TEST = ["test", "--run", RUN, "--config", "mine.yaml", *SMALL]

# Runs the command line and ends it, as if by force, or for want of space, once some blocks are on disk.
DRIVER = """
import errno, os, sys
from lit_robust.__main__ import main
from lit_robust.evaluation import SampleStore

end, blocks, write = sys.argv[1], int(sys.argv[2]), SampleStore.write

def stop(store, block, result):
    if block == blocks:
        if end == "killed":
            os._exit(137)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    write(store, block, result)

SampleStore.write = stop
sys.exit(main(sys.argv[3:]))
"""


def process(folder, *argv):
    return subprocess.run([sys.executable, *argv], cwd=folder, capture_output=True, text=True, check=False)


def driven(folder, end, blocks, argv=TEST):
    (folder / "driver.py").write_text(DRIVER)
    return process(folder, "driver.py", end, str(blocks), *argv)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run, and the config of a test."""
    folder = tmp_path_factory.mktemp("trained")
    done = process(folder, "-m", "lit_robust", *FIT)
    assert done.returncode == 0, done.stderr
    (folder / "mine.yaml").write_text(f"evaluation: {{attacks: {FGSM}}}\n")
    return folder


@pytest.fixture(scope="module")
def interrupted(trained):
    """The same with a test of which two of three blocks are done."""
    done = driven(trained, "killed", 2)
    assert done.returncode == 137, done.stderr
    assert names(trained / RUN) == ["mine-1"]
    return trained


@pytest.fixture
def here(interrupted, cli):
    """A copy of it to work in."""
    shutil.copytree(interrupted / "runs", "runs", symlinks=True)
    shutil.copy(interrupted / "mine.yaml", ".")
    return Path(RUN)


def names(run):
    return sorted(folder.name for folder in (run / "tests").iterdir())


def parts(test):
    return sorted(path.name for path in (test / "parts" / "per_sample").iterdir())


def rows(test):
    return pq.read_table(test / "per_sample.parquet").to_pylist()


def without_times(test):
    results = json.loads((test / "results.json").read_text())
    for figure in results["attacks"].values():
        figure.pop("seconds")
    return results


def mark(part, column, value):
    """Changes a column of a part, so that it is seen whether the part is computed again."""
    table = pq.read_table(part)
    position = table.column_names.index(column)
    marked = table.set_column(position, column, pa.array(np.full(len(table), value)))
    pq.write_table(marked.replace_schema_metadata(table.schema.metadata), part)


# --- going on ---


def test_the_same_command_goes_on_in_the_same_folder_and_computes_only_what_is_missing(here, cli):
    test = here / "tests" / "mine-1"
    assert parts(test) == ["000000.parquet", "000001.parquet"]
    mark(test / "parts/per_sample/000000.parquet", "forwards", 12_345)
    second = test / "parts/per_sample/000001.parquet"
    mark(second, "forwards", 54_321)
    second.write_bytes(second.read_bytes()[:300])  # cannot be read
    done = cli(*TEST)
    assert done.code == 0, done.err
    assert f"going on with {test}" in done.out
    assert names(here) == ["mine-1"]
    found = rows(test)
    assert {row["index"] for row in found} == set(range(60))
    assert {row["index"] for row in found if row["forwards"] == 12_345} == set(range(20))
    assert not any(row["forwards"] == 54_321 for row in found)
    assert {path.name for path in test.iterdir()} == {
        *("config.yaml", "metrics.csv", "results.json", "per_sample.parquet"),
        *("adversarials.npz", "adversarial.png", "verify.py"),
    }
    # A finished test is no unfinished one.
    again = cli(*TEST)
    assert again.code == 0, again.err
    assert "going on" not in again.out
    assert names(here) == ["mine-1", "mine-2"]
    new = rows(here / "tests" / "mine-2")
    assert [row for row in new if row["index"] >= 20] == [row for row in found if row["index"] >= 20]
    finished = cli("test", "--resume", test, *SMALL)
    assert finished.code == 2
    assert f"{test} is finished; its figures are in results.json" in finished.err


def test_a_folder_can_be_named_and_brings_its_settings(here, cli):
    test = here / "tests" / "mine-1"
    done = cli("test", "--resume", test)
    assert done.code == 0, done.err
    assert names(here) == ["mine-1"]
    assert len(rows(test)) == 2 * 60


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--evaluation.seed=1"], "evaluation.seed"),
        (["--data.eval_batch_size=10"], "data.init_args.eval_batch_size"),
        (["--trainer.limit_test_batches=2"], "trainer.limit_test_batches"),
        (["--evaluation.attacks.fgsm.threat.eps=0.06"], "evaluation.attacks.fgsm.init_args.threat.eps"),
        (["--trainer.devices=2"], "trainer.devices"),
    ],
    ids=["seed", "block size", "images", "attack", "devices of a limited test"],
)
def test_a_named_folder_with_other_settings_is_refused_and_they_are_named(here, cli, change, message):
    test = here / "tests" / "mine-1"
    done = cli("test", "--resume", test, *change)
    assert done.code == 2
    assert f"{test} can only go on with what it began with, but this differs: {message}" in done.err
    assert names(here) == ["mine-1"]
    assert parts(test) == ["000000.parquet", "000001.parquet"]


def other_weights(run):
    path = run / "checkpoints" / "best.ckpt"
    path = path if path.exists() else run / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    name = next(name for name in content["state_dict"] if name.endswith("bias"))
    content["state_dict"][name] += 1e-6
    torch.save(content, path)


def test_a_named_folder_with_other_weights_is_refused(here, cli):
    other_weights(here)
    done = cli("test", "--resume", here / "tests" / "mine-1")
    assert done.code == 2
    assert "can only go on with what it began with, but this differs: the weights" in done.err


def test_other_settings_or_weights_start_anew_and_say_what_differs(here, cli):
    other_weights(here)
    done = cli(*TEST, "--evaluation.seed=1")
    assert done.code == 0, done.err
    assert f"{here / 'tests' / 'mine-1'} was interrupted, but differs in evaluation.seed, the weights" in done.out
    assert names(here) == ["mine-1", "mine-2"]
    assert parts(here / "tests" / "mine-1") == ["000000.parquet", "000001.parquet"]
    assert json.loads((here / "tests/mine-2/results.json").read_text())["protocol"]["seed"] == 1


@pytest.mark.parametrize(
    "settings", [["--trainer.logger=false"], ["--trainer.accelerator=cpu"]], ids=["logger", "accelerator"]
)
def test_settings_of_the_machine_are_no_other_test(here, cli, settings):
    done = cli("test", "--resume", here / "tests" / "mine-1", *settings)
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    "content", ['{"settings": ', "[1, 2]", '{"weights": "a"}', ""], ids=["cut", "list", "none", "empty"]
)
@pytest.mark.parametrize("named", [True, False])
def test_a_state_that_cannot_be_read_is_named_with_the_way_out(here, cli, content, named):
    test = here / "tests" / "mine-1"
    (test / "state.json").write_text(content)
    done = cli("test", "--resume", test) if named else cli(*TEST)
    assert done.code == 2
    assert f"{test / 'state.json'} cannot be read" in done.err
    assert f"to start over, remove {test}" in done.err
    assert names(here) == ["mine-1"]


def test_a_run_is_no_interrupted_test(here, cli):
    done = cli("test", "--resume", here)
    assert done.code == 2
    assert f"{here} is a run; --resume takes the folder of an interrupted test of it" in done.err
    assert "--run begins a test" in done.err


def test_a_folder_without_a_state_is_no_interrupted_test(here, cli):
    (here / "tests" / "mine-1" / "state.json").unlink()
    done = cli("test", "--resume", here / "tests" / "mine-1")
    assert done.code == 2
    assert "expected the folder of an interrupted test, RUN/tests/TITLE-NUMBER with state.json in it" in done.err


def test_a_test_that_still_runs_is_not_taken_over(here, cli):
    test = here / "tests" / "mine-1"
    held = unfinished.hold(test)
    assert held is not None
    try:
        named = cli("test", "--resume", test)
        assert named.code == 2
        assert f"another process works in {test}" in named.err
        done = cli(*TEST)
        assert done.code == 0, done.err
        assert "going on" not in done.out
        assert names(here) == ["mine-1", "mine-2"]
        assert parts(test) == ["000000.parquet", "000001.parquet"]
    finally:
        os.close(held)


def test_a_test_that_is_running_holds_its_folder(tmp_path):
    # The lock is seen by another process, and ends with the one that holds it.
    code = "import sys; from pathlib import Path; from lit_robust import unfinished\n"
    code += "unfinished.hold(Path('.')); print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "held\n"
    assert unfinished.hold(tmp_path) is None
    other.kill()
    other.wait()
    held = unfinished.hold(tmp_path)
    assert held is not None
    os.close(held)


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_same_command_goes_on(trained, cli):
    shutil.copytree(trained / RUN, RUN, ignore=shutil.ignore_patterns("tests"))
    shutil.copy(trained / "mine.yaml", ".")
    done = driven(Path.cwd(), "full", 1)
    assert done.returncode == 2, done.stderr
    test = Path(RUN) / "tests" / "mine-1"
    expected = f"cannot write the results of block 1 to {test}: No space left on device; blocks that were done before"
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert parts(test) == ["000000.parquet"]
    mark(test / "parts/per_sample/000000.parquet", "forwards", 12_345)
    again = cli(*TEST)
    assert again.code == 0, again.err
    assert names(Path(RUN)) == ["mine-1"]
    found = rows(test)
    assert {row["index"] for row in found} == set(range(60))
    assert {row["index"] for row in found if row["forwards"] == 12_345} == set(range(20))


def test_a_killed_test_becomes_the_test_that_was_never_stopped(trained, tmp_path):
    norms = ["test", "--run", RUN, "--config", "norms.yaml", "--data.eval_batch_size=10", *QUIET]
    norms += ["--trainer.limit_test_batches=8"]
    for place in ("whole", "killed"):
        shutil.copytree(trained / RUN, tmp_path / place / RUN, ignore=shutil.ignore_patterns("tests"))
    whole = process(tmp_path / "whole", "-m", "lit_robust", *norms)
    assert whole.returncode == 0, whole.stderr
    with (tmp_path / "log").open("w") as log:
        killed = subprocess.Popen(
            [sys.executable, "-m", "lit_robust", *norms], cwd=tmp_path / "killed", stdout=log, stderr=log
        )
        test = tmp_path / "killed" / RUN / "tests" / "norms-1"
        for _ in range(12_000):
            if len(list(test.glob("parts/per_sample/*.parquet"))) >= 2:
                break
            assert killed.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.01)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
    done = parts(test)
    assert 2 <= len(done) < 8, "it was killed in the middle"
    again = process(tmp_path / "killed", "-m", "lit_robust", *norms)
    assert again.returncode == 0, again.stderr
    assert re.search(r"going on with runs/natural_digits/1/tests/norms-1\n", again.stdout)
    assert names(tmp_path / "killed" / RUN) == ["norms-1"]
    other = tmp_path / "whole" / RUN / "tests" / "norms-1"
    assert rows(test) == rows(other)
    assert without_times(test) == without_times(other)
    with np.load(test / "adversarials.npz") as one, np.load(other / "adversarials.npz") as two:
        assert all(np.array_equal(one[name], two[name]) for name in two.files)


# --- what a test is about ---


def images(value=0):
    return Images(torch.full((2, 1, 2, 2), value, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"))


def identity(config=None, weights=None, value=0):
    config = {"trainer": {"devices": 1, "limit_test_batches": 2}, "data": {"size": 16}, "evaluation": {"seed": 0}} | (
        config or {}
    )
    return unfinished.identity(config, {"a": torch.zeros(2)} | (weights or {}), images(value))


def test_a_difference_is_said_in_words():
    one = identity()
    assert unfinished.difference(one, identity()) == ""
    more = identity({"trainer": {"devices": 8, "limit_test_batches": 2}})
    assert unfinished.difference(one, more) == "trainer.devices"  # the limit is of batches on each of them
    assert unfinished.difference(*(identity({"trainer": {"devices": n}}) for n in (1, 8))) == ""
    budget = {"evaluation": {"budget": "30min"}}
    assert unfinished.difference(*(identity({"trainer": {"devices": n}, **budget}) for n in (1, 8)))
    other = identity({"data": {"size": 32}, "evaluation": {"seed": 1}}, {"a": torch.ones(2)}, value=1)
    assert unfinished.difference(one, other) == "data.size, evaluation.seed, the weights, the test images"
    newer = {**one, "lit_robust": "9.9"}
    assert unfinished.difference(newer, one).startswith("the package (9.9 against ")
    assert "or its sources" in unfinished.difference({**one, "sources": "x"}, one)
    assert unfinished.difference({"settings": one["settings"]}, one).startswith("the weights, the test images")


def test_a_digest_of_weights_sees_names_values_shapes_and_types_and_no_order():
    state = {"a": torch.arange(4.0), "b": torch.tensor(3), "c": torch.rand(2, 3)}
    same = {name: state[name].clone() for name in "cab"}
    digest = unfinished.state_digest(state)
    assert unfinished.state_digest(same) == digest
    assert unfinished.state_digest({**state, "c": state["c"].t().contiguous().t()}) == digest  # as it lies in memory
    for change in (
        {"a": torch.arange(4.0) + 1e-6},
        {"a": torch.arange(4.0).view(2, 2)},
        {"a": torch.arange(4.0).double()},
        {"d": torch.zeros(0)},
        {"a": torch.arange(4.0, dtype=torch.bfloat16)},
    ):
        assert unfinished.state_digest({**state, **change}) != digest
    assert unfinished.state_digest({"x": state["a"], "b": state["b"], "c": state["c"]}) != digest


def started(test, content):
    test.mkdir(parents=True)
    (test / "state.json").write_text(json.dumps(content))
    return test


def test_only_the_newest_test_of_a_title_is_gone_on_with(tmp_path, capsys):
    state, run = identity(), tmp_path / "runs [1]" / "a" / "3"
    assert unfinished.find(run, "linf", state) is None
    first = started(run / "tests" / "linf-2", state)
    started(run / "tests" / "linf_8-7", {"settings": {}})
    assert unfinished.find(run, "linf", state) == (first, state)
    assert "going on with" in capsys.readouterr().out
    newest = started(run / "tests" / "linf-10", state)
    assert unfinished.find(run, "linf", state) == (newest, state)
    (newest / "results.json").write_text("{}")
    assert unfinished.find(run, "linf", state) is None
    assert unfinished.find(run, "linf", state, named=first) == (first, state)
    with pytest.raises(UserError, match="is finished"):
        unfinished.find(run, "linf", state, named=newest)


def test_all_runs_of_a_name_are_looked_through_where_no_run_is_given(tmp_path, monkeypatch):
    state = identity()
    for number, test in ((2, "linf-9"), (10, "linf-1"), (9, "linf-3")):
        started(tmp_path / "a" / str(number) / "tests" / test, state)
    found = unfinished.find(tmp_path / "a" / "*", "linf", state)
    assert found == (tmp_path / "a" / "10" / "tests" / "linf-1", state)
    monkeypatch.chdir(tmp_path / "a" / "9")
    assert unfinished.find(Path(), "linf", state) == (Path("tests/linf-3"), state)  # the current folder is the run


def test_other_weights_that_a_network_brought_itself_are_refused(tmp_path):
    network, state = torch.nn.Linear(2, 2), identity()
    unfinished.remember(tmp_path, state, network)
    assert unfinished.read(tmp_path) == state
    unfinished.remember(tmp_path, unfinished.read(tmp_path), network)
    with torch.no_grad():
        network.bias += 1
    with pytest.raises(UserError, match="began with other weights of the network; remove it to start over"):
        unfinished.remember(tmp_path, unfinished.read(tmp_path), network)
    unfinished.close(tmp_path)
    assert not list(tmp_path.iterdir())
