"""Writes the tables of docs/fidelity.md from the demo router's fidelity report: no figure there is typed by hand.

What it is: `report.json` as Markdown, put between the page's markers. What it does not know: how anything is measured.

    allrounder report --model demo --out models/demo-router/report.json --page docs/demo-report.html
    python tools/fidelity_page.py
"""

import re
from collections.abc import Callable
from pathlib import Path

from allrounder.commands.report.rows import verdict
from allrounder.fidelity_report import ROUTER, FidelityReport, Row, read_report
from allrounder.manifest import Estimate, Figures
from allrounder.versions import VERSIONS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "fidelity.md"


def main() -> None:
    """Replaces what stands between the page's markers."""
    report = read_report(ROOT / "models" / "demo-router" / "report.json")
    text = PAGE.read_text(encoding="utf-8")
    parts: dict[str, Callable[[FidelityReport], str]] = {
        "about": _about,
        "versions": _versions,
        "kinds": _kinds,
        "halves": _halves,
        "pruners": _pruners,
        "policies": _policies,
        "costs": _costs,
    }
    for marker, part in parts.items():
        pattern = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)", re.DOTALL)
        assert len(pattern.findall(text)) == 1, f"{PAGE}: one pair of markers {marker}"
        content = part(report).replace("\\", r"\\")
        text = pattern.sub(rf"\g<1>{content}\n\g<2>", text)
    PAGE.write_text(text, encoding="utf-8")


def _about(report: FidelityReport) -> str:
    full = report.full.accuracy
    kinds = ", ".join(f"{kind} {_share(figures.accuracy)}" for kind, figures in report.full_kinds.items())
    return (
        f"Demo-model figures on {report.dataset.questions:,} questions: {report.dataset.about} "
        f"(`{report.dataset.name}`).\n"
        f"Model `{report.model_digest[:16]}`, router `{report.router[:16]}`, {report.backend}, {report.precision}, "
        f"K = {report.prune_layer}.\n"
        f"The unpruned model answers {_share(full)} exactly ({kinds})."
    )


def _versions(report: FidelityReport) -> str:
    rows = [row for row in report.rows if row.pruner == ROUTER and row.version in VERSIONS]
    return _table(
        ("version", "T / L", "policy", "accuracy", "retention", "agreement", "KL, nats"),
        [
            (
                f"`{row.version}`",
                f"{report.budget(row).tokens} / {row.pruning.layers}",
                row.pruning.layer_policy,
                _share(row.figures.accuracy),
                _interval(row.figures.retention),
                _interval(row.figures.agreement),
                f"{row.figures.kl.mean:.4f}",
            )
            for row in rows
        ],
    )


def _kinds(report: FidelityReport) -> str:
    advised = {each.version: each.layer_policy for each in report.recommendations}
    rows = [row for row in report.rows if row.pruner == ROUTER and advised.get(row.version) == row.pruning.layer_policy]
    kinds = list(report.full_kinds)
    return _table(
        ("version, as recommended", *kinds),
        [
            (f"`{row.version}`, {row.pruning.layer_policy}", *(_pair(row.kinds[kind]) for kind in kinds))
            for row in rows
            if row.version in VERSIONS
        ],
    )


def _halves(report: FidelityReport) -> str:
    rows = []
    for version in VERSIONS:
        whole = report.row(version, "dynamic")
        if whole is None:
            continue
        mine = [row for row in report.rows if row.pruner == ROUTER and row.version not in VERSIONS]
        budget = report.budget(whole)
        tokens = next((row for row in mine if report.budget(row) == (budget.tokens, report.layers)), None)
        layers = [row for row in mine if report.budget(row) == (report.image_tokens, budget.layers)]
        dynamic = next((row for row in layers if row.pruning.layer_policy == "dynamic"), None)
        cells = (_both(whole), _both(tokens), _both(dynamic))
        rows.append((f"`{version}`, {budget.tokens} / {budget.layers}", *cells))
    return _table(("version", "both (dynamic)", "tokens alone (L = M)", "layers alone (T = N)"), rows)


def _pruners(report: FidelityReport) -> str:
    rows = []
    others = {(row.version, row.pruner): row.figures for row in report.rows if row.pruner != ROUTER}
    for each in report.comparisons:
        theirs = others[each.version, each.pruner]
        ours = theirs.agreement.mean + each.difference.mean
        rows.append(
            (
                f"`{each.version}`",
                each.pruner,
                f"{100 * ours:.1f} %",
                f"{100 * theirs.agreement.mean:.1f} %",
                _interval(each.difference, sign="+"),
                f"{each.p:.4f}",
                verdict(each.difference.mean, each.difference.high, each.p),
                f"{theirs.kl.mean:.3f}",
            )
        )
    header = ("budget", "other pruner", "router agrees", "other agrees", "difference", "p", "verdict", "other's KL")
    return _table(header, rows)


def _policies(report: FidelityReport) -> str:
    return "\n".join(f"- `{each.version}`: **{each.layer_policy}**. {each.why}" for each in report.recommendations)


def _costs(report: FidelityReport) -> str:
    rows = [
        (
            f"`{cost.version}`",
            cost.layer_policy,
            _percent(cost.flops),
            _percent(cost.flops_alone),
            _percent(cost.paper_flops),
            _percent(cost.ttft),
            _percent(cost.ttft_alone),
        )
        for cost in report.costs
    ]
    header = (
        "budget", "policy", "FLOPs, true mode", "without router", "FLOPs, paper mode", "first token", "without router",
    )  # fmt: skip
    return _table(header, rows)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def _share(estimate: Estimate | None) -> str:
    return "" if estimate is None else f"{100 * estimate.mean:.1f} %"


def _interval(estimate: Estimate | None, sign: str = "") -> str:
    if estimate is None:
        return ""
    mean, low, high = (100 * value for value in (estimate.mean, estimate.low, estimate.high))
    return f"{mean:{sign}.1f} % [{low:{sign}.1f}, {high:{sign}.1f}]"


def _pair(figures: Figures) -> str:
    return f"{_share(figures.agreement)} / {_share(figures.retention)}"


def _both(row: Row | None) -> str:
    return "" if row is None else f"{_interval(row.figures.agreement)}, {row.figures.kl.mean:.4f}"


def _percent(value: float | None) -> str:
    return "not timed" if value is None else f"{100 * value:.1f} %"


if __name__ == "__main__":
    main()
