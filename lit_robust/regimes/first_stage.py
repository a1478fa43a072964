"""The network of another run as the first stage of partial training."""

from __future__ import annotations

from pathlib import Path
from pydoc import ErrorDuringImport, locate
from typing import Any

from torch import nn

from lit_robust import runs
from lit_robust.errors import UserError
from lit_robust.regimes.base import AttackedClassifier
from lit_robust.regimes.natural import Natural
from lit_robust.regimes.partial_layers import Code, stage_kind

_WAYS = {"A": "an adversarial regime, such as AdversarialTraining", "N": "a natural regime, such as Natural"}


def load_first_stage(network: nn.Module, run: str, code: Code, data: str | None) -> None:
    """Loads the weights of a run that was trained as a code's first stage.

    They are those that the run reports: the best where one was chosen, else the last.

    Args:
        network: The network that gets them.
        run: Run folder.
        code: The code.
        data: Class of the data module that the run must have been trained on; None for any.

    Raises:
        UserError: If there is no such run or no checkpoint, it was trained in another way than the code says or on
            other data, or it has another architecture.
    """
    folder = Path(run)
    if not folder.is_dir():
        raise UserError(f"first_stage: no run folder {run}; train it first, or set first_stage: null")
    config = runs.load_config(folder)
    _require_kind(config["model"], run, code)
    trained_on = str(config["data"]["class_path"]).rpartition(".")[2]
    if data is not None and trained_on != data:
        raise UserError(f"first_stage: {data} expected, {trained_on} found: {run} was trained on other data")
    path = runs.checkpoint(folder, None)
    if path is None:
        raise UserError(f"first_stage: {run} has no checkpoint; train it first")
    try:
        runs.load_weights(network, runs.network_weights(runs.load_checkpoint(path)), path)
    except UserError as error:
        found = str(config["model"]["init_args"]["network"]["class_path"]).rpartition(".")[2]
        raise UserError(
            f"first_stage: the architecture of this run expected ({type(network).__name__}), another found ({found} of "
            f"{run}): {error}"
        ) from error


def _require_kind(model: dict[str, Any], run: str, code: Code) -> None:
    """Refuses a run that was trained in another way than a code's first stage."""
    expected, found = stage_kind(code, 1), _kind(model)
    if found == expected:
        return
    regime = str(model["class_path"]).rpartition(".")[2]
    other = "N" if expected == "A" else "A"
    remedy = f", or choose a code with {found}1" if found == other else ""
    raise UserError(
        f"first_stage: {expected} expected, {found} found: {code} starts from a network trained by "
        f"{_WAYS[expected]}, and {run} was trained by {regime}. Name another run{remedy}"
    )


def _kind(model: dict[str, Any]) -> str:
    """A or N for a network that was trained in one way throughout, else what it is."""
    path, settings = str(model["class_path"]), model.get("init_args") or {}
    if "first_stage" in settings and "code" in settings:
        return f"a part of each ({settings['code']})"
    try:
        regime = locate(path)
    except ErrorDuringImport:
        regime = None
    if isinstance(regime, type) and issubclass(regime, AttackedClassifier):
        return "A"
    return "N" if isinstance(regime, type) and issubclass(regime, Natural) else "neither"
