"""The card's page: whole by itself, well formed, escaped, the same for the same card, and plain about what it lacks."""

import base64
import builtins
import io
import re
from html.parser import HTMLParser
from itertools import pairwise

import msgspec
import numpy as np
import pytest
from PIL import Image

from allrounder.card import Card, Comparison, Cost, Dataset, Figures, Recommendation, Row, read_card, write_card
from allrounder.commands.page import Kept, Sample, page, write_page
from allrounder.commands.page.markup import element, escape
from allrounder.commands.page.plots import curves, spread
from allrounder.commands.page.rows import halves, label, slots
from allrounder.commands.page.tables import verdict
from allrounder.commands.page.words import kl, percent, points, ranges
from allrounder.errors import EngineUnavailable, ImageInvalid, InputInvalid
from allrounder.manifest import Estimate

TOKENS, LAYERS, GATHER = 576, 24, 2
BUDGETS = {"par-max": (256, 21), "par-base": (176, 21), "par-lite": (144, 18), "par-nano": (128, 18)}
KINDS = ("what", "colour", "where", "count", "read")
OTHERS = {
    "cdpruner+shortgpt": 0.82,
    "dart+shortgpt": 0.76,
    "divprune+shortgpt": 0.8,
    "fastv+shortgpt": 0.84,
    "random+random": 0.55,
    "random+router": 0.72,
    "random+shortgpt": 0.7,
    "router+shortgpt": 0.845,
    "stride+shortgpt": 0.74,
}
VOID = {"meta", "br", "hr"}
HOSTILE = '"><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)> & \x00\u202e'


def estimate(mean: float, width: float, top: float | None = 1.0) -> Estimate:
    high = mean + width if top is None else min(top, mean + width)
    return Estimate(mean=mean, low=mean - width, high=high)


def figures(kept: float, questions: int = 2000, answers: bool = True) -> Figures:
    width = 0.9 * (kept * (1 - kept) / questions) ** 0.5 * 2 + 0.002
    return Figures(
        questions=questions,
        accuracy=estimate(0.94 * (1 - 0.7 * (1 - kept)), width) if answers else None,
        retention=estimate(1 - 0.7 * (1 - kept), width, None) if answers else None,
        agreement=estimate(kept, width),
        kl=estimate(0.6 * (1 - kept), 0.3 * width, None),
    )


def row(pruner: str, version: str, budget: tuple[int, int], policy: str, strength: float, **changes) -> Row:
    tokens, layers = budget
    harm = (1 - tokens / TOKENS) * 0.5 + (1 - layers / LAYERS) * 0.9
    kept = 1 - harm * (1 - strength)
    use = np.random.default_rng(len(pruner) + tokens).uniform(0, 1, LAYERS)
    use = np.clip(use / use.sum() * layers, 0, 1)
    use[:GATHER] = 1
    plan = tuple(range(layers))
    if policy == "frozen":
        use = np.isin(np.arange(LAYERS), plan).astype(float)
    defaults = {
        "pruner": pruner,
        "version": version,
        "tokens": tokens,
        "layers": layers,
        "layer_policy": policy,
        "layer_plan": plan if policy == "frozen" else None,
        "figures": figures(kept),
        "kinds": {kind: figures(kept - (0.1 if kind == "read" else 0), 400) for kind in KINDS},
        "layer_use": tuple(use.tolist()),
    }
    return Row(**(defaults | changes))


def card(**changes) -> Card:
    """A plausible card: two policies, six other pruners, one side alone, a comparison lost and one not won."""
    rows = [row("router", name, budget, "routed", 0.86) for name, budget in BUDGETS.items()]
    rows += [row("router", name, budget, "frozen", 0.82) for name, budget in BUDGETS.items()]
    rows += [row("router", f"t{tokens}-l24", (tokens, 24), "frozen", 0.85) for tokens in (256, 144)]
    rows += [row("router", "t576-l18", (576, 18), "routed", 0.9), row("router", "t64-l24", (64, 24), "frozen", 0.8)]
    rows += [row(name, v, budget, "routed", good) for name, good in OTHERS.items() for v, budget in BUDGETS.items()]
    rows += [row(f"{name}+none", "t64-l24", (64, 24), "frozen", 0.5) for name in ("fastv", "random", "new")]
    comparisons = [
        Comparison(
            version=version,
            pruner=name,
            questions=2000,
            difference=estimate(0.86 - good - (0.03 if name == "fastv+shortgpt" else 0), 0.02, None),
            p=0.31 if name == "fastv+shortgpt" else 0.0005,
            kl_difference=estimate(good - 0.86, 0.01, None),
            kl_p=0.0005,
        )
        for version in BUDGETS
        for name, good in OTHERS.items()
    ]
    comparisons[0] = msgspec.structs.replace(comparisons[0], difference=estimate(-0.04, 0.02, None), p=0.999)
    defaults = {
        "schema": 1,
        "producer": "allrounder 0.1.0",
        "model": "demo",
        "host": "a" * 64,
        "router": "b" * 64,
        "backend": "onnxruntime",
        "precision": "fp32",
        "gather_layer": GATHER,
        "visual_tokens": TOKENS,
        "layers": LAYERS,
        "dataset": Dataset(name="demo-test sha256:1234", about="Drawn test scenes, five classes.", questions=2000),
        "full": figures(1.0),
        "full_kinds": {kind: figures(1.0, 400) for kind in KINDS},
        "rows": tuple(rows),
        "comparisons": tuple(comparisons),
        "costs": tuple(costs()),
        "recommendations": tuple(
            Recommendation(version=name, layer_policy="routed", why=f"Routed agrees more at {name}: 3 points, p 0.001.")
            for name in BUDGETS
        ),
    }
    return Card(**(defaults | changes))


def costs():
    for version, (tokens, layers) in BUDGETS.items():
        for policy in ("routed", "frozen"):
            alone = tokens / TOKENS * layers / LAYERS
            yield Cost(
                version=version,
                layer_policy=policy,
                flops=alone + 0.05,
                flops_alone=alone + 0.008,
                paper_flops=alone,
                ttft=None if (version, policy) == ("par-max", "frozen") else alone * 0.7 + 0.25,
                ttft_alone=alone * 0.7 + 0.2,
            )


def samples(count: int = 2, question: str = "what number is written?") -> list[Sample]:
    rng = np.random.default_rng(3)
    found = []
    for index in range(count):
        picture = rng.integers(0, 255, (6, 6, 3), np.uint8).repeat(32, axis=0).repeat(32, axis=1)
        versions = [Kept("full", tuple(range(TOKENS)), tuple(range(LAYERS)), "4 7 1.")]
        for name, (tokens, layers) in BUDGETS.items():
            keep = np.sort(rng.permutation(TOKENS)[:tokens])
            versions.append(Kept(name, tuple(keep.tolist()), tuple(range(layers)), "4 7 1" if index else "4 1 1."))
        found.append(Sample(picture, question, "4 7 1.", tuple(versions)))
    return found


class Reader(HTMLParser):
    """Checks that tags are balanced; gathers tags, attributes, identifiers and text."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self._seen(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self._seen(tag, attrs)

    def _seen(self, tag, attrs):
        self.tags.append(tag)
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute twice in {tag}"
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def words(text: str) -> str:
    """The page's text, style sheet aside."""
    return " ".join(" ".join(read(re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)).text).split())


VARIANTS = {
    "whole": card,
    "nothing but full": lambda: card(
        rows=(), comparisons=(), costs=(), recommendations=(), full_kinds={}, full=figures(1.0, answers=False)
    ),
    "no answers": lambda: card(
        rows=tuple(
            row("router", name, budget, "routed", 0.8, figures=figures(0.9, answers=False), kinds={})
            for name, budget in BUDGETS.items()
        ),
        full_kinds={},
    ),
    "one class": lambda: card(
        full_kinds={"read": figures(1.0)},
        rows=(row("router", "par-lite", (144, 18), "routed", 0.8, kinds={"read": figures(0.7)}),),
    ),
    "frozen only": lambda: card(
        rows=tuple(row("router", name, budget, "frozen", 0.8) for name, budget in BUDGETS.items()), comparisons=()
    ),
    "not timed": lambda: card(
        costs=tuple(msgspec.structs.replace(cost, ttft=None, ttft_alone=None) for cost in costs())
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_card_gives_a_well_formed_page_that_loads_nothing(name):
    reader = read(page(VARIANTS[name](), samples(1), "Figures of the demo model."))
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(reader.tags)
    for tag, attribute, value in reader.attributes:
        assert not attribute.startswith("on"), (tag, attribute)
        if attribute in ("src", "href", "xlink:href", "action", "data"):
            assert value.startswith(("#", "data:image/png;base64,")), (tag, value[:40])
        assert "http:" not in value, (tag, attribute, value[:80])
        assert "https:" not in value, (tag, attribute, value[:80])
    assert "@import" not in "".join(reader.text)


@pytest.mark.parametrize("name", VARIANTS)
def test_identifiers_are_unique_and_references_are_met(name):
    reader = read(page(VARIANTS[name](), samples(2), ""))
    ids = [value for _, attribute, value in reader.attributes if attribute == "id"]
    assert len(ids) == len(set(ids))
    used = {value[1:] for _, attribute, value in reader.attributes if attribute == "href" and value.startswith("#")}
    used |= {found for _, _, value in reader.attributes for found in re.findall(r"url\(#([^)]+)\)", value or "")}
    assert used <= set(ids)


def test_every_picture_has_a_text_for_those_who_do_not_see_it():
    reader = read(page(card(), samples(1), ""))
    roles = [value for tag, attribute, value in reader.attributes if tag == "svg" and attribute == "role"]
    labels = [value for tag, attribute, value in reader.attributes if tag == "svg" and attribute == "aria-label"]
    assert len(roles) == len(labels) == reader.tags.count("svg") == 4 + 1 + 2 * 5
    assert all(labels)


def test_hostile_text_is_shown_and_not_obeyed():
    hostile = card(
        model=HOSTILE,
        producer=HOSTILE,
        dataset=Dataset(name=HOSTILE, about=HOSTILE, questions=2),
        rows=(
            row("router", HOSTILE, (144, 18), "routed", 0.8, kinds={HOSTILE: figures(0.7), "b": figures(0.5)}),
            row(HOSTILE, HOSTILE, (144, 18), "routed", 0.5),
            row("$x_1", "par-lite", (144, 18), "routed", 0.5),
        ),
        costs=(
            Cost(
                version=HOSTILE,
                layer_policy="routed",
                flops=0.5,
                flops_alone=0.4,
                paper_flops=0.4,
                ttft=0.6,
                ttft_alone=0.5,
            ),
        ),
        comparisons=(
            Comparison(
                version=HOSTILE,
                pruner=HOSTILE,
                questions=2,
                difference=estimate(0.1, 0.05),
                p=0.01,
                kl_difference=estimate(-0.1, 0.05),
                kl_p=0.01,
            ),
        ),
        recommendations=(Recommendation(version=HOSTILE, layer_policy="routed", why=HOSTILE),),
    )
    asked = samples(1, HOSTILE)
    kept = tuple(Kept(HOSTILE, each.keep_list, each.layer_plan, HOSTILE) for each in asked[0].versions)
    text = page(hostile, [Sample(asked[0].picture, HOSTILE, HOSTILE, kept)], HOSTILE)
    reader = read(text)
    assert not {"script", "img"} & set(reader.tags)
    assert not [name for _, name, _ in reader.attributes if name.startswith("on")]
    assert "\x00" not in text
    assert "<script>alert(1)</script>" in words(text)


def test_equal_cards_give_equal_bytes(tmp_path):
    write_page(card(), tmp_path / "one.html", samples(), "Demo.")
    write_card(card(), tmp_path / "card.json")
    write_page(read_card(tmp_path / "card.json"), tmp_path / "two.html", samples(), "Demo.")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.json", "one.html", "two.html"]


def test_a_page_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(InputInvalid, match="cannot be written"):
        write_page(VARIANTS["nothing but full"](), tmp_path / "absent" / "card.html", [], "")


def test_the_sections_stand_in_their_order():
    text = words(page(card(), samples(1), "Figures of the demo model."))
    marks = (
        "Fidelity card",
        "Figures of the demo model.",
        "2,000 from",
        "Recommended policy per version",
        "Routed agrees more at par-max",
        "The versions",
        "By class of question",
        "Tokens alone, layers alone",
        "The router against other pruners",
        "Fidelity against cost",
        "Which layers are run",
        "What is kept of a picture",
        "How to read this page",
        "What is not counted",
        "a" * 64,
    )
    places = [text.index(mark) for mark in marks]
    assert places == sorted(places)


def test_the_main_table_holds_the_cards_figures():
    shown = card()
    text = page(shown, [], "")
    for version in BUDGETS:
        for policy in ("routed", "frozen"):
            found = shown.row(version, policy)
            for figure in (percent(found.figures.accuracy), percent(found.figures.agreement), kl(found.figures.kl)):
                assert f"<td>{figure}</td>" in text
    assert "not timed" in text  # par-max, frozen


def test_classes_stand_in_alphabetical_order_each_on_its_own_line():
    text = page(card(), [], "")
    section = text[text.index("By class of question") : text.index("Tokens alone, layers alone")]
    first = section[: section.index("</table>")]
    assert re.findall(r'<tr><th scope="row">(\w+)</th>', first) == sorted(KINDS)


def test_halves_are_grouped_under_the_version_with_the_same_other_number():
    groups, others = halves(card())
    found = {
        group.version: ([row.version for row in group.tokens_alone], [row.version for row in group.layers_alone])
        for group in groups
    }
    assert found == {
        "par-max": (["t256-l24"], []),
        "par-lite": (["t144-l24"], ["t576-l18"]),
        "par-nano": ([], ["t576-l18"]),
    }
    assert [row.pruner for row in others] == ["router", "fastv+none", "new+none", "random+none"]


@pytest.mark.parametrize(
    ("gain", "best", "p", "said"),
    [
        (0.1, 0.2, 0.001, "router wins"),
        (0.1, 0.2, 0.05, "NO WIN SHOWN"),
        (0.1, 0.2, 0.3, "NO WIN SHOWN"),
        (-0.1, 0.1, 0.5, "NO WIN SHOWN"),
        (-0.1, -0.01, 0.99, "ROUTER LOSES"),
        (-0.002, 0.0, 1.0, "NO WIN SHOWN"),  # one question lost and none won: most resamples are worse, many are equal
        (0.0, 0.0, 1.0, "NO WIN SHOWN"),  # equal on every question
        (-0.1, 0.1, 0.001, "NO WIN SHOWN"),
    ],
)
def test_a_verdict_is_a_win_only_with_a_gain_and_p_below_the_limit(gain, best, p, said):
    assert verdict(gain, best, p) == said


def test_comparisons_that_are_not_won_are_marked_in_words():
    text = words(page(card(), [], ""))
    section = text[text.index("The router against other pruners") : text.index("Fidelity against cost")]
    rows = section[section.index("By KL") :]
    assert rows.count("NO WIN SHOWN") == 4
    assert rows.count("ROUTER LOSES") == 1
    assert "wins (p < 0.05) 31 of 36 comparisons by agreement and 36 of 36 by KL" in section


def test_curves_take_the_routers_cost_with_it_and_others_without():
    shown = card()
    drawn, absent = curves(shown, "agreement", "ttft")
    by_name = {curve.name: curve for curve in drawn}
    assert set(by_name) == {"router, routed", "router, frozen", *OTHERS}
    assert absent == ["router, frozen at par-max"]
    known = {cost.version: cost for cost in shown.costs if cost.layer_policy == "routed"}
    for name in ("router, routed", "random+random"):
        for point in by_name[name].points:
            assert point.cost == (known[point.version].ttft if "router" in name else known[point.version].ttft_alone)
    assert all([*curve.points] == sorted(curve.points, key=lambda point: point.cost) for curve in drawn)
    assert label(shown, shown.row("par-lite", "routed", "random+random")) == "random+random"


def test_every_curve_is_named_in_its_plot():
    text = page(card(), [], "")
    plots = re.findall(r'<svg[^>]*class="plot".*?</svg>', text, flags=re.DOTALL)
    assert len(plots) == 4
    for plot in plots:
        for name in ("router, routed", "router, frozen", *OTHERS):
            assert f">{name}</text>" in plot
        assert not re.search(r"#[ab]0000", plot), "a marker colour was left"
    assert "var(--p0)" in plots[0]


def test_what_cannot_be_drawn_is_said():
    text = words(page(VARIANTS["not timed"](), [], ""))
    assert "Agreement with full against time to first token: no plot, because nothing was timed" in text
    assert "No sample pictures were given" in text
    bare = words(page(VARIANTS["nothing but full"](), [], ""))
    for said in ("recommends no policy", "of no classes", "no version with one side", "no other pruner", "no plot"):
        assert said in bare


@pytest.mark.parametrize("count", range(12))
def test_labels_are_spread_and_keep_their_order(count):
    wished = sorted(np.random.default_rng(count).uniform(0.4, 0.9, count) ** 3)
    heights = spread(list(wished))
    assert all(0 <= height <= 1 for height in heights)
    assert all(b - a > 0.05 for a, b in pairwise(heights))


def test_labels_stay_where_they_can_and_part_evenly():
    assert spread([0.1, 0.5, 0.9]) == pytest.approx([0.1, 0.5, 0.9])
    low, high = spread([0.5, 0.5])
    assert low + high == pytest.approx(1.0)
    assert spread([0.99, 1.0])[1] == pytest.approx(1.0)


def test_a_picture_is_embedded_once_and_whole():
    shown = samples(1)
    text = page(card(), shown, "")
    (data,) = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", text)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), shown[0].picture)
    assert text.count('href="#picture-0"') == 5


def test_the_veil_covers_exactly_the_dropped_patches():
    kept = samples(1)[0].versions[1]
    text = page(card(), samples(1), "")
    path = re.findall(r'<path d="([^"]*)" class="veil">', text)[1]
    covered = set()
    for x, y, length in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\3z", path):
        covered |= {int(y) * 24 + int(x) + step for step in range(int(length))}
        assert int(x) + int(length) <= 24
    assert covered == set(range(TOKENS)) - set(kept.keep_list)


def test_answers_are_graded_as_the_card_grades():
    text = words(page(card(), samples(2), ""))
    assert text.count("wrong") == 4  # the pruned versions of the first picture; a missing full stop is no fault
    assert text.count("4 7 1 right") == 4


def test_tokens_that_form_no_square_are_given_by_number():
    bare = VARIANTS["nothing but full"]()
    odd = msgspec.structs.replace(bare, visual_tokens=18, layers=4)
    picture = np.zeros((8, 8, 3), np.uint8)
    text = page(odd, [Sample(picture, "what?", None, (Kept("par-lite", (0, 1, 2, 7), (0, 1, 3), "a ring."),))], "")
    assert "18 visual tokens form no square grid" in words(text)
    assert "Tokens 0-2, 7" in words(text)
    assert 'class="veil"' not in text
    assert "right" not in words(text).split("a ring.")[1].split("How to read")[0]


@pytest.mark.parametrize("keep", [(576,), (-1,), (3, 3), (4, 2)])
def test_kept_tokens_of_another_host_are_refused(keep):
    sample = Sample(np.zeros((8, 8, 3), np.uint8), "what?", None, (Kept("par-lite", keep, (0,), ""),))
    with pytest.raises(InputInvalid, match="not of this host"):
        page(card(), [sample], "")


@pytest.mark.parametrize("picture", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)])
def test_what_is_no_picture_is_refused(picture):
    with pytest.raises(ImageInvalid):
        page(card(), [Sample(picture, "what?", None, ())], "")


def test_without_matplotlib_the_remedy_is_named(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(EngineUnavailable, match=r"allrounder\[report\]"):
        write_page(card(), tmp_path / "card.html", [], "")
    assert list(tmp_path.iterdir()) == []


def test_every_curve_has_a_colour_of_its_own_and_halves_that_of_their_curve():
    found = slots(card())
    assert found["router"] == 0
    assert len({found[name] for name in ("router", *OTHERS)}) == 10
    assert found["fastv+none"] == found["fastv+shortgpt"]
    assert found["random+none"] == found["random+random"]
    assert 1 <= found["new+none"] <= 9


def test_other_numbers_of_questions_are_said():
    few = tuple(
        msgspec.structs.replace(each, figures=figures(0.7, 500)) if each.pruner != "router" else each
        for each in card().rows
    )
    assert "The router was asked 2,000 questions, the others 500" in words(page(card(rows=few), [], ""))
    assert "The router was asked" not in words(page(card(), [], ""))


def test_figures_are_written_plainly():
    assert escape(percent(estimate(0.915, 0.01))) == "91.5% <small>90.5\u201392.5</small>"
    assert points(Estimate(mean=-0.031, low=-0.05, high=0.0)) == "\u22123.1 <small>\u22125.0 to 0.0</small>"
    assert ranges((0, 1, 2, 5, 7, 8)) == "0-2, 5, 7-8"
    assert ranges(()) == ""
    assert element("p", 'a "b" <c>', None, title='"') == '<p title="&quot;">a &quot;b&quot; &lt;c&gt;</p>'
