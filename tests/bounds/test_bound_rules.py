"""Each operation on its own: all are monotone or affine, so their bounds are the extremes over the box's corners."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_robust.bounds import interval
from lit_robust.errors import UserError


class Run(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def seeded(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + shape[0]), dtype=torch.float64)


W, B, V = seeded(3, 1, 2, 2), seeded(3), seeded(5, 4)
MEAN, VAR = seeded(1), seeded(1).abs() + 0.1


def norm(weight=None, bias=None):
    return lambda x: F.batch_norm(x, MEAN, VAR, weight, bias, False, 0.1, 1e-3)


def add_in_place(x):
    x += seeded(2, 2)
    return x


def shift_what_another_sees(x):
    flat = x.flatten(1)
    x -= 3
    return flat


OPERATIONS = {
    "relu": F.relu,
    "relu in place": nn.ReLU(inplace=True),
    "relu6": F.relu6,
    "hardtanh": F.hardtanh,
    "leaky_relu": lambda x: F.leaky_relu(x, 0.3),
    "clamp": lambda x: x.clamp(-0.2, 0.4),
    "sign": lambda x: torch.sign(x - 0.1),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "MaxPool2d": nn.MaxPool2d(2, stride=1, padding=1),
    "avg_pool2d": lambda x: F.avg_pool2d(x, 2),
    "AvgPool2d": nn.AvgPool2d(2, stride=1, padding=1),
    "adaptive_avg_pool2d": nn.AdaptiveAvgPool2d(1),
    "adaptive_max_pool2d": nn.AdaptiveMaxPool2d(1),
    "mean": lambda x: x.mean((2, 3)),
    "sum": lambda x: torch.sum(x, 3),
    "amax": lambda x: x.amax((2, 3)),
    "conv2d": lambda x: F.conv2d(x, W, B, padding=1),
    "conv2d without bias": lambda x: F.conv2d(x, W, stride=2, padding=1),
    "conv2d by name": lambda x: torch.conv2d(x, weight=W, bias=B, padding="same", dilation=2),
    "linear": lambda x: F.linear(x.flatten(1), V, seeded(5)),
    "linear without bias": lambda x: F.linear(x.view(-1, 4), V),
    "batch_norm": norm(seeded(1) - 2, seeded(1)),
    "batch_norm without weights": norm(),
    "plus a number": lambda x: 2 + x + 1,
    "plus a tensor": lambda x: seeded(2, 2) + x + seeded(2, 2),
    "in place": add_in_place,
    "in place through a view": shift_what_another_sees,
    "minus": lambda x: 1 - (x - seeded(2, 2)),
    "from a tensor": lambda x: seeded(2, 2) - x,
    "times": lambda x: (-2 * x) * seeded(2, 2),
    "tensor times": lambda x: seeded(2, 2) * x,
    "over": lambda x: x / (seeded(2, 2) - 0.5) / -3,
    "torch names": lambda x: torch.add(torch.mul(x, -1), torch.div(torch.sub(x[..., :1], 2), -2)),
    "negative": lambda x: -x,
    "cat": lambda x: torch.cat([x, seeded(1, 1, 2, 2).expand(x.shape[0], 1, 2, 2)], 1),
    "stack and select": lambda x: torch.stack([x, -x], 1)[:, :, 0],
    "pad": lambda x: F.pad(x, (1, 0, 0, 1), value=0.5),
    "shapes": lambda x: x.permute(0, 2, 3, 1).reshape(x.shape[0], -1).unsqueeze(1).squeeze(1).contiguous().clone(),
    "size": lambda x: x.view(x.size(0), -1) if x.dim() == 4 and x.size()[1] == 1 else None,
    "dropout": nn.Dropout(0.5).eval(),
    "Dropout2d": nn.Dropout2d(0.5).eval(),
    "identity": nn.Identity(),
}


def corners(lower, upper):
    """All corners of a box of 4 entries, (16, 1, 2, 2)."""
    choice = torch.tensor(list(product([0.0, 1.0], repeat=4)), dtype=lower.dtype).view(16, 1, 2, 2)
    return lower + choice * (upper - lower)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("rounding", [0.0, 2.0**-30])
def test_bounds_of_one_operation_are_attained(name, rounding):
    module, centre = Run(OPERATIONS[name]), seeded(2, 1, 2, 2)
    lower, upper = centre - 0.3, centre + seeded(1, 1, 2, 2).abs()
    kept = lower.clone(), upper.clone()
    low, high = interval(module, lower, upper, rounding=rounding)
    assert torch.equal(lower, kept[0])
    assert torch.equal(upper, kept[1])
    for row in range(2):
        values = module(corners(lower[row : row + 1], upper[row : row + 1]))
        torch.testing.assert_close(low[row], values.amin(0), atol=1e-7 if rounding else 1e-12, rtol=0)
        torch.testing.assert_close(high[row], values.amax(0), atol=1e-7 if rounding else 1e-12, rtol=0)
        if rounding:
            assert (low[row] <= values.amin(0)).all()
            assert (high[row] >= values.amax(0)).all()


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x + x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


def train_norm(x):
    return F.batch_norm(x, MEAN, VAR, training=True)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (torch.cos, "no interval bound for 'cos'; there is one for .*conv2d.*relu"),
        (lambda x: x.sort(), "no interval bound for 'sort'"),
        (lambda x: torch.rand_like(x) + x, "no interval bound for 'rand_like'"),
        (lambda x: x * x, "'mul' of two uncertain tensors|two uncertain tensors"),
        (lambda x: F.linear(seeded(2, 4), x.flatten(1)), "two uncertain tensors"),
        (lambda x: 1 / x, "interval bound"),
        (lambda x: torch.add(x, 1, alpha=2), "alpha"),
        (lambda x: F.leaky_relu(x, -0.1), "slope -0.1"),
        (lambda x: x if x.sum() else -x, "a decision by values"),
        (lambda x: x if x > 0 else -x, "cannot follow"),
        (lambda x: (x, x), "got tuple"),
        (lambda x: seeded(2, 4), "got Tensor"),
        (lambda x: F.dropout(x, 0.5, True), "dropout are for eval mode, got train mode"),
        (train_norm, "batch_norm are for eval mode, got train mode"),
        (lambda x: seeded(2, 1, 2, 2).add_(x), "interval bound for"),
    ],
)
def test_what_has_no_bound_is_refused_by_name(function, message):
    x = seeded(2, 1, 2, 2)
    with pytest.raises(UserError, match=message) as refused:
        interval(Run(function), x, x + 1)
    assert str(refused.value).startswith(("Run", "expected Run"))


def test_a_backward_pass_of_its_own_is_followed_only_where_nothing_is_differentiated():
    x = seeded(2, 1, 2, 2)
    with pytest.raises(UserError, match="add runs without gradients inside a network whose bounds are differentiated"):
        interval(Run(Doubled.apply), x, x + 1)
    with torch.no_grad():
        assert torch.equal(interval(Run(Doubled.apply), x, x + 1)[0], 2 * x)


def test_ends_must_be_in_order_and_of_one_shape():
    x = seeded(2, 1, 2, 2)
    with pytest.raises(ValueError, match="at most its upper one"):
        interval(nn.Identity(), x, x - 1)
    with pytest.raises(ValueError, match="one shape"):
        interval(nn.Identity(), x, x[:, :, :1])
