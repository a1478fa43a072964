"""The command `export`: writes the files, runs what they rebuild against the original, and claims what was measured."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from lit_robust import model_zoo
from lit_robust.command_line import split
from lit_robust.errors import UserError
from lit_robust.export import files, subject
from lit_robust.export.agreement import check_export
from lit_robust.export.claim import CLAIM, claim
from lit_robust.export.entry_rules import entry_rules
from lit_robust.export.measured import measured
from lit_robust.export.subject import Subject

_OWN = ("--run", "--ckpt_path", "--to", "--runs")

HELP = f"""usage: python -m lit_robust export --run RUN [--ckpt_path WHICH] [--to FOLDER]

Writes a trained network so that it can be used without its run:

  {files.WEIGHTS}           a plain state dict
  {files.SAFETENSORS}  the same, with the package safetensors
  {files.NETWORK}         the network's config
  {files.LOAD}              puts them together
  {CLAIM}           accuracies as the run's finished tests give them, the verdict of its audit, and which rules of
                       entry of RobustBench the network breaks

What {files.LOAD} rebuilds is run against the original on test images; if one logit differs, nothing is written.

  --run RUN          the run, or zoo/NAME
  --ckpt_path WHICH  best, last or a file (default: the best where one was kept)
  --to FOLDER        a new or empty folder (default: RUN/export)
  --runs FOLDER      folder of all runs, instead of runs/, where a model of the zoo is laid out"""


def main(argv: Sequence[str]) -> int:
    """Exports the network of a run.

    Args:
        argv: What follows `export`.

    Raises:
        UserError: If the run, its checkpoint or the target cannot be used, or what was exported is not the original.
    """
    if any(a in ("-h", "--help") for a in argv):
        print(HELP)
        return 0
    own, others = split(argv, _OWN)
    if others or len(own["--run"]) != 1:
        wrong = f"export knows no {others[0]!r}" if others else f"expected one --run, got {len(own['--run'])}"
        raise UserError(f"{wrong}; export --run RUN [--ckpt_path best|last|FILE] [--to FOLDER]")
    run = model_zoo.resolve(own["--run"][0], own["--runs"][-1] if own["--runs"] else "runs")
    target = Path(own["--to"][-1]) if own["--to"] else run / "export"
    files.check_target(target)
    content = export(subject.load(run, own["--ckpt_path"][-1] if own["--ckpt_path"] else None), target)
    _print(target, content)
    return 0


def export(given: Subject, target: Path) -> dict[str, Any]:
    """Writes the files of an export, all or none.

    Args:
        given: The network.
        target: A new or empty folder.

    Returns:
        The claim.

    Raises:
        UserError: If what was exported is not the original, or the folder cannot be written.
    """
    aside = target.parent / f".{target.name}-{uuid4().hex}"
    try:
        aside.mkdir(parents=True)
        missing = files.write(aside, given.spec, given.network.state_dict())
        agree = check_export(aside, given)
        content = claim(given, entry_rules(given.network, given.images), measured(given.run, given.stored))
        kind = "test" if given.real else "random"
        content["files"] = {"same_logits": agree, "images": f"{len(given.images)} {kind} images"}
        content["notes"] += [missing] if missing else []
        (aside / CLAIM).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        shutil.rmtree(aside / "__pycache__", ignore_errors=True)
        os.replace(aside, target)  # an empty folder is replaced, one that was filled meanwhile is not
    except OSError as error:
        raise UserError(f"cannot write to {target}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return content


def _print(target: Path, content: dict[str, Any]) -> None:
    robust = content["robust_accuracy"]
    print(f"{content['name']}: {content['architecture']}, {content['number_of_parameters']:,} parameters")
    if robust is not None:
        low, high = robust["interval_95"]
        audit = "" if content["audit"] is None else f"; audit: {content['audit']['verdict'].upper()}"
        print(
            f"robust accuracy at most {robust['accuracy']:.1%} of {robust['n']:,} ({low:.1%} to {high:.1%}) in "
            f"{robust['Lp']} {robust['eps']}, {robust['protocol']}{audit}"
        )
    print(f"rules of entry broken: {', '.join(content['breaks']) or 'none'}")
    for note in content["notes"]:
        print(f"note: {note}")
    print(f"same logits, bit for bit, on {content['files']['images']}: {', '.join(content['files']['same_logits'])}")
    print(f"export: {target}")
