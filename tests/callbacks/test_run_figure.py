"""What figures of several runs share."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from lit_robust.callbacks.run_figure import bars_width, caption, layer_bars, run_styles, union_of_orders
from lit_robust.plots.show import show_image


def test_the_first_of_several_runs_is_grey_and_all_differ():
    styles = run_styles([f"run {i}" for i in range(20)])
    assert styles["run 0"] == {"color": "#7F7F7F", "hatch": ""}
    assert len({tuple(style.values()) for style in styles.values()}) == 20
    assert run_styles(["alone"])["alone"]["color"] != "#7F7F7F"


@pytest.mark.parametrize(
    ("orders", "union"),
    [
        ([["a", "b"], ["a", "b"]], ["a", "b"]),
        ([["a", "c"], ["a", "b", "c"]], ["a", "b", "c"]),
        ([["b", "c"], ["a", "b"]], ["a", "b", "c"]),
        ([["a", "b"], ["b", "d"], ["c", "d"]], ["c", "a", "b", "d"]),
        ([], []),
    ],
)
def test_layers_of_all_runs_in_an_order(orders, union):
    assert union_of_orders(orders) == union


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.sets(st.integers(0, 9)), min_size=1))
def test_runs_that_agree_keep_their_order_and_none_is_lost(parts):
    orders = [[str(i) for i in sorted(part)] for part in [*parts, range(10)]]
    union = union_of_orders(orders)
    assert sorted(union) == [str(i) for i in range(10)]
    first = [name for name in union if name in orders[0]]
    assert first == orders[0]


def protocol(samples, **rest):
    return {"protocol": {"samples": samples, "seed": 1}, **rest}


def test_a_caption_is_one_line_unless_runs_differ():
    same = {"a": protocol(1000, s=0.1), "b": protocol(1000, s=0.1)}
    assert caption(same, {"σ": "s"}) == "N = 1,000, σ = 0.1, seed 1"  # noqa: RUF001
    assert caption({"a": protocol(1), "b": protocol(2)}, {}) == "a: N = 1, seed 1\nb: N = 2, seed 1"


@pytest.mark.parametrize(("names", "rotation"), [("abc", 0), ([f"features.{i}" for i in range(13)], 45)])
def test_many_or_long_names_are_turned(names, rotation):
    axis = Figure().subplots()
    layer_bars(axis, {"run": dict.fromkeys(names, 1.0)}, "dB")
    assert {text.get_rotation() for text in axis.get_xticklabels()} == {rotation}
    assert axis.get_legend() is None


def test_figures_are_as_wide_as_their_bars_and_no_wider_than_a_page():
    few, many = ({"a": dict.fromkeys(range(n), 1.0)} for n in (2, 500))
    assert bars_width(few) < bars_width(many) == 16


def test_images_of_one_and_three_channels():
    for channels in (1, 3):
        axis = Figure().subplots()
        show_image(axis, [[[0.0, 0.5], [1.0, 1.5]]] * channels, "title")
        shown = axis.images[0].get_array()
        assert shown.shape == (2, 2, 3)
        assert shown[:, :, 0].tolist() == [[0.0, 0.5], [1.0, 1.0]]
