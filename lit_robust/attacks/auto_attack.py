"""AutoAttack: the published ensembles of attacks without parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from torch import Tensor

from lit_robust.attacks.apgd import APGD, TargetedAPGD
from lit_robust.attacks.base import Attack
from lit_robust.attacks.eot import EOT
from lit_robust.attacks.fab import FAB, TargetedFAB
from lit_robust.attacks.square import Square
from lit_robust.attacks.worst import Restarts, _Worst
from lit_robust.errors import UserError
from lit_robust.losses import dlr, negative_margin
from lit_robust.sampling import Noise
from lit_robust.threat import LpNorm, ThreatModel

Version = Literal["standard", "plus", "rand"]
_L1_STAGES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))  # of APGD (Croce and Hein, 2021): radii in eps, shares of steps
_DRAWS = 20  # of a random network, for each gradient


def dlr_or_margin(logits: Tensor, y: Tensor) -> Tensor:
    """The DLR loss, (N,), and with 2 classes, where it is not defined, the negative margin.

    Args:
        logits: (N, C).
        y: Labels (N,) or class probabilities (N, C).
    """
    return dlr(logits, y) if logits.shape[1] > 2 else negative_margin(logits, y)


@dataclass(frozen=True, kw_only=True)
class AutoAttack(_Worst):
    """AutoAttack (Croce and Hein, 2020; for L1, 2021): several attacks in turn, and the worst case over them.

    | version | members |
    | --- | --- |
    | `standard`, L∞ and L2 | APGD-CE; APGD-T and FAB-T with 9 targets; Square with 5000 queries |
    | `standard`, L1 | the same; APGD-CE with 5 restarts, APGD-T with 5 targets, both through radii of 3, 2 and 1 eps |
    | `plus`, L∞ and L2 | APGD-CE, APGD-DLR and FAB with 5 restarts; Square; APGD-T and FAB-T with 9 targets |
    | `rand`, for random networks | APGD-CE and APGD-DLR on mean gradients of 20 draws |

    An evaluation shows each member as a row of its own, in a cascade.

    Args:
        threat: What may be changed, in L∞, L2 or L1.
        version: Which ensemble; `plus` is not published for L1.

    Raises:
        UserError: If the norm is another one, has no radius, or has no such version.
    """

    threat: ThreatModel
    version: Version = "standard"

    def __post_init__(self) -> None:
        if self.threat.norm not in ("linf", "l2", "l1") or self.threat.eps is None:
            raise UserError(f"AutoAttack is defined in linf, l2 and l1 with a radius; got {self.threat}")
        if self.version not in get_args(Version):
            raise UserError(f"expected version to be one of {', '.join(get_args(Version))}, got {self.version!r}")
        if self.version == "plus" and self.threat.norm == "l1":
            raise UserError("the version plus of AutoAttack is not published for l1; take standard")

    def __str__(self) -> str:
        return f"AutoAttack {self.version} {self.threat}"

    @property
    def label(self) -> str:
        """A short name."""
        return f"AutoAttack {self.version}"

    @property
    def threat_model(self) -> ThreatModel:
        """The images that it may answer with."""
        return self.threat

    @cached_property
    def members(self) -> Mapping[str, Attack]:
        """The attacks by their published names, in the order in which they run."""
        return {"standard": self._standard, "plus": self._plus, "rand": self._rand}[self.version]()

    def _standard(self) -> dict[str, Attack]:
        if self.threat.norm == "l1":
            ce = Restarts(attack=APGD(threat=self.threat, stages=_L1_STAGES), n=5)
            targeted = TargetedAPGD(threat=self.threat, stages=_L1_STAGES, targets=5)
            return {"apgd-ce": ce, "apgd-t": targeted, "fab-t": self._fab_t(), "square": Square(threat=self.threat)}
        return {
            "apgd-ce": APGD(threat=self.threat),
            "apgd-t": TargetedAPGD(threat=self.threat),
            "fab-t": self._fab_t(),
            "square": Square(threat=self.threat),
        }

    def _plus(self) -> dict[str, Attack]:
        return {
            "apgd-ce": Restarts(attack=APGD(threat=self.threat), n=5),
            "apgd-dlr": Restarts(attack=APGD(threat=self.threat, loss=dlr_or_margin), n=5),
            "fab": FAB(norm=self._norm, eps=self.threat.eps, restarts=5),
            "square": Square(threat=self.threat),
            "apgd-t": TargetedAPGD(threat=self.threat),
            "fab-t": self._fab_t(),
        }

    def _rand(self) -> dict[str, Attack]:
        members = {"apgd-ce": APGD(threat=self.threat), "apgd-dlr": APGD(threat=self.threat, loss=dlr_or_margin)}
        return {name: EOT(attack=attack, draws=_DRAWS, reduce="losses") for name, attack in members.items()}

    def _fab_t(self) -> TargetedFAB:
        return TargetedFAB(norm=self._norm, eps=self.threat.eps)

    @property
    def _norm(self) -> LpNorm:
        assert self.threat.norm != "box"  # as `__post_init__` made sure
        return self.threat.norm

    @property
    def _first(self) -> Attack:
        return next(iter(self.members.values()))

    def _members(self, noise: Noise) -> Sequence[tuple[Attack, Noise]]:
        return [(attack, noise) for attack in self.members.values()]
