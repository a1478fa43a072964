"""Screening: adaptive attacks become rows, of the backward passes that were the strongest on the first test images.

Every combination is on disk once it has run, so that an evaluation that was interrupted goes on with the next one.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lit_robust import sampling
from lit_robust.attacks import Attack
from lit_robust.attacks.adaptive import Adaptive
from lit_robust.attacks.minimum_norm import counted_in
from lit_robust.attacks.through import Through
from lit_robust.attacks.transfer import Transfer
from lit_robust.backward import chosen
from lit_robust.evaluation.protocol import describe
from lit_robust.evaluation.store import remove_parts, writing
from lit_robust.evaluation.summary import share
from lit_robust.evaluation.verdict import BlockResult
from lit_robust.sampling import Noise
from lit_robust.threat import ThreatModel

Block = tuple[Tensor, Tensor, Tensor]  # images (N, C, H, W), labels (N,), indices (N,)
_COLUMNS = ("index", "right", "right_before", "forwards", "backwards", "seconds", "x_adv")


@dataclass(frozen=True, kw_only=True)
class Replay(Attack):
    """Answers with adversarials that are known already, and with the clean image where there is none.

    Args:
        threat: Where they lie.
        images: How many samples were searched for one.
        keys: Noise keys of the samples that have one, (M,).
        x_adv: These, (M, C, H, W).
    """

    threat: ThreatModel
    images: int
    keys: Tensor = field(repr=False, compare=False)
    x_adv: Tensor = field(repr=False, compare=False)

    @property
    def threat_model(self) -> ThreatModel:
        """The images that it may answer with."""
        return self.threat

    def passes(self, classes: int) -> tuple[int, int] | None:
        """None at all."""
        return 0, 0

    def search(self, model: nn.Module, x: Tensor, y: Tensor, noise: Noise) -> Tensor:
        """What is known of each sample."""
        if not len(self.keys):
            return x
        same = noise.key[:, None] == self.keys.to(noise.key.device)
        known = self.x_adv.to(x)[same.int().argmax(1)]
        return torch.where(same.any(1).view(-1, *[1] * (x.ndim - 1)), known, x)


class Screening:
    """The attacks of an evaluation, of which adaptive ones become rows once their combinations are screened.

    Args:
        attacks: Attacks by name.
        network: The network that they run on.
        folder: Folder of the evaluation.

    Raises:
        UserError: If an adaptive attack does not fit the network.
    """

    def __init__(self, attacks: Mapping[str, Attack], network: nn.Module, folder: Path) -> None:
        self.attacks = attacks
        self._members = {n: a.members(network) for n, a in attacks.items() if isinstance(a, Adaptive)}
        self._folder = folder

    def clear(self) -> None:
        """Removes what is on disk: all is done, or nobody goes on with it."""
        remove_parts(self._parts)

    def run(
        self, blocks: Callable[[int], Sequence[Block]], measure: Callable[[Block, Mapping[str, Attack]], BlockResult]
    ) -> None:
        """Runs each combination that has not run yet on the first images.

        Args:
            blocks: The first so many test images, in blocks.
            measure: The verdicts of attacks on a block.

        Raises:
            UserError: If the disk is full or cannot be written.
        """
        for name, attack in self._screened().items():
            missing = [label for label in self._members[name] if self._read(name, label) is None]
            first = blocks(attack.screen) if missing else []
            if missing:
                count = f"{len(missing)} of {len(self._members[name])} combinations of backward passes"
                print(f"{name}: screening {count} on {sum(len(y) for _, y, _ in first)} images", flush=True)
            for label in missing:
                row = f"{name}/{label}"
                results = [measure(block, {row: self._members[name][label]}) for block in first]
                with writing(self._folder, f"the screening of {row}"):
                    self._write(name, label, [_columns(result, row) for result in results])

    def rows(self, seed: int) -> dict[str, Attack]:
        """The attacks by name, an adaptive one as `<its name>/<combination>` for each that was kept, strongest first.

        Before them stands `<its name>/screened`, the adversarials that the screening found.

        Args:
            seed: Seed of the evaluation's noise, by which they are known again.

        Raises:
            RuntimeError: If a combination was not screened.
        """
        found: dict[str, Attack] = {}
        for name, attack in self.attacks.items():
            if not isinstance(attack, Adaptive):
                found[name] = attack
            elif len(members := self._members[name]) == 1:
                found[name] = next(iter(members.values()))
            else:
                if name in self._screened():
                    found[f"{name}/screened"] = _replay(attack, self._trials(name), seed)
                found |= {f"{name}/{label}": members[label] for label in self._kept(name, attack)}
        return found

    def tables(self) -> dict[str, Any]:
        """For each adaptive attack that was screened every combination and how it fared, as plain JSON."""
        return {name: self._table(name, attack) for name, attack in self._screened().items()}

    @property
    def _parts(self) -> Path:
        return self._folder / "parts" / "screening"

    def _screened(self) -> dict[str, Adaptive]:
        """Those with more combinations than may run on all images."""
        adaptive = {name: attack for name, attack in self.attacks.items() if isinstance(attack, Adaptive)}
        return {name: attack for name, attack in adaptive.items() if len(self._members[name]) > attack.keep}

    def _trials(self, name: str) -> dict[str, dict[str, Any]]:
        trials = {label: self._read(name, label) for label in self._members[name]}
        done = {label: trial for label, trial in trials.items() if trial is not None}
        if len(done) < len(trials):
            raise RuntimeError(f"{name}: not all combinations were screened: is the folder shared by all processes?")
        return done

    def _kept(self, name: str, attack: Adaptive) -> list[str]:
        if name not in self._screened():
            return list(self._members[name])
        trials = self._trials(name)
        return sorted(trials, key=lambda label: float(trials[label]["right"].sum()))[: attack.keep]  # stable

    def _table(self, name: str, attack: Adaptive) -> dict[str, Any]:
        trials, kept = self._trials(name), self._kept(name, attack)
        rows = []
        for label, trial in trials.items():
            member = self._members[name][label]
            rows.append(
                {
                    "label": label,
                    "backward": describe(member.backward) if isinstance(member, Through) else {},
                    **share(trial["right"]),
                    **{key: int(trial[key].sum()) for key in ("forwards", "backwards")},
                    "seconds": round(float(trial["seconds"].sum()), 3),
                    "kept": label in kept,
                }
            )
        images = len(next(iter(trials.values()))["index"])
        return {"attack": describe(attack.attack), "images": images, "combinations": rows}

    def _part(self, name: str, label: str) -> Path:
        place = f"{list(self.attacks).index(name):03d}-{list(self._members[name]).index(label):04d}.npz"
        return self._parts / place

    def _read(self, name: str, label: str) -> dict[str, Any] | None:
        """A combination's columns, or None; a part that cannot be read is none."""
        try:
            with np.load(self._part(name, label)) as content:
                return {column: content[column] for column in _COLUMNS}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def _write(self, name: str, label: str, blocks: Sequence[Mapping[str, Any]]) -> None:
        self._parts.mkdir(parents=True, exist_ok=True)
        part = self._part(name, label)
        aside = part.with_suffix(".part")
        columns: dict[str, Any] = {column: np.concatenate([block[column] for block in blocks]) for column in _COLUMNS}
        with aside.open("wb") as file:
            np.savez_compressed(file, **columns)
        os.replace(aside, part)


def check(attack: Attack, network: nn.Module) -> None:
    """Refuses backward passes of layers that a network does not have.

    Args:
        attack: Any attack; what it is made of is looked at too, on the networks that it runs on.
        network: The network under attack.

    Raises:
        UserError: If a pattern names no layer, or a layer has no such backward pass.
    """
    if isinstance(attack, Adaptive):
        attack.members(network)
    elif isinstance(attack, Through):
        with chosen(network, attack.backward):
            pass
    if isinstance(attack, Transfer):
        network = nn.ModuleList(attack.surrogates)
    for each in [getattr(attack, "attack", None), *(getattr(attack, "attacks", None) or [])]:
        if isinstance(each, Attack):
            check(each, network)


def foreseen(attacks: Mapping[str, Attack], network: nn.Module) -> dict[str, Attack]:
    """As many rows as there will be, for what they cost: of an adaptive attack some combinations, if not the strongest.

    Args:
        attacks: Attacks by name.
        network: The network that they run on.
    """
    found: dict[str, Attack] = {}
    for name, attack in attacks.items():
        if isinstance(attack, Adaptive):
            found |= {f"{name}/{label}": a for label, a in list(attack.members(network).items())[: attack.keep]}
        else:
            found[name] = attack
    return found


def _columns(result: BlockResult, row: str) -> dict[str, Any]:
    verdict = result.verdicts[row]
    columns = {name: getattr(verdict, name).cpu().numpy() for name in _COLUMNS if name not in ("index", "seconds")}
    return {**columns, "index": result.index.cpu().numpy(), "seconds": np.array([verdict.seconds])}


def _replay(attack: Adaptive, trials: Mapping[str, Mapping[str, Any]], seed: int) -> Replay:
    """Each sample's strongest image, of the first combination that found it."""
    before = np.stack([trial["right_before"] for trial in trials.values()])
    best, samples = before.argmin(0), np.arange(before.shape[1])
    found = before[best, samples] < 1  # none of these lies beyond the radius, where nothing counts as wrong
    x_adv = np.stack([trial["x_adv"] for trial in trials.values()])[best, samples][found]
    index = torch.from_numpy(next(iter(trials.values()))["index"])
    return Replay(
        threat=counted_in(attack),
        images=len(index),
        keys=sampling.keys(index, seed=seed)[torch.from_numpy(found)],
        x_adv=torch.from_numpy(x_adv),
    )
