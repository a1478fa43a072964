"""HopSkipJump and the boundary attack come as near as foolbox's from the same starting points."""

import pytest
import torch
from linear import batch, classified, cnn, keys

from lit_robust.attacks.boundary import Boundary
from lit_robust.attacks.hop_skip_jump import HopSkipJump
from lit_robust.attacks.starts import Given, NearestImage

foolbox = pytest.importorskip("foolbox")


@pytest.fixture(scope="module")
def case():
    """A network, images that it gets right, and the nearest images that it gives another class."""
    model = cnn(dtype=torch.float32)
    x, y = classified(model, 12, dtype=torch.float32, low=0.2, high=0.8)
    pool, _ = batch(60, seed=1, dtype=torch.float32)
    start = Boundary(steps=1, convergence=1, start=NearestImage().bound(pool))(model, x, y, key=keys(12))
    with torch.no_grad():
        assert (model(start).argmax(1) != y).all()
    return model, x, y, start


def ratio(attack, theirs, case, *, singly):
    """Median over images of our distance over foolbox's, which takes the images one by one or together."""
    model, x, y, start = case
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = torch.arange(len(x)).split(1 if singly else len(x))
        found = [theirs.run(wrapped, x[i], foolbox.Misclassification(y[i]), starting_points=start[i]) for i in parts]
    found = torch.cat(found)
    ours = attack.distances(model, x, y, key=keys(len(x)))
    first, other = (attack.threat_model.distance(images, x) for images in (start, found))
    with torch.no_grad():
        assert (model(found).argmax(1) != y).all()
    assert (ours < 0.95 * first).all()
    return (ours / other).median()


# In L∞ steps may lead farther away; ours answers with the nearest of all, foolbox with the last.
@pytest.mark.parametrize(("norm", "least"), [("l2", 0.95), ("linf", 0.85)])
def test_hop_skip_jump_comes_as_near_as_foolbox(norm, least, case):
    options = {"steps": 4, "gamma": 1.0}
    attack = HopSkipJump(norm=norm, initial_gradient_queries=30, **options, start=Given(images=case[3]))
    theirs = foolbox.attacks.HopSkipJumpAttack(initial_gradient_eval_steps=30, constraint=norm, **options)
    # One by one: in L2 foolbox divides each image's direction by the norm of the whole batch's.
    assert least <= ratio(attack, theirs, case, singly=norm == "l2") <= 1.05


def test_the_boundary_attack_comes_as_near_as_foolbox(case):
    options = {"steps": 320, "spherical_step": 0.05, "source_step": 0.05}
    attack, theirs = Boundary(**options, start=Given(images=case[3])), foolbox.attacks.BoundaryAttack(**options)
    assert 0.95 <= ratio(attack, theirs, case, singly=False) <= 1.05
