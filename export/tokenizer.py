"""The tokenizer folder: tokenizer.json and golden prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from allrounder.errors import ModelUnsupported
from allrounder.golden import GOLDEN, TOKENIZER, GoldenPrompt, encode_golden
from allrounder.manifest import PromptTemplate
from allrounder.tokenization import PromptEncoder

__all__ = ["QUESTIONS", "golden_prompts", "write_tokenizer"]

# Each tries something that tokenizers get wrong: white space at the borders, normal forms, digits, letters of other
# scripts, signs outside the basic plane, control characters, markup, long words, byte fallback.
QUESTIONS = (
    "what is the red object?",
    "what is the red object ?",
    "  how many  circles are there?  ",
    "Read the digits: 0123456789 42 3.14",
    "first line\nsecond line\r\n\n\tthird",
    "Qu\u2019est-ce que c\u2019est? \u00dcn\u00ef\u00e7\u00f8de",
    "e\u0301 \u00e9 a\u030a \u00e5 \ufb01",
    "\u8fd9\u662f\u4ec0\u4e48\uff1f \u3053\u308c\u306f \u0446\u0432\u0435\u0442 \u0645\u0627",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 ok?",
    "a<b> & 'c' {{ d }} \\n </ s > it's I'LL we've",
    "x" * 200 + " \u00a0\u2003end",
    "\x07 \x7f \u200b\u200e\ufffd ~^|",
)


def golden_prompts(processor: Any, tokenizer_json: str, template: PromptTemplate) -> list[GoldenPrompt]:
    """Returns the golden prompts: Hugging Face's own ids of whole rendered prompts, cut at the image.

    Raises:
        ModelUnsupported: The rule by which runtimes tokenise gives other ids.
    """
    encoder = PromptEncoder(tokenizer_json, template)
    tokenizer, image_token = processor.tokenizer, processor.image_token
    image_id = tokenizer.convert_tokens_to_ids(image_token)
    prompts = []
    for question in QUESTIONS:
        text = template.before_image + image_token + template.after_image + question + template.after_question
        ids = list(tokenizer(text, add_special_tokens=template.prefix_special)["input_ids"])
        cut = ids.index(image_id)
        prompt = GoldenPrompt(
            question=question, text=text, prefix_ids=tuple(ids[:cut]), suffix_ids=tuple(ids[cut + 1 :])
        )
        ours = (encoder.prefix_ids, tuple(encoder.suffix_ids(question)))
        if ours != (prompt.prefix_ids, prompt.suffix_ids):
            raise ModelUnsupported(
                "the tokenizer cannot tokenise a prompt in parts",
                where=repr(question),
                got=ours,
                wanted=(prompt.prefix_ids, prompt.suffix_ids),
            )
        prompts.append(prompt)
    return prompts


def write_tokenizer(processor: Any, tokenizer_json: str, template: PromptTemplate, out: Path) -> tuple[str, ...]:
    """Writes tokenizer.json and the golden prompts below ``out`` and returns their paths relative to it.

    ``tokenizer_json`` is the processor's tokenizer, sealed (`allrounder.vlm.control_tokens`).

    Raises:
        ModelUnsupported: The tokenizer cannot be used by runtimes.
    """
    contents = {
        TOKENIZER: tokenizer_json.encode(),
        GOLDEN: encode_golden(golden_prompts(processor, tokenizer_json, template)),
    }
    for name, data in contents.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
    return tuple(contents)
