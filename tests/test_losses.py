import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_robust import losses
from lit_robust.errors import UserError

ALL = [losses.cross_entropy, losses.negative_margin, losses.cw_margin, losses.dlr]


def drawn(seed, *, n=16, classes=5, shift=0.0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    logits = shift + scale * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (n,), generator=generator)


def defined_margin(logits, y):
    """The definition, sample by sample."""
    rows = zip(logits.tolist(), y.tolist(), strict=True)
    return [row[label] - max(z for j, z in enumerate(row) if j != label) for row, label in rows]


@given(seed=st.integers(0, 10_000), shift=st.sampled_from([-30.0, 0.0, 30.0]), classes=st.integers(2, 10))
@settings(deadline=None, derandomize=True, max_examples=60)
def test_margins_equal_the_definition_on_negative_positive_and_mixed_logits(seed, shift, classes):
    logits, y = drawn(seed, shift=shift, scale=3.0, classes=classes)
    expected = torch.tensor(defined_margin(logits, y), dtype=torch.float64)
    torch.testing.assert_close(losses.margin(logits, y), expected)
    torch.testing.assert_close(losses.negative_margin(logits, y), -expected)
    torch.testing.assert_close(losses.cw_margin(logits, y), -(expected + 50).clamp(min=0))


@pytest.mark.parametrize("shift", [-1000.0, 0.0, 1000.0])
@pytest.mark.parametrize("loss", [losses.negative_margin, losses.cw_margin])
def test_margin_gradient_is_minus_one_at_the_label_and_one_at_the_rival(loss, shift):
    logits, y = drawn(0, shift=shift)
    (grad,) = torch.autograd.grad(loss(logits.requires_grad_(), y).sum(), logits)
    rival = logits.detach().scatter(1, y[:, None], -torch.inf).argmax(1)
    expected = torch.zeros_like(logits).scatter(1, y[:, None], -1).scatter(1, rival[:, None], 1)
    torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize(("lead", "slope"), [(49.0, 1.0), (51.0, 0.0)])
def test_cw_gradient_ends_where_a_rival_leads_by_more_than_50(lead, slope):
    logits = torch.tensor([[0.0, lead, -3.0]], requires_grad=True)
    (grad,) = torch.autograd.grad(losses.cw_margin(logits, torch.tensor([0])).sum(), logits)
    assert grad[0].tolist() == [-slope, slope, 0.0]


def test_dlr_equals_its_equation():
    logits, y = drawn(1, classes=6)
    top = logits.sort(1, descending=True).values
    margin = torch.tensor(defined_margin(logits, y), dtype=torch.float64)
    torch.testing.assert_close(losses.dlr(logits, y), -margin / (top[:, 0] - top[:, 2]))


def test_dlr_ignores_shift_and_scale_of_the_logits():
    logits, y = drawn(2)
    torch.testing.assert_close(losses.dlr(7 * logits - 40, y), losses.dlr(logits, y))


def test_dlr_refuses_two_classes():
    with pytest.raises(ValueError, match="the DLR loss needs at least 3 classes, got 2; use negative_margin"):
        losses.dlr(torch.zeros(1, 2), torch.zeros(1, dtype=torch.long))


@given(seed=st.integers(0, 10_000), classes=st.integers(4, 10))
@settings(deadline=None, derandomize=True, max_examples=30)
def test_targeted_dlr_equals_its_equation(seed, classes):
    logits, y = drawn(seed, classes=classes)
    target = (y + 1 + seed % (classes - 1)) % classes
    values = losses.targeted_dlr(logits, y, target).tolist()
    for row, label, other, value in zip(logits.tolist(), y.tolist(), target.tolist(), values, strict=True):
        first, _, third, fourth = sorted(row, reverse=True)[:4]
        assert value == pytest.approx(-(row[label] - row[other]) / (first - 0.5 * (third + fourth)))


def test_targeted_dlr_ignores_shift_and_scale_of_the_logits():
    logits, y = drawn(2)
    target = (y + 1) % 5
    scaled = losses.targeted_dlr(7 * logits - 40, y, target)
    torch.testing.assert_close(scaled, losses.targeted_dlr(logits, y, target))


def test_targeted_dlr_takes_probabilities_and_depends_on_its_row_alone():
    logits, y = drawn(4)
    target = (y + 2) % 5
    together = losses.targeted_dlr(logits, y, target)
    hot = torch.nn.functional.one_hot(y, 5).double()
    torch.testing.assert_close(losses.targeted_dlr(logits, hot, target), together)
    assert together.shape == (16,)
    for i in (0, 7, 15):
        one = losses.targeted_dlr(logits[i : i + 1], y[i : i + 1], target[i : i + 1])
        assert one.item() == together[i].item()


def test_targeted_dlr_of_equal_logits_is_zero_with_a_finite_gradient():
    logits = torch.zeros(1, 5, requires_grad=True)
    value = losses.targeted_dlr(logits, torch.tensor([0]), torch.tensor([1]))
    assert value.item() == 0
    assert torch.autograd.grad(value.sum(), logits)[0].isfinite().all()


def test_targeted_dlr_refuses_three_classes():
    zero = torch.zeros(1, dtype=torch.long)
    with pytest.raises(UserError, match="targeted DLR loss needs at least 4 classes, got 3; use the difference of"):
        losses.targeted_dlr(torch.zeros(1, 3), zero, zero)


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.__name__)
def test_one_value_a_sample_that_depends_on_its_row_alone(loss):
    logits, y = drawn(3)
    together = loss(logits, y)
    assert together.shape == (16,)
    for i in (0, 7, 15):
        assert loss(logits[i : i + 1], y[i : i + 1]).item() == together[i].item()


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.__name__)
def test_one_hot_probabilities_count_as_their_label(loss):
    logits, y = drawn(4)
    hot = torch.nn.functional.one_hot(y, 5).double()
    torch.testing.assert_close(loss(logits, hot), loss(logits, y))


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.__name__)
def test_losses_grow_as_the_label_loses(loss):
    y = torch.tensor([0])
    values = [loss(torch.tensor([[z, 1.0, 0.5, -2.0]]), y).item() for z in (6.0, 3.0, 1.5, 0.0, -1.0)]
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_cross_entropy_with_probabilities_has_the_gradient_of_kl():
    logits, _ = drawn(5)
    target = drawn(6)[0].softmax(1)
    first, second = (logits.clone().requires_grad_() for _ in range(2))
    (soft,) = torch.autograd.grad(losses.cross_entropy(first, target).sum(), first)
    kl = torch.nn.functional.kl_div(second.log_softmax(1), target, reduction="sum")
    torch.testing.assert_close(soft, torch.autograd.grad(kl, second)[0])


def test_labels_of_labels_and_of_probabilities():
    y = torch.tensor([2, 0])
    assert losses.labels(y) is y
    assert losses.labels(torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]])).tolist() == [2, 0]
