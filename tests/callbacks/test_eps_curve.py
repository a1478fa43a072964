"""Accuracy against the radius: what an evaluation says at each, and no image that comes back."""

import numpy as np
import pytest
import torch
from digit_runs import digits, trained
from measured_digits import block, dealt, measured
from torch import nn

from lit_robust.attacks import FGSM, FMN, PGD, GaussianNoise, Restarts, Through
from lit_robust.callbacks.eps_curve import EpsCurve
from lit_robust.errors import UserError
from lit_robust.evaluation.block import evaluate_block
from lit_robust.evaluation.interval import wilson
from lit_robust.nn import AdditiveNoise, Pipeline
from lit_robust.threat import ThreatModel

EPS = ["8/255", 0.1, 0.6]
ATTACK = PGD(threat=ThreatModel(0.3), steps=3, step_size="eps/2")


@pytest.fixture(scope="module")
def curve(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("curve"), EpsCurve(attack=ATTACK, eps=[0.6, "8/255", 0.1]))


def test_each_radius_is_tried_on_what_the_smaller_ones_have_left(curve):
    results, columns = curve
    right = np.ones(360, dtype=bool)
    assert [point["eps"] for point in results["curve"]] == pytest.approx([0, 8 / 255, 0.1, 0.6])
    for point, eps in zip(results["curve"], [None, *EPS], strict=True):
        attacks = {} if eps is None else {"a": PGD(threat=ThreatModel(eps), steps=3, step_size="eps/2")}
        broken = []
        for start in range(0, 360, 100):
            b = block(trained(), digits(), start)
            verdicts = evaluate_block(b.network, b.x, b.y, b.index, attacks, size=100).verdicts
            broken.append(verdicts["a" if attacks else "clean"].broken)
        right &= ~torch.cat(broken).numpy()
        assert (point["correct"], point["n"]) == (right.sum(), 360)
        assert point["interval_95"] == list(wilson(int(right.sum()), 360))
        assert columns["clean" if eps is None else f"eps {point['name']}"].tolist() == right.tolist()
    counts = [point["correct"] for point in results["curve"]]
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) == 4
    assert results["table"]["eps_curve/8/255"] == counts[1] / 360
    assert results["norm"] == "L∞"
    assert results["attack"]["step_size"] == "eps/2"


def test_the_same_on_several_processes(curve, tmp_path):
    results, _ = dealt(tmp_path, EpsCurve(attack=ATTACK, eps=EPS), processes=3)
    assert results["curve"] == curve[0]["curve"]


def test_a_random_network_counts_shares_of_fresh_draws(tmp_path):
    network = Pipeline([AdditiveNoise(0.5), trained()]).eval()
    results, columns = measured(tmp_path, EpsCurve(attack=ATTACK, eps=[0.05, 0.2], draws=4), network)
    assert set(np.unique(4 * columns["eps 0.05"])) == {0, 1, 2, 3, 4}
    accuracies = [point["accuracy"] for point in results["curve"]]
    assert accuracies[0] > accuracies[1] > accuracies[2]


def test_runs_side_by_side(curve):
    (axis,) = EpsCurve.draw({"a": curve[0], "b": curve[0]}).axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["a", "b"]


@pytest.mark.parametrize(
    ("attack", "eps", "said"),
    [
        (GaussianNoise(sigma=0.1), EPS, "needs an untargeted adversary with a radius"),
        (FMN(norm="linf"), EPS, "needs an untargeted adversary with a radius"),
        (PGD(threat=ThreatModel(0.1), targeted=True), EPS, "needs an untargeted adversary with a radius"),
        (ATTACK, [], "expected eps of EpsCurve above 0, each once"),
        (ATTACK, [0, 0.1], "expected eps of EpsCurve above 0, each once"),
        (ATTACK, ["0.1", 0.1], "expected eps of EpsCurve above 0, each once"),
        (ATTACK, [1.5], "did you mean 1.5/255"),
    ],
)
def test_mistakes(attack, eps, said):
    with pytest.raises(UserError, match=said):
        EpsCurve(attack=attack, eps=eps)


def test_what_does_not_fit_network_or_data_ends_before_any_work():
    with pytest.raises(UserError, match="expected draws"):
        EpsCurve(attack=ATTACK, eps=EPS, draws=0)
    wrong = Restarts(attack=Through(attack=FGSM(threat=ThreatModel(0.1)), backward={"nowhere": "identity"}), n=2)
    with pytest.raises(UserError, match="no layer matches 'nowhere'"):
        EpsCurve(attack=wrong, eps=EPS).check(nn.Linear(2, 2), digits())
    wide = PGD(threat=ThreatModel(1, "l2"))
    with pytest.raises(UserError, match="diameter"):
        EpsCurve(attack=wide, eps=[1, 100]).check(trained(), digits())
