"""Verdicts from made-up columns, at the edges of their limits: 100 images, of which some are broken under some rows."""

import numpy as np
import pytest

from lit_robust.audit.checks import CHECKS
from lit_robust.audit.finding import judged, worst
from lit_robust.audit.plan import Effort, Plan
from lit_robust.audit.rows import Rows
from lit_robust.audit.thresholds import Limits
from lit_robust.threat import ThreatModel

N = 100
BY_NAME = {check.name: check for check in CHECKS}
PLAN = Plan(
    threat=ThreatModel("0.1"),
    shape=(1, 4, 4),
    effort=Effort(restarts=4),
    combinations={"default": {"q": "identity"}, "q=exact": {"q": "exact"}},
    sources={"substitute": None},
    substitute=True,
)
RANDOM = Plan(threat=ThreatModel("0.1"), shape=(1, 4, 4), random=True)


def columns(plan=PLAN, **broken):
    """All rows of all checks: half of the images broken under the white-box attacks, and the first few as told."""
    white = {*plan.white_box(), "eps/2", "2 eps", "4 eps", "few draws", "many draws"}
    names = {"clean", "unbounded", "square", "random points", *white, *plan.through()}
    names |= {f"from {name}" for name in plan.sources}
    table = {}
    broken = {"4_eps": range(60), **broken}
    for name in names:
        wrong = broken.get(
            name.replace(" ", "_"), range(50) if name in white else range(N if name == "unbounded" else 0)
        )
        right = np.ones(N)
        right[list(wrong)] = 0.0
        table |= {f"right {name}": right, f"before {name}": right}
    zeros = np.zeros(N)
    return {
        **table,
        "zero gradient": zeros > 0,
        "non-finite gradient": zeros > 0,
        "zero entries": zeros,
        "substitute agrees": zeros == 0,
        "rises along the gradient": list(np.full((N, 8), 2.0)),
        "rises along a random direction": list(np.ones((N, 8))),
    }


def found(check, plan=PLAN, given=None, **broken):
    return BY_NAME[check].judge(Rows({**columns(plan, **broken), **(given or {})}), plan)


def share(count):
    return np.arange(N) < count


def test_a_model_without_a_fault_passes_every_check():
    found = {check.name: check.judge(Rows(columns()), PLAN).verdict for check in CHECKS}
    assert found.pop("EOT draws") == "skipped"
    assert set(found.values()) == {"pass"}


def test_every_check_says_why_and_what_next_and_its_name_is_its_own():
    assert len(BY_NAME) == len(CHECKS) == 11
    for check in CHECKS:
        assert "20" in check.why
        assert check.next


EDGES = [(0, "pass"), (1, "pass"), (2, "warn"), (5, "warn"), (6, "fail")]


@pytest.mark.parametrize(("count", "verdict"), EDGES)
@pytest.mark.parametrize(
    ("check", "row"),
    [
        ("black box", "square"),
        ("random noise", "random_points"),
        ("transfer", "from_substitute"),
        ("surrogate grid", "through_q=exact"),
        ("restarts", "restart_3"),
        ("restarts", "restart_2"),
        ("accuracy over steps", "pgd-100"),
    ],
)
def test_images_that_one_attack_breaks_alone(check, row, count, verdict):
    broken = range(50 * (row != "pgd-100"), 50 + count)
    first = found(check, **{row: range(50 + count)})
    assert (first.verdict, first.value) == (verdict, pytest.approx(count / N))
    assert found(check, **{row: [*broken, *range(10, 20)]}).verdict == verdict  # what others break too changes nothing


@pytest.mark.parametrize(("row", "check"), [("restart_1", "restarts"), ("pgd-10", "accuracy over steps")])
def test_what_the_first_half_breaks_is_not_gained_later(row, check):
    other = {"pgd-100": range(60), "pgd": range(60)} if row == "pgd-10" else {"restart_3": range(60)}
    assert found(check, **{row: range(60)}, **other).verdict == "pass"


def test_any_white_box_attack_excuses_the_black_box():
    assert found("black box", square=range(80)).verdict == "fail"
    for row in PLAN.white_box():
        assert found("black box", square=range(80), **{row.replace(" ", "_"): range(80)}).verdict == "pass", row


def test_noise_is_compared_with_pgd_alone():
    better = {"random_points": range(80), "pgd": range(50)}
    assert found("random noise", **better, **{"apgd-ce": range(80)}).verdict == "fail"


@pytest.mark.parametrize(("left", "verdict"), EDGES)
def test_an_unbounded_attack_leaves_nothing(left, verdict):
    assert found("unbounded attack", unbounded=range(N - left)).verdict == verdict


@pytest.mark.parametrize(("rise", "verdict"), EDGES)
def test_accuracy_does_not_rise(rise, verdict):
    over_eps = found("accuracy over eps", **{"2_eps": range(50 - rise), "4_eps": range(90)})
    assert (over_eps.verdict, over_eps.value) == (verdict, pytest.approx(rise / N))
    over_steps = found("accuracy over steps", **{"pgd-1": range(50), "pgd-10": range(50 - rise)})
    assert (over_steps.verdict, over_steps.value) == (verdict, pytest.approx(rise / N))


@pytest.mark.parametrize(
    ("fall", "left", "verdict"), [(1, 50, "warn"), (2, 50, "pass"), (0, 5, "pass"), (0, 6, "warn")]
)
def test_accuracy_that_does_not_fall_with_eps_warns_unless_nothing_is_left(fall, left, verdict):
    rows = dict.fromkeys(("eps/2", "pgd", "2_eps"), range(N - left - fall))
    assert found("accuracy over eps", **rows, **{"4_eps": range(N - left)}).verdict == (
        verdict if fall or left > 5 else "pass"
    )


@pytest.mark.parametrize(("count", "verdict"), EDGES)
def test_zero_gradients(count, verdict):
    assert found("gradients", given={"zero gradient": share(count)}).verdict == verdict


@pytest.mark.parametrize(("count", "verdict"), [(0, "pass"), (1, "warn"), (2, "fail")])
def test_gradients_that_are_no_numbers(count, verdict):
    assert found("gradients", given={"non-finite gradient": share(count)}).verdict == verdict


@pytest.mark.parametrize(("entries", "verdict"), [(0.5, "pass"), (0.51, "warn"), (1.0, "warn")])
def test_zero_entries_warn_at_most(entries, verdict):
    assert found("gradients", given={"zero entries": np.full(N, entries)}).verdict == verdict


@pytest.mark.parametrize(("count", "verdict"), [(0, "pass"), (5, "pass"), (6, "warn"), (25, "warn"), (26, "fail")])
def test_a_random_direction_that_raises_the_loss_more(count, verdict):
    rises = np.ones((N, 8))
    rises[:count, 3] = 2.5  # at one point of the way
    assert found("loss landscape", given={"rises along a random direction": list(rises)}).verdict == verdict


@pytest.mark.parametrize(("cost", "verdict"), [(0.0, "pass"), (0.01, "pass"), (0.03, "warn"), (0.06, "fail")])
def test_draws_that_cost_accuracy(cost, verdict):
    many = np.full(N, 0.5 - cost)
    given = {f"{part} {row}": np.full(N, 0.5) for part in ("right", "before") for row in ("pgd", "few draws")}
    given |= {"right many draws": many, "before many draws": many}
    assert found("EOT draws", plan=RANDOM, given=given).verdict == verdict
    assert found("EOT draws", given=given).verdict == "skipped"


def test_on_a_random_network_the_strongest_is_chosen_by_other_draws_than_it_is_counted_by():
    """Where both attacks are alike, luck in the counted draws costs nothing on the mean."""
    generator = np.random.default_rng(0)
    draws = {f"{part} {row}": generator.binomial(20, 0.5, 4000) / 20 for part in ("right", "before") for row in "ab"}
    assert abs(Rows(draws).only(["a"], ["b"])) < 0.01


def test_checks_without_an_object_are_skipped():
    bare = Plan(threat=ThreatModel("0.1"), shape=(1, 4, 4))
    assert found("surrogate grid", plan=bare).verdict == "skipped"
    assert found("transfer", plan=bare).verdict == "skipped"


def test_a_limit_itself_is_not_above_it_and_nan_fails():
    assert [judged(v, Limits(0.1, 0.3)) for v in (0.1, 0.1 + 0.2, 0.31, float("nan"))] == [
        "pass",
        "warn",
        "fail",
        "fail",
    ]


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [(["pass", "warn", "skipped"], "warn"), (["fail", "warn"], "fail"), (["skipped", "pass"], "pass")],
)
def test_the_worst_verdict_counts(verdicts, whole):
    assert worst(verdicts) == whole
