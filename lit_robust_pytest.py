"""The pytest plugin of `lit_robust.conformance`: the options of its runs, and nothing in anybody else's.

It lies outside the package because importing anything in the package imports torch, and pytest imports its plugins at
every start. The options are added only where the checks are asked for, so that `--attack` stays free for others.
"""

from __future__ import annotations

import pytest

_PACKAGE = ("lit_robust.conformance", "lit_robust/conformance")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config, parser: pytest.Parser, args: list[str]) -> None:
    """Adds the options, before the command line is read for good."""
    del early_config  # the hook's first argument, which may not be left out
    if not any(part in argument for argument in args for part in _PACKAGE):
        return
    group = parser.getgroup("lit_robust", "conformance of an attack")
    group.addoption(
        "--attack",
        metavar="MODULE:NAME",
        help="a function from a ThreatModel to an Attack, an Attack class, or a function (model, x, y, eps, norm)",
    )
    group.addoption(
        "--norms", help="norms that the attack has to do, such as linf,l2; all that it does not refuse if not given"
    )
    group.addoption("--nearest", action="store_true", help="a plain function looks for the nearest adversarial")
    group.addoption("--tolerance", type=float, default=0.05, help="share of the optimum that may be missing (0.05)")


def pytest_configure(config: pytest.Config) -> None:
    """Refuses a run of the checks without an attack."""
    asked = any(part in str(argument) for argument in config.args for part in _PACKAGE)
    if asked and not config.getoption("--attack", default=None):
        raise pytest.UsageError("the conformance checks need an attack: --attack my_module:make_attack")
