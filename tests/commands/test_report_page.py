"""The report's page: whole by itself, well formed, escaped, the same for the same report, and plain about what it
lacks.
"""

import base64
import io
import re
import sys

import msgspec
import numpy as np
import pytest
from made_report import HOSTILE, OTHERS, VARIANTS, Reader, costs, estimate, figures, report, row, samples, shown, words
from PIL import Image

from allrounder.commands.report import Kept, Sample, page, write_page
from allrounder.errors import EngineUnavailable, InputInvalid
from allrounder.fidelity_report import Comparison, Dataset, Recommendation, read_report, write_report


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
    estimates |= {"kept_tokens": 9.0, "other_kept_tokens": 7.5}
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
    text = page(hostile, [Sample(asked.image, HOSTILE, HOSTILE, kept, 576, 24)], HOSTILE)
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


def test_the_sections_are_in_their_order():
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


def test_what_cannot_be_drawn_is_said():
    text = words(shown("not timed"))
    assert "Agreement with full against time to first token: no plot, because nothing was counted or timed" in text
    bare = words(page(VARIANTS["nothing but full"](), [], ""))
    assert "No sample images were given" in bare
    for said in ("recommends no policy", "of no classes", "no version with one side", "no other pruner", "no plot"):
        assert said in bare


def test_an_image_is_embedded_once_and_veiled_where_patches_are_dropped():
    text, sample = shown().partition('class="gallery"')[2].partition('class="gallery"')[0], samples(2)[0]
    images = [decoded(data) for data in re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", text)]
    assert np.array_equal(images[0], np.asarray(sample.image))
    assert len(images) == 1 + len(sample.versions)
    for veil, kept in zip(images[1:], sample.versions, strict=True):
        assert np.flatnonzero(veil[..., 3] == 0).tolist() == list(kept.keep_indices)


def decoded(data: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_tokens_that_form_no_square_are_given_by_number():
    odd = msgspec.structs.replace(VARIANTS["nothing but full"](), image_tokens=18, layers=4)
    kept = Kept("par-lite", (0, 1, 2, 7), (0, 1, 3), "a ring.")
    text = page(odd, [Sample(Image.new("RGB", (8, 8)), "what?", None, (kept,), 50, None)], "")
    assert "that form no square grid, cannot be drawn over the image" in words(text)
    assert "4 of 50 tokens, 3 of 4 layers: tokens 0-2, 7" in words(text)
    assert "tokens 0-2, 7" in words(text)
    assert "<img" not in text
    assert "right" not in words(text).split("a ring.")[1].split("How to read")[0]


def test_without_what_draws_it_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(EngineUnavailable, match=r"matplotlib(?s:.*)allrounder\[report\]"):
        write_page(report(), tmp_path / "report.html", [], "")
    assert list(tmp_path.iterdir()) == []
