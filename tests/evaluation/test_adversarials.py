"""Adversarial images on disk are what was claimed, however they were dealt to parts."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
import torch
from evaluated import images, network

from lit_robust.attacks import FGSM, FMN, PGD, GaussianNoise
from lit_robust.evaluation import adversarials, evaluate_block
from lit_robust.evaluation.adversarials import AdversarialStore
from lit_robust.threat import ThreatModel

N = 40
LINF, L2 = ThreatModel("4/255"), ThreatModel("0.1", "l2")
ATTACKS = {
    "noise": GaussianNoise(sigma=0.3),
    "fgsm": FGSM(threat=LINF, step_size="eps/2"),
    "l2": PGD(threat=L2, steps=4),
    "pgd": PGD(threat=LINF, steps=5, step_size="eps/2"),
    "within": FMN(norm="l2", steps=8, eps=L2.eps),
    "any": FMN(norm="l2", steps=8),
    "other": FMN(norm="l2", steps=4),
}
COLUMNS = ["index", "label", "attack", "threat", "norm", "eps", "distance", "x", "x_adv"]


@pytest.fixture(scope="module")
def case():
    model = network("norm")
    x, y = images(model, N, wrong_every=7)
    result = evaluate_block(model, x, y, torch.arange(N), ATTACKS, size=N, cascades={"fgsm": "a", "pgd": "a"})
    return model, x, y, result


def some(result, rows):
    """A result of some of the samples."""

    def cut(value):
        return {
            field.name: part[rows] if isinstance(part := getattr(value, field.name), torch.Tensor) else part
            for field in dataclasses.fields(value)
        }

    verdicts = {name: dataclasses.replace(verdict, **cut(verdict)) for name, verdict in result.verdicts.items()}
    return dataclasses.replace(result, **{**cut(result), "verdicts": verdicts})


def merged(folder, parts, attacks=ATTACKS):
    store = AdversarialStore(folder)
    for block, part in parts:
        store.write(block, part, attacks)
    store.merge()
    with np.load(folder / "adversarials.npz") as file:
        return {name: file[name] for name in file.files}


def test_every_row_holds_what_it_claims(case, tmp_path):
    model, x, y, result = case
    found = merged(tmp_path, [(0, result)])
    assert list(found) == COLUMNS
    index = torch.from_numpy(found["index"])
    assert torch.equal(torch.from_numpy(found["x"]), x[index])
    assert torch.equal(torch.from_numpy(found["label"]), y[index])
    x_adv = torch.from_numpy(found["x_adv"])
    with torch.no_grad():
        assert (model(x[index]).argmax(1) == y[index]).all()
        assert (model(x_adv).argmax(1) != y[index]).all()
    for threat in (LINF, L2, ThreatModel(None, "l2")):
        mine = found["threat"] == str(threat)
        assert set(found["norm"][mine]) == {threat.norm}
        assert set(found["eps"][mine]) == {threat.radius}
        assert threat.contains(x_adv[mine], x[index][mine]).all()
        np.testing.assert_allclose(found["distance"][mine], threat.distance(x_adv[mine], x[index][mine]))
        assert (found["distance"][mine] > 0).all()


def test_there_is_one_row_for_an_image_and_a_threat_model_and_it_names_the_first_attack(case, tmp_path):
    _, _, y, result = case
    found = merged(tmp_path, [(0, result)])
    right, verdicts = result.prediction == y, result.verdicts
    expected = set()
    for members in (["fgsm", "pgd"], ["l2", "within"]):
        open_ = right.clone()
        for name in members:
            expected |= {(int(i), name) for i in (verdicts[name].broken & open_).nonzero()}
            open_ &= ~verdicts[name].broken
    for name in ("any", "other"):  # each measures distances of its own
        expected |= {(int(i), name) for i in (verdicts[name].broken & right).nonzero()}
    rows = list(zip(found["index"].tolist(), found["attack"].tolist(), strict=True))
    assert len(rows) == len(set(rows))
    assert set(rows) == expected
    assert {name for _, name in rows} == set(ATTACKS) - {"noise"}


@pytest.mark.parametrize("size", [1, 7, 16])
def test_many_parts_become_what_one_part_is(case, tmp_path, size):
    *_, result = case
    whole = merged(tmp_path, [(0, result)])
    parts = list(enumerate(some(result, rows) for rows in torch.arange(N).split(size)))
    other = merged(tmp_path / "parts", parts[::-1])
    order = [np.lexsort((found["attack"], found["index"])) for found in (whole, other)]
    for name in COLUMNS:
        assert other[name].dtype == whole[name].dtype
        assert np.array_equal(whole[name][order[0]], other[name][order[1]]), name
    assert (np.diff(other["index"] // size) >= 0).all()  # by block


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_no_adversarials_at_all_are_arrays_without_rows(case, tmp_path, kind):
    *_, result = case
    result = dataclasses.replace(result, x=result.x.to(kind))
    right = some(result, ~result.verdicts["any"].broken)
    wrong = some(result, result.prediction != result.label)
    found = merged(tmp_path, [(0, right), (1, wrong)], attacks={"noise": ATTACKS["noise"], "l2": ATTACKS["l2"]})
    assert list(found) == COLUMNS
    assert {name: array.shape for name, array in found.items()} == {
        name: (0, 3, 6, 6) if name in ("x", "x_adv") else (0,) for name in COLUMNS
    }
    assert found["x"].dtype == found["x_adv"].dtype == (np.float32 if kind == torch.float32 else np.float64)


def test_a_first_part_without_rows_does_not_spoil_those_after_it(case, tmp_path):
    *_, result = case
    wrong = some(result, result.prediction != result.label)
    whole = merged(tmp_path / "whole", [(0, result)])
    found = merged(tmp_path, [(0, wrong), (1, result), (2, wrong)])
    assert all(np.array_equal(found[name], whole[name]) for name in COLUMNS)


def test_merging_holds_one_part_at_a_time(tmp_path, case):
    *_, result = case
    big = some(result, torch.arange(N).repeat(20))
    store = AdversarialStore(tmp_path)
    for block in range(20):
        store.write(block, big, ATTACKS)
    tracemalloc.start()
    try:
        store.merge()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    with np.load(tmp_path / "adversarials.npz") as file:
        total = file["x"].nbytes
    assert peak < total / 4


def test_the_first_images_of_a_threat_model_are_found_before_parts_are_merged(case, tmp_path):
    *_, result = case
    store = AdversarialStore(tmp_path)
    for block, rows in enumerate(torch.arange(N).split(8)):
        store.write(block, some(result, rows), ATTACKS)
    store.merge()
    with np.load(tmp_path / "adversarials.npz") as file:
        mine = file["threat"] == str(LINF)
        x, x_adv = file["x"][mine], file["x_adv"][mine]
    assert len(x) > 6
    for count in (0, 1, 6, len(x), 1000):
        first = store.first(str(LINF), count)
        assert len(first) == min(count, len(x))
        for i, (image, attacked) in enumerate(first):
            assert np.array_equal(image, x[i])
            assert np.array_equal(attacked, x_adv[i])
    assert store.first("L1 3", 4) == []
    store.clear()
    assert [p.name for p in tmp_path.iterdir()] == ["adversarials.npz"]


def test_a_write_that_is_cut_short_leaves_the_part_that_was_there(case, tmp_path, monkeypatch):
    *_, result = case
    store = AdversarialStore(tmp_path)
    store.write(0, result, ATTACKS)
    (part,) = (tmp_path / "parts" / "adversarials").iterdir()
    whole = part.read_bytes()

    def half(file, **columns):
        file.write(whole[:50])
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", half)
        with pytest.raises(OSError, match="no space"):
            store.write(0, result, ATTACKS)
    assert part.read_bytes() == whole

    def full(archive, name, parts):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(adversarials, "_merge_array", full)
        with pytest.raises(OSError, match="no space"):
            store.merge()
    assert not (tmp_path / "adversarials.npz").exists()
    store.merge()  # the parts are still there, and what was written aside is not read
    with np.load(tmp_path / "adversarials.npz") as file:
        assert len(file["index"]) > 10
