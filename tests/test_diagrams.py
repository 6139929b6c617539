"""Diagrams: what they draw is what the algorithms do, and everybody can see it."""

import inspect
import re
from xml.etree import ElementTree

import pytest
from torch import nn

import fedlab_helpers as fl
from fedlab_helpers import datasets, diagrams
from fedlab_helpers.glance import at_a_glance

MODEL = fl.Model(lambda: fl.mlp(64, 32, outputs=10))
EVERY = {
    name: function
    for name, function in vars(diagrams).items()
    if inspect.isfunction(function)
    and function.__module__ == diagrams.__name__
    and not name.startswith("_")
}
MOVING = ("federated_averaging", "asynchronous")


def drawn(name):
    return EVERY[name](*([MODEL] if name == "shared_layers" else []))


def texts(diagram):
    """The lines of text in a drawing."""
    root = ElementTree.fromstring(diagram.svg)
    found = ("".join(e.itertext()) for e in root.iter("{http://www.w3.org/2000/svg}text"))
    return [text.replace("\u200b", "") for text in found]


def test_there_is_one_for_every_family_of_methods():
    assert len(EVERY) == 11


@pytest.mark.parametrize("name", EVERY)
def test_a_diagram_has_words_and_no_ids(name):
    diagram = drawn(name)
    root = ElementTree.fromstring(diagram.svg)
    assert root.get("aria-label") == diagram.alt
    assert len(diagram.alt.split()) >= 15
    assert "id=" not in re.sub("viewBox=", "", diagram.svg)
    assert diagram._repr_mimebundle_()["text/plain"] == f"[diagram: {diagram.alt}]"


@pytest.mark.parametrize("name", EVERY)
def test_a_diagram_is_the_same_every_time_and_small(name):
    assert drawn(name).svg == drawn(name).svg
    assert len(drawn(name).svg) < 12_000


@pytest.mark.parametrize("name", EVERY)
def test_what_moves_can_be_held_and_nothing_else_has_a_second_face(name):
    bundle = drawn(name)._repr_mimebundle_()
    assert ("text/html" in bundle) == ("@keyframes" in bundle["image/svg+xml"]) == (name in MOVING)
    if name in MOVING:
        assert 'type="checkbox"' in bundle["text/html"]


# --- what is drawn is what the algorithms do ------------------------------------------------------


@pytest.fixture(scope="module")
def glance():
    federation = datasets.digits(clients=4)
    public = federation.train[0][0][:5]
    algorithms = [
        fl.FedAvg(),
        fl.FedPer(),
        fl.Ditto(),
        fl.PFedMe(),
        fl.IFCA(),
        fl.FedMD(public=public),
    ]
    return at_a_glance(algorithms, MODEL, federation)


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [
        ("federated_averaging", "FedAvg"),
        ("shared_layers", "FedPer"),
        ("regularised", "Ditto"),
        ("regularised", "pFedMe"),
        ("clustering", "IFCA"),
        ("distillation", "FedMD"),
    ],
)
def test_something_personal_is_drawn_where_something_stays(glance, name, algorithm):
    stays = glance.loc[algorithm, "stays"] != "-"
    assert ('class="own"' in drawn(name).svg) == stays


def arrows(diagram, colour):
    """The vertical arrows of one colour: how many point down, how many up."""
    ends = re.findall(
        rf'<g class="{colour}"><path class="line" d="M([\d.]+) ([\d.]+)L([\d.]+) ([\d.]+)"/>',
        diagram.svg,
    )
    steep = [float(b) - float(a) for x, a, y, b in ends if x == y]
    return sum(v > 0 for v in steep), sum(v < 0 for v in steep)


def test_as_many_models_are_drawn_on_their_way_as_are_sent(glance):
    for name, algorithm, clients in [
        ("federated_averaging", "FedAvg", 3),
        ("regularised", "Ditto", 3),
        ("regularised", "pFedMe", 3),
        ("clustering", "IFCA", 4),
    ]:
        pairs = [arrows(drawn(name), colour) for colour in ("shared", "other")]
        down, up = (sum(pair[i] for pair in pairs) / clients for i in (0, 1))
        row = glance.loc[algorithm]
        for count, sent in [(down, row["server to client"]), (up, row["client to server"])]:
            assert count == pytest.approx(float(sent.removesuffix(" d")), abs=0.01)


def test_distillation_sends_less_than_a_model_and_keeps_one(glance):
    assert float(glance.loc["FedMD", "client to server"].removesuffix(" d")) < 0.1
    assert glance.loc["FedMD", "stays"] == "1 d"
    assert "predictions travel" in texts(drawn("distillation"))


def test_fine_tuning_sends_nothing_up():
    assert arrows(drawn("fine_tuning"), "shared") == (3, 0)


@pytest.mark.parametrize(
    ("algorithm", "travel", "stay"),
    [
        (fl.FedPer(), {"body.0"}, {"head"}),
        (fl.LGFedAvg(), {"head"}, {"body.0"}),
        (fl.FedPer(personal=()), {"body.0", "head"}, set()),
        (fl.FedPer(personal=("*",)), set(), {"body.0", "head"}),
    ],
)
def test_layers_travel_and_stay_as_the_algorithm_says(algorithm, travel, stay):
    diagram = diagrams.shared_layers(MODEL, algorithm)
    found = {
        kind: set(re.findall(rf'<g class="{kind}"><rect[^>]*/><text[^>]*>([^<]+)', diagram.svg))
        for kind in ("shared", "own")
    }
    assert found == {"shared": travel, "own": stay}
    down, up = arrows(diagram, "shared")
    assert down == up == (3 if travel else 0)


def test_normalisation_layers_stay_in_fedbn():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU())
            self.head = nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.body(x))

    diagram = diagrams.shared_layers(fl.Model(Net), fl.FedBN())
    assert diagram.alt.endswith(
        "averaged: body.0 and head. Kept by every client for itself: body.1."
    )


def test_a_layer_of_which_a_part_stays_is_not_drawn_as_if_it_were_whole():
    with pytest.raises(ValueError, match="as a whole"):
        diagrams.shared_layers(MODEL, fl.FedPer(personal=("head.bias",)))


def test_every_mask_is_added_once_and_subtracted_once():
    masks = [text for text in texts(drawn("secure_aggregation")) if text[0] in "+−"]
    assert sorted(masks) == sorted(
        f"{sign} s{pair}" for sign in "+−" for pair in ("12", "13", "23")
    )
    assert arrows(drawn("secure_aggregation"), "shared") == (0, 3)


def test_the_time_line_is_the_schedules():
    schedule = fl.Buffered(buffer=3, concurrency=5, spread=0.5)
    steps = schedule.arrivals(5, seed=1)
    expected = [next(steps) for _ in range(3)]
    stale = sorted(s for step in expected for s in step.staleness.tolist())
    said = texts(diagrams.asynchronous(schedule, seed=1, steps=3))
    numbers = sorted(int(text) for text in said if text.isdigit())
    assert numbers == stale
    assert [t for t in said if t.startswith("w")] == ["w0", "w1", "w2", "w3"]
    assert {f"client {k}" for k in range(1, 6)} <= set(said)


def test_the_last_model_of_a_step_comes_in_when_the_server_steps():
    svg = diagrams.asynchronous().svg
    rules = [float(x) for x in re.findall(r'class="line dash" d="M([\d.]+) 58V', svg)]
    came = [float(x) for x in re.findall(r'<circle class="tip" cx="([\d.]+)"', svg)]
    assert len(rules) == 5
    for rule in rules[1:]:
        assert min(abs(rule - x) for x in came) < 0.11


def test_clients_and_training_must_agree():
    with pytest.raises(ValueError, match="buffer <= concurrency"):
        diagrams.asynchronous(fl.Buffered(buffer=3, concurrency=2))


# --- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sheet(tmp_path_factory):
    """A page that holds every diagram, in a column as narrow as a phone's."""
    faces = (drawn(name)._repr_mimebundle_() for name in EVERY)
    body = "".join(f"<div>{face.get('text/html', face['image/svg+xml'])}</div>" for face in faces)
    path = tmp_path_factory.mktemp("diagrams") / "sheet.html"
    head = '<meta charset="utf-8"><style>body{margin:0;width:342px}</style>'
    path.write_text(f"<!doctype html><html>{head}<body>{body}</body></html>", "utf-8")
    return path.as_uri()


def seen(chromium, sheet, ask, **context):
    page = chromium.new_context(viewport={"width": 390, "height": 800}, **context).new_page()
    page.goto(sheet)
    answer = ask(page)
    page.context.close()
    return answer


@pytest.mark.parametrize("media", ["screen", "print"])
@pytest.mark.parametrize("wish", ["reduce", "no-preference"])
def test_pictures_move_on_a_screen_unless_the_reader_wishes_otherwise(chromium, sheet, media, wish):
    def moving(page):
        page.emulate_media(media=media)
        return page.evaluate("document.getAnimations().length")

    moves = seen(chromium, sheet, moving, reduced_motion=wish) > 0
    assert moves == (media == "screen" and wish == "no-preference")


def test_a_key_holds_a_picture_still(chromium, sheet):
    count = """() => {
        const first = document.querySelector(".fl-motion");
        return document.getAnimations().filter(a => first.contains(a.effect.target)).length;
    }"""

    def hold(page):
        before = page.evaluate(count)
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        held = page.evaluate(count)
        page.keyboard.press("Space")
        return before, held, page.evaluate(count)

    before, held, after = seen(chromium, sheet, hold, reduced_motion="no-preference")
    assert before == after > 0
    assert held == 0


def test_on_a_phone_words_are_legible_inside_the_picture_and_apart(chromium, sheet):
    problems = seen(
        chromium,
        sheet,
        lambda page: page.evaluate("""() => {
            const bad = [], meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1
                && a.top < b.bottom - 3 && b.top < a.bottom - 3;
            for (const svg of document.querySelectorAll("svg")) {
                const frame = svg.getBoundingClientRect(), scale = svg.getScreenCTM().a;
                const texts = [...svg.querySelectorAll("text")];
                const boxes = texts.map(t => t.getBoundingClientRect());
                texts.forEach((text, i) => {
                    const size = parseFloat(getComputedStyle(text).fontSize) * scale, b = boxes[i];
                    if (size < 11) bad.push(["small", size, text.textContent]);
                    if (b.left < frame.left || b.right > frame.right || b.bottom > frame.bottom + 1)
                        bad.push(["outside", text.textContent]);
                    boxes.slice(i + 1).forEach((other, j) => meet(b, other) &&
                        bad.push(["meet", text.textContent, texts[i + 1 + j].textContent]));
                });
            }
            return bad;
        }"""),
        reduced_motion="reduce",
    )
    assert problems == []
