"""Pictures with controls: live in a notebook, stored frames on the page."""

import asyncio
import json
import re

import nbformat
import pytest
from comparator import differences
from nbclient import NotebookClient

from fedlab_helpers import explore
from fedlab_helpers.explore import Explorable, Menu, Slider, Toggle
from fedlab_helpers.plot import SERIES


def power(ax, side, cubed=False, method="FedAvg"):
    """A curve and a sentence of its own at each position."""
    value = side ** (3 if cubed else 2)
    ax.plot([0, 1], [0, value], label=method)
    return f"{method}: {side} gives {value:g}."


def explorable(**controls):
    return Explorable(power, **(controls or {"side": Slider("side", [1, 2, 3])}))


def bundle(control):
    return control._repr_mimebundle_()[0]


def page(control):
    return bundle(control)["text/html"]


def rows(control):
    """The table: every position in words."""
    body = re.search(r"<tbody>(.*)</tbody>", page(control), re.S)[1]
    return [re.findall(r"<td>(.*?)</td>", row) for row in body.strip().split("\n")]


def frames(control):
    """The drawings that the script of the page puts together, by the same rule."""
    made, *lines = re.search(r"<script.*?>\n(.*)\n</script>", page(control), re.S)[1].split("\n")
    return [
        "\n".join(line for i, n in zip(f[::2], f[1::2], strict=True) for line in lines[i : i + n])
        for f in json.loads(made)
    ]


# --- the page ------------------------------------------------------------------------------------


async def until(done):
    """Wait for something that the loop of a kernel does, a few seconds at most."""
    for _ in range(500):
        if done():
            return
        await asyncio.sleep(0.01)


def test_the_table_has_every_combination_in_the_order_of_the_controls():
    control = explorable(side=Slider("side", [1, 2.5]), cubed=Toggle("cubed"))
    assert rows(control) == [
        ["1", "off", "FedAvg: 1 gives 1."],
        ["1", "on", "FedAvg: 1 gives 1."],
        ["2.5", "off", "FedAvg: 2.5 gives 6.25."],
        ["2.5", "on", "FedAvg: 2.5 gives 15.625."],
    ]
    assert len(frames(control)) == 4


def test_a_frame_unpacks_to_the_drawing_that_was_packed():
    drawn = ["<a>\n<b>\n<c>", "<a>\n<x>\n<c>", "<c>\n<c>\n<a>"]
    made, *lines = explore._shared(drawn).split("\n")
    assert [
        "\n".join(line for i, n in zip(f[::2], f[1::2], strict=True) for line in lines[i : i + n])
        for f in json.loads(made)
    ] == drawn
    assert len(lines) == 4


def test_the_frame_at_the_start_is_on_the_page_without_a_script():
    control = explorable(side=Slider("side", [1, 2, 3], at=2))
    stage = re.search(r'<div class="fl-stage".*?>(<svg.*?</svg>)</div>', page(control), re.S)[1]
    assert stage == frames(control)[1]
    assert "<b>side = 2.</b> <span>FedAvg: 2 gives 4.</span>" in page(control)


def test_controls_start_where_they_are_told_to_and_have_labels():
    html = page(
        explorable(
            side=Slider("the side", [1, 2], at=2, play=True),
            cubed=Toggle("cubed", at=True),
            method=Menu("method", ["FedAvg", "Ditto"], at="Ditto"),
        )
    )
    key = re.search(r'<div class="fl-explorable" id="(fl-[0-9a-f]+)"', html)[1]
    assert f'<label for="{key}-side">the side</label>' in html
    assert f'<input type="range" id="{key}-side" min="0" max="1" step="1" value="1"' in html
    assert 'aria-valuetext="2"' in html
    assert f'<label for="{key}-cubed"><input type="checkbox" id="{key}-cubed" checked>' in html
    assert f'<label for="{key}-method">method</label>' in html
    assert "<option>FedAvg</option><option selected>Ditto</option>" in html
    assert html.count("<button") == 1
    assert "<b>the side = 2, cubed = on, method = Ditto.</b>" in html


def test_without_a_script_there_is_a_strip_of_other_positions():
    html = page(explorable(side=Slider("side", [1, 2, 3, 4, 5, 6], at=2)))
    said = re.findall(r"<figcaption.*?><b>(.*?)</b>", html)
    assert said == ["side = 1.", "side = 3.", "side = 4.", "side = 6."]
    assert "<form autocomplete=" in html
    assert " hidden>" in html  # controls that could not move


def test_the_strip_varies_one_control_at_a_time():
    html = page(explorable(side=Slider("side", [1, 2, 3], at=2), cubed=Toggle("cubed")))
    said = re.findall(r"<figcaption.*?><b>(.*?)</b>", html)
    assert said == ["side = 1, cubed = off.", "side = 2, cubed = on.", "side = 3, cubed = off."]


def test_everything_that_is_labelled_by_something_is_labelled_by_words_that_are_there():
    html = page(explorable())
    used = re.findall(r'(?:aria-labelledby|for)="([^"]+)"', html)
    ids = re.findall(r' id="([^"]+)"', html)
    assert used
    assert set(used) <= set(ids)
    assert html.count('role="img"') == html.count("aria-labelledby")


def test_the_same_control_is_the_same_page_and_another_has_other_ids():
    assert page(explorable()) == page(explorable())
    other = page(explorable(side=Slider("side", [2, 3, 4])))
    assert set(re.findall(r' id="([^"]+)"', page(explorable()))).isdisjoint(
        re.findall(r' id="([^"]+)"', other)
    )


def test_no_id_stands_twice_whatever_frame_is_shown():
    def dotted(axes, side):
        for ax in axes:
            ax.plot([0, side, 1], "o-")
        return f"Here is {side}."

    control = Explorable(dotted, side=Slider("side", [1, 2, 3]), panels=2)
    html, (first, *others) = page(control), frames(control)
    assert html.count(first) == 1
    for frame in (first, *others):
        ids = re.findall(r' id="([^"]+)"', html.replace(first, frame).split("<script")[0])
        assert len(ids) == len(set(ids)) > 8


def test_what_frames_have_in_common_is_stored_once():
    def still(ax, side):
        ax.plot(range(200), [i * i for i in range(200)])
        return f"The side is {side}."

    few, many = (page(Explorable(still, side=Slider("side", range(n)))) for n in (10, 60))
    assert (len(many) - len(few)) / 50 < 400 < len(frames(explorable())[0]) / 10


def test_a_sentence_and_a_name_may_hold_any_character():
    control = Explorable(
        lambda ax, a: f"<b> & </script> {a}", a=Slider("a < b", [1, 2]), xlabel="</script>"
    )
    assert rows(control)[0][-1] == "&lt;b&gt; &amp; &lt;/script&gt; 1"
    assert page(control).count("</script>") == 1


def test_panels_are_drawn_apart_and_their_labels_are_their_own():
    def two(axes, side):
        left, right = axes
        left.plot([0, side])
        right.plot([side, 0])
        right.set_xlabel("own")
        return f"The side is {side}."

    control = Explorable(two, side=Slider("side", [1, 2]), panels=2, ylabel="height")
    labels = [(a["xlabel"], a["ylabel"]) for a in bundle(control)[SERIES]["axes"]]
    assert labels == [("", "height"), ("own", "height")] * 2
    assert [frame.count("<svg") for frame in frames(control)] == [2, 2]


# --- what a notebook stores ----------------------------------------------------------------------


def stored(control):
    """The output of a cell, as a notebook stores it."""
    data = {k: v for k, v in bundle(control).items() if "widget" not in k}
    return [{"output_type": "execute_result", "data": data, "metadata": {}}]


def test_the_numbers_of_all_frames_are_there_to_compare():
    said = bundle(explorable())
    assert [axis["series"][0]["y"] for axis in said[SERIES]["axes"]] == [[0, 1], [0, 4], [0, 9]]
    assert "side = 3: FedAvg: 3 gives 9." in said["text/plain"]


@pytest.mark.parametrize("position", [1, 2, 3])
def test_a_simulation_that_gives_something_else_today_is_noticed_in_every_frame(position):
    def simulated(change):
        def picture(ax, side):
            ax.plot([0, 0.5, 1], [0, side + (change if side == position else 0), side])
            return "A curve that is drawn."

        return stored(Explorable(picture, side=Slider("side", [1, 2, 3])))

    assert differences(simulated(0), simulated(0)) == []
    (found,) = differences(simulated(0), simulated(0.02))
    assert found.startswith(f"output 1, {SERIES}: figure, axes {position - 1}")


def test_a_sentence_that_says_something_else_today_is_noticed():
    def said(number):
        return stored(Explorable(lambda ax, a: f"It is {number}.", a=Slider("a", [1, 2])))

    assert differences(said("0.500"), said("0.500")) == []
    assert {line.split(":")[0] for line in differences(said("0.500"), said("0.510"))} == {
        "output 1, text/html",
        "output 1, text/plain",
    }


# --- the live face -------------------------------------------------------------------------------


def live(control):
    """The widgets that hold the values, the bar, and the picture."""
    *_, busy, face = control.children
    return control._holders, busy, face


@pytest.fixture
def quick(monkeypatch):
    """A hand rests after no time."""
    monkeypatch.setattr(explore, "REST", 0.01)


def seen_by(seen):
    def picture(ax, side):
        seen.append(side)
        return f"It is {side} now."

    return picture


def test_a_move_draws_anew():
    seen = []
    control = Explorable(seen_by(seen), side=Slider("side", [1, 2]))
    (holder,), busy, face = live(control)
    seen.clear()
    holder.value = 2
    assert seen == [2]
    assert "It is 2 now." in face.value
    assert "<svg" in face.value
    assert busy.layout.visibility == "hidden"


def test_a_value_that_is_no_position_is_computed():
    control = explorable(side=Slider("side", [0.0, 0.1, 1, 10]))
    (holder,), _, face = live(control)
    holder.value = 0.345
    assert "0.345 gives 0.119025." in face.value


def test_a_value_that_was_written_is_not_rounded():
    slider = Slider("side", [0.0, 0.1, 1, 10])
    control = explorable(side=slider)
    (holder,), *_ = live(control)
    holder.value = 0.345678
    hand = control.children[0].children[0]
    assert holder.value == 0.345678
    assert hand.value == round(slider.along(0.345678), 2)  # where a browser would put it
    assert "0.345678 gives" in live(control)[2].value


@pytest.mark.parametrize(
    ("positions", "place", "value"),
    [
        ([1, 2, 10], 1.5, 6),
        ([1, 2, 10], 2.0, 10),
        ([0, 0.1, 1, 10], 0.5, 0.05),
        ([0, 0.1, 1, 10], 2.337, 4.03),
        ([100.0, 5000.0], 0.33, 1720.0),
    ],
)
def test_the_slider_reaches_what_lies_between_its_positions(positions, place, value):
    slider = Slider("a", positions)
    control = Explorable(lambda ax, a: f"It is {a} now.", a=slider)
    hand, box = control.children[0].children
    hand.value = place
    assert box.value == value
    assert hand.value == place
    assert slider.between(slider.along(value)) == value


def test_play_starts_where_the_slider_does_and_moves_it_from_position_to_position():
    control = explorable(side=Slider("side", [1, 2, 40], at=2, play=True))
    hand, box, play = control.children[0].children
    assert (play.value, play.max, box.value) == (1, 2, 2)
    play.value = 2
    assert (hand.value, box.value) == (2, 40)


def test_every_kind_of_control_moves_the_picture():
    control = explorable(
        side=Slider("side", [1, 2], play=True),
        cubed=Toggle("cubed"),
        method=Menu("method", ["FedAvg", "Ditto"]),
    )
    (side, cubed, method), _, face = live(control)
    side.value, cubed.value, method.value = 2, True, "Ditto"
    assert "Ditto: 2 gives 8." in face.value


def test_an_error_is_shown_and_the_next_move_recovers():
    broken = True

    def picture(ax, side):
        if side == 1.5 and broken:
            raise ZeroDivisionError("no <clients>")
        return f"It is {side} now."

    control = Explorable(picture, side=Slider("side", [1.0, 2.0]))
    (holder,), busy, face = live(control)
    holder.value = 1.5
    assert "ZeroDivisionError: no &lt;clients&gt;" in face.value
    assert busy.layout.visibility == "hidden"
    holder.value = 2.0
    assert "It is 2.0 now." in face.value


def test_what_a_simulation_prints_on_its_way_leaves_nothing_behind(capsys):
    from tqdm import tqdm

    def picture(ax, side):
        list(tqdm(range(3)))
        print("noise")
        return f"It is {side} now."

    control = Explorable(picture, side=Slider("side", [1, 2]))
    (holder,), *_ = live(control)
    capsys.readouterr()
    holder.value = 2
    assert capsys.readouterr() == ("", "")


def test_in_a_kernel_too_a_cell_shows_the_explorable_and_nothing_else():
    code = """
from IPython.display import display
from tqdm.auto import tqdm
from fedlab_helpers import explore
from fedlab_helpers.explore import Explorable, Slider

explore.tqdm = lambda frames, **options: frames  # its bar shows on a slow machine only

def picture(ax, a):
    print("noise")
    display("noise")
    list(tqdm(range(3)))
    return f"It is {a}."

Explorable(picture, a=Slider("a", [1, 2]))"""
    after = 'print("heard"); display("seen")'
    v4 = nbformat.v4
    notebook = v4.new_notebook(cells=[v4.new_code_cell(c) for c in (code, after)])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    first, second = (cell.outputs for cell in notebook.cells)
    assert [o["output_type"] for o in first] == ["execute_result"]
    assert first[0]["data"]["text/plain"] == "a = 1: It is 1.\na = 2: It is 2."
    assert [o["output_type"] for o in second] == ["stream", "display_data"]


def test_in_a_kernel_only_the_last_of_many_moves_is_computed(quick):
    async def notebook():
        control = Explorable(seen_by(seen), side=Slider("side", [0, 100]))
        (holder,), busy, face = live(control)
        seen.clear()
        for value in (10, 20, 30):
            holder.value = value
            assert busy.layout.visibility == "visible"
        assert seen == []
        await until(lambda: busy.layout.visibility == "hidden")
        return face.value, busy.layout.visibility

    seen = []
    face, visibility = asyncio.run(notebook())
    assert seen == [30]
    assert "It is 30 now." in face
    assert visibility == "hidden"


def test_a_move_that_comes_during_a_computation_is_computed_after_it(quick):
    """Messages of the front end may arrive in a thread of their own."""
    from threading import Thread

    async def notebook():
        def picture(ax, side):
            if side == 10 and not seen:
                seen.append(side)
                for value in (20, 30, 40):
                    mover = Thread(target=setattr, args=(control._holders[0], "value", value))
                    mover.start()
                    mover.join()
                return "The first."
            seen.append(side)
            return f"It is {side} now."

        control = Explorable(picture, side=Slider("side", [0, 100]))
        seen.clear()
        control._holders[0].value = 10
        await until(lambda: 40 in seen)
        return live(control)[2].value

    seen = []
    assert "It is 40 now." in asyncio.run(notebook())
    assert seen == [10, 40]


def test_in_a_kernel_without_a_reader_nothing_is_left_to_do():
    async def notebook():
        bundle(explorable())
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(notebook()) == set()


# --- what is refused -----------------------------------------------------------------------------


def test_a_control_with_one_position_is_refused():
    with pytest.raises(ValueError, match=r"at least two positions.*got \[1\]"):
        Slider("side", [1])


@pytest.mark.parametrize("positions", [[2, 1], [1, 1], ["a", "b"], [1, float("inf")]])
def test_a_slider_over_what_does_not_increase_is_refused(positions):
    with pytest.raises(ValueError, match=r"increasing order.*write Menu\('side'"):
        Slider("side", positions)


@pytest.mark.parametrize("control", [Slider, Menu])
def test_a_start_that_is_no_position_is_refused(control):
    with pytest.raises(ValueError, match=r"`at` to be one of .*, got 4"):
        control("side", [1, 2, 3], at=4)


def test_too_many_frames_are_refused_before_one_is_drawn():
    seen = []
    with pytest.raises(ValueError, match="1 to 120 frames, got 61 x 2"):
        Explorable(
            lambda ax, a, b: seen.append(a) or "It is.", a=Slider("a", range(61)), b=Toggle("b")
        )
    assert seen == []


def test_no_control_is_refused():
    with pytest.raises(ValueError, match="got no control"):
        Explorable(lambda ax: "It is.")


def test_bare_positions_are_refused():
    with pytest.raises(TypeError, match=r"Slider, Toggle or Menu for side, got \[1, 2\]"):
        Explorable(power, side=[1, 2])


def test_a_control_that_the_picture_does_not_take_is_refused():
    with pytest.raises(TypeError, match=r"takes \(ax, edge\), got power\(ax, side.*'side'"):
        Explorable(power, edge=Slider("edge", [1, 2]))


def test_a_picture_that_says_nothing_is_refused():
    with pytest.raises(TypeError, match="return a sentence, got None"):
        Explorable(lambda ax, a: None, a=Slider("a", [1, 2]))
