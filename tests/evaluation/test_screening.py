"""Screening of adaptive attacks: the strongest combinations run on all images, and what was found before counts."""

import copy

import numpy as np
import pytest
import torch
from evaluated import images, network
from torch import nn

from lit_robust.attacks import FGSM, FMN, PGD, AutoAttack, Restarts, Transfer, WorstOf
from lit_robust.attacks.adaptive import Adaptive
from lit_robust.attacks.through import Through
from lit_robust.backward import SurrogateLayer, replace_gradient
from lit_robust.errors import UserError
from lit_robust.evaluation import evaluate_block, suite
from lit_robust.evaluation.fast_copy import fast_copy
from lit_robust.evaluation.screening import Replay, Screening, check, foreseen
from lit_robust.nn import AdditiveNoise, Pipeline
from lit_robust.threat import ThreatModel

N, SEED, SIZE = 24, 3, 10
LINF = ThreatModel("0.08")
PGD4 = PGD(threat=LINF, steps=4, start="clean")


class Levels(SurrogateLayer):
    """Five grey levels; its gradient is exact (0), the identity, the reverse of it, or a share of it."""

    offered = ("exact", "reverse", "identity", "share(0.5)")

    def forward(self, x):
        soft = {"exact": 0 * x, "reverse": -x, "identity": x}.get(self.kind, self.number * x)
        return replace_gradient((4 * x).round() / 4, soft)


class Round(nn.Module):
    def forward(self, x):
        return (4 * x).round() / 4


def defended(front, kind="plain"):
    return Pipeline([front, network(kind)]).eval()


class Evaluation:
    """What evaluates blocks; counts the combinations that it was asked for, and ends after so many."""

    def __init__(self, model, n=N, last=None, **options):
        self.model, self.options, self.last = model, options, last
        self.x, self.y = images(model, n, wrong_every=7)
        self.asked = []

    def blocks(self, count):
        return [(self.x[rows], self.y[rows], rows) for rows in torch.arange(min(count, len(self.x))).split(SIZE)]

    def measure(self, block, attacks):
        if self.last is not None and len(self.asked) == self.last:
            raise KeyboardInterrupt
        self.asked += attacks
        return evaluate_block(self.model, *block, attacks, size=SIZE, seed=SEED, draws=4, **self.options)


def screened(attacks, evaluation, folder):
    screening = Screening(attacks, evaluation.model, folder)
    screening.run(evaluation.blocks, evaluation.measure)
    return screening


@pytest.fixture(scope="module")
def levels():
    return defended(Levels())


ADAPTIVE = Adaptive(attack=PGD4, screen=15, keep=2)


def test_the_strongest_combinations_are_kept_strongest_first(levels, tmp_path):
    evaluation = Evaluation(levels)
    screening = screened({"first": PGD4, "pgd": ADAPTIVE, "last": FGSM(threat=LINF)}, evaluation, tmp_path)
    rows = screening.rows(SEED)
    assert list(rows) == ["first", "pgd/screened", "pgd/stages.0=identity", "pgd/stages.0=share(0.5)", "last"]
    assert rows["pgd/stages.0=identity"] == Through(attack=PGD4, backward={"stages.0": "identity"})
    (table,) = screening.tables().values()
    assert table["images"] == 15
    assert table["attack"]["steps"] == 4
    combinations = {row["label"]: row for row in table["combinations"]}
    assert list(combinations) == ["default", "stages.0=reverse", "stages.0=identity", "stages.0=share(0.5)"]
    for label, row in combinations.items():
        member = Through(attack=PGD4, backward=row["backward"])
        blocks = [evaluation.measure(block, {"a": member}) for block in evaluation.blocks(15)]
        verdicts = [block.verdicts["a"] for block in blocks]
        assert row["correct"] == sum(int((~verdict.broken).sum()) for verdict in verdicts)
        assert (row["n"], row["accuracy"]) == (15, row["correct"] / 15)
        assert row["kept"] == (f"pgd/{label}" in rows)
        assert row["backwards"] == sum(int(verdict.backwards.sum()) for verdict in verdicts) > 0
    # Sign steps do not see the length of a gradient, so two combinations are equal, and come in their order.
    assert combinations["stages.0=identity"]["correct"] == combinations["stages.0=share(0.5)"]["correct"]
    assert combinations["stages.0=identity"]["correct"] < combinations["default"]["correct"]
    assert combinations["stages.0=identity"]["correct"] < combinations["stages.0=reverse"]["correct"]


def test_what_was_found_is_replayed_and_nothing_else(levels, tmp_path):
    evaluation = Evaluation(levels)
    attacks = {"pgd": Adaptive(attack=PGD4, screen=15, keep=1)}
    rows = screened(attacks, evaluation, tmp_path).rows(SEED)
    members = attacks["pgd"].members(levels)
    everyone = [evaluation.measure(block, members) for block in evaluation.blocks(N)]
    broken = torch.stack([torch.cat([block.verdicts[label].broken for block in everyone]) for label in members])
    clean = torch.cat([block.verdicts["clean"].broken for block in everyone])
    replayed = [evaluation.measure(block, {"a": rows["pgd/screened"]}).verdicts["a"] for block in evaluation.blocks(N)]
    found = torch.cat([verdict.broken for verdict in replayed])
    assert torch.equal(found[:15], broken.any(0)[:15])
    assert torch.equal(found[15:], clean[15:])
    assert (found[:15] & ~clean[:15]).any()
    assert not torch.cat([verdict.forwards for verdict in replayed]).any()
    assert rows["pgd/screened"].images == 15
    other_seed = Screening(attacks, levels, tmp_path).rows(SEED + 1)["pgd/screened"]
    assert torch.equal(
        torch.cat([evaluation.measure(b, {"a": other_seed}).verdicts["a"].broken for b in evaluation.blocks(N)]), clean
    )


def test_the_worst_case_is_over_all_that_ran(levels, tmp_path):
    # Of two attacks that break different images only one is kept; the images of the other still count as broken.
    class Half(SurrogateLayer):
        """Shows the gradient of the upper or of the lower half of the image."""

        offered = ("upper", "lower")

        def forward(self, x):
            mask = torch.zeros_like(x)
            mask[:, :, : 3 if self.kind == "upper" else 6, :] = 1
            mask[:, :, : 0 if self.kind == "upper" else 3, :] = 0
            return replace_gradient((4 * x).round() / 4, mask * x)

    evaluation = Evaluation(defended(Half()))
    adaptive = Adaptive(attack=PGD4, screen=N, keep=1)
    rows = screened({"a": adaptive}, evaluation, tmp_path).rows(SEED)
    blocks = evaluation.blocks(N)

    def broken(attack):
        return torch.cat([evaluation.measure(block, {"x": attack}).verdicts["x"].broken for block in blocks])

    each = [broken(member) for member in adaptive.members(evaluation.model).values()]
    assert not torch.equal(each[0] | each[1], each[0])
    assert not torch.equal(each[0] | each[1], each[1])
    together = torch.stack([broken(attack) for attack in rows.values()]).any(0)
    assert torch.equal(together, each[0] | each[1])
    assert len(rows) == 2
    # In a cascade nothing that was screened is searched again.
    names, cascades = suite.rows(rows, cascade=True)
    first = evaluate_block(evaluation.model, *blocks[0], names, size=SIZE, seed=SEED, cascades=cascades)
    assert torch.equal(first.verdicts[list(names)[-1]].broken, together[:SIZE])
    searched = first.verdicts[list(names)[-1]].forwards > 0
    assert torch.equal(searched, ~first.verdicts["a/screened"].broken)


def test_an_interrupted_screening_goes_on_with_the_next_combination(levels, tmp_path):
    whole = screened({"pgd": ADAPTIVE, "two": ADAPTIVE}, Evaluation(levels), tmp_path / "whole")
    stopped = Evaluation(levels, last=5)  # in the third combination, whose second block is missing
    with pytest.raises(KeyboardInterrupt):
        screened({"pgd": ADAPTIVE, "two": ADAPTIVE}, stopped, tmp_path / "parts")
    assert len(set(stopped.asked)) == 3
    half = tmp_path / "parts" / "parts" / "screening" / "000-0001.npz"
    half.write_bytes(half.read_bytes()[:300])
    again = Evaluation(levels)
    resumed = screened({"pgd": ADAPTIVE, "two": ADAPTIVE}, again, tmp_path / "parts")
    labels = list(ADAPTIVE.members(levels))
    assert list(dict.fromkeys(again.asked)) == [*(f"pgd/{x}" for x in labels[1:]), *(f"two/{x}" for x in labels)]
    assert list(resumed.rows(SEED)) == list(whole.rows(SEED))
    for name, attack in resumed.rows(SEED).items():
        if isinstance(attack, Replay):
            assert torch.equal(attack.x_adv, whole.rows(SEED)[name].x_adv)
            assert torch.equal(attack.keys, whole.rows(SEED)[name].keys)
    tables = [copy.deepcopy(screening.tables()) for screening in (resumed, whole)]
    for row in (row for table in tables for each in table.values() for row in each["combinations"]):
        assert row.pop("seconds") >= 0
    assert tables[0] == tables[1]
    third = Evaluation(levels)
    screened({"pgd": ADAPTIVE, "two": ADAPTIVE}, third, tmp_path / "parts")
    assert third.asked == []
    resumed.clear()
    assert not (tmp_path / "parts" / "parts").exists()
    with pytest.raises(RuntimeError, match="pgd: not all combinations were screened"):
        resumed.rows(SEED)


def test_without_more_combinations_than_may_run_nothing_is_screened(levels, tmp_path, capsys):
    evaluation = Evaluation(levels)
    few = screened({"pgd": Adaptive(attack=PGD4, keep=4)}, evaluation, tmp_path)
    assert list(few.rows(SEED)) == [f"pgd/{label}" for label in ADAPTIVE.members(levels)]
    none = screened({"pgd": ADAPTIVE, "other": PGD4}, Evaluation(network()), tmp_path)
    assert none.rows(SEED) == {"pgd": PGD4, "other": PGD4}
    assert few.tables() == none.tables() == {}
    assert evaluation.asked == []
    assert capsys.readouterr().out == ""


def test_it_says_what_it_screens(levels, tmp_path, capsys):
    screened({"pgd": ADAPTIVE}, Evaluation(levels), tmp_path)
    assert capsys.readouterr().out == "pgd: screening 4 of 4 combinations of backward passes on 15 images\n"


def test_a_stranger_s_layer_is_attacked_through_what_is_attached_to_it(tmp_path):
    evaluation = Evaluation(defended(Round()))
    adaptive = Adaptive(attack=PGD4, surrogates={"stages.0": ["exact", "identity", "smooth(0.125)"]}, screen=N, keep=1)
    screening = screened({"a": adaptive}, evaluation, tmp_path)
    accuracy = {row["label"]: row["accuracy"] for row in screening.tables()["a"]["combinations"]}
    assert list(accuracy) == ["default", "stages.0=identity", "stages.0=smooth(0.125)"]
    assert accuracy["stages.0=identity"] < accuracy["default"]
    # The slope over a box of the width of a level is 1 everywhere, up to rounding where an end lies at a jump.
    assert abs(accuracy["stages.0=identity"] - accuracy["stages.0=smooth(0.125)"]) <= 1 / N
    alone = screened({"a": Adaptive(attack=PGD4, surrogates={"stages.0": ["identity"]})}, evaluation, tmp_path / "one")
    assert alone.rows(SEED) == {"a": Through(attack=PGD4, backward={"stages.0": "identity"})}


@pytest.mark.parametrize("attack", [AutoAttack(threat=LINF), WorstOf(attacks=[PGD4, FGSM(threat=LINF)])], ids=str)
def test_members_of_an_ensemble_are_rows_through_each_combination(attack, levels, tmp_path, monkeypatch):
    small = {
        name: PGD(threat=LINF, steps=i + 1, start="clean") for i, name in enumerate(AutoAttack(threat=LINF).members)
    }
    monkeypatch.setattr(AutoAttack, "_standard", lambda self: small)
    evaluation = Evaluation(levels)
    adaptive = Adaptive(attack=attack, screen=12, keep=1)
    screening = screened({"a": adaptive}, evaluation, tmp_path)
    rows, cascades = suite.rows(screening.rows(SEED), cascade=False)
    if isinstance(attack, WorstOf):
        assert list(rows) == ["a/screened", "a/stages.0=identity"]
        assert cascades == {}
    else:
        members = [f"a/stages.0=identity/{name}" for name in small]
        assert list(rows) == ["a/screened", *members]
        assert cascades == dict.fromkeys(members, "a/stages.0=identity")
        assert rows[members[1]] == Through(attack=small["apgd-t"], backward={"stages.0": "identity"})
    result = evaluate_block(levels, *evaluation.blocks(N)[0], rows, size=SIZE, seed=SEED, cascades=cascades)
    last = result.verdicts[list(rows)[-1]].broken
    assert torch.equal(last | result.verdicts["a/screened"].broken, result.verdicts["a/screened"].broken)


def test_nearest_adversarials_count_within_the_radius(levels, tmp_path):
    evaluation = Evaluation(levels)
    nearest = FMN(norm="l2", eps="0.3", steps=10)
    screening = screened({"fmn": Adaptive(attack=nearest, screen=N, keep=1)}, evaluation, tmp_path)
    replay = screening.rows(SEED)["fmn/screened"]
    assert replay.threat_model == ThreatModel("0.3", "l2")
    results = [evaluation.measure(block, {"a": replay}) for block in evaluation.blocks(N)]  # checks the radius
    broken = sum(int(result.verdicts["a"].broken.sum()) for result in results)
    assert broken > sum(int(result.verdicts["clean"].broken.sum()) for result in results)
    every = [evaluation.measure(block, Adaptive(attack=nearest).members(levels)) for block in evaluation.blocks(N)]
    assert broken == sum(
        int(torch.stack([v.broken for name, v in result.verdicts.items() if name != "clean"]).any(0).sum())
        for result in every
    )


def test_a_random_network_s_strongest_images_are_chosen_by_the_draws_before(tmp_path):
    model = Pipeline([AdditiveNoise(0.02), Levels(), network()]).eval()
    evaluation, some = Evaluation(model), torch.tensor(False)
    adaptive = Adaptive(attack=PGD(threat=ThreatModel("0.02"), steps=3), screen=N, keep=1)
    rows = screened({"a": adaptive}, evaluation, tmp_path).rows(SEED)
    every = [evaluation.measure(block, adaptive.members(model)) for block in evaluation.blocks(N)]
    replayed = [evaluation.measure(block, {"a": rows["a/screened"]}) for block in evaluation.blocks(N)]
    for result, its in zip(every, replayed, strict=True):
        verdicts = [verdict for name, verdict in result.verdicts.items() if name != "clean"]
        best = torch.stack([verdict.right_before for verdict in verdicts]).min(0).values
        assert result.random
        assert torch.equal(its.verdicts["a"].right_before, best)
        some |= ((best > 0) & (best < 1)).any()
    assert some


def test_a_replay_without_adversarials_leaves_every_image():
    x, y = images(network(), 4)
    replay = Replay(threat=LINF, images=4, keys=torch.zeros(0, dtype=torch.int64), x_adv=x[:0])
    result = evaluate_block(network(), x, y, torch.arange(4), {"a": replay}, size=4)
    assert torch.equal(result.verdicts["a"].x_adv, x)
    assert replay.passes(10) == (0, 0)


@pytest.mark.parametrize("large", [0, 1_000_000])
def test_the_fast_copy_takes_the_same_backward_passes(large, tmp_path, monkeypatch):
    # Folded and with channels last, as searches in `test` use it; of a large network it is two copies.
    monkeypatch.setattr("lit_robust.evaluation.fast_copy._LARGE", large)
    model = Pipeline([Levels(), network("norm", dtype=torch.float32)]).eval()
    plain = Evaluation(model)
    fast = fast_copy(model, plain.x)
    assert fast is not None
    copied = Evaluation(model, copy=fast)
    tables = []
    for place, evaluation in (("plain", plain), ("fast", copied)):
        table = screened({"a": ADAPTIVE}, evaluation, tmp_path / place).tables()["a"]
        tables.append({row["label"]: row["correct"] for row in table["combinations"]})
    assert len(set(tables[0].values())) > 1
    assert tables[0] == tables[1]
    layers = [layer for module in (model, fast) for layer in module.modules() if isinstance(layer, Levels)]
    assert [layer.backward_pass for layer in layers] == ["exact"] * (2 if large else 3)


# --- before any work ---


def test_attacks_that_do_not_fit_the_network_are_refused():
    wrong = Through(attack=PGD4, backward={"stages.7": "identity"})
    for attack in (wrong, Restarts(attack=wrong, n=2), WorstOf(attacks=[PGD4, wrong]), Adaptive(attack=wrong)):
        with pytest.raises(UserError, match=r"no layer matches 'stages\.7'; Pipeline has stages"):
            check(attack, defended(Levels()))
    with pytest.raises(UserError, match="Levels has no backward pass 'smooth'"):
        check(Adaptive(attack=PGD4, surrogates={"stages.0": ["smooth"]}), defended(Levels()))
    with pytest.raises(UserError, match=r"no layer matches 'stages\.7'"):
        check(Transfer(attack=wrong, surrogates=[nn.Identity()]), defended(Levels()))
    other = Through(attack=PGD4, backward={"1": "identity"})
    check(Transfer(attack=other, surrogates=[nn.Sequential(nn.Flatten(), Round())]), defended(Levels()))  # not of this
    check(ADAPTIVE, defended(Levels()))


def test_rows_are_foreseen_in_their_number(levels):
    found = foreseen({"pgd": ADAPTIVE, "two": PGD4}, levels)
    assert list(found) == ["pgd/default", "pgd/stages.0=reverse", "two"]
    assert [attack.passes(4) for attack in found.values()] == [(4, 4)] * 3


def test_a_full_disk_is_said(levels, tmp_path, monkeypatch):
    def full(*args, **columns):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(UserError, match=r"cannot write the screening of pgd/default .*: No space left"):
        screened({"pgd": ADAPTIVE}, Evaluation(levels), tmp_path)
