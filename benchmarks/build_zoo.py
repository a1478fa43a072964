"""Makes the models of `lit_robust/zoo`: trains each with a shipped config, tests it, and keeps what a run needs.

    python -m benchmarks.build_zoo                  # all four, twenty minutes on two cores
    python -m benchmarks.build_zoo --only natural   # the others stay as they are

Of the checkpoint the weights stay, since nobody goes on with a training of another machine. Of the tests the figures
and the rows of all images stay.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lit_robust import model_zoo, runs
from lit_robust.callbacks.checkpoints import STATE
from lit_robust.evaluation.store import PER_SAMPLE

ATTACKS = Path(__file__).parent / "zoo_attacks.yaml"
KEPT = ("config.yaml", "metrics.csv", "results.json", PER_SAMPLE)
SMOKE = ("--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.limit_val_batches=1")


@dataclass(frozen=True)
class ZooModel:
    """How a model is made.

    Attributes:
        config: The shipped config that it is trained and tested with.
        training: Options of `fit`.
        attacks: Options of the test that all models get.
    """

    config: str
    training: tuple[str, ...] = ()
    attacks: tuple[str, ...] = ()


_THRESHOLDS = '{"block*.threshold": [exact, identity]}'
_NARROW = "--model.init_args.network.init_args.width=0.125"  # of its config's 0.25, which takes 3.7 MB
MODELS = {
    "natural": ZooModel("natural_digits.yaml"),
    "pgd_at": ZooModel("quickstart.yaml"),
    "hah": ZooModel("hah_digits.yaml", (_NARROW,), (f"--evaluation.attacks.apgd.surrogates={_THRESHOLDS}",)),
    "polarizing": ZooModel("polarizing_digits.yaml"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=MODELS, nargs="+", default=list(MODELS), help="models to make")
    parser.add_argument("--out", type=Path, default=model_zoo.folder(), help="where they go")
    parser.add_argument("--smoke", action="store_true", help="hardly trained, to see that it works; needs --out")
    given = parser.parse_args()
    if given.smoke and given.out == model_zoo.folder():
        parser.error("models that are hardly trained are for another folder: --out FOLDER")
    for name in given.only:
        with tempfile.TemporaryDirectory() as folder:
            run = make(name, Path(folder), smoke=given.smoke)
            target = given.out / name
            shutil.rmtree(target, ignore_errors=True)
            keep(run, target)
        print(f"{name}: {sum(p.stat().st_size for p in target.rglob('*') if p.is_file()) / 1e6:.2f} MB", flush=True)
    write_sums(given.out)


def make(name: str, folder: Path, *, smoke: bool = False) -> Path:
    """Trains and tests a model.

    Args:
        name: Name of the model.
        folder: Folder to work in.
        smoke: Hardly trained, and tested on one batch.

    Returns:
        Its run, `runs/zoo/NAME/1` in the folder, which is where it will be laid out.
    """
    model, run = MODELS[name], Path("runs") / model_zoo.PREFIX / name / "1"
    quiet = ("--trainer.enable_progress_bar=false",)
    training = (*model.training, *(SMOKE if smoke else ()))
    _command(folder, "fit", "--config", model.config, "--name", f"{model_zoo.PREFIX}/{name}", *training, *quiet)
    found = runs.checkpoint(folder / run, None)
    assert found is not None, "training leaves a checkpoint"
    weights_only(found)
    short = ("--trainer.limit_test_batches=1", "--data.eval_batch_size=4") if smoke else ()
    _command(folder, "test", "--run", str(run), *short, *quiet)  # with the attacks of its own config
    _command(folder, "test", "--run", str(run), "--config", str(ATTACKS), *model.attacks, *short, *quiet)
    return folder / run


def weights_only(path: Path) -> None:
    """Leaves the network's weights in a checkpoint, and by which metric it was chosen."""
    content = runs.load_checkpoint(path)
    kept = {"state_dict": content["state_dict"], STATE: {"metric": content[STATE]["metric"]}}
    torch.save(kept, path)


def keep(run: Path, target: Path) -> None:
    """Copies a run without its other checkpoint, and without adversarials of its tests."""
    chosen = runs.checkpoint(run, None)
    assert chosen is not None, "it was tested"
    files = [chosen, run / "config.yaml", run / "metrics.csv"]
    files += [path for path in (run / "tests").glob("*/*") if path.name in KEPT]
    for path in files:
        copy = target / path.relative_to(run)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        if path.name == PER_SAMPLE:
            repack(copy)


def repack(path: Path) -> None:
    """Writes a table again, with the same rows in half of the bytes."""
    table = pq.read_table(path)
    numbers = [name for name in table.column_names if pa.types.is_floating(table.schema.field(name).type)]
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=19,
        write_statistics=False,
        use_dictionary=[name for name in table.column_names if name not in numbers],
        use_byte_stream_split=numbers,
    )


def write_sums(folder: Path) -> None:
    """Writes the SHA-256 of every file of every model."""
    files = sorted(path for path in folder.glob("*/**/*") if path.is_file())
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder).as_posix()}\n" for p in files]
    (folder / model_zoo.SUMS).write_text("".join(lines))


def _command(folder: Path, *argv: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    print("python -m lit_robust", *argv, flush=True)
    subprocess.run([sys.executable, "-m", "lit_robust", *argv], cwd=folder, env=environment, check=True)


if __name__ == "__main__":
    main()
