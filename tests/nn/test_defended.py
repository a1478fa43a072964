"""Front end and classifier as named parts, and the encoder that needs no dictionary."""

import pytest
import torch
from torch import nn

from lit_robust.errors import UserError
from lit_robust.nn import Pipeline, SmallCNN
from lit_robust.nn.code_activation import CodeActivation
from lit_robust.nn.code_decoder import CodeDecoder
from lit_robust.nn.dct_atoms import dct_atoms
from lit_robust.nn.dct_encoder import DCTEncoder
from lit_robust.nn.defended import DefendedClassifier
from lit_robust.nn.sparse_encoder import SparseEncoder
from lit_robust.nn.sparse_front_end import SparseFrontEnd
from lit_robust.nn.top_t import TopT

X = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def test_a_defended_classifier_is_a_pipeline_of_two():
    torch.manual_seed(0)
    front_end, classifier = nn.Conv2d(1, 2, 1), SmallCNN(size=16, in_channels=2)
    model = DefendedClassifier(front_end=front_end, classifier=classifier)
    assert isinstance(model, Pipeline)
    assert list(model.stages) == [front_end, classifier]
    assert torch.equal(model(X), classifier(front_end(X)))
    assert list(model.state_dict()) == list(Pipeline([front_end, classifier]).state_dict())


def test_the_encoder_is_the_sparse_one_over_the_cosine_basis():
    parts = {"stride": 2, "top": TopT(5), "activation": CodeActivation("8/255"), "signed": False}
    ours, theirs = DCTEncoder(patch=4, in_channels=1, **parts), SparseEncoder(dct_atoms(1, 4), **parts)
    assert torch.equal(ours(X), theirs(X))
    assert ours(X).shape == (2, 16, 7, 7)
    assert len(DCTEncoder().dictionary) == 48


def test_all_coefficients_are_an_invertible_transform():
    code = DCTEncoder(patch=4, stride=4, in_channels=1)(X)
    back = nn.functional.conv_transpose2d(code, dct_atoms(1, 4), stride=4)
    torch.testing.assert_close(back, X, atol=1e-5, rtol=0)


def test_front_end_and_classifier_train_together_and_the_dictionary_stays():
    torch.manual_seed(0)
    front_end = SparseFrontEnd(DCTEncoder(in_channels=1, top=TopT(5)), CodeDecoder(16, [6, 4], in_channels=1))
    model = DefendedClassifier(front_end, SmallCNN(size=16))
    model(X).square().sum().backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []
    assert "stages.0.encoder.dictionary" not in dict(model.named_parameters())
    assert "stages.0.encoder.dictionary" in model.state_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 0}, "at least 1 pixel, got 0"),
        ({"patch": 4, "image_shape": (3, 17, 17)}, "uncovered"),
        ({"top": TopT(49)}, "cannot keep 49 of 48"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        DCTEncoder(**options)
