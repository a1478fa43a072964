"""APGD finds what the published implementations find: point for point from one start, and in verdicts from its own."""

import pytest
import torch
import torch.nn.functional as F
from linear import classified, cnn, falsified, keys
from torch import nn

from lit_robust.attacks import APGD, PGD, TargetedAPGD
from lit_robust.attacks.apgd_climb import HalvingClimb
from lit_robust.attacks.apgd_l1 import SparseClimb
from lit_robust.data import Digits
from lit_robust.losses import cross_entropy, dlr
from lit_robust.threat import ThreatModel

torchattacks = pytest.importorskip("torchattacks")
NAMES = {"linf": "Linf", "l2": "L2"}
LINF, L2, L1 = ThreatModel("0.1"), ThreatModel("0.7", "l2"), ThreatModel("2.2", "l1")
N, CLASSES = 64, 5
ONE, THREE = ((1, 1),), ((3, 0.3), (2, 0.3), (1, 0.4))  # stages


@pytest.fixture
def double():
    """The reference makes its own tensors, such as the losses that it compares, in the default precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def digits():
    """A small network trained on the digits 0 to 4 in a moment, and test images that it gets right."""
    (x, y), (x_test, y_test) = (
        (d.x[d.y < CLASSES] / 255, d.y[d.y < CLASSES]) for d in map(Digits().load, (True, False))
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, CLASSES)]
        model = nn.Sequential(*layers)
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for rows in torch.randint(len(x), (60, 128)):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    right = ~wrong(model.eval(), x_test, y_test)
    assert right.double().mean() > 0.95
    return model, x_test[right][:N], y_test[right][:N]


@pytest.fixture(scope="module", params=[LINF, L2], ids=str)
def case(request, digits):
    """A threat model, the network and its images, and what each of our attacks breaks."""
    threat, (model, x, y) = request.param, digits
    attacks = {"pgd": PGD(threat=threat, steps=101), "ce": APGD(threat=threat), "targeted": TargetedAPGD(threat=threat)}
    broken = {name: wrong(model, falsified(attack, model, x, y), y) for name, attack in attacks.items()}
    return threat, digits, {**broken, "both": broken["ce"] | broken["targeted"]}


def wrong(model, x, y):
    with torch.no_grad():
        return model(x).argmax(1) != y


def start_of_reference(threat, x):
    """What the reference draws after `manual_seed(0)`, from its formula."""
    torch.manual_seed(0)
    if threat.norm == "linf":
        t = 2 * torch.rand(x.shape) - 1
        t = t / t.flatten(1).abs().amax(1).view(-1, 1, 1, 1)
    else:
        t = torch.randn(x.shape)
        t = t / t.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.manual_seed(0)
    return (x + threat.radius * t).clamp(0, 1)


def same_search(monkeypatch, threat, attack, reference, model, x, y):
    """Our answer from the reference's start, and the reference's points of highest loss with their loss."""
    start = start_of_reference(threat, x)
    monkeypatch.setattr(HalvingClimb, "start", staticmethod(lambda threat, x, noise: start))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        points, _, loss, _ = reference.attack_single_run(x, y)
    return attack(model, x, y, key=keys(len(x))), points, loss


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("threat", "name", "loss", "rho"),
    [
        (ThreatModel("8/255"), "ce", cross_entropy, 0.75),
        (ThreatModel("0.25", "l2"), "ce", cross_entropy, 0.75),
        (ThreatModel("0.25", "l2"), "ce", cross_entropy, 0.3),
        # Farther out the three largest logits of these networks tie, where the DLR loss has a pole.
        (ThreatModel("3/255"), "dlr", dlr, 0.75),
        (ThreatModel("0.08", "l2"), "dlr", dlr, 0.75),
    ],
    ids=["CE L∞", "CE L2", "CE L2 low rho", "DLR L∞", "DLR L2"],
)
def test_from_one_start_apgd_searches_as_torchattacks_does(monkeypatch, threat, name, loss, rho, seed):
    model = cnn(seed)
    x, y = classified(model, 16, seed=seed, low=0.3, high=0.7)  # no entry reaches the box: L2 projections agree
    reference = torchattacks.APGD(model, norm=NAMES[threat.norm], eps=threat.radius, steps=100, loss=name, rho=rho)
    attack = APGD(threat=threat, loss=loss, rho=rho)
    x_adv, points, highest = same_search(monkeypatch, threat, attack, reference, model, x, y)
    # Not of all samples: a hundred steps may blow up a difference in the last bit.
    assert ((loss(model(x_adv), y) / highest - 1).abs() < 1e-6).double().mean() >= 0.9
    assert ((x_adv - points).flatten(1).abs().amax(1) < 1e-6).double().mean() >= 0.75


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("threat", [ThreatModel("8/255"), ThreatModel("0.25", "l2")], ids=str)
def test_from_one_start_targeted_apgd_searches_as_torchattacks_does(monkeypatch, threat):
    model = cnn(classes=6)
    x, y = classified(model, 4, classes=6, low=0.3, high=0.7)
    for i in range(4):  # one by one: in L2 the reference takes the first sample's step size for all
        one = x[i : i + 1], y[i : i + 1]
        reference = torchattacks.APGDT(model, norm=NAMES[threat.norm], eps=threat.radius, steps=100)
        reference.target_class = 2  # the second largest logit
        attack = TargetedAPGD(threat=threat, targets=1)
        x_adv, points, _ = same_search(monkeypatch, threat, attack, reference, model, *one)
        torch.testing.assert_close(x_adv, points, rtol=0, atol=1e-6)


def test_verdicts_are_those_of_torchattacks(case):
    threat, (model, x, y), ours = case
    setting = {"norm": NAMES[threat.norm], "eps": threat.radius, "steps": 100}
    with torch.random.fork_rng():
        theirs = wrong(model, torchattacks.APGD(model, **setting)(x, y), y)
        if threat.norm == "linf":  # see above for L2
            targeted = wrong(model, torchattacks.APGDT(model, **setting, n_classes=CLASSES)(x, y), y)
            assert (targeted != ours["targeted"]).sum() <= 0.01 * N
            assert ((targeted | theirs) != ours["both"]).sum() <= 0.01 * N
    assert 0.2 < theirs.double().mean() < 0.8
    assert (theirs != ours["ce"]).sum() <= 0.04 * N  # CE from two starts of the reference differs by as much
    assert not (theirs & ~ours["both"]).any()


def test_verdicts_are_those_of_the_authors_code(case):
    autopgd = pytest.importorskip("pyautoattack.autopgd_base")
    threat, (model, x, y), ours = case
    setting = {"norm": NAMES[threat.norm], "eps": threat.radius, "seed": 0, "device": "cpu"}
    with torch.random.fork_rng():
        ce = wrong(model, autopgd.APGDAttack(model, **setting).perturb(x, y), y)
        targeted = autopgd.APGDAttack_targeted(model, **setting, n_target_classes=CLASSES - 1).perturb(x, y)
    targeted = wrong(model, targeted, y)
    assert 0.2 < targeted.double().mean() < 0.8
    assert (targeted != ours["targeted"]).sum() <= 0.01 * N
    assert ((ce | targeted) != ours["both"]).sum() <= 0.01 * N


def test_apgd_is_at_least_as_strong_as_pgd_of_as_many_passes(case):
    threat, (model, x, y), ours = case
    broken = {name: int(verdict.sum()) for name, verdict in ours.items()}
    assert broken["pgd"] <= broken["ce"] <= broken["both"]
    with torch.no_grad():
        losses = [
            cross_entropy(model(attack(model, x, y, key=keys(N))), y)
            for attack in (PGD(threat=threat, steps=101), APGD(threat=threat))
        ]
    assert losses[1].mean() > losses[0].mean()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("stages", [ONE, THREE], ids=["one stage", "three stages"])
@pytest.mark.parametrize(("loss", "name", "eps"), [(cross_entropy, "ce", 1), (cross_entropy, "ce", 4), (dlr, "dlr", 1)])
def test_from_one_start_apgd_searches_l1_as_the_authors_code_does(monkeypatch, loss, name, eps, stages):
    autopgd = pytest.importorskip("pyautoattack.autopgd_base")
    # In double precision, where rounding leaves no entry changed that is not, and so with the exact projection.
    monkeypatch.setattr(autopgd, "L1_projection", lambda x, d, eps: ThreatModel(eps, "l1").project(x + d, x) - x - d)
    monkeypatch.setattr(autopgd, "L0_norm", lambda d: (d.abs() > 1e-9).flatten(1).sum(1))
    model = cnn(size=8)
    x, y = classified(model, 32, size=8)
    reference = autopgd.APGDAttack(model, norm="L1", eps=float(eps), loss=name, device="cpu")
    reference.init_hyperparam(x)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = torch.randn_like(x)
        torch.manual_seed(0)
        if len(stages) == 1:
            points, _, highest, _ = reference.attack_single_run(x, y)
        else:
            points, _, highest, _ = reference.decr_eps_pgd(x, y, [3 * eps, 2 * eps, eps], [30, 30, 40])
    monkeypatch.setattr(SparseClimb, "start", staticmethod(lambda threat, x, noise: threat.project(x + drawn, x)))
    x_adv = APGD(threat=ThreatModel(eps, "l1"), loss=loss, stages=stages)(model, x, y, key=keys(32))
    # Not of all samples: where a step leads back to the same corner of the ball, the last bit decides what is best.
    assert ((loss(model(x_adv), y) / highest - 1).abs() < 1e-6).double().mean() >= 0.9
    assert ((x_adv - points).flatten(1).abs().amax(1) < 1e-6).double().mean() >= 0.9


@pytest.mark.filterwarnings("ignore:there are .* points with zero gradient")
@pytest.mark.parametrize("stages", [ONE, THREE], ids=["one stage", "three stages"])
@pytest.mark.parametrize("name", ["ce", "dlr", "targeted"])
def test_verdicts_in_l1_are_those_of_the_authors_code(digits, name, stages):
    autopgd = pytest.importorskip("pyautoattack.autopgd_base")
    model, x, y = digits[0], digits[1][:32], digits[2][:32]
    setting = {"norm": "L1", "eps": L1.radius, "device": "cpu", "use_largereps": len(stages) > 1}
    if name == "targeted":
        ours = TargetedAPGD(threat=L1, stages=stages)
        reference = autopgd.APGDAttack_targeted(model, **setting, n_target_classes=CLASSES - 1)
    else:
        ours = APGD(threat=L1, stages=stages, loss={"ce": cross_entropy, "dlr": dlr}[name])
        reference = autopgd.APGDAttack(model, **setting, loss=name)
    theirs, mine = [], []
    for reference.seed in range(1 if name == "targeted" else 3):
        with torch.random.fork_rng():
            theirs.append(int(wrong(model, reference.perturb(x, y), y).sum()))
        mine.append(int(wrong(model, falsified(ours, model, x, y, keys(32, reference.seed)), y).sum()))
    assert 8 < min(theirs) <= max(theirs) < 24
    assert abs(sum(mine) - sum(theirs)) / len(mine) <= max(1, max(theirs) - min(theirs))
