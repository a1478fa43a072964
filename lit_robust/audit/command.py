"""The command `audit`: a test with the audit's measurement, and its verdicts."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities import rank_zero_only

from lit_robust import command_line, model_zoo, shipped
from lit_robust.audit.show import verdict_table
from lit_robust.audit.threat_of import threat_of
from lit_robust.errors import UserError
from lit_robust.lightning_cli import run_subcommand

_OWN = ("--eps", "--norm", "--images", "--surrogate", "--backward")
_STRICT = "--strict"
_CONFIG = "audit.yaml"
_REPORT = "audit.json"
_BLOCK = 100  # images
_TESTS_OPTIONS = ("--run", "--config", "--resume", "--runs")

HELP = """usage: python -m lit_robust audit --run RUN [--eps 8/255] [--norm linf] [--images 500] [--strict] ...

Is a robust accuracy credible? Attacks a network in eleven ways that must agree with each other: each check passes,
warns or fails, says its figure, why it matters and what to do next. audit.json and audit.png go to the run's
tests/audit-<n>/. All other options are those of `test`, such as --model-file.

  --run RUN          the run
  --eps RADIUS       the radius; unless given, with its norm, that of the first attack of the run's config
  --norm NORM        linf, l2 or l1
  --images N         the first N test images, in blocks of 100 (default: 500)
  --strict           exit code 1 if a check fails
  --surrogate RUN    another run whose adversarials are transferred; several may be given. Without one a small
                     substitute is trained on what the network says
  --backward L=WAY   a backward pass that the attacks go through, such as quantizer=identity; several may be given"""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What an `audit` command line asks for.

    Attributes:
        settings: Arguments of the measurement.
        options: Options of `test`, as they stood.
        strict: Whether a check that fails makes the command fail.
    """

    settings: dict[str, Any]
    options: list[str]
    strict: bool

    def arguments(self, config: Path) -> list[str]:
        """The arguments of `test`, with the audit's config over all others.

        Args:
            config: The audit's config.
        """
        size = ["--data.eval_batch_size", str(min(_BLOCK, self.settings["images"] or _BLOCK))]
        given = any(option.split("=")[0] == size[0] for option in self.options)
        return [*self.options, "--config", str(config), *([] if given else size)]


def main(argv: Sequence[str]) -> int:
    """Audits a model.

    Args:
        argv: What follows `audit`.

    Returns:
        1 with `--strict` if a check fails, else 0.

    Raises:
        UserError: For a mistake, before the first attack.
    """
    if any(a in ("-h", "--help") for a in argv):
        print(HELP)
        return 0
    asked = read(argv)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / _CONFIG  # a test is called after its last config
        config.write_text(yaml.safe_dump(_config(asked.settings), sort_keys=False, allow_unicode=True))
        arguments = asked.arguments(config)
        tests = _tests(arguments)
        before = _reports(tests)
        run_subcommand("test", arguments)
    new = {path: when for path, when in _reports(tests).items() if before.get(path) != when}
    if not new or int(getattr(rank_zero_only, "rank", 0)) != 0:  # it asked for settings, or another process tells
        return 0
    return _tell(max(new, key=lambda path: new[path]), strict=asked.strict)


def read(argv: Sequence[str]) -> Request:
    """Takes a command line apart.

    Args:
        argv: What follows `audit`.

    Raises:
        UserError: If an option has no value or a wrong one, or there is no radius.
    """
    own, options = command_line.split([a for a in argv if a != _STRICT], _OWN)
    settings: dict[str, Any] = {"images": _images(own["--images"], options), **_ball(own, options)}
    if own["--surrogate"]:
        settings["surrogates"] = [_surrogate(run, options) for run in own["--surrogate"]]
    if own["--backward"]:
        settings["backward"] = dict(map(_way, own["--backward"]))
    return Request(settings=settings, options=options, strict=_STRICT in argv)


def _config(settings: dict[str, Any]) -> dict[str, Any]:
    """The shipped config with these settings of the measurement."""
    config: dict[str, Any] = yaml.safe_load(shipped.find(_CONFIG).read_text())
    (callback,) = config["trainer"]["callbacks"]
    callback["init_args"] = {**callback.get("init_args", {}), **settings}
    return config


def _ball(own: dict[str, list[str]], options: Sequence[str]) -> dict[str, str]:
    if own["--eps"]:
        return {"eps": own["--eps"][-1], "norm": own["--norm"][-1] if own["--norm"] else "linf"}
    if own["--norm"]:
        raise UserError("--norm needs the radius in that norm: --eps")
    values, _ = command_line.split(list(options), _TESTS_OPTIONS)
    if values["--resume"]:
        raise UserError("--resume needs --eps; the same `audit` as before goes on by itself")
    root = Path(values["--runs"][-1] if values["--runs"] else "runs")
    run = [model_zoo.resolve(value, root) / "config.yaml" for value in values["--run"][-1:]]
    threat = threat_of([path for path in run if path.is_file()] + [shipped.find(name) for name in values["--config"]])
    print(f"audit: {threat}, as the run's attacks have it (--eps and --norm choose another ball)", flush=True)
    return {"eps": str(threat.exact), "norm": threat.norm}


def _images(values: Sequence[str], options: Sequence[str]) -> int | None:
    if not values:
        return None if any(o.split("=")[0] == "--trainer.limit_test_batches" for o in options) else 500
    if not values[-1].isdigit() or (images := int(values[-1])) < 1:
        raise UserError(f"--images: expected a number of test images, got {values[-1]}")
    return images


def _surrogate(run: str, options: Sequence[str]) -> dict[str, Any]:
    values, _ = command_line.split(list(options), ("--runs",))
    folder = model_zoo.resolve(run, Path(values["--runs"][-1] if values["--runs"] else "runs"))
    if not folder.is_dir():
        raise UserError(f"--surrogate: no run folder {run}")
    return {"class_path": "lit_robust.nn.FromRun", "init_args": {"run": str(folder)}}


def _way(value: str) -> tuple[str, str]:
    layer, equals, way = value.partition("=")
    if not layer or not equals or not way:
        raise UserError(f"--backward: expected a layer and its backward pass, quantizer=identity, got {value}")
    return layer, way


def _tests(arguments: Sequence[str]) -> list[Path]:
    """Folders that may hold this audit's test: of the run, or of any run of its name."""
    line = command_line.read("test", arguments)
    if line.test is not None:
        return [line.test.parent]
    return [line.run / "tests"] if line.run is not None else [line.root / line.name]


def _reports(folders: Sequence[Path]) -> dict[Path, int]:
    """All audits below some folders, by when they were written."""
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob(_REPORT)}


def _tell(path: Path, *, strict: bool) -> int:
    """Prints the verdicts, and returns the exit code."""
    from rich.console import Console

    content = json.loads(path.read_text())
    Console(width=140).print(verdict_table(content))
    print(f"audit: {content['verdict']} ({path.with_suffix('.png')})")
    return int(strict and content["verdict"] == "fail")
