"""The code after each stage of a sparse encoder."""

import pytest
import torch
from torch import nn

from lit_robust import sampling
from lit_robust.errors import UserError
from lit_robust.nn.code_activation import CodeActivation
from lit_robust.nn.code_dropout import CodeDropout
from lit_robust.nn.code_stages import code_stages, sparse_encoder
from lit_robust.nn.dct_encoder import DCTEncoder
from lit_robust.nn.top_t import TopT
from lit_robust.sampling import Noise

X = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
NOISE = Noise(sampling.keys(torch.arange(3), seed=0))


def encoder(**options):
    parts = {"top": TopT(5), "dropout": CodeDropout(0.5), "activation": CodeActivation("8/255")}
    return DCTEncoder(patch=4, stride=2, in_channels=1, **{**parts, **options})


def test_each_stage_works_on_what_the_one_before_has_left():
    whole = encoder()
    stages = code_stages(whole, X, NOISE)
    assert list(stages) == ["projection", "top", "dropout", "activation"]
    a, top, kept, code = stages.values()
    assert torch.equal(a, whole.coefficients(X).permute(0, 3, 1, 2))
    assert ((top != 0).sum(1) == 5).all()
    assert torch.equal(top[top != 0], a[top != 0])
    assert torch.equal(kept[kept != 0], top[kept != 0])
    assert 0.3 < (kept != 0).sum() / (top != 0).sum() < 0.7
    v = kept / whole.norms.view(1, -1, 1, 1)
    expected = torch.where(v.abs() > 24 / 255, v.sign(), 0) * whole.norms.view(1, -1, 1, 1)
    assert torch.equal(code, expected)
    with NOISE.keyed():
        assert torch.equal(code, whole(X)), "the encoder is whole again"


def test_stages_that_an_encoder_does_not_have_are_left_out():
    stages = code_stages(encoder(top=None, dropout=None), X, NOISE)
    assert list(stages) == ["projection", "activation"]


def test_the_encoder_is_whole_again_after_an_error():
    whole = encoder()
    with pytest.raises(UserError):
        code_stages(whole, X.repeat(1, 2, 1, 1), NOISE)
    assert (whole.top, whole.dropout, whole.activation) != (None, None, None)
    assert whole.top is not None


def test_a_network_with_one_encoder_is_needed():
    one = encoder()
    assert sparse_encoder(nn.Sequential(nn.Identity(), one)) is one
    for network in (nn.Linear(2, 2), nn.Sequential(one, encoder())):
        with pytest.raises(UserError, match="expected a network with one SparseEncoder"):
            sparse_encoder(network)
