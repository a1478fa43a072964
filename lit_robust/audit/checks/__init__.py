"""The checks of an audit, in the order in which they are shown."""

from lit_robust.audit.checks.base import Check
from lit_robust.audit.checks.black_box import BlackBoxOnly
from lit_robust.audit.checks.draws import DrawsSettle
from lit_robust.audit.checks.gradients import GradientsExist
from lit_robust.audit.checks.landscape import LossLandscape
from lit_robust.audit.checks.noise import NoiseOnly
from lit_robust.audit.checks.radius import AccuracyOverRadius
from lit_robust.audit.checks.restarts import RestartsSettle
from lit_robust.audit.checks.steps import AccuracyOverSteps
from lit_robust.audit.checks.surrogates import SurrogateGrid
from lit_robust.audit.checks.transfer import TransferOnly
from lit_robust.audit.checks.unbounded import UnboundedAttack

CHECKS: tuple[Check, ...] = (
    UnboundedAttack(),
    AccuracyOverRadius(),
    AccuracyOverSteps(),
    BlackBoxOnly(),
    NoiseOnly(),
    RestartsSettle(),
    DrawsSettle(),
    TransferOnly(),
    GradientsExist(),
    SurrogateGrid(),
    LossLandscape(),
)

__all__ = ["CHECKS", "Check"]
