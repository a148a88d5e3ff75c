"""Writes the tables of the demo model's README from what was measured, so that no figure there is typed by hand.

What it is: the last lines of ``evaluate`` (with and without images) and ``honesty``, put between the markers of
``models/demo/README.md``. What it does not know: how anything is measured.

    python -m allrounder.demo.evaluate --model models/demo --count 1000 | tail -n 1 > asked.json
    python -m allrounder.demo.evaluate --model models/demo --count 200 --blank | tail -n 1 > blank.json
    python -m allrounder.demo.honesty --model models/demo --images 50 | tail -n 1 > honesty.json
    python tools/demo_readme.py asked.json blank.json honesty.json
"""

import json
import re
import sys
from pathlib import Path
from statistics import mean

README = Path(__file__).parent.parent / "models" / "demo" / "README.md"
CLASSES = ("what", "colour", "where", "count", "read")
GROUPS = {
    "random layers ": "18 of 24 layers, all by chance",
    "random layers, 0 and 1 kept ": "18 of 24 layers, 0 and 1 kept, 16 by chance",
    "random tokens ": "128 of 576 image tokens by chance from layer 2 on",
}
HEADER = f"| {{}} | {' | '.join(CLASSES)} | all | kept |\n{'|---' * 8}|"


def main(asked: Path, blank: Path, honesty: Path) -> None:
    """Replaces what stands between the markers ``accuracy``, ``careless`` and ``layers``."""
    text = README.read_text(encoding="utf-8")
    found = json.loads(honesty.read_text(encoding="utf-8"))
    text = _between(text, "accuracy", _accuracy(*(json.loads(path.read_text("utf-8")) for path in (asked, blank))))
    text = _between(text, "careless", _careless(found))
    text = _between(text, "layers", _layers(found))
    README.write_text(text, encoding="utf-8")


def _accuracy(asked: dict, blank: dict) -> str:
    lines = [f"| | {' | '.join(CLASSES)} | all |", "|---" * 7 + "|"]
    for name, report in (("with its image", asked), ("shown a grey image", blank)):
        shares = [f"{100 * report['accuracy'][kind]:.1f}" for kind in CLASSES]
        whole = f"**{100 * report['accuracy']['all']:.1f}**"
        lines.append(f"| {name} ({report['questions']} questions) | {' | '.join(shares)} | {whole} |")
    return "\n".join(lines)


def _careless(found: dict[str, dict[str, float]]) -> str:
    lines = [HEADER.format("taken away"), _row("nothing", found["full"], found["full"])]
    for prefix, words in GROUPS.items():
        draws = {name[len(prefix) :]: row for name, row in found.items() if name.removeprefix(prefix).isdigit()}
        lines += [_row(f"{words}, draw {draw}", row, found["full"]) for draw, row in draws.items()]
        average = {kind: mean(row[kind] for row in draws.values()) for kind in (*CLASSES, "all")}
        lines.append(_row(f"{words}, **mean of {len(draws)}**", average, found["full"]))
    return "\n".join(lines)


def _layers(found: dict[str, dict[str, float]]) -> str:
    prefix = "without layer "
    rows = {name.removeprefix(prefix): row for name, row in found.items() if name.startswith(prefix)}
    return "\n".join([HEADER.format("layer"), *(_row(layer, row, found["full"]) for layer, row in rows.items())])


def _row(name: str, row: dict[str, float], full: dict[str, float]) -> str:
    shares = [f"{100 * row[kind]:.0f}" for kind in CLASSES]
    return f"| {name} | {' | '.join(shares)} | **{100 * row['all']:.1f}** | {100 * row['all'] / full['all']:.0f} % |"


def _between(text: str, marker: str, content: str) -> str:
    pattern = re.compile(rf"(<!-- {marker} -->\n).*?(<!-- /{marker} -->)", re.DOTALL)
    assert len(pattern.findall(text)) == 1, f"{README}: one pair of markers {marker}"
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
