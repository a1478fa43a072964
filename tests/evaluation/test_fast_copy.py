"""The faster copy of a network: the same logits, fewer layers, and verdicts that are the network's own."""

import pytest
import torch
from evaluated import images, network
from torch import nn

from lit_robust.attacks import FMN, PGD, Square
from lit_robust.evaluation import evaluate_block
from lit_robust.evaluation.fast_copy import fast_copy
from lit_robust.nn import VGG16, AdditiveNoise, CIFARResNet18, Pipeline, PreActResNet18, WeightNormConv2d
from lit_robust.threat import ThreatModel


def lively(build):
    """A network in eval mode whose statistics are those of some images, and whose logits depend on the image."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.7, 1.3)
                nn.init.uniform_(module.bias, -0.3, 0.3)
                module.momentum = None  # the mean of all batches
        with torch.no_grad():
            for seed in range(3):
                model(pictures(16, seed=seed) ** (seed + 1))
    return model.eval()


def norms(model):
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def pictures(n=4, seed=9):
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("build", "left"),
    [
        (lambda: VGG16(width=0.125), 0),
        (lambda: CIFARResNet18(width=0.125), 0),
        # A block's first normalisation takes a sum; the first block's takes a map that its shortcut takes too.
        (lambda: PreActResNet18(width=0.125), 9),
    ],
    ids=["vgg", "resnet", "preact"],
)
def test_batch_normalisation_is_folded_and_the_logits_stay(build, left):
    model, x = lively(build), pictures()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    kinds = [type(module) for module in model.modules()]
    copy = fast_copy(model, x)
    assert norms(copy) == left < norms(model)
    with torch.no_grad():
        logits = model(x)
        other = pictures(7) * 0.5  # not those that it was compared on
        torch.testing.assert_close(copy(x), logits, rtol=0, atol=1e-4 * logits.abs().max().clamp(min=1).item())
        torch.testing.assert_close(copy(other), model(other), rtol=0, atol=1e-4)
    assert logits.std(0).max() > 0.1
    # The network is as it was, to the bit, and shares nothing with the copy.
    assert [type(module) for module in model.modules()] == kinds
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in copy.parameters()}
    assert not any(module._forward_hooks for network in (model, copy) for module in network.modules())
    assert not any(module.training for module in copy.modules())


def test_gradients_of_the_copy_are_those_of_the_network():
    model, x = lively(lambda: VGG16(width=0.125)), pictures().requires_grad_()
    copy = fast_copy(model, x.detach())
    one, two = (torch.autograd.grad(m(x).square().sum(), x)[0] for m in (model, copy))
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4 * one.abs().max().item())


class Net(nn.Module):
    """A convolution and a normalisation, used as a subclass says."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.other, self.head = nn.BatchNorm2d(8), nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.maps(x).mean((2, 3)))


class Residual(Net):
    def maps(self, x):
        z = self.conv(x)
        return self.norm(z).relu() + 5 * z


class TwoNorms(Net):
    def maps(self, x):
        z = self.conv(x)
        return self.norm(z).relu() - self.other(z).relu()


class TwoConvolutions(Net):
    def maps(self, x):
        return self.norm(self.conv(x)) + self.norm(self.conv(1 - x))


class Between(Net):
    def maps(self, x):
        return self.norm(self.conv(x).relu())


class ByName(Net):
    def maps(self, x):
        return self.norm(input=self.conv(x)).relu()


class NoStatistics(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8, track_running_stats=False)

    def maps(self, x):
        return self.norm(self.conv(x)).relu()


class NormOfAConvolutionOfItsOwn(Net):
    def __init__(self):
        super().__init__()
        self.conv = WeightNormConv2d(3, 8, 3)

    def maps(self, x):
        return self.norm(self.conv(x)).relu()


class OnceFolded(Net):
    def maps(self, x):
        return self.norm(self.conv(x)).relu()


USES = [Residual, TwoNorms, TwoConvolutions, Between, ByName, NoStatistics, NormOfAConvolutionOfItsOwn]


@pytest.mark.parametrize("build", USES)
def test_nothing_is_folded_where_the_convolution_s_output_goes_elsewhere(build):
    model = lively(build)
    copy, x = fast_copy(model, pictures()), pictures(5)
    assert norms(copy) == norms(model)
    torch.testing.assert_close(copy(x), model(x), rtol=0, atol=1e-4)


def test_a_single_use_is_folded():
    model = lively(OnceFolded)
    assert norms(fast_copy(model, pictures())) == norms(model) - 1


@pytest.mark.parametrize(
    "build",
    [
        lambda: Pipeline([AdditiveNoise(0.1), VGG16(width=0.125)]),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)),
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), Overflows(), nn.Flatten()),
    ],
    ids=["noise", "no convolution", "not finite"],
)
def test_there_is_no_copy_of_what_is_random_or_has_nothing_to_fold(build):
    assert fast_copy(lively(build), pictures()) is None


class Overflows(nn.Module):
    def forward(self, z):
        return z / 0 - z / 0


def test_what_cannot_be_copied_is_left_as_it_is():
    model = lively(lambda: VGG16(width=0.125))
    model.kept = (2 * next(model.parameters())).sum()  # a tensor of a graph
    assert fast_copy(model, pictures()) is None


# --- verdicts with a copy ---

LINF = ThreatModel("4/255")
ATTACKS = {
    "pgd": PGD(threat=LINF, steps=4, step_size="eps/2"),
    "square": Square(threat=LINF, queries=8),
    "fmn": FMN(norm="l2", steps=6),
    "within": FMN(norm="l2", steps=6, eps=0.1),
}
N = 32


class Copy(nn.Module):
    """A copy that changes the logits."""

    def __init__(self, model, change):
        super().__init__()
        self.model, self.change, self.passes = model, change, 0

    def forward(self, x):
        self.passes += 1
        return self.change(self.model(x))


@pytest.fixture(scope="module")
def case():
    model = network("norm")
    x, y = images(model, N, wrong_every=7)
    return model, x, y


def verdicts(case, copy, **options):
    model, x, y = case
    cascades = {"within": "a"}
    return evaluate_block(
        model, x, y, torch.arange(N), ATTACKS, size=N, cascades=cascades, copy=copy, **options
    ).verdicts


def same(one, other):
    for name, verdict in one.items():
        for column in ("broken", "right", "margin", "distance", "x_adv"):
            assert torch.equal(getattr(verdict, column), getattr(other[name], column)), (name, column)


def test_a_copy_that_claims_to_have_broken_everything_changes_no_verdict(case):
    alone = verdicts(case, None)
    lies = Copy(case[0], torch.neg)
    lying = verdicts(case, lies)
    same(alone, lying)
    assert lies.passes > 0
    assert 0 < alone["pgd"].broken.sum() < N
    # What the copy was asked is counted too.
    right = ~alone["clean"].broken
    assert (lying["pgd"].forwards > alone["pgd"].forwards)[right].all()


def test_where_rounding_decides_the_network_itself_is_searched():
    # The copy's margin is a little lower: where it stops on the way to the boundary, the network is still right.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(108, 2)).double().eval()
    x = torch.rand(400, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        x = x[model(x).argmax(1) == 0]
        few = 0.05 * model(x).diff().abs().median()
    y, index, size = torch.zeros(len(x), dtype=torch.long), torch.arange(len(x)), len(x)
    attacks = {"pgd": PGD(threat=ThreatModel("8/255"), steps=6, start="clean", step_size="eps/5")}
    copy = Copy(model, lambda z: z - torch.tensor([1.0, 0.0]) * few)
    alone, copied, unchecked = (
        evaluate_block(m, x, y, index, attacks, size=size, copy=c).verdicts["pgd"]
        for m, c in ((model, None), (model, copy), (copy, None))
    )
    with torch.no_grad():
        early = unchecked.broken & (model(unchecked.x_adv).argmax(1) == 0)
    assert 5 < early.sum() < len(x) // 2
    assert torch.equal(copied.broken, alone.broken)
    assert torch.equal(copied.x_adv[early], alone.x_adv[early])
    assert (copied.forwards > alone.forwards)[early].all()  # the copy's passes and the network's


def test_distances_are_measured_on_the_network_itself(case):
    asked = []
    copy = Copy(case[0], lambda z: asked.append(len(z)) or z)
    model, x, y = case
    evaluate_block(model, x, y, torch.arange(N), {"fmn": ATTACKS["fmn"]}, size=N, copy=copy)
    assert asked == []


def test_every_adversarial_is_confirmed_on_the_network(case):
    # A copy that is wrong about everything from the start: what it hands back is still right.
    model, x, y = case
    found = verdicts(case, Copy(model, torch.neg))
    for name in ATTACKS:
        with torch.no_grad():
            wrong = model(found[name].x_adv).argmax(1) != y
        inside = LINF if name in ("pgd", "square") else ThreatModel(0.1, "l2") if name == "within" else None
        counted = wrong if inside is None else wrong & inside.contains(found[name].x_adv, x)
        assert torch.equal(found[name].broken, counted)


def test_a_random_network_is_searched_itself():
    model = network("random")
    x, y = images(model, N)
    asked = []
    copy = Copy(model, lambda z: asked.append(len(z)) or z)
    evaluate_block(model, x, y, torch.arange(N), {"pgd": ATTACKS["pgd"]}, size=N, copy=copy, draws=2)
    assert asked == []


def test_small_batches_of_a_large_network_keep_the_usual_order_and_agree():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 2048, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = model.eval()
    x = torch.rand(40, 3, 8, 8)
    copy = fast_copy(model, x)
    for n in (1, 31, 32, 40):
        torch.testing.assert_close(copy(x[:n]), model(x[:n]), rtol=0, atol=1e-4)
    orders = []
    for order in (copy.few, copy.many):
        order[2].register_forward_hook(lambda module, args, out: orders.append(args[0].stride()[1] == 1))
    copy(x[:31]), copy(x[:32])
    assert orders == [False, True]  # channels last have stride 1
    assert fast_copy(model[:2], x).few is None
