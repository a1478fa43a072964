"""Pictures for a notebook or a paper: functions of tensors and numbers that return a Matplotlib figure.

They need nothing of Lightning, and load Matplotlib when they are called.
"""

from lit_robust.plots.curve import accuracy_against_eps, accuracy_against_steps
from lit_robust.plots.show import show

__all__ = ["accuracy_against_eps", "accuracy_against_steps", "show"]
