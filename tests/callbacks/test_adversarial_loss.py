"""Cross-entropy under an attack that runs to its end on every image."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from digit_runs import digits, trained
from measured_digits import block, dealt, measured

from lit_robust.attacks import FMN, PGD, Through
from lit_robust.callbacks.adversarial_loss import AdversarialLoss
from lit_robust.errors import UserError
from lit_robust.threat import ThreatModel

PGD5 = PGD(threat=ThreatModel(0.1), steps=5, step_size="eps/4")


def test_every_image_is_attacked_to_the_end(tmp_path):
    results, columns = measured(tmp_path, AdversarialLoss(attacks={"pgd": PGD5}), data=digits(eval_batch_size=90))
    images = block(trained(), digits(eval_batch_size=360))
    x_adv = PGD5(images.network, images.x, images.y, key=images.noise.key)
    for name, x in (("clean", images.x), ("pgd", x_adv)):
        logits = images.logits(x)
        expected = F.cross_entropy(logits, images.y, reduction="none")
        np.testing.assert_allclose(columns[f"loss {name}"], expected, rtol=1e-3, atol=1e-4)
        assert results["losses"][name]["mean"] == pytest.approx(float(expected.mean()), rel=1e-4)
        assert results["losses"][name]["accuracy"] == pytest.approx(
            float((logits.argmax(1) == images.y).float().mean())
        )
        error = float(expected.std() / 360**0.5)
        assert results["losses"][name]["standard_error"] == pytest.approx(error, rel=1e-3)
        assert results["table"][f"loss/{name}"] == results["losses"][name]["mean"]
    first = torch.from_numpy(columns["right clean"]).logical_not()
    assert (columns["loss pgd"][first] > columns["loss clean"][first]).mean() > 0.9, "also those that were wrong"


def test_the_same_on_several_processes(tmp_path):
    (tmp_path / "one").mkdir()
    one, _ = dealt(tmp_path / "one", AdversarialLoss(attacks={"pgd": PGD5}), processes=1)
    three, _ = dealt(tmp_path, AdversarialLoss(attacks={"pgd": PGD5}), processes=3)
    assert one == three


@pytest.mark.parametrize(
    ("attacks", "said"),
    [
        ({}, "needs attacks"),
        ({"clean": PGD5}, "none of them called 'clean'"),
        ({"fmn": FMN(norm="l2")}, "with a radius, which fmn is not"),
        ({"pgd": PGD(threat=ThreatModel(0.1), targeted=True)}, "untargeted"),
    ],
)
def test_mistakes(attacks, said):
    with pytest.raises(UserError, match=said):
        AdversarialLoss(attacks=attacks)


def test_what_does_not_fit_ends_before_any_work():
    wrong = AdversarialLoss(attacks={"pgd": Through(attack=PGD5, backward={"nowhere": "identity"})})
    with pytest.raises(UserError, match="no layer matches"):
        wrong.check(trained(), digits())
