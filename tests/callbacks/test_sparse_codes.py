"""Entries that each stage of a sparse encoder leaves, image by image."""

import numpy as np
import pytest
import torch
from digit_runs import digits, trained
from measured_digits import block, dealt, measured

from lit_robust.callbacks.sparse_codes import SparseCodes
from lit_robust.errors import UserError
from lit_robust.nn import DefendedClassifier, SmallCNN
from lit_robust.nn.code_activation import CodeActivation
from lit_robust.nn.code_decoder import CodeDecoder
from lit_robust.nn.code_dropout import CodeDropout
from lit_robust.nn.code_stages import code_stages
from lit_robust.nn.dct_encoder import DCTEncoder
from lit_robust.nn.sparse_front_end import SparseFrontEnd
from lit_robust.nn.top_t import TopT


def defended(*, p=0.5, activation=True):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = DCTEncoder(
            patch=4,
            stride=2,
            in_channels=1,
            top=TopT(4),
            dropout=CodeDropout(p) if p else None,
            activation=CodeActivation("8/255") if activation else None,
        )
        front = SparseFrontEnd(encoder, CodeDecoder(atoms=16, widths=[4, 4], in_channels=1))
        return DefendedClassifier(front, SmallCNN(size=16, width=0.2)).eval()


def test_figures_are_those_of_the_stages(tmp_path):
    network = defended()
    results, columns = measured(tmp_path, SparseCodes(image=7, atoms=6), network)
    images = block(network, digits(eval_batch_size=360))
    stages = code_stages(network.stages[0].encoder, images.x, images.noise)
    for name, code in stages.items():
        each = (code != 0).sum((1, 2, 3)) / 49
        np.testing.assert_allclose(columns[f"entries {name}"], each, rtol=1e-6)
        assert results["entries"][name] == pytest.approx(float(each.mean()))
    assert 3.5 < results["entries"]["top"] <= 4, "of an empty patch nothing stays"
    last = stages["activation"]
    share = (last < 0).sum((1, 2, 3)) / (last != 0).sum((1, 2, 3)).clamp(min=1)
    assert results["table"]["sparse_codes/negative"] == pytest.approx(float(share.mean()))
    assert results["activation"] == {"eps": pytest.approx(8 / 255), "beta": 3.0}
    shown = {name: np.array(code) for name, code in results["shown"].items()}
    assert [code.shape for code in shown.values()] == [(6, 7)] * 4
    peak = float(stages["projection"][7, :, 3].abs().max())
    assert np.abs(shown["projection"][0]).max() == pytest.approx(peak, rel=1e-2)
    assert set(np.flatnonzero(shown["activation"])) <= set(np.flatnonzero(shown["top"]))


def test_processes_and_runs_side_by_side(tmp_path):
    plain = defended(p=0, activation=False)
    results, _ = dealt(tmp_path, SparseCodes(), plain)
    assert list(results["shown"]) == ["projection", "top"]
    assert results["activation"] is None
    other, _ = measured(tmp_path / "other", SparseCodes(), defended())
    figure = SparseCodes.draw({"a": results, "b": other})
    assert sum(axis.get_visible() for axis in figure.axes) == 2 + 5


def test_mistakes():
    with pytest.raises(UserError, match="expected image of 0 or more and atoms of at least 1, got -1 and 60"):
        SparseCodes(image=-1)
    with pytest.raises(UserError, match="with one SparseEncoder"):
        SparseCodes().check(trained(), digits())


def test_an_image_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="image 360 is not among those that were tested"):
        dealt(tmp_path, SparseCodes(image=360), defended(p=0))
