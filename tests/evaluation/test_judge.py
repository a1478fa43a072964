"""A random network is judged on draws that no search has seen, and its accuracy is the share of them that are right."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from evaluated import images, network
from torch import nn

from lit_robust import sampling
from lit_robust.attacks import EOT, FMN, PGD, Attack
from lit_robust.evaluation import SampleStore, evaluate_block, summarise
from lit_robust.evaluation.full_block import FullBlock
from lit_robust.evaluation.judge import Judge
from lit_robust.threat import ThreatModel

LINF = ThreatModel("8/255")
N, DRAWS = 400, 20


class Flips(nn.Module):
    """Class 0 with a probability, drawn anew for each image and each pass; images that differ have other luck."""

    def __init__(self, probability):
        super().__init__()
        self.probability = probability

    def forward(self, x):
        total = x.flatten(1).sum(1, keepdim=True)
        luck = (sampling.layer_uniform(x[:, 0, 0, :1]) + 9973 * total.detach()) % 1
        z = torch.where(luck < self.probability(x), 1.0, -1.0) + 0 * total
        return torch.cat([z, -z], 1)


@dataclass(frozen=True, kw_only=True)
class Moves(Attack):
    """Moves an image by a function of it."""

    move: Any

    @property
    def threat_model(self):
        return LINF

    def search(self, model, x, y, noise):
        return x + self.move(x)


def figures(folder, model, attacks, *, n=N, **options):
    """The results of an evaluation of a number of images of class 0."""
    x = 0.2 + 0.6 * torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, store = torch.zeros(n, dtype=torch.long), SampleStore(folder)
    for block, rows in enumerate(torch.arange(n).split(100)):
        result = evaluate_block(model, x[rows], y[rows], rows, attacks, size=100, draws=DRAWS, **options)
        store.write(block, result)
    return summarise(store.merge(), attacks, seconds={}, protocol={}), store


def tolerance(p, n=N):
    """Four standard deviations of the mean of all draws."""
    return 4 * (p * (1 - p) / (n * DRAWS)) ** 0.5


PGDS = {"pgd": PGD(threat=LINF, steps=8), "eot": EOT(attack=PGD(threat=LINF, steps=3), draws=4)}


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("cascade", [False, True])
def test_accuracy_is_the_probability_however_many_lucky_draws_an_attack_has_seen(tmp_path, p, cascade):
    cascades = dict.fromkeys(PGDS, "all") if cascade else {}
    results, store = figures(tmp_path, Flips(lambda x: p).eval(), PGDS, cascades=cascades)
    assert store.random
    for figure in (results["clean"], *results["attacks"].values(), *results["worst_case"].values()):
        assert figure["accuracy"] == pytest.approx(p, abs=tolerance(p))
        assert figure["n"] == N
        assert figure["interval_95"][0] < p < figure["interval_95"][1]


def test_the_worst_of_many_attacks_is_not_the_luckiest(tmp_path):
    p, many = 0.8, {str(i): Moves(move=lambda x, i=i: 1.37e-3 * i) for i in range(16)}
    results, _ = figures(tmp_path, Flips(lambda x: p).eval(), many)
    assert results["worst_case"]["L∞ 8/255"]["accuracy"] == pytest.approx(p, abs=tolerance(p))
    # The least share of right draws over the attacks would be far lower.
    rows = SampleStore(tmp_path).merge().to_pydict()
    right = torch.tensor([r for r, name in zip(rows["right"], rows["attack"], strict=True) if name != "clean"])
    assert right.view(N, 16).amin(1).mean() < p - 0.1


def test_the_worst_case_is_that_of_the_attack_that_works(tmp_path):
    def right(x):  # what is brighter is less often right
        return torch.where(x.flatten(1).mean(1, keepdim=True) > 0.5, 0.3, 0.9)

    up, down = Moves(move=lambda x: 0.03), Moves(move=lambda x: -0.03)
    results, _ = figures(tmp_path, Flips(right).eval(), {"down": down, "up": up, "same": Moves(move=lambda x: 0.0)})
    accuracy = {name: figure["accuracy"] for name, figure in results["attacks"].items()}
    assert accuracy["up"] < accuracy["same"] - 0.02 < accuracy["down"] - 0.04
    assert results["worst_case"]["L∞ 8/255"]["accuracy"] == pytest.approx(accuracy["up"], abs=0.01)


def test_a_deterministic_network_is_right_or_not():
    model = network("norm")
    x, y = images(model, 30, wrong_every=5)
    attacks = {"pgd": PGD(threat=ThreatModel("4/255"), steps=5), "fmn": FMN(norm="l2", steps=5, eps=0.2)}
    result = evaluate_block(model, x, y, torch.arange(30), attacks, size=30)
    assert not result.random
    for verdict in result.verdicts.values():
        assert torch.equal(verdict.right, (~verdict.broken).double())
        assert torch.equal(verdict.right_before, verdict.right)
        assert 0 < verdict.broken.sum() < 30


def judge(model, x, draws=DRAWS):
    noise = sampling.Noise(sampling.keys(torch.arange(len(x))))
    return Judge(FullBlock(model, x, torch.zeros(len(x), dtype=torch.long), torch.arange(len(x)), noise, len(x)), draws)


def test_the_draws_that_prefer_and_those_that_count_are_different_ones():
    passes = []
    model = Flips(lambda x: 0.5).eval()
    model.register_forward_hook(lambda *_: passes.append(sampling._current.get()))
    x = torch.rand(50, 1, 2, 2)
    judging = judge(model, x, draws=7)
    passes.clear()
    x = torch.rand(50, 1, 2, 2)  # of the images that it began with one draw is known
    judgement = judging(x)
    assert len({(forward.step, forward.draw) for forward in passes}) == len(passes) == 14
    assert not torch.equal(judgement.right, judgement.right_before)
    for share in (judgement.right, judgement.right_before):
        assert torch.equal(share, (7 * share).round() / 7)
    assert torch.equal(judgement.broken, judgement.right <= 0.5)
    # The network answers ±1: the mean margin is twice the share of right draws over wrong ones.
    torch.testing.assert_close(judgement.margin.double(), 2 * (2 * judgement.right - 1), rtol=0, atol=1e-6)


def test_logits_that_are_not_finite_are_not_right():
    class Overflows(nn.Module):
        def forward(self, x):
            z = x.flatten(1)[:, :2]
            return torch.where(z > 0.9, torch.inf, z)

    clean = torch.tensor([[0.5, 0.1], [0.5, 0.1], [0.1, 0.5]]).view(3, 1, 1, 2)
    judging = judge(Overflows().eval(), clean)
    assert judging(clean).broken.tolist() == [False, False, True]
    changed = clean.clone()
    changed[0] = 0.95
    assert judging(changed).right.tolist() == [0, 1, 0]


def test_what_lies_beyond_the_radius_of_a_minimum_norm_attack_is_right():
    model = Flips(lambda x: 0.1).eval()
    x = torch.full((40, 1, 2, 2), 0.5)
    far = x.clone()
    far[::2] += 0.1
    judgement = judge(model, x)(far, FMN(norm="linf", eps=0.05))
    assert (judgement.right[::2] == 1).all()
    assert (judgement.right_before[::2] == 1).all()
    assert judgement.broken.tolist() == [i % 2 == 1 for i in range(40)]
    assert judge(model, x)(far, FMN(norm="linf")).broken.all()


def test_a_lucky_draw_does_not_end_the_search_nor_keep_a_later_attack_away():
    # The first attack answers with an image that looks broken once; the second breaks it every time.
    def right(x):
        return torch.where(x.flatten(1).mean(1, keepdim=True) > 0.5, 0.0, 0.7)

    x = torch.full((100, 1, 2, 2), 0.5, dtype=torch.float64)
    attacks = {"nothing": Moves(move=lambda x: -1e-3), "breaks": Moves(move=lambda x: 1e-3)}
    y, index = torch.zeros(100, dtype=torch.long), torch.arange(100)
    cascades = dict.fromkeys(attacks, "all")
    result = evaluate_block(Flips(right).eval(), x, y, index, attacks, size=100, draws=DRAWS, cascades=cascades)
    assert result.verdicts["nothing"].right.mean() == pytest.approx(0.7, abs=tolerance(0.7, 100))
    assert result.verdicts["breaks"].right.max() == 0


def test_images_asked_twice_in_a_row_pass_once():
    passes = []
    model = Flips(lambda x: 0.5).eval()
    model.register_forward_hook(lambda *_: passes.append(1))
    x = torch.rand(5, 1, 2, 2)
    judging = judge(model, x)
    passes.clear()
    for same, expected in ((x, 0), (x.clone(), 1), (x, 1)):
        passes.clear()
        logits = judging.logits(same)
        assert len(passes) == expected
        assert torch.equal(logits, judging.clean)  # keyed, so the same draw


def test_whether_a_network_is_random_can_be_told():
    model = network("norm")
    x, y = images(model, 10)
    told = evaluate_block(model, x, y, torch.arange(10), {}, size=10, random=False)
    asked = evaluate_block(model, x, y, torch.arange(10), {}, size=10)
    assert told.random == asked.random is False
    assert torch.equal(told.verdicts["clean"].margin, asked.verdicts["clean"].margin)
