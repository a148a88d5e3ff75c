"""The report's page: whole by itself, well formed, escaped, the same for the same report, and plain about what it
lacks.
"""

import base64
import io
import re
import sys
from functools import cache
from html.parser import HTMLParser

import msgspec
import numpy as np
import pytest
from PIL import Image
from prunings import pruning

from allrounder.calib.tables import ranges
from allrounder.commands.report import Kept, Sample, page, write_page
from allrounder.commands.report.images import curves
from allrounder.commands.report.page import _number as number
from allrounder.commands.report.rows import halves, verdict
from allrounder.errors import EngineUnavailable, InputInvalid
from allrounder.fidelity_report import (
    Comparison,
    Cost,
    Dataset,
    FidelityReport,
    Figures,
    Recommendation,
    Row,
    read_report,
    write_report,
)
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
VOID = {"meta", "img", "source"}
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
    kept = tuple(range(layers))
    if policy == "static":
        use = np.isin(np.arange(LAYERS), kept).astype(float)
    defaults = {
        "pruner": pruner,
        "pruning": pruning(budget, GATHER, kept if policy == "static" else None, version),
        "figures": figures(kept),
        "kinds": {kind: figures(kept - (0.1 if kind == "read" else 0), 400) for kind in KINDS},
        "layer_use": tuple(use.tolist()),
    }
    return Row(**(defaults | changes))


def report(**changes) -> FidelityReport:
    """A plausible report: two policies, six other pruners, one side alone, a comparison lost and one not won."""
    rows = [row("router", name, budget, "dynamic", 0.86) for name, budget in BUDGETS.items()]
    rows += [row("router", name, budget, "static", 0.82) for name, budget in BUDGETS.items()]
    rows += [row("router", f"t{tokens}-l24", (tokens, 24), "static", 0.85) for tokens in (256, 144)]
    rows += [row("router", "t576-l18", (576, 18), "dynamic", 0.9), row("router", "t64-l24", (64, 24), "static", 0.8)]
    rows += [row(name, v, budget, "dynamic", good) for name, good in OTHERS.items() for v, budget in BUDGETS.items()]
    rows += [row(f"{name}+none", "t64-l24", (64, 24), "static", 0.5) for name in ("fastv", "random", "new")]
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
        "model_digest": "a" * 64,
        "router": "b" * 64,
        "backend": "onnxruntime",
        "precision": "fp32",
        "prune_layer": GATHER,
        "image_tokens": TOKENS,
        "layers": LAYERS,
        "dataset": Dataset(name="demo-test sha256:1234", about="Drawn test scenes, five classes.", questions=2000),
        "full": figures(1.0),
        "full_kinds": {kind: figures(1.0, 400) for kind in KINDS},
        "rows": tuple(rows),
        "comparisons": tuple(comparisons),
        "costs": tuple(costs()),
        "recommendations": tuple(
            Recommendation(
                version=name, layer_policy="dynamic", why=f"Dynamic agrees more at {name}: 3 points, p 0.001."
            )
            for name in BUDGETS
        ),
    }
    return FidelityReport(**(defaults | changes))


def costs():
    for version, (tokens, layers) in BUDGETS.items():
        for policy in ("dynamic", "static"):
            alone = tokens / TOKENS * layers / LAYERS
            yield Cost(
                version=version,
                layer_policy=policy,
                flops=alone + 0.05,
                flops_alone=alone + 0.008,
                paper_flops=alone,
                ttft=None if (version, policy) == ("par-max", "static") else alone * 0.7 + 0.25,
                ttft_alone=alone * 0.7 + 0.2,
            )


def samples(count: int = 2, question: str = "what number is written?") -> list[Sample]:
    rng = np.random.default_rng(3)
    found = []
    for index in range(count):
        image = rng.integers(0, 255, (6, 6, 3), np.uint8).repeat(32, axis=0).repeat(32, axis=1)
        versions = [Kept("full", tuple(range(TOKENS)), tuple(range(LAYERS)), "4 7 1.")]
        for name, (tokens, layers) in BUDGETS.items():
            keep = np.sort(rng.permutation(TOKENS)[:tokens])
            versions.append(Kept(name, tuple(keep.tolist()), tuple(range(layers)), "4 7 1" if index else "4 1 1."))
        found.append(Sample(Image.fromarray(image), question, "4 7 1.", tuple(versions)))
    return found


class Reader(HTMLParser):
    """Checks that tags are balanced; gathers tags with their attributes, and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def words(text: str) -> str:
    """The page's text, style sheet aside."""
    return " ".join(" ".join(Reader(re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)).text).split())


VARIANTS = {
    "whole": report,
    "nothing but full": lambda: report(
        rows=(), comparisons=(), costs=(), recommendations=(), full_kinds={}, full=figures(1.0, answers=False)
    ),
    "no answers": lambda: report(
        rows=tuple(
            row("router", name, budget, "dynamic", 0.8, figures=figures(0.9, answers=False), kinds={})
            for name, budget in BUDGETS.items()
        ),
        full_kinds={},
    ),
    "one class": lambda: report(
        full_kinds={"read": figures(1.0)},
        rows=(row("router", "par-lite", (144, 18), "dynamic", 0.8, kinds={"read": figures(0.7)}),),
    ),
    "static only": lambda: report(
        rows=tuple(row("router", name, budget, "static", 0.8) for name, budget in BUDGETS.items()), comparisons=()
    ),
    "not timed": lambda: report(
        costs=tuple(msgspec.structs.replace(cost, ttft=None, ttft_alone=None) for cost in costs())
    ),
}


@cache
def shown(name: str = "whole") -> str:
    """The page of a report, with two sample images; drawn once, for it takes seconds."""
    return page(VARIANTS[name](), samples(2), "Figures of the demo model.")


@pytest.mark.parametrize("name", VARIANTS)
def test_every_report_gives_a_well_formed_page_that_loads_nothing(name):
    text = shown(name)
    reader = Reader(text)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in reader.tags}
    for tag, attributes in reader.tags:
        for attribute, value in attributes.items():
            assert not attribute.startswith("on"), (tag, attribute)
            assert attribute not in ("src", "srcset", "href", "action") or value.startswith("data:image/"), (tag, value)
        assert tag != "img" or attributes["alt"]
        assert attributes.get("role") is None or attributes["aria-label"]
    assert not re.search(r"https?:|@import|url\((?!data:)", text)
    assert "default-src 'none'; img-src data:" in text


def test_the_page_follows_light_and_dark():
    text = shown()
    assert '<meta name="color-scheme" content="light dark">' in text
    sheet = re.search(r"<style>(.*?)</style>", text, flags=re.DOTALL)[1]
    light, dark = (dict(re.findall(r"--(\w+):(#\w+)", part)) for part in re.findall(r":root \{(.*?)\}", sheet))
    assert light.keys() == dark.keys()
    for colours, sign in ((light, -1), (dark, 1)):
        assert sign * (int(colours["ink"][1:3], 16) - int(colours["paper"][1:3], 16)) > 150
    sources = [attributes for tag, attributes in Reader(text).tags if tag == "source"]
    plots = [attributes for tag, attributes in Reader(text).tags if tag == "img" and "svg" in attributes["src"]]
    assert len(sources) == len(plots) == 4
    assert all(source["media"] == "(prefers-color-scheme: dark)" for source in sources)
    for image in (source["srcset"] for source in sources):
        assert "#e7e7e3" in svg(image)
        assert "#1c1e21" not in svg(image)
    assert all("#1c1e21" in svg(image["src"]) for image in plots)


def svg(address: str) -> str:
    return base64.b64decode(address.removeprefix("data:image/svg+xml;base64,")).decode()


def test_every_curve_is_named_in_its_plot_and_in_words():
    plots = [each for tag, each in Reader(shown()).tags if tag == "img" and "svg" in each["src"]]
    for plot in plots:
        for name in ("router, dynamic", "router, static", *OTHERS):
            assert f">{name}</text>" in svg(plot["src"])
            assert f"{name} " in plot["alt"]


def test_hostile_text_is_shown_and_not_obeyed():
    estimates = {"difference": estimate(0.1, 0.05), "p": 0.01, "kl_difference": estimate(-0.1, 0.05), "kl_p": 0.01}
    cost = msgspec.structs.replace(next(costs()), version=HOSTILE)
    hostile = report(
        model=HOSTILE,
        producer=HOSTILE,
        dataset=Dataset(name=HOSTILE, about=HOSTILE, questions=2),
        rows=(
            row("router", HOSTILE, (144, 18), "dynamic", 0.8, kinds={HOSTILE: figures(0.7), "b": figures(0.5)}),
            row(HOSTILE, HOSTILE, (144, 18), "dynamic", 0.5),
            row("$x_1", HOSTILE, (144, 18), "dynamic", 0.5),
        ),
        costs=(cost,),
        comparisons=(Comparison(version=HOSTILE, pruner=HOSTILE, questions=2, **estimates),),
        recommendations=(Recommendation(version=HOSTILE, layer_policy="dynamic", why=HOSTILE),),
    )
    asked = samples(1, HOSTILE)[0]
    kept = tuple(Kept(HOSTILE, each.keep_indices, each.kept_layers, HOSTILE) for each in asked.versions)
    text = page(hostile, [Sample(asked.image, HOSTILE, HOSTILE, kept)], HOSTILE)
    reader = Reader(text)
    assert not [tag for tag, attributes in reader.tags if tag == "script" or "onerror" in attributes]
    assert all(attributes["src"].startswith("data:") for tag, attributes in reader.tags if tag == "img")
    assert "\x00" not in text
    assert words(text).count("<script>alert(1)</script>") > 20
    for drawn in (each["src"] for tag, each in reader.tags if tag == "img" and "svg" in each["src"]):
        assert "<script>" not in svg(drawn)
        assert "$x_1" in svg(drawn)


def test_equal_reports_give_equal_bytes(tmp_path):
    write_page(report(), tmp_path / "one.html", samples(), "Demo.")
    write_report(report(), tmp_path / "report.json")
    write_page(read_report(tmp_path / "report.json"), tmp_path / "two.html", samples(), "Demo.")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.html", "report.json", "two.html"]


def test_a_page_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(InputInvalid, match="cannot be written"):
        write_page(VARIANTS["nothing but full"](), tmp_path / "absent" / "report.html", [], "")


def test_the_sections_stand_in_their_order():
    text = words(shown())
    marks = (
        "Fidelity report",
        "Figures of the demo model.",
        "2,000 from",
        "Recommended policy per version",
        "Dynamic agrees more at par-max",
        "The versions",
        "By class of question",
        "Tokens alone, layers alone",
        "The router against other pruners",
        "Fidelity against cost",
        "Which layers are run",
        "What is kept of an image",
        "How to read this page",
        "What is not counted",
        "a" * 64,
    )
    places = [text.index(mark) for mark in marks]
    assert places == sorted(places)


def test_the_tables_hold_the_reports_figures():
    text = words(shown())
    for each in report().rows:
        if each.pruner == "router" and each.version in BUDGETS:
            for one in (each.figures, *each.kinds.values()):
                assert f"{100 * one.agreement.mean:.1f}% {100 * one.agreement.low:.1f} to " in text
                assert f"{100 * one.retention.mean:.1f}% {100 * one.retention.low:.1f} to " in text
                assert f" {one.kl.mean:.4f} {one.kl.low:.4f} to ".replace("-", "\u2212") in text
            assert " ".join(f"{100 * use:.0f}" for use in each.layer_use) in text
    for each in costs():
        assert f"{100 * each.flops:.1f}% {100 * each.flops_alone:.1f}% {100 * each.paper_flops:.1f}%" in text
    assert "not timed" in text  # par-max, frozen
    assert "The class that is hurt most, by agreement: read (" in text


def test_halves_are_grouped_under_the_version_with_the_same_other_number():
    *groups, others = [
        (group.version.partition(":")[0], [each.version for name, each in group.rows if name != "both"])
        for group in halves(report())
    ]
    assert groups == [
        ("par-max", ["t256-l24"]),
        ("par-lite", ["t144-l24", "t576-l18"]),
        ("par-nano", ["t576-l18"]),
    ]
    assert others == ("Budgets of no version above", ["t64-l24"] * 4)


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
    text = words(shown())
    section = text[text.index("The router against other pruners") : text.index("Fidelity against cost")]
    rows = section[section.index("By KL") :]
    assert rows.count("NO WIN SHOWN") == 4
    assert rows.count("ROUTER LOSES") == 1
    assert "wins (p < 0.05) 31 of 36 comparisons by agreement and 36 of 36 by KL" in section


def test_curves_take_the_routers_cost_with_it_and_others_without():
    drawn, missing = curves(report(), "agreement", "ttft")
    by_name = {curve.name: curve.points for curve in drawn}
    assert set(by_name) == {"router, dynamic", "router, static", *OTHERS}
    assert missing == ["router, static at par-max"]
    known = [cost for cost in costs() if cost.layer_policy == "dynamic"]
    assert [point.cost for point in by_name["router, dynamic"]] == sorted(cost.ttft for cost in known)
    assert [point.cost for point in by_name["random+random"]] == sorted(cost.ttft_alone for cost in known)
    assert "for want of a figure or a cost: router, static at par-max." in words(shown())


def test_what_cannot_be_drawn_is_said():
    text = words(shown("not timed"))
    assert "Agreement with full against time to first token: no plot, because nothing was counted or timed" in text
    bare = words(page(VARIANTS["nothing but full"](), [], ""))
    assert "No sample images were given" in bare
    for said in ("recommends no policy", "of no classes", "no version with one side", "no other pruner", "no plot"):
        assert said in bare


def test_a_image_is_embedded_once_and_veiled_where_patches_are_dropped():
    text, sample = shown().partition('class="gallery"')[2].partition('class="gallery"')[0], samples(2)[0]
    images = [decoded(data) for data in re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", text)]
    assert np.array_equal(images[0], np.asarray(sample.image))
    assert len(images) == 1 + len(sample.versions)
    for veil, kept in zip(images[1:], sample.versions, strict=True):
        assert np.flatnonzero(veil[..., 3] == 0).tolist() == list(kept.keep_indices)


def decoded(data: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_answers_are_graded_as_the_report_grades():
    text = words(shown())
    assert text.count("wrong") == 4  # the pruned versions of the first image; a missing full stop is no fault
    assert text.count("4 7 1 right") == 4


def test_tokens_that_form_no_square_are_given_by_number():
    odd = msgspec.structs.replace(VARIANTS["nothing but full"](), image_tokens=18, layers=4)
    kept = Kept("par-lite", (0, 1, 2, 7), (0, 1, 3), "a ring.")
    text = page(odd, [Sample(Image.new("RGB", (8, 8)), "what?", None, (kept,))], "")
    assert "18 image tokens form no square grid" in words(text)
    assert "tokens 0-2, 7" in words(text)
    assert "<img" not in text
    assert "right" not in words(text).split("a ring.")[1].split("How to read")[0]


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_without_what_draws_it_the_remedy_is_named(monkeypatch, tmp_path, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(EngineUnavailable, match=rf"{missing}(?s:.*)allrounder\[report\]"):
        write_page(report(), tmp_path / "report.html", [], "")
    assert list(tmp_path.iterdir()) == []


def test_other_numbers_of_questions_are_said():
    few = tuple(
        msgspec.structs.replace(each, figures=figures(0.7, 500)) if each.pruner != "router" else each
        for each in report().rows
    )
    assert "The router was asked 2000 questions, the others 500" in words(page(report(rows=few), [], ""))
    assert "The router was asked" not in words(shown())


def test_figures_are_written_plainly():
    assert (number(-3.14), number(-0.04), number(0.5, 2, "+")) == ("\u22123.1", "0.0", "+0.50")
    assert ranges((0, 1, 2, 5, 7, 8)) == "0-2, 5, 7-8"
    assert ranges(()) == ""
