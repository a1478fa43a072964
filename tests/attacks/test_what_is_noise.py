"""Noise is noise however it is wrapped, and large images stay in the L1 ball."""

import pytest
import torch

from lit_robust import FGSM, GaussianNoise, Restarts, ThreatModel, WorstOf
from lit_robust.attacks import EOT
from lit_robust.errors import UserError


def test_wrapped_noise_is_noise():
    noise = GaussianNoise(sigma=0.1)
    wrapped = [Restarts(attack=noise, n=3), WorstOf(attacks=[noise, noise]), EOT(attack=noise, draws=2)]
    assert not any(attack.adversarial for attack in [noise, *wrapped])
    assert Restarts(attack=FGSM(threat=ThreatModel(0.1)), n=3).adversarial


def test_noise_and_adversaries_do_not_mix():
    with pytest.raises(UserError, match="noise is reported beside adversaries"):
        WorstOf(attacks=[GaussianNoise(sigma=0.1), FGSM(threat=ThreatModel.box())])


@pytest.mark.parametrize("eps", [1, 30])
def test_large_images_stay_in_the_l1_ball(eps):
    threat = ThreatModel(eps, "l1")
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 224, 224, generator=generator)
    x_adv = threat.project(x + torch.randn(x.shape, generator=generator), x)
    assert threat.contains(x_adv, x).all()
    assert (threat.distance(x_adv, x) > 0.99 * eps).all()
