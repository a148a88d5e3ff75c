"""The page, put together and written.

What it is: the order of the sections, the head, and the writing. What it knows: one file, whole or absent.
What it does not know: what stands in a section.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from allrounder.card import Card
from allrounder.commands.page.heat import layer_use
from allrounder.commands.page.markup import Markup, element, join
from allrounder.commands.page.notes import notes
from allrounder.commands.page.pictures import kept_pictures
from allrounder.commands.page.plots import plots
from allrounder.commands.page.samples import Sample, check_samples
from allrounder.commands.page.style import STYLE
from allrounder.commands.page.summary import headline, main_table, recommended
from allrounder.commands.page.tables import by_class, compared, costs, one_side
from allrounder.errors import InputInvalid

__all__ = ["page", "write_page"]

# Nothing is loaded and nothing runs, whatever a card or a question may hold.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_page(card: Card, out: Path, samples: Sequence[Sample], about: str) -> None:
    """Writes the card as one self-contained HTML file; a kill leaves the old file or the new one.

    Args:
        card: What is shown.
        out: The file to write.
        samples: Pictures with what versions kept of them; may be none.
        about: Whose figures these are, in a sentence, such as "Figures of the demo model, not of LLaVA-1.5-7B".

    Raises:
        EngineUnavailable: Matplotlib is not installed.
        ImageInvalid: A sample's picture is not uint8 RGB [H, W, 3].
        InputInvalid: A sample is not of this host, or ``out`` cannot be written.
    """
    text = page(card, samples, about)
    temporary = out.with_name(out.name + ".next")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(out)
    except OSError as error:
        raise InputInvalid("the page cannot be written", where=out, got=error, wanted="such as card.html") from error


def page(card: Card, samples: Sequence[Sample], about: str) -> str:
    """Returns the page's HTML; errors as those of `write_page`, but for writing."""
    check_samples(card, samples)
    body = join(
        (
            headline(card, about),
            element(
                "main",
                recommended(card),
                main_table(card),
                by_class(card),
                one_side(card),
                compared(card),
                plots(card),
                costs(card),
                layer_use(card),
                kept_pictures(card, samples),
            ),
            notes(card),
        )
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"Fidelity card: {card.model}"),
        element("style", Markup(STYLE)),
    )
    return "<!doctype html>\n" + element("html", head, element("body", body), lang="en") + "\n"
