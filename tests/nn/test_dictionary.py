"""Patch dictionaries in files, and encoders that reuse them."""

import pytest
import torch
import torch.nn.functional as F

from lit_robust.errors import UserError
from lit_robust.nn.dictionary import FILE, PatchAtoms, PatchDictionary
from lit_robust.nn.sparse_encoder import SparseEncoder
from lit_robust.nn.top_t import TopT

ATOMS = F.normalize(torch.randn(6, 27, generator=torch.Generator().manual_seed(0))).view(6, 3, 3, 3)


@pytest.fixture
def run(tmp_path):
    PatchDictionary.of(ATOMS, alpha=0.5, data="Digits").save(tmp_path / FILE)
    return tmp_path


def test_a_file_gives_back_atoms_and_settings(run):
    for place in (run, run / FILE, str(run)):
        again = PatchDictionary.load(place)
        assert torch.equal(again.atoms, ATOMS)
        assert again.settings == {"atoms": 6, "channels": 3, "patch": 3, "alpha": 0.5, "data": "Digits"}
    content = torch.load(run / FILE, weights_only=True)
    assert set(content) == {"atoms", "settings"}


def test_an_encoder_reuses_a_dictionary_whose_settings_match(run):
    encoder = SparseEncoder(str(run), stride=1, patch=3, atoms=6, alpha=0.5, in_channels=3, top=TopT(2))
    x = torch.rand(2, 3, 5, 5)
    assert torch.equal(encoder(x), SparseEncoder(ATOMS, stride=1, top=TopT(2))(x))
    assert torch.equal(encoder.dictionary, ATOMS)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"patch": 4}, "has patch 3 where 4 is asked for"),
        ({"atoms": 500, "alpha": 1.0}, "has atoms 6 where 500 is asked for, alpha 0.5 where 1.0 is asked for"),
        ({"in_channels": 1}, "has channels 3 where 1 is asked for"),
        ({"alpha": 0.4}, "has alpha 0.5 where 0.4"),
    ],
)
def test_another_dictionary_is_refused(run, asked, message):
    with pytest.raises(UserError, match=message):
        SparseEncoder(str(run), stride=1, **asked)


def test_what_is_no_dictionary_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no dictionary at .*; learn one"):
        PatchDictionary.load(tmp_path / "none")
    with pytest.raises(UserError, match=r"has no dictionary\.pt; expected the folder of a run that learned one"):
        PatchDictionary.load(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(UserError, match=r"has no dictionary\.pt; finish it: fit --resume"):
        PatchDictionary.load(tmp_path)
    torch.save({"state_dict": {}}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="holds no dictionary: expected `atoms` and `settings`, got state_dict"):
        PatchDictionary.load(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (torch.empty(0, 3, 4, 4), "one at least, got shape"),
        (torch.ones(5, 48), r"\(L, C, k, k\)"),
        (torch.ones(5, 3, 4, 3), r"got shape \(5, 3, 4, 3\)"),
        (torch.cat([ATOMS, torch.zeros(2, 3, 3, 3)]), "2 of 8 atoms .* such as atom 6"),
        (torch.cat([torch.full((1, 3, 3, 3), torch.inf), ATOMS]), "1 of 7 atoms .* such as atom 0"),
    ],
)
def test_atoms_that_are_none_are_refused(atoms, message):
    with pytest.raises(UserError, match=message):
        PatchDictionary.of(atoms)


def test_atoms_are_a_network_of_inner_products():
    network = PatchAtoms(atoms=6, patch=3)
    network.atoms.copy_(ATOMS)
    x = torch.rand(2, 3, 4, 5)
    out = network(x)
    assert out.shape == (2, 6, 2, 3)
    assert out[1, 4, 1, 2] == pytest.approx(float((x[1, :, 1:4, 2:5] * ATOMS[4]).sum()), abs=1e-6)
    with pytest.raises(UserError, match="at least one atom"):
        PatchAtoms(atoms=0)
