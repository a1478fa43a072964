"""What every minimum-norm attack is: what it may answer with, what counts, and the distances that it tells."""

import dataclasses
import math

import pytest
import torch
from linear import Noisy, TwoClasses, batch, broken, cnn, keys

from lit_robust import sampling
from lit_robust.attacks import EOT, FGSM, FMN, PGD, Attack, MinimumNormAttack
from lit_robust.attacks.minimum_norm import counted_in, minimum_norm
from lit_robust.errors import UserError
from lit_robust.threat import ThreatModel

NORMS = ["l0", "l1", "l2", "linf"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adds(MinimumNormAttack):
    """Adds a number to every entry of the images."""

    amount: float

    def search(self, model, x, y, noise):
        return (x + self.amount).clamp(0, 1)


def test_it_is_an_attack_whose_search_is_left_to_write():
    assert issubclass(MinimumNormAttack, Attack)
    with pytest.raises(TypeError, match="search"):
        MinimumNormAttack(norm="l2")


@pytest.mark.parametrize("norm", NORMS)
def test_it_may_answer_at_any_distance_and_counts_within_eps(norm):
    eps = 3 if norm == "l0" else "0.5"
    for attack, counted in ((FMN(norm=norm), None), (FMN(norm=norm, eps=eps), eps)):
        assert attack.threat_model == ThreatModel(None, norm)
        assert attack.counted == counted_in(attack) == ThreatModel(counted, norm)
        assert attack.adversarial
        assert not attack.targeted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "box"}, "the box has no distance to leave out"),
        ({"norm": "l3"}, "expected norm to be one of"),
        ({"norm": "linf", "eps": 8}, r"did you mean 8/255\?"),
        ({"norm": "l0", "eps": 0.5}, "expected eps to be a whole number of entries in L0"),
        ({"norm": "l2", "eps": -1}, "expected eps to be 0 or more, got -1"),
    ],
    ids=str,
)
def test_impossible_norms_and_radii_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        Adds(amount=0, **options)


def test_it_is_found_itself_and_inside_eot_only():
    attack = FMN(norm="l2", eps=1)
    for other in (attack, EOT(attack=attack, draws=3)):
        assert minimum_norm(other) is attack
        assert counted_in(other) == ThreatModel(1, "l2")
    fgsm = FGSM(threat=ThreatModel("8/255"))
    for other in (fgsm, EOT(attack=fgsm, draws=3)):
        assert minimum_norm(other) is None
        assert counted_in(other) == fgsm.threat


def test_frozen_configurations_compare_by_value():
    assert FMN(norm="linf", eps="8/255") == FMN(norm="linf", eps="8/255")
    assert len({FMN(norm=norm) for norm in (*NORMS, "l2")}) == 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        FMN(norm="l2").norm = "l1"
    with pytest.raises(TypeError):
        FMN("l2")


@pytest.mark.parametrize(
    ("norm", "expected"), [("l0", 12.0), ("l1", 3.0), ("l2", 0.25 * math.sqrt(12)), ("linf", 0.25)]
)
@pytest.mark.parametrize("eps", [None, 0])
def test_distances_are_in_the_norm_whatever_counts_and_infinite_where_nothing_broke(norm, expected, eps):
    # A model that calls an image class 1 above a mean of 0.6: adding 0.25 breaks the first and not the second.
    model = TwoClasses(-torch.ones(12, dtype=torch.float64) / 12, 0.6)
    x = torch.tensor([0.5, 0.25, 0.7], dtype=torch.float64).view(3, 1, 1, 1).repeat(1, 3, 2, 2)
    y = torch.tensor([0, 0, 1])
    distances = Adds(norm=norm, amount=0.25, eps=eps).distances(model, x, y)
    assert distances.dtype == torch.float64
    assert distances.tolist() == pytest.approx([expected, math.inf, math.inf])
    assert FMN(norm=norm, steps=2).distances(model, x, 1 - y).tolist() == [0.0] * 3


def test_on_a_random_model_distances_are_checked_on_a_fresh_draw():
    model = Noisy(cnn(), 0.3)
    x, _ = batch(200)
    with torch.no_grad(), sampling.keyed(keys(200)):
        y = model(x).argmax(1)
    attack = FMN(norm="l2", steps=4)
    x_adv, distances = attack(model, x, y, key=keys(200)), attack.distances(model, x, y, key=keys(200))
    with torch.no_grad(), sampling.Noise(keys(200)).keyed(sampling.CHECK):
        wrong = model(x_adv).argmax(1) != y
    assert torch.equal(distances.isfinite(), wrong)
    assert not torch.equal(wrong, broken(model, x_adv, y))  # another draw
    assert 0 < wrong.sum() < 200


def test_bad_input_is_refused_with_a_way_out():
    x, y = batch(4)
    with pytest.raises(ValueError, match=r"expected images in \[0, 1\]"):
        FMN(norm="l2").distances(cnn(), 255 * x, y)
    with pytest.raises(ValueError, match="expected as many labels as images"):
        FMN(norm="l2").distances(cnn(), x, y[:2])


def test_attacks_that_need_a_radius_say_so():
    with pytest.raises(UserError, match="expected a threat model with a radius, got 'L2, any distance'; set eps"):
        PGD(threat=ThreatModel(None, "l2"))
