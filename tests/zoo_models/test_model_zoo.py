"""The models of the package: checked, laid out as runs, and small."""

import hashlib
import json
import os
import shutil
import stat
import threading

import pytest
import torch

from lit_robust import command_line, model_zoo, runs
from lit_robust.comparison import request
from lit_robust.data import Digits
from lit_robust.errors import UserError
from lit_robust.nn import FromRun

NAMES = ["hah", "natural", "pgd_at", "polarizing"]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with two models of a few bytes, whose files are read-only; the current folder is another one."""
    folder = tmp_path / "package"
    for name in ("one", "two"):
        for path, text in {"config.yaml": f"name: {name}\n", "checkpoints/best.ckpt": "weights"}.items():
            file = folder / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(stat.S_IRUSR)
    write_sums(folder)
    monkeypatch.setattr(model_zoo, "folder", lambda: folder)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


def write_sums(folder):
    files = sorted(path for path in folder.glob("*/**/*") if path.is_file())
    lines = [f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.relative_to(folder).as_posix()}\n" for f in files]
    (folder / model_zoo.SUMS).write_text("".join(lines))


def change(package, text="name: changed\n"):
    file = package / "one" / "config.yaml"
    file.chmod(stat.S_IRUSR | stat.S_IWUSR)
    file.write_text(text)


def test_a_model_is_laid_out_as_a_run_that_can_be_written_to(package):
    run = model_zoo.resolve("zoo/one", "runs")
    assert run.as_posix() == "runs/zoo/one/1"
    assert runs.config_file(run).read_text() == "name: one\n"
    assert (run / "config.yaml").stat().st_mode & stat.S_IWUSR
    assert runs.checkpoint(run, None) == run / "checkpoints" / "best.ckpt"
    (run / "config.yaml").write_text("mine")
    (run / "tests").mkdir()
    assert sorted(path.name for path in run.parent.iterdir()) == ["1"]


def test_it_is_laid_out_once_and_again_for_another_version(package):
    first = model_zoo.resolve("zoo/one", "runs")
    (first / "tests").mkdir()
    assert model_zoo.resolve("zoo/one", "runs") == first
    change(package)
    write_sums(package)
    second = model_zoo.resolve("zoo/one/", "runs")
    assert second.name == "2"
    assert (second / "config.yaml").read_text() == "name: changed\n"
    assert (first / "tests").is_dir()
    assert model_zoo.resolve("zoo/one", "runs") == second
    assert model_zoo.resolve("zoo/two", "runs").name == "1"


def test_a_file_that_is_not_the_packages_is_refused(package):
    change(package)
    with pytest.raises(UserError, match=r"config\.yaml is not the file that lit_robust was made with.*install"):
        model_zoo.resolve("zoo/one", "runs")
    assert not (package.parent / "work" / "runs").exists()
    (package / "two" / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(UserError, match="got no file"):
        model_zoo.packaged("two")
    (package / model_zoo.SUMS).unlink()
    with pytest.raises(UserError, match="holds no models"):
        model_zoo.names()


@pytest.mark.parametrize("value", ["runs/quickstart/1", "zoo", "zoo/one/1", "one", "elsewhere/zoo/one"])
def test_other_paths_are_left_as_they_are(package, value):
    assert model_zoo.resolve(value, "runs").as_posix() == value


def test_an_unknown_name_lists_the_known_ones(package):
    with pytest.raises(UserError, match="no model 'zoo/three' in the zoo; there are zoo/one, zoo/two"):
        model_zoo.resolve("zoo/three", "runs")
    with pytest.raises(UserError, match="there are zoo/one, zoo/two"):
        model_zoo.packaged("three")


def test_a_run_of_ones_own_comes_first_and_an_empty_folder_does_not(package):
    own = package.parent / "work" / "zoo" / "one"
    own.mkdir(parents=True)
    assert model_zoo.resolve("zoo/one", ".").as_posix() == "zoo/one/1"  # below itself, as `--runs .` has it
    assert model_zoo.resolve("zoo/one", ".").as_posix() == "zoo/one/1"
    (own / "config.yaml").write_text("mine")
    assert model_zoo.resolve("zoo/one", "runs").as_posix() == "zoo/one"


def test_a_run_that_was_trained_under_the_same_name_is_left_alone(package):
    other = package.parent / "work" / "runs" / "zoo" / "one" / "4"
    other.mkdir(parents=True)
    assert model_zoo.resolve("zoo/one", "runs").name == "5"


def test_processes_that_come_together_share_one_copy(package, monkeypatch):
    arrived, copy = threading.Barrier(4), model_zoo._copy

    def together(*args):
        copy(*args)
        arrived.wait(10)

    monkeypatch.setattr(model_zoo, "_copy", together)
    found = []
    threads = [threading.Thread(target=lambda: found.append(model_zoo.resolve("zoo/one", "runs"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (run,) = set(found)
    assert [path.name for path in run.parent.iterdir()] == [run.name] == ["1"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_told(package):
    (package.parent / "work").chmod(stat.S_IRUSR | stat.S_IXUSR)
    with pytest.raises(UserError, match="choose another place with --runs"):
        model_zoo.resolve("zoo/one", "runs")


def test_a_file_in_the_place_of_the_folder_is_told(package):
    (package.parent / "work" / "runs").write_text("")
    with pytest.raises(UserError, match=r"cannot lay out zoo/one in runs/zoo/one.*--runs FOLDER"):
        model_zoo.resolve("zoo/one", "runs")


def test_there_are_four_models_of_less_than_2_mb_as_they_were_made():
    assert model_zoo.names() == NAMES
    files = [path for path in model_zoo.folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2e6
    listed = {model_zoo.folder() / path for path in model_zoo._sums()}
    assert listed == set(files) - {model_zoo.folder() / model_zoo.SUMS}
    for name in NAMES:
        model_zoo.packaged(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_holds_weights_alone_and_is_as_right_as_its_results_say(name):
    folder = model_zoo.packaged(f"zoo/{name}")
    path = runs.checkpoint(folder, None)
    assert path is not None
    content = runs.load_checkpoint(path)
    assert set(content) == {"state_dict", "lit_robust"}
    assert all(isinstance(value, torch.Tensor) for value in content["state_dict"].values())
    results = json.loads((folder / "tests" / "test-1" / "results.json").read_text())
    assert results["clean"]["n"] == 360
    assert str(model_zoo.folder()) not in json.dumps(results)
    data = runs.load_config(folder)["data"]["init_args"]
    test = Digits(size=data["size"]).images(train=False)
    with torch.no_grad():
        right = FromRun(str(folder))(test.x[:64].float() / 255).argmax(1) == test.y[:64]
    assert right.float().mean() > results["clean"]["accuracy"] - 0.1


def test_commands_take_the_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = command_line.read("test", ["--run", "zoo/natural", "--config", "autoattack.yaml", "--runs", "mine"])
    assert line.run is not None
    assert line.run.as_posix() == "mine/zoo/natural/1"
    assert line.checkpoint == line.run / "checkpoints" / "best.ckpt"
    compared = request.read(["--run", "zoo/natural", "--run", "zoo/pgd_at", "--config", "linf_8.yaml"])
    assert [run.as_posix() for run in compared.runs] == ["runs/zoo/natural/1", "runs/zoo/pgd_at/1"]
    with pytest.raises(UserError, match="there are zoo/hah, zoo/natural, zoo/pgd_at, zoo/polarizing"):
        command_line.read("test", ["--run", "zoo/vgg"])
    shutil.rmtree("runs/zoo/natural/1")
    assert model_zoo.resolve("zoo/natural", "runs").name == "1"


def test_the_network_of_a_model_needs_no_copy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = FromRun("zoo/natural", num_classes=10)
    assert network.checkpoint.is_relative_to(model_zoo.folder())
    assert network(torch.rand(2, 1, 16, 16)).shape == (2, 10)
    assert not list(tmp_path.iterdir())
    own = tmp_path / "zoo" / "natural"
    own.mkdir(parents=True)
    (own / "config.yaml").write_text("data: {class_path: Digits}")
    with pytest.raises(UserError, match="zoo/natural has no best checkpoint"):
        FromRun("zoo/natural")
