"""Certificates: sound and, where they must be, exact against every combination of levels; never broken by an attack."""

from functools import cache
from itertools import pairwise, product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_robust import APGD, PGD, ThreatModel, sampling
from lit_robust.attacks import Square
from lit_robust.data import Digits
from lit_robust.errors import UserError
from lit_robust.evaluation.certificate import certifiable, certify
from lit_robust.nn import AdditiveNoise, Pipeline, SmallCNN
from lit_robust.nn.polarizing import PolarizingFrontEnd
from lit_robust.nn.reachable_codes import reachable_codes
from lit_robust.regimes.interval import IntervalLoss


def front_end(filters=2, kernel=3, threshold=0.3):
    return PolarizingFrontEnd(in_channels=1, filters=filters, kernel_size=kernel, thresholds=[-threshold, threshold])


def tiny(kind, seed=0):
    """A front end of 2 filters on 4×4 images and a classifier of 3 classes."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        classifier = {
            "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(32, 3)),
            "conv": lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)),
        }[kind]()
        return Pipeline([front_end(), classifier]).eval()


def images(n, seed=0):
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def combinations(codes, row):
    """Every code that one image can have: each undecided entry at each of its levels, in steps of a half for ties."""
    lower, upper = codes.lower[row].flatten(), codes.upper[row].flatten()
    open_ = torch.nonzero(lower != upper).flatten()
    levels = [torch.arange(lower[i].item(), upper[i].item() + 0.25, 0.5).tolist() for i in open_]
    every = lower.repeat(max(1, len(list(product(*levels)))), 1)
    if len(open_):
        every[:, open_] = torch.tensor(list(product(*levels)), dtype=lower.dtype)
    return every.view(-1, *codes.lower.shape[1:])


@pytest.mark.parametrize("kind", ["linear", "conv"])
@pytest.mark.parametrize("eps", [0.005, 0.02, 0.04])
def test_against_every_combination_of_levels(kind, eps):
    network, x = tiny(kind), images(24)
    with torch.no_grad():
        y = network(x).argmax(1)
    y[::6] = (y[::6] + 1) % 3  # some are wrong
    front, classifier = network.stages
    certificate = certify(network, x, y, ThreatModel(eps))
    codes = reachable_codes(front, x.double(), ThreatModel(eps))
    assert torch.equal(certificate.undecided, codes.undecided)
    seen = 0
    for row in range(len(x)):
        if codes.undecided[row] > 8:  # 3^8 codes
            continue
        seen += 1
        with torch.no_grad():
            z = nn.Sequential(classifier).double()(combinations(codes, row))
        classifier.float()
        wrong = torch.ones(3, dtype=torch.bool)
        wrong[y[row]] = False
        least = (z[:, y[row], None] - z)[:, wrong].min().item()
        assert certificate.margin[row] <= least
        if kind == "linear":
            assert certificate.margin[row] == pytest.approx(least, abs=1e-4), "a linear classifier's hull is exact"
        if codes.undecided[row] == 0:
            assert certificate.margin[row] == pytest.approx(least, abs=1e-4), "one code is one point"
        robust = least > 0
        assert robust or not certificate.certified[row]
        if kind == "linear" and abs(least) > 1e-3:
            assert bool(certificate.certified[row]) == robust
    assert seen >= 12
    assert certificate.certified.any()
    assert not certificate.certified[::6].any()


def test_a_code_that_nothing_changes_is_proof_enough():
    network, x = tiny("conv"), images(40)
    y = network(x).argmax(1)
    certificate = certify(network, x, y, ThreatModel(0.003))
    assert certificate.by_codes.any()
    assert torch.equal(certificate.by_codes, certificate.undecided == 0)
    wrong = certify(network, x, (y + 1) % 3, ThreatModel(0.003))
    assert not wrong.certified.any()


def test_a_code_that_nothing_changes_is_proof_where_rounding_hides_the_margin_from_bounds():
    network, x = tiny("conv"), images(40)
    with torch.no_grad():
        network.stages[1][-1].bias += 1e6
    y = network(x).argmax(1)
    certificate = certify(network, x, y, ThreatModel(0.003))
    assert torch.equal(certificate.certified, certificate.undecided == 0)
    assert certificate.certified.any()
    assert not certificate.by_intervals.any()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_certificates_of_smaller_balls_hold_wherever_larger_ones_do(norm):
    network, x = tiny("conv", seed=2), images(60)
    y = network(x).argmax(1)
    found = [certify(network, x, y, ThreatModel(eps, norm)) for eps in (0.0, 0.002, 0.01, 0.05, 0.3)]
    for small, large in pairwise(found):
        assert (small.certified | ~large.certified).all()
        assert (small.margin >= large.margin).all()
    assert [int(c.certified.sum()) for c in found] == sorted([int(c.certified.sum()) for c in found], reverse=True)


def test_a_linear_classifier_without_front_end_is_certified_exactly():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval().requires_grad_(False)
    x, eps = images(200), 0.05
    weight, bias = ((part[0] - part[1]).double() for part in (net[1].weight, net[1].bias))
    bias -= (x.double().flatten(1) @ weight + bias).median()  # half of each class
    net[1].bias[0] = net[1].bias[1] + bias
    bias = (net[1].bias[0] - net[1].bias[1]).double()
    y = net(x).argmax(1)
    sign, flat = torch.where(y == 0, 1.0, -1.0).double(), x.double().flatten(1)
    worst = torch.where(sign[:, None] * weight > 0, (flat - eps).clamp(min=0), (flat + eps).clamp(max=1))
    least = sign * (worst @ weight + bias)
    certificate = certify(net, x, y, ThreatModel(eps))
    assert certificate.undecided is None
    assert not certificate.by_codes.any()
    torch.testing.assert_close(certificate.margin, least, atol=3e-5, rtol=0)
    assert (certificate.margin <= least).all()
    clear = least.abs() > 1e-4
    assert torch.equal(certificate.certified[clear], least[clear] > 0)
    assert 20 < int(certificate.certified.sum()) < 180


@cache
def trained(polarized):
    """A small network that interval training has made certifiable at 0.1 on the digits, and test images."""
    data = Digits(size=16)
    train, test = ((i.x.float() / 255, i.y) for i in (data.images(train=True), data.images(train=False)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = SmallCNN(size=16, width=0.25, in_channels=2 if polarized else 1)
        network = Pipeline([front_end(threshold=0.5), classifier]) if polarized else Pipeline([classifier])
        if polarized:
            with torch.no_grad():
                network.stages[0].conv.weight.mul_(0.02)
                network.stages[0].conv.weight[:, 0, 1, 1] = torch.tensor([1.0, -1.0])
            network.stages[0].requires_grad_(False)
        network.train()
        network.stages[0].eval()
        loss = IntervalLoss(threat=ThreatModel(0.1), start=0.0, end=0.5)
        optimizer = torch.optim.Adam(classifier.parameters(), lr=5e-3)
        steps = [(x, y) for _ in range(4) for x, y in zip(*(part.split(64) for part in train), strict=True)]
        for number, (x, y) in enumerate(steps):
            optimizer.zero_grad()
            sum(loss.terms(network, x, y, number / len(steps)).values()).backward()
            optimizer.step()
    return network.eval(), test[0][:80], test[1][:80]


@pytest.mark.parametrize("polarized", [True, False])
@pytest.mark.parametrize("eps", [0.05, 0.15])
def test_no_certified_image_is_broken_by_any_attack(polarized, eps):
    network, x, y = trained(polarized)
    threat = ThreatModel(eps)
    certificate = certify(network, x, y, threat)
    if polarized:
        network.stages[0].backward_pass = "identity"
    broken = torch.zeros_like(certificate.correct)
    for attack in (PGD(threat=threat, steps=15), APGD(threat=threat, steps=15), Square(threat=threat, queries=60)):
        x_adv = attack(network, x, y, key=sampling.keys(torch.arange(len(x))))
        with torch.no_grad():
            broken |= network(x_adv).argmax(1) != y
    assert not (broken & certificate.certified).any()
    assert certificate.certified.any()
    assert broken.any()


def test_the_parts_of_a_network_are_found_in_pipelines():
    front, net = front_end().eval(), nn.Flatten()
    parts = certifiable(Pipeline([Pipeline([front]), Pipeline([net])]))
    assert parts.front_end is front
    assert list(parts.classifier.stages) == [net]
    plain = SmallCNN()
    assert certifiable(plain).classifier is plain


class Off(PolarizingFrontEnd):
    """A front end that hands on what its quantiser would take."""

    def forward(self, x):
        return self.responses(x)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: Pipeline([front_end(), nn.Flatten()]).train(), "is in train mode; call .eval"),
        (lambda: Pipeline([front_end().eval(), nn.Dropout()]), "is in train mode"),
        (lambda: Pipeline([AdditiveNoise(0.1), nn.Flatten()]).eval(), "is random, since two passes .* differ"),
        (lambda: Pipeline([front_end(), AdditiveNoise(0.1), nn.Flatten()]).eval(), "is random"),
        (lambda: Pipeline([nn.Flatten(2), front_end(), nn.Flatten()]).eval(), "see the image itself"),
        (lambda: nn.Sequential(front_end(), nn.Flatten()).eval(), "see the image itself"),
        (lambda: Pipeline([front_end(), front_end(), nn.Flatten()]).eval(), "see the image itself"),
        (lambda: Pipeline([front_end()]).eval(), "expected a classifier behind"),
        (lambda: Pipeline([Off(in_channels=1, filters=2, kernel_size=3, thresholds=[-0.3, 0.3]), nn.Flatten()]).eval(),
         "its quantiser off, or replaced"),
        (lambda: nn.Sequential(nn.Flatten(), nn.GELU()).eval(), "no interval bound for 'gelu'"),
        (lambda: SmallCNN(size=16, width=0.1).bfloat16().eval(), "float32"),
    ],
)  # fmt: skip
def test_what_cannot_be_certified_is_refused(network, message):
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match=message):
        certify(network(), x, torch.tensor([0, 1]), ThreatModel(0.1))


def test_l0_and_any_distance_are_refused_for_a_plain_network():
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval(), images(2)
    for threat in (ThreatModel(2, "l0"), ThreatModel(None)):
        with pytest.raises(UserError):
            certify(net, x, torch.tensor([0, 1]), threat)


def test_no_image_has_an_empty_certificate():
    certificate = certify(tiny("linear"), images(2)[:0], torch.tensor([], dtype=torch.int64), ThreatModel(0.1))
    assert certificate.certified.shape == certificate.margin.shape == (0,)


def test_the_loss_of_worst_logits_bounds_the_loss_of_every_image_of_the_box():
    network, x, y = trained(False)
    parts, threat = certifiable(network), ThreatModel(0.05)
    with torch.no_grad():
        _, least = parts.bound(x, y, threat)
        worst = F.cross_entropy(-least, y, reduction="none")
        x_adv = PGD(threat=threat, steps=10)(network, x, y, key=sampling.keys(torch.arange(len(x))))
        attacked = F.cross_entropy(network(x_adv), y, reduction="none")
    assert (worst >= attacked - 1e-5).all()
