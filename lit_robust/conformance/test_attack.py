"""What `pytest --pyargs lit_robust.conformance --attack MODULE:NAME` runs: every check in every norm."""

from __future__ import annotations

import pytest
import torch

from lit_robust.conformance.checks import CHECKS, EPS, NORMS, Check, ConformanceError, NotApplicableError
from lit_robust.conformance.contestant import Contestant, claims, load
from lit_robust.conformance.models import TwoSided, images, weight
from lit_robust.errors import UserError
from lit_robust.threat import LpNorm


@pytest.fixture(scope="module", name="attack")
def _attack(request: pytest.FixtureRequest) -> Contestant:
    try:
        return load(request.config.getoption("--attack"), finds_nearest=request.config.getoption("--nearest"))
    except UserError as error:
        raise pytest.UsageError(str(error)) from error


@pytest.fixture(scope="module", name="refusals")
def _refusals(attack: Contestant) -> dict[LpNorm, str | None]:
    """Why the attack does not do each norm, or None."""
    x = images(2, cut=False)
    y = torch.zeros(2, dtype=torch.long)
    return {norm: claims(attack, norm, TwoSided(weight()), x, y, EPS[norm]) for norm in NORMS}


def _chosen(config: pytest.Config) -> list[str]:
    return [norm.strip() for norm in (config.getoption("--norms") or "").split(",") if norm.strip()]


def test_some_norm_is_claimed(refusals: dict[LpNorm, str | None], request: pytest.FixtureRequest) -> None:
    """The attack does one norm or more, and those that `--norms` names."""
    chosen = _chosen(request.config)
    refused = {norm: why for norm, why in refusals.items() if why is not None}
    if len(refused) == len(refusals) or set(chosen) & set(refused):
        pytest.fail(f"the attack refuses {', '.join(f'{n} ({why})' for n, why in refused.items())}", pytrace=False)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("norm", NORMS)
def test_attack(
    check: Check,
    norm: LpNorm,
    attack: Contestant,
    refusals: dict[LpNorm, str | None],
    request: pytest.FixtureRequest,
) -> None:
    """One check in one norm."""
    chosen = _chosen(request.config)
    if chosen and norm not in chosen:
        pytest.skip("not among --norms")
    if refusals[norm] is not None:
        pytest.skip(f"not claimed: {refusals[norm]}")
    problem: str | None = None
    try:
        with torch.random.fork_rng(devices=[]):
            check(attack, norm, request.config.getoption("--tolerance"))
    except NotApplicableError as reason:
        pytest.skip(str(reason))
    except ConformanceError as finding:
        problem = str(finding)
    if problem is not None:  # outside, where no traceback of the checks is told with it
        pytest.fail(f"{check.__name__.replace('_', ' ')}? No. {problem}", pytrace=False)
