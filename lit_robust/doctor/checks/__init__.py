"""The one list of checks: the doctor runs all of them, the start of a run those that take no time."""

from lit_robust.checks import ANSWER_CHECKS
from lit_robust.doctor.checks.attack_answers import in_the_ball, radius_zero
from lit_robust.doctor.checks.attack_settings import noise_levels, radii, reach, step_sizes
from lit_robust.doctor.checks.base import Check
from lit_robust.doctor.checks.classifier import accuracy, answering, regime, squashed
from lit_robust.doctor.checks.eval_mode import batch_mates, own_randomness, still, stuck_in_training
from lit_robust.doctor.checks.evaluation import evaluation, measurements, whole_test_set
from lit_robust.doctor.checks.gradients import input_gradient, mean_gradient
from lit_robust.doctor.checks.images import pixel_range
from lit_robust.doctor.checks.overlap import overlap
from lit_robust.doctor.checks.precision import final_precision, tf32
from lit_robust.doctor.checks.standardisation import standardisation

CHECKS: tuple[Check, ...] = (
    # The regime asks the same of the answer as the doctor's rows, so a start asks once.
    *(Check(name=name, look=answering(c), at_start=False, gate=True, asks=True) for name, c in ANSWER_CHECKS.items()),
    Check(name="regime", look=regime, gate=True, asks=True),
    Check(name="radii", look=radii),
    Check(name="step sizes", look=step_sizes),
    Check(name="steps reach eps", look=reach),
    Check(name="noise", look=noise_levels),
    Check(name="image range", look=pixel_range, gate=True),
    Check(name="standardisation", look=standardisation, asks=True),
    Check(name="eval mode", look=stuck_in_training),
    Check(name="batch independence", look=batch_mates, asks=True),
    Check(name="state in eval mode", look=still, at_start=False, asks=True),
    Check(name="own randomness", look=own_randomness, asks=True),
    Check(name="squashed outputs", look=squashed, asks=True),
    Check(name="final precision", look=final_precision, asks=True),
    Check(name="TF32", look=tf32),
    Check(name="evaluation", look=evaluation, at_start=False),
    Check(name="measurements", look=measurements, at_start=False),
    Check(name="whole test set", look=whole_test_set, at_start=False),
    Check(name="accuracy above chance", look=accuracy, at_start=False, asks=True),
    Check(name="input gradient", look=input_gradient, at_start=False, asks=True),
    Check(name="mean gradient", look=mean_gradient, at_start=False, asks=True),
    Check(name="radius 0 is clean", look=radius_zero, at_start=False, asks=True),
    Check(name="inside the ball", look=in_the_ball, at_start=False, asks=True),
    Check(name="sets do not overlap", look=overlap, at_start=False),
)
"""In the order in which they run; each row of the doctor's table is one of these, or several where it finds several."""

__all__ = ["CHECKS", "Check"]
