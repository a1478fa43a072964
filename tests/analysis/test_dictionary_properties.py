"""Figures of a dictionary, on atoms with known ones."""

import math

import pytest
import torch

from lit_robust.analysis.dictionary_properties import dictionary_properties


def test_orthogonal_atoms_are_not_redundant():
    atoms = torch.eye(12).view(12, 3, 2, 2)
    found = dictionary_properties(atoms)
    assert found["atoms"] == 12
    assert found["mean_cos"] == found["nearest_cos"] == 0
    assert found["l1"]["min"] == found["l1"]["max"] == pytest.approx(1)
    assert found["near_constant"] == found["near_zero_mean"] == 0, "the cosine with a constant patch is 0.29"


def test_constant_and_zero_mean_atoms_are_counted_at_any_scale():
    constant = torch.ones(3, 4, 4)
    stripes = torch.tensor([1.0, -1.0]).repeat(24).view(3, 4, 4)
    between = (constant + stripes) / 2
    found = dictionary_properties(torch.stack([5 * constant, -constant, stripes, between]))
    assert (found["near_constant"], found["near_zero_mean"]) == (2, 1)
    assert found["l1"]["max"] == pytest.approx(math.sqrt(48)), "the largest possible"
    assert found["l1"]["min"] == pytest.approx(math.sqrt(24))
    r = math.sqrt(0.5)
    assert found["mean_cos"] == pytest.approx((1 + 3 * r) / 6)
    assert found["nearest_cos"] == pytest.approx(r)


def test_a_single_atom_has_no_neighbour():
    found = dictionary_properties(torch.rand(1, 1, 2, 2))
    assert (found["mean_cos"], found["nearest_cos"]) == (0, 0)
