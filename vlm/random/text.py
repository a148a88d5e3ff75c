"""Tokenizer, processor and chat template for random models.

A byte-level BPE over the 256 bytes and a few merges, in the manner of Qwen2, and the settings of a stock processor.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

__all__ = ["BOS", "EOS", "IMAGE", "SPECIAL", "VIDEO_ID", "build_tokenizer", "token_id", "write_processor"]

Chat = Literal["vicuna", "chatml"]

BOS, EOS, IMAGE, START, END = "<s>", "</s>", "<image>", "<|im_start|>", "<|im_end|>"
SPECIAL = (BOS, EOS, IMAGE, START, END)
VIDEO = "<video>"  # behind all others, of models that have one
# Some of these can form across the border of template and question, which is what a tokenizer test must try.
_MERGES = ("Ċ Ċ", "Ġ t", "Ġ A", "h e", "Ġt he", "i n", "e r", "Ġ Ġ", "w h", "wh a", "wha t", "Ġ w", ": Ġ", "? Ġ", "o n")
VIDEO_ID = len(SPECIAL) + 256 + len(_MERGES)
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CHAT: dict[Chat, str] = {
    "vicuna": (
        "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
        "{% if message['content'] is string %}{{ message['content'] + ' ' }}{% else %}"
        "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
        "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    ),
    "chatml": (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
        "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
        "{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
}


def token_id(special: str) -> int:
    """Returns the id of one of the special tokens; they come first in the vocabulary."""
    return SPECIAL.index(special)


def build_tokenizer(chat: Chat = "vicuna", *, video: bool = False) -> PreTrainedTokenizerFast:
    """Returns the tokenizer; with "vicuna" it puts the begin token before every text; ``video``: with its token."""
    pieces = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces += [merge.replace(" ", "") for merge in _MERGES]
    merges: list[Any] = [tuple(merge.split(" ")) for merge in _MERGES]
    tokenizer = Tokenizer(models.BPE(vocab={piece: index for index, piece in enumerate(pieces)}, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in SPECIAL])
    if video:
        tokenizer.add_special_tokens([AddedToken(VIDEO, normalized=False, special=True)])
    if chat == "vicuna":
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, token_id(BOS))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS if chat == "vicuna" else None,
        eos_token=EOS,
        pad_token=EOS,
        additional_special_tokens=[IMAGE, START, END],
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def write_processor(out: Path, config: Any, *, chat: Chat) -> None:
    """Writes tokenizer, processor settings and chat template of a random model into its directory."""
    build_tokenizer(chat, video=config.model_type == "llava_onevision").save_pretrained(out)
    images = json.loads(_image_processor(config).to_json_string())
    settings = {**_settings(config), "image_processor": images, "image_token": IMAGE}
    (out / "processor_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
    (out / "chat_template.jinja").write_text(_CHAT[chat], encoding="utf-8")


def _settings(config: Any) -> dict[str, Any]:
    """Returns what the stock processor of a family keeps in ``processor_config.json``."""
    tower, chosen = config.vision_config, {"vision_feature_select_strategy": config.vision_feature_select_strategy}
    if config.model_type == "llava_onevision":
        tokens = (tower.image_size // tower.patch_size) ** 2
        kind = {"processor_class": "LlavaOnevisionProcessor", "num_image_tokens": tokens}
        return {**kind, **chosen, "vision_aspect_ratio": config.vision_aspect_ratio, "video_token": VIDEO}
    kind = {"llava": "LlavaProcessor", "llava_next": "LlavaNextProcessor"}[config.model_type]
    class_token = int(tower.model_type == "clip_vision_model")
    patches = {"patch_size": tower.patch_size, "num_additional_image_tokens": class_token}
    return {"processor_class": kind, **chosen, **patches}


def _image_processor(config: Any) -> Any:
    """Returns the stock image processor of a family, on Pillow, for a tower's size."""
    tower = config.vision_config
    square, shortest = {"height": tower.image_size, "width": tower.image_size}, {"shortest_edge": tower.image_size}
    match config.model_type, tower.model_type:
        case "llava_next", _:
            pinpoints = config.image_grid_pinpoints
            return LlavaNextImageProcessorPil(size=shortest, crop_size=square, image_grid_pinpoints=pinpoints)
        case "llava_onevision", _:
            return LlavaOnevisionImageProcessorPil(size=square, image_grid_pinpoints=config.image_grid_pinpoints)
        case _, "clip_vision_model":
            return CLIPImageProcessorPil(size=shortest, crop_size=square)
        case _:
            return SiglipImageProcessorPil(size=square)
