"""Evaluation of a demo model the way it is used: stock processor, stock ``generate``, one question per prompt.

``python -m allrounder.demo.evaluate --model models/demo --count 1000 [--blank]`` gives exact-answer accuracy per class,
with the image or with a blank one; last line JSON. A model of tiles is asked about windows, and its accuracy is also
given by the number of tiles. Tokenizer, image processor and model are the stock ones; the image tokens of a prompt are
as many as `image_tokens` says, for the stock processor of LLaVA-OneVision cannot be made without torchvision.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature, LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from allrounder.demo.model import load_model
from allrounder.demo.prompts import Example, examples
from allrounder.demo.questions import CLASSES
from allrounder.demo.scenes import Split, Window
from allrounder.demo.tiles import TILE_PX, image_tokens
from allrounder.demo.tokenizer import IMAGE, render_prompt
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

    model: Any  # a DemoModel; the library types neither generate nor the processor's arguments
    processor: Any  # LlavaProcessor, or TileProcessor

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> Evaluator:
        """Load a stock directory in float32."""
        model: Any = load_model(path)
        kind = TileProcessor if model.config.model_type == "llava_onevision" else LlavaProcessor
        return cls(model.to(device).eval(), kind.from_pretrained(path))

    @property
    def tiles(self) -> bool:
        """Whether its images are windows, cut into tiles."""
        return isinstance(self.processor, TileProcessor)

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
        """Scores per class, per number of tiles where there are tiles, and of ``all``."""
        right, total = Counter[str](), Counter[str]()
        rest = iter(asked)
        progress = TerminalProgress()
        while group := list(islice(rest, batch)):
            images = [Image.new("RGB", example.image.size, BLANK) if blank else example.image for example in group]
            answers = self.answer(images, [example.question for example in group])
            for example, answer in zip(group, answers, strict=True):
                groups = [example.kind, "all", *([f"{1 + example.cells} tiles"] if self.tiles else [])]
                total.update(groups)
                right.update(groups if answer == example.answer else ())
            progress("questions", total["all"], 0)
        names = [*CLASSES, *sorted(set(total) - {*CLASSES, "all"}), "all"]
        return {name: Score(right[name], total[name]) for name in names}


@dataclass(frozen=True)
class TileProcessor:
    """What the stock processor of LLaVA-OneVision does with one image per prompt, without its videos."""

    tokenizer: Any
    images: Any

    @classmethod
    def from_pretrained(cls, path: Path) -> TileProcessor:
        """Its parts, of a model directory."""
        tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
        return cls(tokenizer, LlavaOnevisionImageProcessorPil.from_pretrained(path))

    def __call__(self, images: list[Image.Image], text: list[str], **options: Any) -> BatchFeature:
        """Ids and tiles of prompts with one image each; ``options`` are the tokenizer's."""
        seen = self.images(images, return_tensors="pt")
        counts = [image_tokens(Window(image.height // TILE_PX, image.width // TILE_PX)) for image in images]
        prompts = [prompt.replace(IMAGE, IMAGE * count) for prompt, count in zip(text, counts, strict=True)]
        return BatchFeature({**self.tokenizer(prompts, **options), **seen})

    def batch_decode(self, tokens: Any, **options: Any) -> list[str]:
        """The tokenizer's."""
        return self.tokenizer.batch_decode(tokens, **options)


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
    asked = examples(Split.TEST, options.count, tiles=evaluator.tiles)
    scores = evaluator.evaluate(asked, blank=options.blank, batch=options.batch)
    for kind, score in scores.items():
        print(f"{kind:8s} {score.right:5d} of {score.asked:5d}  {100 * score.accuracy:5.1f} %")
    accuracy = {kind: round(score.accuracy, 4) for kind, score in scores.items()}
    print(json.dumps({"accuracy": accuracy, "questions": scores["all"].asked, "blank": options.blank}))


if __name__ == "__main__":
    main()
