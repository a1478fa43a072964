"""The settings of each run's test, known before any test runs, and what of them has to be the same for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_robust import command_line, runs
from lit_robust.callbacks import Measurement
from lit_robust.data import ImageData
from lit_robust.data.downloaded import DownloadedData
from lit_robust.errors import UserError
from lit_robust.lightning_cli import _as_list
from lit_robust.rehearsal import Rehearsal

# Settings of a data module that choose no test image: all others, also those of classes not known here, have to agree.
_TRAINING = ("batch_size", "val_split", "augment", "seed", "download", "max_memory_gib")


@dataclass(frozen=True, kw_only=True)
class PlannedTest:
    """A run's test before it runs.

    Attributes:
        config: The whole config, as the test's folder will hold it.
        shared: The part that decides which images are shown and what is done to them.
        checkpoint: The weights.
        measurements: Names of the measurements.
    """

    config: Mapping[str, Any]
    shared: Mapping[str, Any]
    checkpoint: Path
    measurements: tuple[str, ...]


def plan(arguments: Sequence[str]) -> PlannedTest:
    """Builds what a test would run, and says with which settings.

    Args:
        arguments: What follows `test`.

    Raises:
        UserError: For any mistake that the test would find before its work.
    """
    line = command_line.read("test", arguments)
    rehearsal = Rehearsal(line)
    assert line.checkpoint is not None, "only best and last are passed on, or neither"
    config = rehearsal.config_dump
    written = zip(_as_list(config["trainer"].get("callbacks")), rehearsal.callbacks, strict=True)
    measuring = [(entry, callback) for entry, callback in written if isinstance(callback, Measurement)]
    for _, callback in measuring:
        callback.check(rehearsal.model.network, rehearsal.datamodule)
    evaluation = config["evaluation"]
    shared = {
        "data": image_settings(config["data"], rehearsal.datamodule),
        "evaluation": {key: evaluation[key] for key in ("attacks", "seed", "cascade")},
        "trainer": {
            "limit_test_batches": config["trainer"].get("limit_test_batches"),
            "callbacks": [entry for entry, _ in measuring],
        },
    }
    return PlannedTest(
        config=config,
        shared=shared,
        checkpoint=line.checkpoint,
        measurements=tuple(callback.name for _, callback in measuring),
    )


def image_settings(config: Mapping[str, Any], module: ImageData) -> dict[str, Any]:
    """The settings of a data module that decide which test images are shown.

    Args:
        config: Its class path and arguments.
        module: The data module.
    """
    arguments = {key: value for key, value in config.get("init_args", {}).items() if key not in _TRAINING}
    root = getattr(module, "root", None)
    if isinstance(module, DownloadedData):
        arguments.pop("root", None)  # the same files wherever they lie
    elif "root" in arguments and isinstance(root, Path):
        arguments["root"] = str(root.absolute())  # where no root is given, too
    return {"class_path": config["class_path"], "init_args": arguments}


def check_alike(labels: Sequence[str], tests: Sequence[PlannedTest]) -> None:
    """Refuses tests that would show other images to another run, or treat them otherwise.

    Raises:
        UserError: Naming the settings that differ.
    """
    for label, test in zip(labels[1:], tests[1:], strict=True):
        found = runs.differences(tests[0].shared, test.shared)
        if found:
            values = [f"{path} ({_at(tests[0].shared, path)} and {_at(test.shared, path)})" for path in found]
            option = found[0].replace("init_args.", "").removesuffix(".class_path")
            raise UserError(
                f"{labels[0]} and {label} would not be tested alike: they differ in {', '.join(values)}. Pairs need "
                f"the same images and attacks; set these for all runs, in a --config or as --{option} VALUE"
            )


def _at(config: Any, path: str) -> str:  # noqa: ANN401 - configs
    """What stands at a dotted path, in few words; names of attacks may have dots of their own."""
    for key, value in config.items() if isinstance(config, Mapping) else ():
        if path == key:
            return text if len(text := str(value)) <= 60 else f"{text[:57]}..."
        if path.startswith(f"{key}."):
            return _at(value, path.removeprefix(f"{key}."))
    return "not there"
