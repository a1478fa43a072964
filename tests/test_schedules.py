"""Learning-rate schedules against their closed forms."""

import pytest
import torch
from torch.optim import SGD, Adam

from lit_robust.errors import UserError
from lit_robust.schedules import StepDecay, Triangular

PEAK, TOTAL = 0.4, 40


def optimizer(kind=SGD, **options):
    return kind([torch.nn.Parameter(torch.zeros(1))], lr=PEAK, **options)


def walked(schedule, steps=TOTAL + 5, total=TOTAL):
    """Learning rate and momentum at every optimizer step."""
    schedule.total_steps = total
    seen = []
    for _ in range(steps):
        group = schedule.optimizer.param_groups[0]
        seen.append((group["lr"], group.get("momentum")))
        schedule.optimizer.step()
        schedule.step()
    return seen


def test_step_decay_is_gamma_to_the_number_of_milestones_passed():
    rates = [lr for lr, _ in walked(StepDecay(optimizer(), milestones=[0.5, 0.75, 0.9], gamma=0.2))]
    for step, rate in enumerate(rates):
        passed = (step >= 20) + (step >= 30) + (step >= 36)
        assert rate == pytest.approx(PEAK * 0.2**passed)


@pytest.mark.parametrize(
    ("milestone", "total"), [(0.9375, 16), (0.1, 30), (0.7, 10), (0.3, 10), (0.58, 50), (0.1 + 0.2, 10)]
)
def test_a_milestone_falls_on_its_very_step(milestone, total):
    rates = [lr for lr, _ in walked(StepDecay(optimizer(), [milestone]), steps=total, total=total)]
    at = round(milestone * total)
    assert rates[at - 1] == PEAK
    assert rates[at] == pytest.approx(0.1 * PEAK)


def test_triangular_is_linear_up_to_the_middle_and_back_while_the_momentum_dips():
    seen = walked(Triangular(optimizer(momentum=0.9)))
    for step, (rate, momentum) in enumerate(seen):
        height = max(0.0, step / 20 if step <= 20 else 2 - step / 20)
        assert rate == pytest.approx(PEAK * height, abs=1e-12)
        assert momentum == pytest.approx(0.9 - 0.1 * height, abs=1e-12)
    assert max(seen)[0] == pytest.approx(PEAK)
    assert min(m for _, m in seen) == pytest.approx(0.8)


def test_triangular_is_pytorch_s_cyclic_schedule_over_one_cycle():
    cyclic = SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK, momentum=0.9)
    reference = torch.optim.lr_scheduler.CyclicLR(cyclic, base_lr=0, max_lr=PEAK, step_size_up=TOTAL / 2)
    for rate, momentum in walked(Triangular(optimizer(momentum=0.9)), steps=TOTAL):
        assert rate == pytest.approx(cyclic.param_groups[0]["lr"], abs=1e-9)
        assert momentum == pytest.approx(cyclic.param_groups[0]["momentum"], abs=1e-9)
        cyclic.step()
        reference.step()


def test_triangular_leaves_an_optimizer_without_momentum_alone():
    assert {m for _, m in walked(Triangular(optimizer(Adam)))} == {None}
    assert {m for _, m in walked(Triangular(optimizer()))} == {0}
    assert walked(Triangular(optimizer(momentum=0.9), momentum_dip=0.0))[20] == (PEAK, 0.9)


@pytest.mark.parametrize(
    ("cycle", "at", "height"),
    [(1.0, 0, 0.0), (1.0, 20, 1.0), (1.0, 40, 0.0), (1.4, 28, 1.0), (1.4, 40, 4 / 7), (2.0, 20, 0.5), (2.0, 40, 1.0)],
)
def test_a_cycle_longer_than_the_run_is_cut_off(cycle, at, height):
    rate, momentum = walked(Triangular(optimizer(momentum=0.9), cycle=cycle), steps=TOTAL + 1)[at]
    assert rate == pytest.approx(PEAK * height, abs=1e-12)
    assert momentum == pytest.approx(0.9 - 0.1 * height, abs=1e-12)


def test_the_schedule_of_70_epochs_ends_a_run_of_50_where_the_published_one_does():
    assert 0.05 * walked(Triangular(optimizer(), cycle=1.4), steps=TOTAL + 1)[-1][0] / PEAK == pytest.approx(
        0.0286, abs=5e-5
    )


def test_a_cycle_shorter_than_the_run_is_refused():
    with pytest.raises(UserError, match=r"cycle of at least 1, the length of the run, got 0\.7"):
        Triangular(optimizer(), cycle=0.7)


def test_every_parameter_group_keeps_its_own_peak():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 1.0)]
    schedule = StepDecay(SGD(groups, lr=0.5), [0.5], gamma=0.1)
    schedule.total_steps = 2
    schedule.optimizer.step()
    schedule.step()
    assert [g["lr"] for g in schedule.optimizer.param_groups] == pytest.approx([0.01, 0.1])


@pytest.mark.parametrize("make", [lambda o: StepDecay(o, [0.3, 0.6]), Triangular], ids=["step", "triangular"])
def test_a_restored_schedule_goes_on_and_may_be_of_a_longer_run(make):
    whole = walked(make(optimizer(momentum=0.9)), steps=TOTAL)
    first = make(optimizer(momentum=0.9))
    walked(first, steps=13)
    saved, state = first.state_dict(), first.optimizer.state_dict()
    assert "total_steps" not in saved
    second = make(optimizer(momentum=0.9))
    second.total_steps = TOTAL
    second.optimizer.load_state_dict(state)
    second.load_state_dict(saved)
    torch.testing.assert_close(
        torch.tensor(walked(second, steps=TOTAL - 13)), torch.tensor(whole[13:]), rtol=0, atol=1e-12
    )
    longer = make(optimizer(momentum=0.9))
    longer.total_steps = 2 * TOTAL
    longer.load_state_dict(saved)
    assert longer.progress == 13 / (2 * TOTAL)


@pytest.mark.parametrize("milestones", [[0.75, 0.5], [0.0, 0.5], [0.5, 1.0], [50, 75], [-0.1]])
def test_milestones_must_ascend_within_the_run(milestones):
    with pytest.raises(UserError, match=r"expected milestones as ascending fractions of the run in \(0, 1\), got"):
        StepDecay(optimizer(), milestones)
