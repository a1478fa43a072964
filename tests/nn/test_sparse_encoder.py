"""The sparse encoder against its straightforward form, its gradients by hand, its noise and its guarantee."""

import itertools
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lit_robust import sampling
from lit_robust.errors import UserError
from lit_robust.nn.code_activation import CodeActivation
from lit_robust.nn.code_decoder import CodeDecoder
from lit_robust.nn.code_dropout import CodeDropout
from lit_robust.nn.sparse_encoder import SparseEncoder
from lit_robust.nn.sparse_front_end import SparseFrontEnd
from lit_robust.nn.top_t import TopT

J = 24 / 255


def drawn(seed, *shape, levels=8):
    """Numbers whose sums and products float32 holds exactly, with many ties."""
    return torch.randint(-levels, levels + 1, shape, generator=torch.Generator().manual_seed(seed)) / levels


def generic(seed=0, *, atoms=20, channels=2, k=4, images=3, side=8):
    g = torch.Generator().manual_seed(seed)
    d = F.normalize(torch.randn(atoms, channels * k * k, generator=g, dtype=torch.float64))
    x = torch.rand(images, channels, side, side, generator=g, dtype=torch.float64)
    return d.view(atoms, channels, k, k), x


def first_largest(a, t):
    """Mask over dimension 1 by a stable sort: of equal magnitudes the first."""
    order = a.abs().sort(dim=1, descending=True, stable=True).indices[:, :t]
    return torch.zeros_like(a, dtype=torch.bool).scatter(1, order, True)


def straightforward(x, d, *, stride, t=None, j=None, signed=True):
    a = F.conv2d(x, d, stride=stride)
    a = a if signed else a.abs()
    a = a if t is None else a * first_largest(a, t)
    if j is None:
        return a
    norms = d.abs().sum((1, 2, 3))[:, None, None]
    return 0.5 * (torch.sign(a / norms - j) + torch.sign(a / norms + j)) * norms


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    t=st.sampled_from([None, 1, 3, 12]),
    j=st.sampled_from([None, 1 / 8, 1 / 3]),
    signed=st.booleans(),
    backward=st.sampled_from(["exact", "identity", "top(4)", "top(12)"]),
)
def test_codes_are_those_of_the_straightforward_form_bit_for_bit(seed, t, j, signed, backward):
    d, x = drawn(seed, 12, 2, 3, 3), drawn(seed + 1, 2, 2, 7, 9)
    d[:, 0, 0, 0] += 1  # no atom is zero
    d[:, 0, 1, 1] += 0.5 * (d.flatten(1).abs().sum(1) == 0)
    top = None if t is None else TopT(t, backward=backward if t <= 3 else None)
    activation = None if j is None else CodeActivation(j / 2, beta=2.0)
    encoder = SparseEncoder(d, stride=2, top=top, activation=activation, signed=signed)
    code = encoder(x)
    assert code.shape == (2, 12, 3, 4)
    assert torch.equal(code, straightforward(x, d, stride=2, t=t, j=j, signed=signed))


def test_the_shapes_are_the_dissertation_s():
    torch.manual_seed(0)
    layers = {"top": TopT(50), "dropout": CodeDropout(0.95), "activation": CodeActivation()}
    encoder = SparseEncoder(torch.randn(500, 3, 4, 4), stride=2, **layers, image_shape=(3, 32, 32))
    code = encoder(torch.rand(2, 3, 32, 32))
    assert code.shape == (2, 500, 15, 15)
    assert encoder.grid((3, 160, 160)) == (79, 79)
    assert SparseEncoder(torch.randn(10, 3, 8, 8), stride=4).grid((3, 160, 160)) == (39, 39)
    values = (code / encoder.norms[:, None, None]).unique()
    assert set(values.tolist()) <= {-1.0, 0.0, 1.0}
    assert 0 < torch.count_nonzero(code) < 0.1 * 50 * 15 * 15 * 2


def test_exactly_t_are_kept_and_the_first_of_equals():
    kept = TopT(3)(torch.zeros(2, 5, 7))
    assert torch.equal(kept, torch.arange(0, 70, 7)[:, None] + torch.arange(3))
    a = torch.tensor([[1.0, -2.0, 2.0, 0.5, -2.0], [3.0, 0.0, 0.0, 0.0, 1.0]])
    assert TopT(2)(a).tolist() == [[1, 2], [5, 9]]
    assert TopT(3)(a).tolist() == [[1, 2, 4], [5, 6, 9]]
    assert TopT(1, backward="top(3)")(a).tolist() == [[1, 2, 4], [5, 6, 9]]
    assert TopT(2, backward="identity")(a).tolist() == [[1, 2, 0, 3, 4], [5, 9, 6, 7, 8]]
    assert TopT(2)(torch.tensor([[1.0, float("nan"), 3.0]])).tolist() == [[1, 2]], "no number is hidden"


def slope(v, s):
    return 0.5 * s * (1 / torch.cosh(s * (v - J)) ** 2 + 1 / torch.cosh(s * (v + J)) ** 2)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("top", ["exact", "identity", "top(6)"])
@pytest.mark.parametrize("activation", ["smooth(4)", "smooth(32)", "identity", "exact"])
def test_each_backward_pass_has_the_gradient_of_its_formula(top, activation, signed):
    d, x = generic()
    layers = {"top": TopT(3, backward=top), "activation": CodeActivation("8/255", backward=activation)}
    encoder = SparseEncoder(d, stride=2, signed=signed, **layers)
    leaf = x.clone().requires_grad_()
    code = encoder(leaf)
    weight = torch.randn_like(code)
    (grad,) = torch.autograd.grad((code * weight).sum(), leaf)

    a = F.conv2d(x, d, stride=2)
    norms = d.abs().sum((1, 2, 3))[:, None, None]
    v = (a if signed else a.abs()) * first_largest(a, 3) / norms
    of_activation = {"identity": torch.ones_like(v), "exact": torch.zeros_like(v)}
    through = of_activation[activation] if activation in of_activation else slope(v, float(activation[7:-1]))
    reach = {"exact": first_largest(a, 3), "identity": torch.ones_like(a), "top(6)": first_largest(a, 6)}[top]
    of_a = weight * through * reach * (1 if signed else torch.sign(a))
    assert torch.allclose(grad, F.conv_transpose2d(of_a, d, stride=2), atol=1e-12)


def test_a_zeroed_coefficient_has_the_slope_of_the_dissertation():
    assert slope(torch.zeros(()), 4.0) == pytest.approx(3.48, abs=0.01)


@pytest.mark.parametrize("top", ["exact", "identity", "top(8)"])
def test_dropout_gives_the_gradient_to_survivors_or_to_all(top):
    d, x = generic(images=8)
    codes, grads = {}, {}
    for backward in ("mask", "identity"):
        layers = {"top": TopT(4, backward=top), "dropout": CodeDropout(0.5, backward=backward)}
        encoder = SparseEncoder(d, stride=2, **layers)
        leaf = x.clone().requires_grad_()
        with sampling.keyed(torch.arange(8)):
            codes[backward] = encoder(leaf)
        (of_a,) = torch.autograd.grad(codes[backward].sum(), leaf, retain_graph=True)
        grads[backward] = of_a
        survived = codes[backward].detach() != 0
    a = F.conv2d(x, d, stride=2)
    reach = {"exact": first_largest(a, 4), "identity": torch.ones_like(a, dtype=bool), "top(8)": first_largest(a, 8)}
    assert torch.equal(codes["mask"], codes["identity"]), "the forward pass is the same"
    full = reach[top].double()
    assert torch.allclose(grads["identity"], F.conv_transpose2d(full, d, stride=2), atol=1e-12)
    assert torch.equal(survived, survived & first_largest(a, 4))
    if top == "exact":
        assert torch.allclose(grads["mask"], F.conv_transpose2d(survived.double(), d, stride=2), atol=1e-12)
    else:
        assert not torch.allclose(grads["mask"], F.conv_transpose2d(survived.double(), d, stride=2))


@pytest.mark.parametrize("dropout", ["mask", "identity"])
@pytest.mark.parametrize("top", ["exact", "identity", "top(8)"])
def test_no_backward_pass_changes_a_keyed_code(top, dropout):
    d, x = generic(images=4)
    plain = SparseEncoder(d, stride=2, top=TopT(4), dropout=CodeDropout(0.7), activation=CodeActivation())
    other = SparseEncoder(
        d,
        stride=2,
        top=TopT(4, backward=top),
        dropout=CodeDropout(0.7, backward=dropout),
        activation=CodeActivation(backward="identity"),
    )
    codes = []
    for encoder in (plain, other):
        with sampling.keyed(torch.arange(4)):
            codes.append(encoder(x))
    assert torch.equal(*codes)
    assert torch.count_nonzero(codes[0]) > 0


def test_keyed_dropout_belongs_to_the_sample():
    d, x = generic(images=6)
    encoder = SparseEncoder(d, stride=2, top=TopT(8), dropout=CodeDropout(0.6)).eval()
    key = sampling.keys(torch.arange(6))
    with sampling.keyed(key):
        together = encoder(x)
    for rows in (torch.tensor([4]), torch.tensor([5, 0, 3])):
        with sampling.keyed(key[rows]):
            assert torch.equal(encoder(x[rows]) != 0, together[rows] != 0)
    with sampling.keyed(sampling.keys(torch.arange(6), epoch=1)):
        assert not torch.equal(encoder(x), together)
    assert not torch.equal(encoder(x), encoder(x)), "without a key, and in evaluation, it is random"


@pytest.mark.parametrize("shape", [(7, 60, 50), (300, 5)])
@pytest.mark.parametrize("p", [0.0, 0.05, 0.5, 0.95])
def test_dropout_keeps_the_right_share_and_does_not_scale(shape, p):
    torch.manual_seed(0)
    z = torch.rand(shape) + 1
    out = CodeDropout(p)(z)
    kept = out != 0
    assert torch.equal(out[kept], z[kept])
    n = z.numel()
    assert abs(kept.double().mean() - (1 - p)) <= 4 * (p * (1 - p) / n) ** 0.5


def test_survivors_are_independent_and_equally_likely_everywhere():
    keep = torch.zeros(4000 * 30, dtype=torch.bool)
    with sampling.keyed(torch.arange(4000)):
        keep[CodeDropout(0.7).survivors(torch.empty(4000, 30))] = True
    keep = keep.view(4000, 30).double()
    assert (keep.mean(0) - 0.3).abs().max() < 4.5 * (0.21 / 4000) ** 0.5
    correlation = torch.corrcoef(keep.T).fill_diagonal_(0)
    assert correlation.abs().max() < 5 / 4000**0.5


def test_survivors_of_a_longer_tensor_begin_with_the_same():
    short, long = (torch.empty(5, n) for n in (90, 400))
    found = []
    for z in (short, long):
        keep = torch.zeros(z.numel(), dtype=torch.bool)
        with sampling.keyed(torch.arange(5)):
            keep[CodeDropout(0.8).survivors(z)] = True
        found.append(keep.view(z.shape)[:, :90])
    assert torch.equal(*found)


@pytest.mark.parametrize("top", ["exact", "top(8)"])
@pytest.mark.parametrize("dropout", [None, "mask", "identity"])
def test_draws_are_passes_one_by_one(top, dropout):
    d, x = generic(images=4)
    random = None if dropout is None else CodeDropout(0.7, backward=dropout)
    encoder = SparseEncoder(d, stride=2, top=TopT(4, backward=top), dropout=random, activation=CodeActivation())
    results = []
    for run in (
        lambda leaf: encoder.passes(leaf, 5),
        lambda leaf: torch.cat([encoder(leaf) for _ in range(5)]),
        lambda leaf: torch.cat(list(encoder.pieces(leaf, 5, 2))),
    ):
        leaf = x.clone().requires_grad_()
        with sampling.keyed(torch.arange(4)):
            codes = run(leaf)
        weight = torch.arange(codes.numel()).remainder(7).view(codes.shape) - 3
        results.append((codes, *torch.autograd.grad((codes * weight).sum(), leaf)))
    for codes, grad in results[1:]:
        assert torch.equal(codes, results[0][0])
        assert torch.allclose(grad, results[0][1], atol=1e-12)
    if dropout:
        assert not torch.equal(results[0][0][:4], results[0][0][4:8])


def test_draws_without_top_t_or_noise_repeat_the_code():
    d, x = generic(images=2)
    encoder = SparseEncoder(d, stride=2)
    assert torch.equal(encoder.passes(x, 3), encoder(x).repeat(3, 1, 1, 1))


def front_end(backward=None, **options):
    torch.manual_seed(0)
    d, _ = generic(channels=3)
    layers = {"top": TopT(4), "dropout": CodeDropout(0.7), "activation": CodeActivation(), **options}
    decoder = CodeDecoder(20, (6, 5), patch=4, stride=2)
    nn.init.constant_(decoder.conv3.bias, 0.5)  # grey, so that no pixel is cut off
    return SparseFrontEnd(SparseEncoder(d.float(), stride=2, **layers), decoder, backward=backward)


def test_a_front_end_draws_what_its_passes_draw():
    front, x = front_end(), torch.rand(40, 3, 8, 8)
    with sampling.keyed(torch.arange(40)):
        together = front.passes(x, 4)
    with sampling.keyed(torch.arange(40)):
        assert torch.allclose(torch.cat([front(x) for _ in range(4)]), together, atol=1e-6)
    assert not torch.allclose(together[:40], together[40:80], atol=1e-3)
    assert together.shape == (160, 3, 8, 8)


def test_the_identity_backward_of_the_front_end_is_exact_forward_and_straight_through():
    front, x = front_end("identity"), torch.rand(5, 3, 8, 8)
    leaf = x.clone().requires_grad_()
    with sampling.keyed(torch.arange(5)):
        images = front(leaf)
    front.backward_pass = "composed"
    with sampling.keyed(torch.arange(5)):
        assert torch.equal(front(x), images)
    weight = torch.rand_like(images)
    assert torch.equal(torch.autograd.grad((images * weight).sum(), leaf)[0], weight)
    assert "identity" in front.opaque


def test_the_identity_backward_needs_images_of_the_same_shape():
    front = front_end("identity")
    front.decoder = nn.Identity()
    with pytest.raises(UserError, match=r"images of the shape that came in, \(3, 8, 8\), got \(20, 3, 3\)"):
        front(torch.rand(1, 3, 8, 8))


EPS = 8 / 255


def attacked_signs(encoder, x):
    """Signs of the codes of images at the corners of the ball that move an atom's coefficients most."""
    d = encoder.dictionary
    for atom, way in itertools.product(range(len(d)), (-1, 1)):
        yield torch.sign(encoder((x + way * EPS * torch.sign(d[atom])).clamp(0, 1)))


def flips(encoder, x):
    clean = torch.sign(encoder(x))
    return sum(int(((signs * clean) < 0).sum()) for signs in attacked_signs(encoder, x))


def one_patch_encoder(beta, t=None, atoms=30):
    d, _ = generic(3, atoms=atoms, channels=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        activation = CodeActivation("8/255", beta=beta)
    return SparseEncoder(d, stride=4, top=None if t is None else TopT(t), activation=activation)


def near_threshold(encoder, multiples):
    """Patches around grey whose v along one atom is a multiple of the radius."""
    d, norms = encoder.dictionary, encoder.norms[:, None, None, None]
    x = torch.cat([0.5 + (c * EPS * norms - 0.5 * d.sum((1, 2, 3), keepdim=True)) * d for c in multiples])
    inside = ((x >= EPS) & (x <= 1 - EPS)).flatten(1).all(1)
    assert inside.double().mean() > 0.6
    return x[inside]


def test_below_one_half_a_code_s_sign_can_be_flipped():
    encoder = one_patch_encoder(0.45)
    assert flips(encoder, near_threshold(encoder, [0.5])) > 0
    single = one_patch_encoder(0.45, t=1, atoms=1)
    assert flips(single, near_threshold(single, [0.5])) > 0


@pytest.mark.parametrize("beta", [0.55, 1.01, 3.0])
@pytest.mark.parametrize("t", [None, 3])
def test_above_one_half_no_code_s_sign_is_ever_flipped(beta, t):
    encoder = one_patch_encoder(beta, t)
    around = near_threshold(encoder, [m * beta for m in (-1.2, -1.0001, 1.0001, 1.05, 1.5)] + [0.5])
    anywhere = torch.rand(100, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for x in (around, anywhere):
        assert torch.count_nonzero(encoder(x)) > 0
        assert flips(encoder, x) == 0


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), beta=st.sampled_from([0.55, 1.01, 3.0]), t=st.sampled_from([1, 4, 30]))
def test_random_perturbations_flip_no_sign(seed, beta, t):
    encoder, g = one_patch_encoder(beta, t), torch.Generator().manual_seed(seed)
    x = torch.rand(20, 1, 4, 4, generator=g, dtype=torch.float64)
    moved = x + EPS * (2 * torch.rand(x.shape, generator=g, dtype=torch.float64) - 1).sign()
    assert ((torch.sign(encoder(x)) * torch.sign(encoder(moved))) >= 0).all()


@pytest.mark.parametrize(
    ("beta", "what"), [(0.45, "sign of an entry of the code"), (0.9, "coefficient behind an entry")]
)
def test_a_small_beta_warns(beta, what):
    with pytest.warns(UserWarning, match=what):
        CodeActivation("8/255", beta=beta)


def test_a_large_beta_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CodeActivation("8/255", beta=1.01)


def test_the_encoder_has_no_parameter_unless_its_dictionary_trains():
    d, x = generic()
    assert not list(SparseEncoder(d, stride=2).parameters())
    assert "dictionary" in SparseEncoder(d, stride=2).state_dict()
    trained = SparseEncoder(d, stride=2, top=TopT(3), activation=CodeActivation(), trainable=True)
    trained(x).sum().backward()
    assert trained.dictionary.grad.abs().sum() > 0
    assert trained.dictionary is not d


ATOMS = torch.ones(10, 3, 4, 4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TopT(0), "at least 1 coefficient, got t = 0"),
        (lambda: TopT(5, backward="top(4)"), r"whole number U of at least 5, got top\(4\); take top\(10\)"),
        (lambda: TopT(5, backward="top(7.5)"), "expected a whole number"),
        (lambda: TopT(5, backward="smooth(4)"), r"it has exact, identity, top\(10\), top\(25\), top\(50\)"),
        (lambda: CodeDropout(1.0), r"in \[0, 1\), got 1.0"),
        (lambda: CodeDropout(-0.1), r"in \[0, 1\), got -0.1"),
        (lambda: CodeActivation(0), "expected eps and beta of CodeActivation above 0"),
        (lambda: CodeActivation(beta=-1.0), "expected eps and beta of CodeActivation above 0"),
        (
            lambda: SparseEncoder(ATOMS, stride=2, top=TopT(11)),
            "cannot keep 11 of 10 coefficients; set top.t to at most",
        ),
        (lambda: TopT(11)(torch.zeros(2, 10)), "cannot keep 11 of 10"),
        (lambda: SparseEncoder(ATOMS, stride=0), "stride of SparseEncoder to be at least 1, got 0"),
        (lambda: SparseEncoder(ATOMS, stride=2, image_shape=(3, 2, 8)), "4 x 4 pixels are larger than images of 2 x 8"),
        (lambda: SparseEncoder(ATOMS, stride=3, image_shape=(3, 7, 8)), "leave columns 7 of images of 7 x 8 uncovered"),
        (lambda: SparseEncoder(ATOMS, stride=3, image_shape=(3, 9, 7)), "leave rows 7, 8 of images of 9 x 7 uncovered"),
        (lambda: SparseEncoder(ATOMS, stride=6, image_shape=(3, 10, 10)), "leave rows 4, 5 of images"),
        (lambda: SparseEncoder(ATOMS, stride=2, image_shape=(1, 8, 8)), "atoms have 3 channels, the images 1"),
        (lambda: SparseEncoder(ATOMS, stride=2)(torch.rand(1, 3, 7, 8)), "leave rows 6 of images of 7 x 8"),
        (lambda: SparseEncoder(ATOMS, stride=2, patch=8), "has patch 4 where 8 is asked for"),
        (lambda: SparseEncoder(ATOMS, stride=2, atoms=500), "has atoms 10 where 500 is asked for"),
        (lambda: SparseEncoder(ATOMS, stride=2, in_channels=1), "has channels 3 where 1 is asked for"),
        (lambda: SparseEncoder(ATOMS, stride=2, alpha=1.0), "has alpha unknown where 1.0 is asked for"),
        (lambda: SparseEncoder(torch.zeros(10, 3, 4, 4), stride=2), "10 of 10 atoms of the dictionary are zero"),
        (lambda: SparseEncoder(torch.empty(0, 3, 4, 4), stride=2), "one at least"),
        (lambda: SparseEncoder(torch.ones(10, 48), stride=2), r"\(L, C, k, k\)"),
    ],
)
def test_mistakes_are_found_and_named(build, message):
    with pytest.raises(UserError, match=message):
        build()


def test_a_refused_backward_pass_leaves_the_one_in_force():
    top = TopT(5, backward="top(10)")
    with pytest.raises(UserError):
        top.backward_pass = "top(3)"
    assert (top.backward_pass, top.kind, top.number) == ("top(10)", "top", 10.0)
    top.backward_pass = "exact"
    assert top(torch.rand(1, 20)).shape == (1, 5)
