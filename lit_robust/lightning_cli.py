"""`fit`, `validate`, `test` and `predict` on LightningCLI."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

import lit_robust.nn  # noqa: F401 - class names in a config are found among what is imported
from lit_robust import __version__, command_line, runs, unfinished
from lit_robust.callbacks import AtomicCheckpointIO, AttackProgressBar, Checkpoints, RobustEval
from lit_robust.callbacks.checkpoints import STATE
from lit_robust.callbacks.measurement import Measurement
from lit_robust.callbacks.predictions import PredictionsFile
from lit_robust.callbacks.robust_report import RESULTS
from lit_robust.command_line import CommandLine
from lit_robust.data import ImageData
from lit_robust.doctor.guard import guard_command
from lit_robust.errors import UserError
from lit_robust.follow import follow_data
from lit_robust.logger_settings import prepare_loggers
from lit_robust.loggers import METRICS, MetricsFile
from lit_robust.parser import ConfigParser, instantiate
from lit_robust.regimes import RobustClassifier
from lit_robust.time_limit import announce

_KINDS = {"fit": "", "validate": "validations", "test": "tests", "predict": "predictions"}
_SAVED = ("seed_everything", "model", "data", "trainer", "checkpoints", "evaluation")
_FOLDER = "LIT_ROBUST_FOLDER"  # tells the processes that Lightning starts which folder the first one claimed


def _rank() -> int:
    return int(getattr(rank_zero_only, "rank", 0))


def _as_list(value: Any) -> list[Any]:  # noqa: ANN401 - what the Trainer takes one or several of
    """One, several or none as a list."""
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def run_subcommand(subcommand: str, argv: Sequence[str]) -> None:
    """Parses the config, claims a folder and runs.

    Raises:
        UserError: For any mistake that is found before work starts.
    """
    line = command_line.read(subcommand, argv)
    if line.checkpoint is not None and _rank() == 0:
        print(f"checkpoint: {line.checkpoint}", flush=True)
    before = os.environ.get(_FOLDER)
    try:
        RobustCLI(line)
    except MisconfigurationException as error:
        raise UserError(str(error)) from error
    finally:
        if before is None:
            os.environ.pop(_FOLDER, None)


class RobustCLI(LightningCLI):
    """LightningCLI with run folders, and networks that follow the data.

    Args:
        line: What was asked for.
    """

    def __init__(self, line: CommandLine) -> None:
        self.line = line
        self.folder = Path()
        self._claimed: Path | None = None
        self._state: dict[str, Any] | None = None  # of the test that this process began or goes on with
        self._goes_on = False
        self._lock: int | None = None  # on the folder of the test
        self._content = None if line.checkpoint is None else runs.load_checkpoint(line.checkpoint)
        try:
            self._start()
        except BaseException:
            self._give_back()
            raise
        finally:
            unfinished.unlock(self._lock)

    def _start(self) -> None:
        super().__init__(
            model_class=RobustClassifier,
            datamodule_class=ImageData,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            parser_class=ConfigParser,
            parser_kwargs={"prog": "python -m lit_robust"},
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=self.line.arguments,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one subcommand that was asked for: building the others' parsers takes most of the start."""
        # Weights are loaded by `_load_weights`, which says what differs; `fit --resume` adds its own path.
        hidden = {"ckpt_path", "weights_only"}
        every = super().subcommands()
        return {self.line.subcommand: every[self.line.subcommand] | hidden}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The callbacks that every run has."""
        parser.add_lightning_class_args(Checkpoints, "checkpoints")
        parser.add_lightning_class_args(RobustEval, "evaluation")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:  # noqa: ANN401 - as Lightning's
        """Parses without a glance at `sys.argv`."""
        self.config = parser.parse_args(args)

    def instantiate_classes(self) -> None:
        """Data first, then a network that follows them, then the trainer in the folder of the run."""
        parser, config = self._parser(self.line.subcommand), self.config[self.line.subcommand]
        if config.model is None or config.data is None:
            raise UserError(f"nothing to {self.line.subcommand}: give a --config that has `model:` and `data:`")
        self.datamodule = instantiate(parser, Namespace(data=config.data)).data  # type: ignore[no-untyped-call]
        shape = self.datamodule.image_shape
        facts = {
            "num_classes": self.datamodule.num_classes,
            "in_channels": shape[0],
            "image_shape": list(shape),
            "trained_on": runs.data_name(config.data.as_dict()),
        }
        follow_data(config.model, facts)
        self.config_dump = self._plain(config)
        self._compare_with_resumed()
        self._claim()
        self._prepare_loggers(config)
        config.data = self.datamodule
        self.config_init = instantiate(self.parser, self.config)
        chosen = self.config_init[self.line.subcommand]
        self.model = chosen.model
        self._load_weights()
        self._guard()
        if self._state is not None:
            unfinished.remember(self.folder, self._state, self.model.network)
        evaluation = chosen.evaluation
        evaluation.provenance, evaluation.subject = self._provenance(), self._subject()
        evaluation.goes_on = self._goes_on
        self._save_config()
        self.trainer = self.instantiate_trainer()

    def _guard(self) -> None:
        """Stops before any work if a check of the doctor's list finds an error."""
        guard_command(self.model, self.datamodule, self.config_init[self.line.subcommand], self.line, rank=_rank())

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:  # noqa: ANN401 - as Lightning's
        """The trainer of the config, working in the run's folder."""
        config = self.config_init[self.line.subcommand].trainer
        kept = [logger for logger in _as_list(config.logger) if isinstance(logger, Logger)]
        config.callbacks = _as_list(config.callbacks)
        for callback in config.callbacks:
            if isinstance(callback, Measurement):
                callback.provenance, callback.goes_on = self._provenance(), self._goes_on
        if config.enable_progress_bar is not False:
            config.callbacks.append(AttackProgressBar())
        if self.line.subcommand == "predict":
            config.callbacks.append(PredictionsFile())
        own = {
            "default_root_dir": str(self.folder),
            "logger": [self._metrics_file(), *kept],
            "plugins": [*_as_list(config.plugins), AtomicCheckpointIO()],
        }
        return super().instantiate_trainer(**{**own, **kwargs})

    def before_fit(self) -> None:
        """Sends the whole config to the loggers; `metrics.csv` has it beside it."""
        for logger in self.trainer.loggers:
            logger.log_hyperparams(self.config_dump)

    before_test = before_fit

    def test(self, model: RobustClassifier, **kwargs: Any) -> None:  # noqa: ANN401 - as Lightning's
        """Says how long it will take and tests; `RobustEval` prints the table."""
        evaluation = self.config_init[self.line.subcommand].evaluation
        if evaluation.budget is not None and _rank() != 0:  # Lightning started it, and the first process has chosen
            self._state = unfinished.read(self.folder)
        if self._state is not None:
            announce(self.trainer, model, self.datamodule, evaluation, self._state)
            unfinished.write(self.folder, self._state)
        self.trainer.test(model, **{**kwargs, "verbose": False})
        if self._state is not None:
            unfinished.close(self.folder)

    def fit(self, model: RobustClassifier, **kwargs: Any) -> None:  # noqa: ANN401 - as Lightning's
        """Trains, or goes on training."""
        path = str(self.line.checkpoint) if self.line.resume else None
        self.trainer.fit(model, ckpt_path=path, weights_only=True, **kwargs)
        if self.trainer.is_global_zero:
            print(f"run: {self.folder}")

    def _claim(self) -> None:
        """Claims the folder of this command; only the first process does, and tells those that it starts."""
        line = self.line
        if line.subcommand == "test" and _rank() == 0:
            self._state = unfinished.identity(self.config_dump, self._content, self.datamodule.images(train=False))
        if os.environ.get(_FOLDER):
            self.folder = Path(os.environ[_FOLDER])
        elif _rank() != 0:
            self.folder = line.root / line.name  # started by a cluster; where folders matter, they are broadcast
        else:
            if line.resume and line.run is not None and line.test is None:
                self.folder = line.run
            elif not self._go_on():
                known = line.run if line.subcommand != "fit" else None
                run = known or runs.claim(line.root / line.name)
                kind = _KINDS[line.subcommand]
                self.folder = runs.claim(run / kind, f"{line.title}-") if kind else run
                self._claimed = self.folder if known else run
            os.environ[_FOLDER] = str(self.folder)
        if self._state is not None:
            self._lock = unfinished.lock(self.folder)

    def _go_on(self) -> bool:
        """Whether an interrupted test goes on; `self.folder` is then its folder."""
        line = self.line
        if self._state is None:
            return False
        found = unfinished.find(line.run or line.root / line.name / "*", line.title, self._state, named=line.test)
        if found is not None:
            (self.folder, self._state), self._goes_on = found, True
        return self._goes_on

    def _subject(self) -> tuple[dict[str, Any], str | None]:
        """The network's config and its checkpoint, for the script that verifies adversarials."""
        checkpoint = None if self.line.checkpoint is None else str(self.line.checkpoint)
        return self.config_dump["model"]["init_args"]["network"], checkpoint

    def _give_back(self) -> None:
        """Removes the claimed folder if nothing came of it."""
        results = ("checkpoints", METRICS, RESULTS, PredictionsFile.NAME, "parts")
        if self._claimed is not None and not any((self.folder / name).exists() for name in results):
            shutil.rmtree(self._claimed)

    def _metrics_file(self) -> MetricsFile:
        if not self.line.resume or self._content is None or self.line.test is not None:
            return MetricsFile(self.folder)
        return MetricsFile(self.folder, keep_below=self._content[STATE]["logged_below"])

    def _plain(self, config: Namespace) -> dict[str, Any]:
        """The config as it will be saved: what describes the run, not this call."""
        dumped = self._parser(self.line.subcommand).dump(config, skip_unset=False)
        plain: dict[str, Any] = yaml.safe_load(dumped)
        return {key: plain[key] for key in _SAVED if key in plain}

    def _compare_with_resumed(self) -> None:
        """Refuses settings that a resumed run would take from its checkpoint all the same."""
        if not self.line.resume or self.line.run is None or self.line.test is not None:
            return
        saved = runs.load_config(self.line.run)
        other = [key for key in runs.differences(saved, self.config_dump) if not key.startswith("trainer.")]
        if other:
            raise UserError(
                f"a resumed run keeps its settings, but {', '.join(other)} would change; only trainer.* may, such as "
                f"trainer.max_epochs. To start a new run from its weights: fit --run {self.line.run}"
            )
        if self._content is None or not {STATE, "loops", "state_dict"} <= set(self._content):
            raise UserError(f"{self.line.checkpoint} is no checkpoint of a run, which is needed to go on with one")

    def _save_config(self) -> None:
        """Writes the config; that of a resumed run only if it changed, beside the first."""
        path = self.folder / runs.CONFIG
        if self.line.resume and self.line.test is None and runs.load_config(self.folder) != self.config_dump:
            path = self.folder / f"config.resumed-{len(list(self.folder.glob('config.resumed-*'))) + 1}.yaml"
        if _rank() == 0 and not path.exists():
            path.write_text(yaml.safe_dump(self.config_dump, sort_keys=False, allow_unicode=True))

    def _prepare_loggers(self, config: Namespace) -> None:
        wandb_id = (self._content or {}).get(STATE, {}).get("wandb_id") if self.line.resume else None
        prepare_loggers(_as_list(config.trainer.logger), self.folder, self.line.name, wandb_id)

    def _load_weights(self) -> None:
        if self._content is not None and self.line.checkpoint is not None:
            runs.load_weights(self.model.network, runs.network_weights(self._content), self.line.checkpoint)

    def _provenance(self) -> dict[str, Any]:
        """Where an evaluation's weights come from."""
        state = (self._content or {}).get(STATE)
        selected = "unknown" if state is None else state["metric"] or "last"
        return {
            "title": self.line.title,
            "run": None if self.line.run is None else str(self.line.run),
            "checkpoint": None if self.line.checkpoint is None else str(self.line.checkpoint),
            "selected": "untrained" if self._content is None else selected,
            "data": type(self.datamodule).__name__,
            "lit_robust": __version__,
            **{key: self._state[key] for key in ("weights", "network", "images") if self._state is not None},
        }
