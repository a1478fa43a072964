"""What a report is made of: the finished tests of each run, by the weights that they were of."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lit_robust import runs
from lit_robust.callbacks.robust_report import RESULTS
from lit_robust.errors import UserError
from lit_robust.evaluation.paired import Column
from lit_robust.evaluation.store import PER_SAMPLE, SCHEMA
from lit_robust.report.request import Request
from lit_robust.unfinished import STATE

AUDIT = "audit"  # name of the audit's measurement


@dataclass(frozen=True, kw_only=True)
class Test:
    """A finished test.

    Attributes:
        title: What the test is called.
        folder: Its folder.
        results: Content of `results.json`; empty where only measurements were written.
        measurements: Contents of the measurements' JSON files by their names.
        config: Its settings; empty where they are not there.
    """

    title: str
    folder: Path
    results: Mapping[str, Any]
    measurements: Mapping[str, Mapping[str, Any]]
    config: Mapping[str, Any]

    def about(self, key: str) -> Any:  # noqa: ANN401 - JSON
        """What the test says about its network, its images or the version, or None."""
        return next((c[key] for c in (self.results, *self.measurements.values()) if c.get(key) is not None), None)

    @cached_property
    def images(self) -> str:
        """The data and the shape of its images, in words."""
        data = self.config.get("data") or {}
        name = runs.data_name(data) if data.get("class_path") else str(self.about("data") or "unknown data")
        arguments = data.get("init_args") or {}
        shape = [f"{key} {arguments[key]}" for key in ("size", "channels") if arguments.get(key) is not None]
        return ", ".join([name, *shape])

    def samples(self) -> dict[str, dict[str, Column]]:
        """The columns of `per_sample.parquet` by attack, each in the order of the images.

        Raises:
            UserError: If they are not there or cannot be read.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(self.folder / PER_SAMPLE)
            columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
            attack, order = columns.pop("attack"), np.argsort(columns["index"], kind="stable")
        except (OSError, KeyError, pa.ArrowException) as error:
            raise UserError(f"{self.folder / PER_SAMPLE} cannot be read ({error}); test the run again") from error
        rows = {name: order[attack[order] == name] for name in dict.fromkeys(attack.tolist())}
        return {name: {key: column[mine] for key, column in columns.items()} for name, mine in rows.items()}


@dataclass(frozen=True, kw_only=True)
class Model:
    """A run's network with certain weights, and its tests.

    Attributes:
        label: What it is called.
        run: The run folder.
        name: Name of the run, which its repetitions with other seeds share.
        config: The run's settings.
        tests: The newest finished test of each title.
        remarks: What was left out, in sentences.
    """

    label: str
    run: Path
    name: str
    config: Mapping[str, Any]
    tests: Sequence[Test]
    remarks: Sequence[str] = field(default=())

    def measured(self, name: str) -> list[Test]:
        """Its tests that hold a measurement."""
        return [test for test in self.tests if name in test.measurements]

    @cached_property
    def audit(self) -> Mapping[str, Any] | None:
        """What the audit of these weights says, or None if there was none."""
        found = self.measured(AUDIT)
        return None if not found else found[-1].measurements[AUDIT]

    def command(self, config: str) -> str:
        """The command that tests it with a config."""
        return f"python -m lit_robust test --run {shlex.quote(str(self.run))} --config {config}"


def read(asked: Request) -> list[Model]:
    """Reads the runs.

    Args:
        asked: Which runs.

    Returns:
        A model a run, or one for each of its weights where its tests were of several.

    Raises:
        UserError: If runs are of different data, or one of them has no finished test.
    """
    models = [m for run, label in zip(asked.runs, asked.labels, strict=True) for m in _models(run, label)]
    names = {m.label: runs.data_name(m.config["data"]) for m in models if "class_path" in (m.config.get("data") or {})}
    (first, data), *others = names.items() or [("", "")]
    for label, other in others:
        if other != data:
            raise UserError(
                f"{first} is on {data} and {label} on {other}: figures of different data do not go beside each other; "
                "write a report on each"
            )
    bare = next((model for model in models if not model.tests), None)
    if bare is not None:
        why = f" ({' '.join(bare.remarks)})" if bare.remarks else ""
        raise UserError(f"{bare.label} has no results to report{why}; make some: {bare.command('linf_8.yaml')}")
    return models


def _models(run: Path, label: str) -> list[Model]:
    config = runs.load_config(run)
    if not isinstance(config, dict):
        raise UserError(f"{run / runs.CONFIG} holds no settings of a run")
    tests, remarks = _tests(run)
    groups: dict[str | None, list[Test]] = {}
    for test in tests:
        groups.setdefault(test.about("network") or test.about("weights"), []).append(test)
    if len(groups) > 1:
        remarks.append(f"The tests of {label} are of {len(groups)} different weights, which have a row each.")
    names = _names(list(groups.values()))
    common: dict[str, Any] = {"run": run, "name": run.resolve().parent.name, "config": config}
    models = [
        Model(label=f"{label}{name}", tests=group, remarks=remarks if not i else (), **common)
        for i, (name, group) in enumerate(zip(names, groups.values(), strict=True))
    ]
    return models or [Model(label=label, tests=(), remarks=remarks, **common)]


def _names(groups: Sequence[Sequence[Test]]) -> list[str]:
    """What tells a run's weights apart: their file, or a number where that does not."""
    if len(groups) < 2:
        return [""] * len(groups)
    files = [Path(str(group[0].about("checkpoint") or "unknown")).stem for group in groups]
    return [f" ({n})" if files.count(n) == 1 else f" ({n}, {i})" for i, n in enumerate(files, start=1)]


def _tests(run: Path) -> tuple[list[Test], list[str]]:
    """The newest finished test of each title in order, and a sentence about each that was left out."""
    numbered = [(m[1], int(m[2]), p) for p in (run / "tests").glob("*") if (m := re.fullmatch(r"(.+)-(\d+)", p.name))]
    newest: dict[str, Test] = {}
    remarks = []
    for title, _, folder in sorted(numbered):
        read, why = _read(title, folder)
        if read is not None:
            newest[title] = read
        if why:
            remarks.append(why)
    return list(newest.values()), remarks


def _read(title: str, folder: Path) -> tuple[Test | None, str]:
    """A test if it is finished, else why it is left out."""
    paths = [path for path in sorted(folder.glob("*.json")) if path.name != STATE]
    if not (folder / RESULTS).is_file() and ((folder / STATE).is_file() or not paths):
        way = "; unless a process works in it, go on with it: python -m lit_robust test --resume "
        way = f"{way}{folder}" if (folder / STATE).is_file() else ""
        return None, f"{folder} is not finished and was left out{way}."
    try:
        contents = {path.stem: json.loads(path.read_text()) for path in paths}
        config = runs.load_config(folder) if (folder / runs.CONFIG).is_file() else {}
    except (OSError, ValueError) as error:
        return None, f"{folder} was left out, since its results cannot be read ({error}); run this test again."
    results = contents.get(Path(RESULTS).stem, {})
    if results and results.get("schema") != SCHEMA:
        return None, f"{folder} was left out: it was written by another version; run this test again."
    measurements = {name: c for name, c in contents.items() if isinstance(c, dict) and _is_measurement(name, c)}
    return Test(title=title, folder=folder, results=results, measurements=measurements, config=config), ""


def _is_measurement(name: str, content: Mapping[str, Any]) -> bool:
    return "measurement" in content or (name == AUDIT and "verdict" in content)
