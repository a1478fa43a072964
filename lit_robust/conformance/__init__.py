"""Checks of an attack that need no trained model: where the right answer is known, does the attack give it?

    pytest --pyargs lit_robust.conformance --attack my_module:make_attack

`make_attack` takes a `ThreatModel` and gives an `Attack`; or it is an attack of any other library in a function
`(model, x, y, eps, norm) -> x_adv`. An `Attack` class works too. What fails says in words what is wrong. The checks are
plain functions as well, `CHECKS`, which raise `ConformanceError`.
"""

from lit_robust.conformance.checks import CHECKS, NORMS, ConformanceError, NotApplicableError
from lit_robust.conformance.contestant import AttackFactory, Contestant, PlainAttack, contestant, load

__all__ = [
    "CHECKS",
    "NORMS",
    "AttackFactory",
    "ConformanceError",
    "Contestant",
    "NotApplicableError",
    "PlainAttack",
    "contestant",
    "load",
]
