from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_robust import radius
from lit_robust.errors import UserError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("8/255", Fraction(8, 255)),
        (" 8 / 255 ", Fraction(8, 255)),
        ("0.5/255", Fraction(1, 510)),
        (".5/255", Fraction(1, 510)),
        ("0.3", Fraction(3, 10)),
        ("1e-3", Fraction(1, 1000)),
        ("-8/255", Fraction(-8, 255)),
        (8 / 255, Fraction(8, 255)),
        (0.5 / 255, Fraction(1, 510)),
        (0.031372549, Fraction(8, 255)),
        (0.0314, Fraction(314, 10_000)),
        (0.1, Fraction(1, 10)),
        (0, Fraction(0)),
        (12, Fraction(12)),
        (Fraction(2, 510), Fraction(1, 255)),
    ],
)
def test_parse_reads_every_spelling_exactly(value, expected):
    assert radius.parse(value) == expected


@given(levels=st.integers(1, 2550), divisor=st.sampled_from([1, 2, 5, 10]))
@settings(deadline=None, derandomize=True, max_examples=200)
def test_float_string_and_fraction_of_grey_levels_agree(levels, divisor):
    exact = Fraction(levels, 255 * divisor)
    assert radius.parse(float(exact)) == exact
    assert radius.parse(f"{levels / divisor}/255") == exact
    assert radius.parse(radius.show(exact)) == exact


@given(value=st.floats(1e-9, 1e-4))
@settings(deadline=None, derandomize=True, max_examples=100)
def test_small_floats_keep_their_value(value):
    assert float(radius.parse(value)) == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("text", ["", "eps", "8/", "/255", "8/0", "8/0.0", "8/255/2", "8:255", "nan", "inf", "0x10"])
def test_parse_refuses_text_that_is_no_ratio(text):
    with pytest.raises(UserError, match=r"expected sigma to be a number or a ratio such as '8/255', got"):
        radius.parse(text, name="sigma")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_parse_refuses_floats_that_are_not_finite(value):
    with pytest.raises(UserError, match="expected eps to be finite"):
        radius.parse(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("eps", Fraction(8, 255)),
        ("eps/10", Fraction(8, 2550)),
        ("eps / 4", Fraction(2, 255)),
        ("2*eps", Fraction(16, 255)),
        ("1.25*eps", Fraction(10, 255)),
        ("2.5*eps/40", Fraction(1, 510)),
        ("0.5/255", Fraction(1, 510)),
        (2 / 255, Fraction(2, 255)),
        (Fraction(1, 255), Fraction(1, 255)),
    ],
)
def test_step_is_a_number_or_a_multiple_of_eps(value, expected):
    assert radius.parse_step(value, Fraction(8, 255)) == expected


@pytest.mark.parametrize("value", [0, 0.0, "0", "0/255", -0.1, "-1/255", "0*eps", "-1*eps/4"])
def test_step_must_be_above_zero(value):
    with pytest.raises(UserError, match="expected step_size to be above 0, got"):
        radius.parse_step(value, Fraction(8, 255))


@pytest.mark.parametrize("value", ["eps/0", "2*eps/0.0", "eps*2", "eps/", "epsilon", "-eps"])
def test_step_refuses_what_is_no_multiple_of_eps(value):
    with pytest.raises(UserError, match="expected step_size to be"):
        radius.parse_step(value, Fraction(8, 255))


def test_step_of_a_zero_ball_is_zero():
    assert radius.parse_step("eps/4", Fraction(0)) == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("8/255", "8/255"),
        ("0.5/255", "0.5/255"),
        ("0.8/255", "0.8/255"),
        ("0.3", "0.3"),
        ("0.25", "0.25"),
        ("0.6", "0.6"),
        ("0.075", "0.075"),
        ("12", "12"),
        ("3.75", "3.75"),
        ("0", "0"),
        ("1", "1"),
    ],
)
def test_show_is_the_usual_spelling(value, text):
    assert radius.show(radius.parse(value)) == text
