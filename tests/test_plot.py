"""Figures: one style, and the numbers beside the picture."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from fedlab_helpers.plot import LOOKS, PALETTE, SERIES, dots, line, look, panel, ranked, series

ALT = "Accuracy rises with the rounds."


@pytest.fixture
def shown(monkeypatch):
    """What `display` would show: a list of {MIME type: content}."""
    import IPython.display

    bundles = []
    monkeypatch.setattr(
        IPython.display, "publish_display_data", lambda data, *options: bundles.append(data)
    )
    return bundles


def svg(shown):
    return shown[-1]["image/svg+xml"]


def numbers(shown):
    (axes,) = shown[-1][SERIES]["axes"]
    return axes


def curves(shown):
    return {s["label"]: (s["x"], s["y"]) for s in numbers(shown)["series"]}


def test_a_panel_is_shown_when_its_block_ends(shown):
    with panel(ALT, "round", "accuracy", "Digits") as ax:
        line(ax, [1, 2, 3], [0.1, 0.5, 0.8], "FedAvg")
        assert shown == []
    assert len(shown) == 1
    assert {"image/svg+xml", SERIES} <= set(shown[0])


@pytest.mark.parametrize("alt", ["", "accuracy", "two words"])
def test_a_panel_without_a_sentence_of_alt_text_is_refused(alt):
    with pytest.raises(ValueError, match="alt text that says what the figure shows"), panel(alt):
        pass


def test_the_alt_text_is_the_name_of_the_picture(shown):
    with panel('A "quoted" alt text & more.') as ax:
        line(ax, [1, 2], [1, 2], "FedAvg")
    root = ElementTree.fromstring(svg(shown))
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'A "quoted" alt text & more.'


def test_the_same_figure_is_the_same_text(shown):
    for _ in range(2):
        with panel(ALT, "round", "accuracy") as ax:
            line(ax, [1, 2, 3], [[0.1, 0.5, 0.8], [0.2, 0.5, 0.9]], "FedAvg")
            ranked(ax, {"Local": [0.1, 0.2], "Ditto": [0.3, 0.4]})
    assert svg([shown[0]]) == svg([shown[1]])


def test_two_figures_of_a_page_share_no_identifiers(shown):
    for alt in (ALT, "Another figure of the page."):
        with panel(alt) as ax:
            line(ax, [1, 2, 3], [0.1, 0.5, 0.8], "FedAvg")
            dots(ax, [1, 2], [1, 2], "Local")
    one, other = (set(re.findall(r'id="([^"]+)"', svg([s]))) for s in shown)
    assert one
    assert not one & other


def test_the_numbers_beside_the_picture_are_those_plotted(shown):
    with panel(ALT, "round", "accuracy", "Digits") as ax:
        line(ax, [1, 2, 3], [0.1, 0.5, 0.8], "FedAvg")
        dots(ax, [0.25, 0.5], [1.5, 2.5], "Ditto")
    assert curves(shown)["FedAvg"] == ([1, 2, 3], [0.1, 0.5, 0.8])
    assert curves(shown)["Ditto"] == ([0.25, 0.5], [1.5, 2.5])
    labels = {name: numbers(shown)[name] for name in ("title", "xlabel", "ylabel")}
    assert labels == {"title": "Digits", "xlabel": "round", "ylabel": "accuracy"}


def test_a_single_dot_is_a_number_too(shown):
    with panel(ALT) as ax:
        dots(ax, [0.0], [0.0], "Local")
    assert curves(shown)["Local"] == ([0.0], [0.0])


def test_bars_boxes_and_pictures_have_numbers():
    figure = Figure()
    ax, other = figure.subplots(1, 2)
    ax.bar([1, 2], [3.0, 4.0], width=0.5)
    other.imshow([[1.0, 2.0], [3.0, np.nan]])
    bars, picture = (a["series"] for a in series(figure)["axes"])
    assert (bars[0]["x"], bars[0]["y"]) == ([1, 2], [3, 4])
    assert picture[0]["y"] == [1, 2, 3, None]


def test_numbers_have_five_digits_and_gaps_are_none(shown):
    with panel(ALT) as ax:
        line(ax, [1, 2, 3], [1 / 3, np.nan, 123456.7], "FedAvg")
    assert curves(shown)["FedAvg"][1] == [0.33333, None, 123460.0]


def test_several_seeds_are_drawn_as_their_mean_and_a_band_of_one_deviation(shown):
    runs = np.array([[0.1, 0.5], [0.3, 0.9]])
    with panel(ALT) as ax:
        line(ax, [1, 2], runs, "FedAvg")
    np.testing.assert_allclose(curves(shown)["FedAvg"][1], runs.mean(0))
    spread = runs.std(0, ddof=1)
    band = next(s["y"] for s in numbers(shown)["series"] if len(s["y"]) > 2)
    edges = [*(runs.mean(0) + spread), *(runs.mean(0) - spread)]
    assert {float(f"{v:.5g}") for v in edges} == set(band)


def test_one_seed_has_no_band(shown):
    with panel(ALT) as ax:
        line(ax, [1, 2], [[0.1, 0.5]], "FedAvg")
        assert not ax.collections


def test_ranked_methods_show_mean_and_deviation_under_their_names(shown):
    with panel(ALT) as ax:
        ranked(ax, {"Local": [0.2, 0.4], "Ditto": [0.7]})
        assert [tick.get_text() for tick in ax.get_yticklabels()] == ["Local", "Ditto"]
    drawn = [(s["x"], s["y"]) for s in numbers(shown)["series"]]
    assert ([0.3], [0.0]) in drawn
    assert ([0.7], [1.0]) in drawn
    spread = np.std([0.2, 0.4], ddof=1)
    assert ([float(f"{0.3 - spread:.5g}"), float(f"{0.3 + spread:.5g}")], [0.0, 0.0]) in drawn


def test_colours_are_variables_of_the_page(shown):
    with panel(ALT, "round", "accuracy") as ax:
        line(ax, [1, 2], [1, 2], "FedAvg")
    drawn = svg(shown)
    assert f"var(--fl-blue, {PALETTE['blue']})" in drawn
    assert "var(--pst-color-text-base" in drawn
    outside = re.sub(r"var\([^)]*\)", "", drawn)
    assert not re.search("|".join(PALETTE.values()), outside)


def test_text_stays_text(shown):
    with panel(ALT, "communication round") as ax:
        line(ax, [1, 2], [1, 2], "FedAvg")
    assert re.search(r"<text[^>]*>communication round</text>", svg(shown))


def test_a_picture_holds_no_date_and_no_version(shown):
    with panel(ALT) as ax:
        line(ax, [1, 2], [1, 2], "FedAvg")
    assert "<metadata" not in svg(shown)
    assert "Matplotlib" not in svg(shown)


def test_a_legend_appears_where_something_has_a_name(shown):
    with panel(ALT) as ax:
        line(ax, [1, 2], [1, 2], "FedAvg")
    assert "FedAvg</text>" in svg(shown)
    with panel(ALT, legend=False) as ax:
        line(ax, [1, 2], [1, 2], "FedAvg")
    assert "FedAvg</text>" not in svg(shown)


@pytest.mark.parametrize("name", ["Ditto, λ = 1", "Ditto (λ = 1)", "Ditto(lam=1)", "Ditto"])
def test_a_method_looks_the_same_whatever_is_said_about_it(name):
    assert look(name, position=5) == LOOKS["Ditto"]


def test_a_longer_name_is_not_taken_for_a_shorter_one():
    assert look("FedAvg + fine-tuning") == LOOKS["FedAvg + fine-tuning"]
    assert look("FedAvgM", position=1) != LOOKS["FedAvg"]


def test_no_two_methods_look_alike():
    assert len(set(LOOKS.values())) == len(LOOKS)
    assert len({(v.marker, v.dash) for v in LOOKS.values()}) == len(LOOKS)  # without colours


def test_strangers_differ_by_position():
    looks = {look("another method", position) for position in range(16)}
    assert len(looks) == 16


def test_a_curve_can_be_drawn_like_another_method(shown):
    with panel(ALT) as ax:
        line(ax, [1, 2], [1, 2], "theory", like="Ditto")
        (curve,) = ax.lines
    assert curve.get_color() == PALETTE["red"]


def test_every_look_has_a_colour_of_the_palette():
    assert {v.colour for v in LOOKS.values()} <= set(PALETTE)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("name", PALETTE)
def test_every_colour_stands_out_from_white_paper(name):
    assert 1.05 / (luminance(PALETTE[name]) + 0.05) >= 3


def test_a_broken_block_shows_nothing(shown):
    with pytest.raises(RuntimeError), panel(ALT):
        raise RuntimeError("stop")
    assert shown == []


def test_a_drawing_is_short_and_keeps_what_is_written_in_it(shown):
    heights = np.random.default_rng(0).random(20)
    with panel(ALT, title="0.12345 L 1.23456 L 2.34567") as ax:
        ax.plot(range(20), heights, label="a")
        dots(ax, np.linspace(0, 1, 50), np.linspace(0, 1, 50), "FedAvg")
        ax.set_yticks([0.001, 0.5])
    drawn = svg(shown)
    assert "0.12345 L 1.23456 L 2.34567</text>" in drawn
    assert "0.001</text>" in drawn
    assert not re.search(r"\d\.\d{3,}", re.sub(">[^<]*<", "", drawn))
    paths = [re.findall(r"[-\d.]+", d) for d in re.findall(r' d="M([^"]*)"', drawn)]
    (curve,) = (np.reshape(p, (20, 2)).astype(float) for p in paths if len(p) == 40)
    np.testing.assert_allclose(np.corrcoef(curve[:, 1], heights)[0, 1], -1, atol=1e-6)
    assert len(re.findall("<use ", drawn)) >= 50
    assert ElementTree.fromstring(drawn) is not None
