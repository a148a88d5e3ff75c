"""Evaluation of a demo model the way it is used: stock processor, stock ``generate``, one question per prompt.

``python -m allrounder.demo.evaluate --model models/demo --count 1000 [--blank]`` gives exact-answer accuracy per class,
with the image or with a blank one; last line JSON.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from allrounder.demo.prompts import Example, examples
from allrounder.demo.questions import CLASSES
from allrounder.demo.scenes import IMAGE_PX, Split
from allrounder.demo.tokenizer import render_prompt
from allrounder.progress import TerminalProgress

BLANK = (128, 128, 128)
MAX_NEW_TOKENS = 16


@dataclass(frozen=True)
class Score:
    """Right answers out of all questions of one class."""

    right: int
    asked: int

    @property
    def accuracy(self) -> float:
        return self.right / max(self.asked, 1)


@dataclass(frozen=True)
class Evaluator:
    """A stock model with its processor."""

    model: Any  # LlavaForConditionalGeneration; the library types neither generate nor the processor's arguments
    processor: Any  # LlavaProcessor

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> Evaluator:
        """Load a stock directory in float32."""
        model: Any = LlavaForConditionalGeneration.from_pretrained(path, dtype=torch.float32)
        return cls(model.to(device).eval(), LlavaProcessor.from_pretrained(path))

    @torch.inference_mode()
    def answer(self, images: list[Image.Image], questions: list[str]) -> list[str]:
        """Greedy answers to a batch of (image, question) pairs."""
        prompts = [render_prompt(question) for question in questions]
        inputs = self.processor(images=images, text=prompts, return_tensors="pt", padding=True)
        inputs = inputs.to(self.model.device)
        tokens = self.model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        answers = self.processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in answers]

    def evaluate(self, asked: Iterable[Example], *, blank: bool = False, batch: int = 8) -> dict[str, Score]:
        """Scores per class and of ``all``."""
        right: dict[str, int] = dict.fromkeys(CLASSES, 0)
        total = right.copy()
        rest = iter(asked)
        progress = TerminalProgress()
        while group := list(islice(rest, batch)):
            nothing = Image.new("RGB", (IMAGE_PX, IMAGE_PX), BLANK)
            images = [nothing if blank else example.image for example in group]
            answers = self.answer(images, [example.question for example in group])
            for example, answer in zip(group, answers, strict=True):
                right[example.kind] += answer == example.answer
                total[example.kind] += 1
            progress("questions", sum(total.values()), 0)
        scores = {kind: Score(right[kind], total[kind]) for kind in CLASSES}
        return scores | {"all": Score(sum(right.values()), sum(total.values()))}


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Exact-answer accuracy of a demo model.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1000, help="questions")
    parser.add_argument("--blank", action="store_true", help="show a grey image instead")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    evaluator = Evaluator.load(options.model, options.device)
    scores = evaluator.evaluate(examples(Split.TEST, options.count), blank=options.blank, batch=options.batch)
    for kind, score in scores.items():
        print(f"{kind:8s} {score.right:5d} of {score.asked:5d}  {100 * score.accuracy:5.1f} %")
    accuracy = {kind: round(score.accuracy, 4) for kind, score in scores.items()}
    print(json.dumps({"accuracy": accuracy, "questions": scores["all"].asked, "blank": options.blank}))


if __name__ == "__main__":
    main()
