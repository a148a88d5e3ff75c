"""Made-up fidelity reports and the pages of them, for the tests of the page."""

import re
from functools import cache
from html.parser import HTMLParser

import msgspec
import numpy as np
from PIL import Image
from prunings import pruning

from allrounder.commands.report import Kept, Sample, page
from allrounder.fidelity_report import (
    REPORT_SCHEMA,
    Comparison,
    Cost,
    Dataset,
    FidelityReport,
    Figures,
    Recommendation,
    Row,
    Tiles,
    TilesRow,
)
from allrounder.manifest import Estimate

TOKENS, LAYERS, PRUNE_LAYER = 576, 24, 2
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
    use[:PRUNE_LAYER] = 1
    first = tuple(range(layers))
    if policy == "static":
        use = np.isin(np.arange(LAYERS), first).astype(float)
    defaults = {
        "pruner": pruner,
        "pruning": pruning(budget, PRUNE_LAYER, first if policy == "static" else None, version),
        "figures": figures(kept),
        "kinds": {kind: figures(kept - (0.1 if kind == "read" else 0), 400) for kind in KINDS},
        "layer_use": tuple(use.tolist()),
        "kept_tokens": float(tokens),
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
            kept_tokens=float(BUDGETS[version][0]),
            other_kept_tokens=float(BUDGETS[version][0]),
        )
        for version in BUDGETS
        for name, good in OTHERS.items()
    ]
    comparisons[0] = msgspec.structs.replace(comparisons[0], difference=estimate(-0.04, 0.02, None), p=0.999)
    defaults = {
        "schema": REPORT_SCHEMA,
        "producer": "allrounder 0.1.0",
        "model": "demo",
        "model_digest": "a" * 64,
        "router": "b" * 64,
        "backend": "onnxruntime",
        "precision": "fp32",
        "prune_layer": PRUNE_LAYER,
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
        "by_tiles": (),
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
                flops_downscaled=alone - 0.01 if policy == "dynamic" else None,
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
        found.append(Sample(Image.fromarray(image), question, "4 7 1.", tuple(versions), TOKENS, 24))
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


def report_of_tiles() -> FidelityReport:
    """A report of a model of tiles: images of 2, 3 and 5, downscaling among the pruners."""
    plain = report()
    names = {**OTHERS, "downscale+shortgpt": 0.7, "downscale+router": 0.75}
    rows = [row(name, v, budget, "dynamic", good) for name, good in names.items() for v, budget in BUDGETS.items()]
    rows += [each for each in plain.rows if each.pruner == "router"]
    groups = tuple(
        Tiles(
            tiles=tiles,
            questions=100 * tiles,
            image_tokens=TOKENS * tiles / 3,
            rows=tuple(_tiles_row(each, tiles) for each in rows if each.version in BUDGETS),
        )
        for tiles in (2, 3, 5)
    )
    return report(rows=tuple(rows), by_tiles=groups)


def _tiles_row(each: Row, tiles: int) -> TilesRow:
    less = 0.8 if each.downscales else 1.0
    return TilesRow(
        pruner=each.pruner,
        version=each.version,
        layer_policy=each.pruning.layer_policy,
        kept_tokens=less * each.kept_tokens * tiles / 3,
        figures=figures(each.figures.agreement.mean - tiles / 100, 100 * tiles),
    )


VARIANTS = {
    "whole": report,
    "tiles": report_of_tiles,
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
