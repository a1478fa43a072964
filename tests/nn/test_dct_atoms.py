"""The cosine basis of patches."""

import pytest
import torch

from lit_robust.nn.dct_atoms import dct_atoms


@pytest.mark.parametrize(("channels", "side"), [(3, 4), (1, 2), (2, 5)])
def test_the_atoms_are_an_orthonormal_basis(channels, side):
    atoms = dct_atoms(channels, side)
    n = channels * side * side
    assert atoms.shape == (n, channels, side, side)
    assert atoms.dtype == torch.float32
    torch.testing.assert_close(atoms.flatten(1) @ atoms.flatten(1).T, torch.eye(n), atol=1e-6, rtol=0)


def test_the_cifar_basis_has_48_atoms_and_one_constant_one_a_channel():
    atoms = dct_atoms(3, 4)
    assert len(atoms) == 48
    for channel in range(3):
        constant = atoms[16 * channel]
        torch.testing.assert_close(constant[channel], torch.full((4, 4), 0.25))
        assert not constant[[c for c in range(3) if c != channel]].any()


def test_coefficients_are_scipys_cosine_transform():
    from scipy.fft import dctn

    patch = torch.rand(1, 6, 6, generator=torch.Generator().manual_seed(0))
    coefficients = dct_atoms(1, 6).flatten(1) @ patch.flatten()
    expected = torch.from_numpy(dctn(patch[0].numpy(), type=2, norm="ortho")).flatten()
    torch.testing.assert_close(coefficients, expected, atol=1e-5, rtol=1e-5)
