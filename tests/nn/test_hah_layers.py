"""The layers of a HaH block against their formulas, in values and gradients, and a network of such blocks."""

from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from lit_robust import PGD, ThreatModel
from lit_robust.errors import UserError
from lit_robust.evaluation import evaluate_block
from lit_robust.nn import (
    DivisiveNorm,
    FractionThreshold,
    HaHBlock,
    HaHVGG16,
    MeanThreshold,
    WeightNormConv2d,
)
from lit_robust.regimes import CollapsedBlockError, HaH, Natural

torch.set_num_threads(1)
FIELDS = (1, 3, 5)
SIGMAS = (0.0, 0.1, 0.6, 1.0)


def active(*shape, seed=0, dtype=torch.float64):
    """Activations after a ReLU: about half of them 0."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).clamp(min=0).to(dtype)


def layouts(x):
    """The same numbers in memory in several ways."""
    apart = torch.empty(*x.shape[:3], 2 * x.shape[3], dtype=x.dtype)[..., ::2].copy_(x)
    turned = x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    return {
        "contiguous": x,
        "channels last": x.contiguous(memory_format=torch.channels_last),
        "every other": apart,
        "turned": turned,
    }


# --- weight normalisation ---


def test_an_output_is_the_projection_onto_the_direction_of_a_filter():
    torch.manual_seed(0)
    conv = WeightNormConv2d(3, 5, (3, 2), stride=2, padding=1, bias=True).double()
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64)
    out = conv(x)
    padded = F.pad(x, (1, 1, 1, 1))
    for n, k, i, j in product(range(2), range(5), range(out.shape[2]), range(out.shape[3])):
        patch = padded[n, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 2]
        w = conv.weight[k]
        assert out[n, k, i, j].item() == pytest.approx(
            ((w * patch).sum() / (w.square().sum().sqrt() + 1e-6) + conv.bias[k]).item(), abs=1e-12
        )


def test_longer_filters_change_neither_outputs_nor_what_is_stored():
    torch.manual_seed(0)
    conv, x = WeightNormConv2d(4, 6, groups=2).double(), torch.randn(2, 4, 5, 5, dtype=torch.float64)
    before = conv(x)
    with torch.no_grad():
        conv.weight.mul_(torch.logspace(-1, 2, 6, dtype=torch.float64)[:, None, None, None])
    stored = conv.weight.clone()
    torch.testing.assert_close(conv(x), before, rtol=1e-4, atol=1e-6)
    assert torch.equal(conv.weight, stored)
    norms = conv.direction.flatten(1).norm(dim=1)
    expected = (n := stored.flatten(1).norm(dim=1)) / (n + 1e-6)
    torch.testing.assert_close(norms, expected)


def test_the_division_is_differentiated():
    torch.manual_seed(0)
    conv, x = WeightNormConv2d(2, 3, 3).double(), torch.randn(2, 2, 5, 5, dtype=torch.float64)

    def of_weight(w):
        return F.conv2d(x, w / (w.square().sum((1, 2, 3), keepdim=True).sqrt() + 1e-6))

    g = torch.randn(2, 3, 3, 3, dtype=torch.float64)
    conv(x).backward(g)
    w = conv.weight.detach().clone().requires_grad_()
    of_weight(w).backward(g)
    torch.testing.assert_close(conv.weight.grad, w.grad)
    # Along a filter nothing changes, so the gradient stands at a right angle to it.
    along = (conv.weight.grad * conv.weight).flatten(1).sum(1)
    assert along.abs().max() < 1e-5 * conv.weight.grad.norm()


def test_a_filter_of_zeros_gives_zeros_and_a_finite_gradient():
    conv = WeightNormConv2d(2, 3)
    with torch.no_grad():
        conv.weight[1].zero_()
    out = conv(torch.rand(1, 2, 5, 5))
    assert not out[:, 1].any()
    out.sum().backward()
    assert conv.weight.grad.isfinite().all()


# --- divisive normalisation ---


def divided(y, sigma=0.1, field=3, offset=0.0, pool=None):
    """Eq. 5.2 from the formula; the pool is a maximum over shifted copies unless one is given."""
    if pool is None:
        side = field // 2
        padded = F.pad(y, [side] * 4)
        height, width = y.shape[2:]
        shifts = [padded[:, :, i : i + height, j : j + width] for i in range(field) for j in range(field)]
        suppression = torch.stack(shifts).max(0).values
    else:
        suppression = pool(y, field, 1, field // 2)
    mean = suppression.mean(1, keepdim=True)
    largest = mean.flatten(1).max(1).values.view(-1, 1, 1, 1)
    denominator = sigma * largest + (1 - sigma) * mean + offset
    return torch.where(denominator > 0, y / torch.where(denominator > 0, denominator, 1), 0)


def test_divisive_normalisation_of_the_text_by_hand():
    y = torch.tensor([[[[1.0, 0.0], [3.0, 0.0]], [[3.0, 0.0], [1.0, 1.0]]]])  # means 2 0 / 2 0.5
    expected = torch.tensor([[[[0.5, 0.0], [1.5, 0.0]], [[1.5, 0.0], [0.5, 0.8]]]])  # denominators 2 1 / 2 1.25
    torch.testing.assert_close(DivisiveNorm(2, sigma=0.5, field=1)(y), expected)
    beside = DivisiveNorm(2, sigma=0.5, field=1)(torch.cat([y, 9 * y.flip(3)]))
    torch.testing.assert_close(beside, torch.cat([expected, expected.flip(3)]))  # each image by itself
    expected[0, 1, 1, 1] = 2.0
    torch.testing.assert_close(DivisiveNorm(2, sigma=0.0, field=1)(y), expected)
    torch.testing.assert_close(DivisiveNorm(2, sigma=1.0, field=1)(y), y / 2)


def test_divisive_normalisation_as_published_by_hand():
    y = torch.tensor([[[[4.0, 0.0, 0.0, 2.0]]]])  # pooled 4 4 2 2; denominators 4 4 2.5 2.5
    torch.testing.assert_close(DivisiveNorm(1, sigma=0.25)(y), torch.tensor([[[[1.0, 0.0, 0.0, 0.8]]]]))
    text = DivisiveNorm(1, sigma=0.25, field=1)(y)  # denominators 4 1 1 2.5
    torch.testing.assert_close(text, torch.tensor([[[[1.0, 0.0, 0.0, 0.8]]]]))
    between = torch.tensor([[[[4.0, 1.0, 0.0, 2.0]]]])
    torch.testing.assert_close(DivisiveNorm(1, sigma=0.25)(between), torch.tensor([[[[1.0, 0.25, 0.0, 0.8]]]]))
    torch.testing.assert_close(
        DivisiveNorm(1, sigma=0.25, field=1)(between), torch.tensor([[[[1.0, 1 / 1.75, 0.0, 0.8]]]])
    )


@pytest.mark.parametrize("offset", [0.0, 1e-7, 0.5])
@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("field", FIELDS)
def test_divisive_normalisation_is_the_formula(field, sigma, offset):
    y = active(3, 4, 6, 5)
    y[1] = 0  # a silent image
    y[2, :, 2:, :] = 0  # and silent regions
    norm = DivisiveNorm(4, sigma=sigma, field=field, offset=offset).double()
    expected = divided(y, sigma, field, offset)
    for name, laid in layouts(y).items():
        torch.testing.assert_close(norm(laid), expected, rtol=1e-14, atol=0, msg=name)
    assert not norm(y)[1].any()


def test_the_default_is_the_published_form():
    y = active(2, 3, 4, 4)
    torch.testing.assert_close(DivisiveNorm(3)(y), divided(y, 0.1, 3))
    assert not torch.allclose(DivisiveNorm(3)(y), divided(y, 0.1, 1))


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("field", FIELDS)
def test_gradient_of_divisive_normalisation(field, sigma):
    # Through the ReLU, as it is used: at a 0 the pool may pass its gradient to any of several.
    v = torch.randn(3, 4, 6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    v[1, :, 1:4, 1:4] = 0.7  # a constant region, where the pool's first location gets it all
    v[2, :, 3:] = -1  # silent
    norm, g = DivisiveNorm(4, sigma=sigma, field=field), active(3, 4, 6, 5, seed=2) - 0.3
    for (name, laid), inside in product(layouts(v).items(), layouts(g).values()):
        one, other = laid.detach().requires_grad_(), laid.detach().requires_grad_()
        norm(F.relu(one)).backward(inside)
        divided(F.relu(other), sigma, field, pool=F.max_pool2d).backward(inside)
        assert other.grad.isfinite().all()
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-12, msg=name)
    assert not one.grad[2, :, 5].any()


@pytest.mark.parametrize("field", [1, 3])
def test_gradient_against_finite_differences(field):
    y = torch.randperm(2 * 3 * 4 * 4, generator=torch.Generator().manual_seed(0)).view(2, 3, 4, 4) / 96 + 0.01
    y = y.double().requires_grad_()
    assert torch.autograd.gradcheck(DivisiveNorm(3, sigma=0.3, field=field), (y,))
    assert torch.autograd.gradcheck(DivisiveNorm(3, sigma=0.3, field=field, offset=0.2), (y,))


def test_where_the_denominator_is_0_the_gradient_is_too():
    y = torch.zeros(1, 2, 3, 3, requires_grad=True)
    DivisiveNorm(2)(y).sum().backward()
    assert torch.equal(y.grad, torch.zeros_like(y))


@pytest.mark.parametrize("power", [-20, -7, -1, 1, 20])
@pytest.mark.parametrize(("sigma", "field"), list(product(SIGMAS, FIELDS)))
def test_powers_of_two_change_no_bit(sigma, field, power):
    y = active(4, 6, 9, 7, dtype=torch.float32)
    factors = torch.tensor([2.0**power, 1.0, 2.0**-power, 2.0]).view(-1, 1, 1, 1)
    norm = DivisiveNorm(6, sigma=sigma, field=field)
    assert torch.equal(norm(factors * y), norm(y))
    for threshold in (FractionThreshold(), MeanThreshold(), FractionThreshold(ties="keep")):
        assert torch.equal(threshold(norm(factors * y)), threshold(norm(y)))


@settings(deadline=None, max_examples=40)
@given(
    factor=st.floats(1e-3, 1e3),
    sigma=st.sampled_from(SIGMAS),
    field=st.sampled_from(FIELDS),
    seed=st.integers(0, 1000),
)
def test_positive_factors_change_nothing_to_speak_of(factor, sigma, field, seed):
    y = active(2, 4, 6, 6, seed=seed, dtype=torch.float32)
    norm = DivisiveNorm(4, sigma=sigma, field=field)
    torch.testing.assert_close(norm(factor * y), norm(y), rtol=1e-5, atol=1e-5)
    kept, again = FractionThreshold()(norm(y)), FractionThreshold()(norm(factor * y))
    torch.testing.assert_close(again, kept, rtol=1e-5, atol=1e-5)  # of random numbers no two are nearly tied


def test_the_share_of_silent_images_is_seen_in_training_alone():
    norm = DivisiveNorm(2, field=1).eval()
    y = torch.zeros(5, 2, 3, 3)
    y[0] = 1.0
    y[1, 0, 1, 1] = 2.1e-6  # a mean of 1.05e-6 at one location
    y[2, 0, 1, 1] = 1.9e-6
    norm(y)
    assert norm.silent is None
    norm.train()(y)
    assert norm.silent.item() == pytest.approx(0.6)
    assert not norm.silent.requires_grad
    norm.eval()(y[:1])
    assert norm.silent.item() == pytest.approx(0.6)


@pytest.mark.parametrize("layer", [DivisiveNorm(2), DivisiveNorm(2, field=1), FractionThreshold(), MeanThreshold()])
def test_numbers_that_are_none_are_not_hidden(layer):
    y = active(2, 2, 4, 4, dtype=torch.float32)
    y[0, 1, 2, 3] = torch.nan
    out = layer(y)
    assert out[0].isnan().any()
    assert torch.equal(out[1], layer(y[1:])[0])
    assert layer(torch.full((1, 2, 4, 4), torch.nan)).isnan().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(DivisiveNorm, 2, sigma=-0.1), r"sigma .* in \[0, 1\], got -0\.1"),
        (partial(DivisiveNorm, 2, sigma=1.1), r"sigma .* in \[0, 1\], got 1\.1"),
        (partial(DivisiveNorm, 2, sigma=float("nan")), r"sigma .* got nan"),
        (partial(DivisiveNorm, 2, field=2), "field .* odd number, got 2"),
        (partial(DivisiveNorm, 2, field=0), "field .* odd number, got 0"),
        (partial(DivisiveNorm, 2, field=-1), "field .* odd number, got -1"),
        (partial(DivisiveNorm, 2, offset=-1e-7), "offset .* 0 or more"),
        (partial(DivisiveNorm, 2, offset=float("nan")), "offset .* got nan"),
        (partial(FractionThreshold, keep=0.0), "keep .* above 0 and at most 1, got 0"),
        (partial(FractionThreshold, keep=1.1), "keep .* above 0 and at most 1, got 1.1"),
        (partial(FractionThreshold, keep=float("nan")), "keep .* got nan"),
        (partial(MeanThreshold, scale=-0.5), "scale .* 0 or more, got -0.5"),
        (partial(MeanThreshold, scale=float("nan")), "scale .* got nan"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


# --- thresholds ---


def thresholded(z, k, keep_ties):
    """Eq. 5.3 by sorting each channel."""
    out = torch.zeros_like(z)
    for n, c in product(range(z.shape[0]), range(z.shape[1])):
        values = sorted(z[n, c].flatten().tolist())
        for i, j in product(range(z.shape[2]), range(z.shape[3])):
            value = z[n, c, i, j].item()
            tau = values[k - 1] if k else -float("inf")
            if value > tau or (keep_ties and value == tau):
                out[n, c, i, j] = value
    return out


@pytest.mark.parametrize("ties", ["drop", "keep"])
@pytest.mark.parametrize(("keep", "k"), [(0.2, 16), (0.5, 10), (0.05, 19), (0.95, 1), (0.99, 0), (1.0, 0)])
def test_fraction_threshold_is_a_sort(keep, k, ties):
    z = active(2, 3, 4, 5)
    z[0, 0] = 0.25  # all tied
    z[0, 1, :2] = 0.25
    z[1, 0] = 0
    for name, laid in layouts(z).items():
        out = FractionThreshold(keep=keep, ties=ties)(laid)
        assert torch.equal(out, thresholded(z, k, ties == "keep")), name


@pytest.mark.parametrize(("side", "kept"), [(32, 205), (16, 52), (8, 13)])
def test_the_published_threshold_keeps_a_fifth(side, kept):
    z = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert ((FractionThreshold()(z) > 0).sum((2, 3)) == kept).all()
    assert ((FractionThreshold(ties="keep")(z) > 0).sum((2, 3)) == kept + 1).all()


@settings(deadline=None, max_examples=200)
@given(percent=st.integers(1, 100), height=st.integers(1, 12), width=st.integers(2, 12))
@example(percent=90, height=2, width=5)  # 1 - 0.9 is below 0.1 in binary
def test_the_rank_of_the_threshold_is_exact(percent, height, width):
    size = height * width
    z = torch.randperm(size).double().view(1, 1, height, width) + 1
    kept = (FractionThreshold(keep=percent / 100)(z) > 0).sum().item()
    assert kept == size - (100 - percent) * size // 100


def test_ties_are_dropped_or_kept():
    z = torch.tensor([[[[1.0, 2.0, 3.0, 3.0, 3.0]]]])  # the fourth smallest of five is 3
    assert not FractionThreshold()(z).any()
    assert torch.equal(FractionThreshold(ties="keep")(z), torch.tensor([[[[0.0, 0.0, 3.0, 3.0, 3.0]]]]))
    mostly = torch.tensor([[[[0.0, 0.0, 0.0, 0.0, 5.0]]]])
    assert torch.equal(FractionThreshold(keep=0.6)(mostly), mostly)  # fewer than allowed where zeros tie


def test_mean_threshold_by_hand():
    z = torch.tensor([[[[1.0, 2.0, 3.0, 6.0]], [[0.0, 1.0, 0.5, 2.5]]]])  # means 3 and 1
    assert torch.equal(MeanThreshold()(z), torch.tensor([[[[0.0, 0.0, 3.0, 6.0]], [[0.0, 1.0, 0.0, 2.5]]]]))
    assert torch.equal(MeanThreshold(scale=0.5)(z), torch.tensor([[[[0.0, 2.0, 3.0, 6.0]], [[0.0, 1.0, 0.5, 2.5]]]]))
    assert torch.equal(MeanThreshold(scale=0.0)(z), z)
    assert not MeanThreshold(scale=5.0)(z).any()
    beside = MeanThreshold()(torch.cat([z, 100 * z.flip(3)]))
    assert torch.equal(beside, torch.cat([MeanThreshold()(z), 100 * MeanThreshold()(z).flip(3)]))


@pytest.mark.parametrize("threshold", [FractionThreshold(keep=0.4), FractionThreshold(ties="keep"), MeanThreshold()])
def test_gradient_of_a_threshold_is_its_mask(threshold):
    z = active(2, 3, 4, 5) + 0.01
    g = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for (name, laid), inside in product(layouts(z).items(), layouts(g).values()):
        one = laid.detach().requires_grad_()
        out = threshold(one)
        out.backward(inside)
        assert torch.equal(one.grad, torch.where(out > 0, g, 0)), name
    assert 0 < out.count_nonzero() < out.numel()


@pytest.mark.parametrize("threshold", [FractionThreshold(), MeanThreshold()])
def test_a_single_location_is_refused(threshold):
    with pytest.raises(UserError, match=r"more than one location, got 1x1; .*threshold: null"):
        threshold(torch.rand(2, 3, 1, 1))


# --- a block, and a network of them ---


def block_by_hand(x, w, *, sigma=0.1, field=3):
    y = F.conv2d(x, w / (w.square().sum((1, 2, 3), keepdim=True).sqrt() + 1e-6), padding=1).clamp(min=0)
    z = divided(y, sigma, field)
    size = z.shape[2] * z.shape[3]
    return torch.where(z > z.flatten(2).kthvalue(size * 4 // 5, dim=2).values[..., None, None], z, 0)


def test_a_block_is_its_composition():
    torch.manual_seed(0)
    block = HaHBlock(WeightNormConv2d(3, 8, padding=1)).double()
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    for laid in layouts(x).values():
        torch.testing.assert_close(block(laid), block_by_hand(x, block.conv.weight))
    normal = HaHBlock(WeightNormConv2d(3, 8), norm=nn.BatchNorm2d, threshold=None).double()
    torch.testing.assert_close(normal(x), normal.norm(F.relu(normal.conv(x))))
    assert normal.norm.num_features == 8


def test_gradient_of_a_block():
    torch.manual_seed(0)
    block = HaHBlock(WeightNormConv2d(3, 8, padding=1)).double()
    x = torch.randn(2, 3, 6, 7, dtype=torch.float64)
    one, other, w = x.clone().requires_grad_(), x.clone().requires_grad_(), block.conv.weight.detach().clone()
    w.requires_grad_()
    g = torch.randn(2, 8, 6, 7, dtype=torch.float64)
    block(one).backward(g)
    block_by_hand(other, w).backward(g)
    torch.testing.assert_close(one.grad, other.grad)
    torch.testing.assert_close(block.conv.weight.grad, w.grad)


@pytest.mark.parametrize(("options", "count"), [({}, 14_722_250), ({"hah_blocks": 0}, 14_724_042)])
def test_parameter_count_of_the_published_networks(options, count):
    with torch.device("meta"):
        network = HaHVGG16(**options)
    assert sum(p.numel() for p in network.parameters()) == count


def test_vgg_is_its_composition():
    torch.manual_seed(0)
    network = HaHVGG16(width=1 / 16, hah_blocks=4, num_classes=5).double().train()
    x = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    h = x
    for number in range(1, 14):
        block = network.get_submodule(f"block{number}")
        w = block.conv.weight
        if number <= 4:
            h = block_by_hand(h, w)
        else:
            w = w / (w.square().sum((1, 2, 3), keepdim=True).sqrt() + 1e-6)
            h = F.conv2d(h, w, padding=1).clamp(min=0)
            mean, var = h.mean((0, 2, 3), keepdim=True), h.var((0, 2, 3), keepdim=True, correction=0)
            h = (h - mean) / (var + 1e-5).sqrt()
        if number in (2, 4, 7, 10, 13):
            h = h.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2))
    expected = h.flatten(1) @ network.classifier.weight.T + network.classifier.bias
    torch.testing.assert_close(network(x), expected, rtol=1e-8, atol=1e-8)


def test_vgg_options():
    network = HaHVGG16(width=1 / 16, hah_blocks=2, weight_norm=False, momentum=0.19)
    convs = [network.get_submodule(f"block{number}").conv for number in range(1, 14)]
    assert [type(conv) for conv in convs] == [WeightNormConv2d] * 2 + [nn.Conv2d] * 11
    assert all(conv.bias is None for conv in convs)
    assert network.block3.norm.momentum == 0.19
    assert [isinstance(network.get_submodule(f"block{n}"), HaHBlock) for n in (1, 2, 3)] == [True, True, False]
    for number in (14, -1):
        with pytest.raises(UserError, match=rf"13 blocks; expected hah_blocks of 0 to that, got {number}"):
            HaHVGG16(hah_blocks=number)


def test_contrast_changes_no_bit_of_the_logits():
    torch.manual_seed(0)
    network = HaHVGG16(width=1 / 8).eval()
    x = torch.rand(3, 3, 32, 32)
    logits = network(x)
    for power in (-5, -1):
        assert torch.equal(network(2.0**power * x), logits)
    torch.testing.assert_close(network(0.3 * x), logits, rtol=1e-4, atol=1e-5)


# --- collapse ---


def silenced(share):
    """A network whose first block sees nothing but negative numbers on a share of the images that it gets."""
    torch.manual_seed(0)
    network = HaHVGG16(width=1 / 8, hah_blocks=2).train()
    with torch.no_grad():
        network.block1.conv.weight.copy_(-network.block1.conv.weight.abs())
    x = torch.rand(10, 3, 32, 32)
    x[round(10 * share) :] *= -1  # outside the pixel range, for want of another way
    return network, (x, torch.arange(10), torch.arange(10))


@pytest.mark.parametrize("regime", [HaH, Natural])
def test_a_silent_block_ends_the_training(regime, monkeypatch):
    network, batch = silenced(0.6)
    regime = regime(network)
    monkeypatch.setattr(type(regime), "current_epoch", 7)
    with pytest.raises(CollapsedBlockError, match=r"^block1 collapsed in epoch 7: .* on 60 % of the batch"):
        regime.training_step(batch, 0)


def test_the_block_that_fell_silent_is_named():
    network = HaHVGG16(width=1 / 8, hah_blocks=3)
    with torch.no_grad():
        network.block2.conv.weight.copy_(-network.block2.conv.weight.abs())
    with pytest.raises(CollapsedBlockError, match=r"^block2 collapsed in epoch 0: .* on 100 % of the batch"):
        Natural(network).training_step((torch.rand(4, 3, 32, 32), torch.arange(4), torch.arange(4)), 0)


def test_some_silent_images_do_not():
    network, batch = silenced(0.5)
    regime = HaH(network)
    regime.log = lambda *_, **__: None
    assert regime.training_step(batch, 0).isfinite()
    assert network.block1.norm.silent.item() == 0.5


def test_silence_seen_before_is_forgotten():
    network, batch = silenced(0.6)
    network(batch[0])
    regime = Natural(network)
    regime.log = lambda *_, **__: None
    assert regime.training_step((-batch[0].abs(), *batch[1:]), 0).isfinite()


# --- attacked in blocks ---


def deployed(dtype=torch.float64):
    torch.manual_seed(0)
    convs = [WeightNormConv2d(3, 6, 3, padding=1), WeightNormConv2d(6, 6, 3, stride=2)]
    head = nn.Linear(6 * 9, 4)
    with torch.no_grad():
        head.weight.mul_(3)
    return nn.Sequential(*(HaHBlock(conv) for conv in convs), nn.Flatten(), head).to(dtype).eval()


def seen(kind, n, dtype=torch.float64):
    """Random images, or such in which most pixels are the same, so that activations tie."""
    x = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if kind == "flat":
        x[:, :, 1:, :] = 0.3
        x[n // 2 :, :, :, :5] = 0.6
    return x.to(dtype)


@pytest.mark.parametrize("kind", ["random", "flat"])
def test_verdicts_depend_neither_on_the_order_nor_on_the_partition(kind):
    network, x = deployed(), seen(kind, 48)
    with torch.no_grad():
        y = network(x).argmax(1)
    y[::9] = (y[::9] + 1) % 4
    attacks = {"pgd": PGD(threat=ThreatModel("4/255"), steps=5, step_size="eps/2")}

    def verdicts(order, size):
        blocks = [evaluate_block(network, x[r], y[r], r, attacks, size=size) for r in order.split(size)]
        columns = torch.stack([torch.cat([b.verdicts[n].broken for b in blocks]) for n in ("clean", "pgd")])
        return columns[:, order.argsort()]

    whole = verdicts(torch.arange(48), 16)
    assert 0 < whole[0].sum() < whole[1].sum() < 48
    shuffled = torch.randperm(48, generator=torch.Generator().manual_seed(3))
    for order, size in ((torch.arange(48).flip(0), 16), (shuffled, 16), (shuffled, 7), (shuffled, 48)):
        assert torch.equal(verdicts(order, size), whole), (kind, size)
