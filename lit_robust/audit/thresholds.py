"""All limits of the audit, in one place. They were fixed before any of the models that it has to fail was built.

A check warns above the first number of a pair and fails above the second; both are shares of all audited images.
"""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """Above which value a check warns, and above which it fails."""

    warn: float
    fail: float


# The literature says "never": a black-box, a transferred or a random perturbation must not break what a gradient attack
# cannot, and more eps, steps, restarts or draws must not help the defender (Athalye et al., 2018, section 3.1; Carlini
# et al., 2019). Searches are finite, so a few images of an honest model break the rule: 1 % of N is
# within what a longer search finds, and 5 % changes what one would conclude from a robust accuracy.
NEVER = Limits(0.01, 0.05)

# An attack that may answer with any image has to reach an accuracy of 0 (Carlini et al., 2019). The same
# allowance for a search that ends after some tens of steps.
UNBOUNDED = NEVER

# Images whose gradient is exactly 0 are lost to every gradient attack, so they are an upper bound of what NEVER counts.
ZERO_GRADIENT = NEVER

# One gradient that is not a number says that the network's arithmetic breaks down somewhere, which no accuracy shows;
# above 1 % of the images it decides the figure.
NON_FINITE = Limits(0.0, 0.01)

# Entries of the gradient that are 0 are pixels that a step of signs leaves alone. Behind a sparse or a quantised layer
# there are many and the attack may still succeed, so it is no reason to fail: with half of the pixels it warns.
ZERO_ENTRIES = Limits(0.5, 1.0)

# A gradient that says nothing about the loss loses to a random direction for half of the images. Half of that fails, a
# tenth warns; curvature makes an honest model lose for some images at a large radius.
LANDSCAPE = Limits(0.05, 0.25)

# A fall of the accuracy from half the radius to four times that is no larger than this share is none.
NO_FALL = 0.01

ROUNDING = 1e-9  # shares are sums of floats: 5 of 100 is not above 5 %
