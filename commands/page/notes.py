"""The foot of the page: how to read the figures, how they came about, what is not in them, and what they are bound to.

What it is: markup. What it knows: the definitions of `allrounder.calib` and `allrounder.card`, in plain words.
What it does not know: any figure.
"""

from __future__ import annotations

from allrounder.card import Card
from allrounder.commands.page.markup import Markup, element, join

__all__ = ["notes"]

_AGREEMENT = """
The share of questions whose whole answer, always taking the most likely next token, is token by token that of full.
100% is full itself; whether full was right does not matter.
"""
_ACCURACY = "Accuracy is the share of right answers; retention is accuracy over that of full."
_KL = """
How far a version's probabilities for each next token lie from those of full along full's answer, in nats per token (KL
divergence of full from the version). 0 is full itself; it also sees differences that do not yet change an answer.
"""
_INTERVALS = """
95% bootstrap intervals: pictures are drawn again, with replacement, each with all its questions. p is the one-sided
paired bootstrap probability that the router is not better than the other pruner; it cannot fall below one over the
number of resamples, and is not corrected for the number of comparisons.
"""
_FLOPS = """
Floating-point operations of the decoder's prefill as the graphs do them, the router's own included, over those of full.
The paper's way of counting stands apart, in the table of costs.
"""
_TTFT = """
Time from picture in to first token out, over that of full: the median of ratios that were timed in turns in one run. It
holds for the machine it was timed on.
"""
_READ = (
    ("Agreement", _AGREEMENT),
    ("Accuracy, retention", _ACCURACY),
    ("KL", _KL),
    ("Intervals and p", _INTERVALS),
    ("FLOPs share", _FLOPS),
    ("TTFT share", _TTFT),
)
_MEASURED = """
Full answers every question greedily. Each version reads the same prompt and, word for word, full's answer; its
probabilities are compared at every token. Where they would lead to another answer, the version answers by itself and
that answer is graded, disregarding case, surrounding space and a final full stop. Other pruners may be
asked fewer questions; comparisons take the same ones on both sides.
"""

_NOT_COUNTED = (
    "FLOPs of the vision tower, and of tokens after the first.",
    "What other pruners cost to compute: they are drawn without it, in their favour.",
    "Time per further token, memory and disk; the command allrounder bench shows them.",
    "Anything about other models or other questions. A demo model's figures say nothing about a large one.",
)


def notes(card: Card) -> Markup:
    """Returns the footer."""
    read = join(join((element("dt", name), element("dd", text.strip()))) for name, text in _READ)
    bound = (
        ("host", card.host),
        ("router", card.router),
        ("backend", card.backend),
        ("precision", card.precision),
        ("gather layer", card.gather_layer),
        ("visual tokens", card.visual_tokens),
        ("layers", card.layers),
        ("data set", card.dataset.name),
        ("written by", card.producer),
        ("card schema", card.schema),
    )
    facts = join(join((element("dt", name), element("dd", element("code", value)))) for name, value in bound)
    return element(
        "footer",
        element("h2", "How to read this page"),
        element("dl", read),
        element("h2", "How it was measured"),
        element("p", _MEASURED.strip()),
        element("h2", "What is not counted"),
        element("ul", *(element("li", text) for text in _NOT_COUNTED)),
        element("h2", "What it is bound to"),
        element("p", "The figures hold for these weights and settings and for no others."),
        element("dl", facts, class_="hashes"),
    )
