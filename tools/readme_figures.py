"""Writes the figures of README.md and docs/pruners.md from what was measured, so that none is typed by hand.

What it is: fidelity from a bundle's manifest, speed-ups from the last line of ``allrounder bench``, the router against
other pruners from its fidelity report, and the output of the README's own ``run`` line, put between markers.
What it does not know: how anything is measured.

    allrounder bench bundles/demo | tail -n 1 > bench.json
    python tools/readme_figures.py bundles/demo bench.json
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec

from allrounder.pruning import PruningConfig

ROOT = Path(__file__).parent.parent
REPORT = ROOT / "models" / "demo-router" / "report.json"
RUN = ["run", "--bundle", "{bundle}", "--version", "par-lite", "--image", "examples/scene.png"]
QUESTION = "what is the red object?"


def main(bundle: Path, bench: Path) -> None:
    """Replaces what stands between the markers ``figures``, ``run`` and ``pruners``."""
    pointer = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    manifest = json.loads((bundle / pointer["manifest"]).read_text(encoding="utf-8"))
    entries = manifest["entries"]
    rows = {row["entry"]: row for row in json.loads(bench.read_text(encoding="utf-8"))["rows"]}
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    text = _between(text, "figures", _table(entries, rows, manifest["model"]["images"]["tokens"]))
    text = _between(text, "run", f"```\n{_answer(bundle)}\n```")
    readme.write_text(text, encoding="utf-8")
    page = ROOT / "docs" / "pruners.md"
    table = _pruners(json.loads(REPORT.read_text(encoding="utf-8")))
    page.write_text(_between(page.read_text(encoding="utf-8"), "pruners", table), encoding="utf-8")


def _kept(pruning: dict, tokens: int) -> int:
    """Returns T of one image."""
    return msgspec.convert(pruning, PruningConfig).budget(tokens).tokens


def _table(entries: list[dict], rows: dict[str, dict], tokens: int) -> str:
    """Returns one line per entry: what it keeps of `full`, and how much faster it is."""
    lines = [
        "| demo model | T / L | agreement | accuracy kept | mean KL, nats | prefill | first token | next tokens |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in entries:
        pruning = entry["pruning"]
        version, policy = pruning["version"], pruning["layer_policy"]
        row = rows[f"{version} ({entry['backend']}, {entry['precision']}, {policy}, K={pruning['prune_layer']})"]
        kept, speed = entry["fidelity"], row["speedup"]
        cells = [
            f"`{version}`, {policy}",
            f"{_kept(pruning, tokens)} / {pruning['layers']}",
            _percent(kept["agreement"]),
            _percent(kept["retention"]),
            f"{kept['kl']['mean']:.3f}",
            *(f"{speed[name]:.2f}x" for name in ("prefill", "ttft", "tpot")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    asked = [entry["fidelity"] for entry in entries]
    reports = "quick reports" if all(each["quick"] for each in asked) else "the router's fidelity report"
    questions = " or ".join(f"{count:,}" for count in sorted({each["questions"] for each in asked}))
    note = (
        f"Demo-model figures: {questions} questions per version ({reports}; 95 % intervals in brackets).",
        "Speed-ups over `full` are medians of one interleaved run of `allrounder bench` on two CPU cores;",
        "vision tower and router are part of the first token.",
    )
    lines += ["", *note]
    return "\n".join(lines)


def _pruners(report: dict) -> str:
    """Returns one line per pruner: agreement with `full` at each budget, the router's on the same questions first."""
    budgets = list(dict.fromkeys(each["version"] for each in report["comparisons"]))
    others = {(row["pruner"], row["version"]): row["figures"] for row in report["rows"] if row["pruner"] != "router"}
    router, names, worse = {}, [], set()
    for each in report["comparisons"]:
        key = (each["pruner"], each["version"])
        router[each["version"]] = others[key]["agreement"]["mean"] + each["difference"]["mean"]
        names += [] if each["pruner"] in names else [each["pruner"]]
        worse |= {key} if each["p"] >= 0.05 else set()
    lines = [
        f"| agreement with `full` | {' | '.join(f'`{name}`' for name in budgets)} |",
        f"|---{'|---' * len(budgets)}|",
    ]
    lines.append(f"| **router** | {' | '.join(f'**{100 * router[name]:.1f} %**' for name in budgets)} |")
    for pruner in names:
        cells = []
        for budget in budgets:
            figures = others.get((pruner, budget))
            mark = "*" if (pruner, budget) in worse else ""
            cells.append(f"{100 * figures['agreement']['mean']:.1f} %{mark}" if figures else "")
        lines.append(f"| {pruner} | {' | '.join(cells)} |")
    questions = report["comparisons"][0]["questions"]
    lines += [
        "",
        f"Demo-model figures: the same {questions} unseen questions and the same engines for every pruner. Where there",
        "is no *, the router is better by a paired bootstrap over images (p < 0.05); * marks where that is not shown.",
    ]
    return "\n".join(lines)


def _percent(estimate: dict[str, float]) -> str:
    mean, low, high = (100 * estimate[name] for name in ("mean", "low", "high"))
    return f"{mean:.0f} % [{low:.0f}, {high:.0f}]"


def _answer(bundle: Path) -> str:
    arguments = [part.format(bundle=bundle) for part in RUN] + ["--question", QUESTION]
    done = subprocess.run(
        ["allrounder", *arguments],  # noqa: S607 - the console script of this environment
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    return done.stdout.strip()


def _between(text: str, marker: str, content: str) -> str:
    pattern = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"README.md has no <!-- {marker} --> ... <!-- /{marker} -->")
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
