"""`metrics.csv`, and figures for the loggers that show them."""

import csv

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.figure import Figure

from lit_robust.loggers import MetricsFile, log_figure


def read(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folder(tmp_path):
    run = tmp_path / "name" / "3"
    run.mkdir(parents=True)
    return run


def test_a_row_is_on_disk_as_soon_as_it_is_logged(folder):
    logger = MetricsFile(folder)
    assert not logger.path.exists()
    for step in range(3):
        logger.log_metrics({"epoch": 0.0, "train/loss": 2.5 - step}, step=step)
        assert len(read(folder)) == step + 1
    assert read(folder)[2] == {"epoch": "0", "step": "2", "train/loss": "0.5"}
    assert logger.path.read_text().splitlines()[0] == "epoch,step,train/loss"


def test_a_row_that_adds_no_column_is_appended(folder):
    logger = MetricsFile(folder)
    logger.log_metrics({"a": 1}, step=0)
    logger.path.write_text(logger.path.read_text() + "# kept\n")
    logger.log_metrics({"a": 2}, step=1)
    assert "# kept" in logger.path.read_text()  # long runs do not rewrite the file at every step


def test_new_columns_come_behind_and_leave_earlier_rows_open(folder):
    logger = MetricsFile(folder)
    logger.log_metrics({"train/loss": 1.0}, step=0)
    logger.log_metrics({"val/loss": 2.0, "val/acc": 0.5, "epoch": 0}, step=0)
    logger.log_metrics({"train/loss": 0.5}, step=1)
    assert logger.path.read_text().splitlines()[0] == "epoch,step,train/loss,val/acc,val/loss"
    rows = read(folder)
    assert rows[0] == {"epoch": "", "step": "0", "train/loss": "1.0", "val/acc": "", "val/loss": ""}
    assert rows[1] == {"epoch": "0", "step": "0", "train/loss": "", "val/acc": "0.5", "val/loss": "2.0"}
    assert rows[2]["train/loss"] == "0.5"
    assert rows[2]["val/acc"] == ""
    assert [p.name for p in folder.iterdir()] == ["metrics.csv"]


def test_a_resumed_run_drops_the_steps_that_run_again_and_goes_on(folder):
    whole = MetricsFile(folder)
    for step in range(5):
        whole.log_metrics({"train/loss": step}, step=step)
        if step % 2:
            whole.log_metrics({"val/acc": step}, step=step)
    resumed = MetricsFile(folder, keep_below=3)
    assert [row["step"] for row in read(folder)] == ["0", "1", "1", "2"]
    resumed.log_metrics({"train/loss": 30}, step=3)
    resumed.log_metrics({"val/new": 1}, step=3)
    rows = read(folder)
    assert [row["step"] for row in rows] == ["0", "1", "1", "2", "3", "3"]
    assert [row["train/loss"] for row in rows] == ["0.0", "1.0", "", "2.0", "30.0", ""]
    assert [row["val/acc"] for row in rows] == ["", "", "1.0", "", "", ""]
    assert rows[-1]["val/new"] == "1.0"


def test_a_new_run_does_not_keep_an_old_file(folder):
    MetricsFile(folder).log_metrics({"a": 1, "b": 2}, step=0)
    MetricsFile(folder).log_metrics({"a": 3}, step=0)
    assert read(folder) == [{"epoch": "", "step": "0", "a": "3.0"}]


def test_a_resume_without_a_file_starts_one(folder):
    MetricsFile(folder, keep_below=5).log_metrics({"a": 1}, step=5)
    assert read(folder) == [{"epoch": "", "step": "5", "a": "1.0"}]


def test_only_the_first_process_writes(folder, monkeypatch):
    MetricsFile(folder).log_metrics({"a": 1}, step=0)
    MetricsFile(folder).log_metrics({"a": 2}, step=1)
    before = (folder / "metrics.csv").stat()
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    resumed = MetricsFile(folder, keep_below=1)  # the processes of a resumed run construct it at the same time
    resumed.log_metrics({"a": 3}, step=1)
    after = (folder / "metrics.csv").stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def test_it_is_named_after_its_run(folder):
    logger = MetricsFile(folder)
    assert (logger.name, logger.version) == ("name", "3")
    assert logger.save_dir == logger.log_dir == str(folder)
    logger.log_hyperparams({"a": 1})
    assert list(folder.iterdir()) == []


def test_figures_go_to_every_logger_that_shows_them(tmp_path, monkeypatch):
    logged = []

    class Board(TensorBoardLogger):
        @property
        def experiment(self):
            return type("Writer", (), {"add_figure": lambda _, *args, **kwargs: logged.append((args, kwargs))})()

    class Wandb(WandbLogger):
        def __init__(self):
            pass

        @property
        def experiment(self):
            return type("Run", (), {"log": lambda _, *args, **kwargs: logged.append((args, kwargs))})()

    import wandb

    monkeypatch.setattr(wandb, "Image", lambda figure: ("image", figure))
    figure = Figure()
    loggers = [CSVLogger(tmp_path), Board(tmp_path), MetricsFile(tmp_path), Wandb()]
    log_figure(loggers, "test/adversarial", figure, 7)
    assert logged == [
        (("test/adversarial", figure), {"global_step": 7}),
        (({"test/adversarial": ("image", figure)},), {"commit": False}),
    ]


def test_tensorboard_gets_a_real_figure(tmp_path):
    figure = Figure()
    figure.subplots().plot([1, 2])
    logger = TensorBoardLogger(tmp_path)
    log_figure([logger], "test/adversarial", figure, 7)
    logger.finalize("success")
    events = list(tmp_path.rglob("events*"))
    assert sum(p.stat().st_size for p in events) > 1000
