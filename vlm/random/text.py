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
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

__all__ = [
    "BOS",
    "EOS",
    "IMAGE",
    "SPECIAL",
    "VIDEO_ID",
    "build_tokenizer",
    "image_token_id",
    "token_id",
    "write_processor",
]

Chat = Literal["vicuna", "chatml", "utterances"]

BOS, EOS, IMAGE, START, END = "<s>", "</s>", "<image>", "<|im_start|>", "<|im_end|>"
SPECIAL = (BOS, EOS, IMAGE, START, END)
VIDEO = "<video>"  # behind all others, of models that have one
CONTEXT = "<IMG_CONTEXT>"  # what InternVL calls `IMAGE`
AROUND, WHOLE, UTTERED = "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"  # Idefics3's and SmolVLM's
# Some of these can form across the border of template and question, which is what a tokenizer test must try.
_MERGES = ("Ċ Ċ", "Ġ t", "Ġ A", "h e", "Ġt he", "i n", "e r", "Ġ Ġ", "w h", "wh a", "wha t", "Ġ w", ": Ġ", "? Ġ", "o n")
VIDEO_ID = len(SPECIAL) + 256 + len(_MERGES)
# Tokens behind all others by family, and what the tokenizer calls them.
_ROLES: dict[str, dict[str, str]] = {
    "llava_onevision": {"video_token": VIDEO},
    "internvl": {
        "video_token": VIDEO,
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": CONTEXT,
    },
    "smolvlm": {
        "image_token": IMAGE,
        "fake_image_token": AROUND,
        "global_image_token": WHOLE,
        "end_of_utterance_token": UTTERED,
    },
}
# Such tokens that it calls nothing; of tiles further down or right it has none, and spells their marks out.
_PLACES = tuple(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2))
_NAMELESS: dict[str, tuple[str, ...]] = {"smolvlm": _PLACES, "idefics3": (AROUND, UTTERED, _PLACES[0])}
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
    # SmolVLM's: a blank only before text, parts in their order, content that is a string is left out.
    "utterances": (
        "<|im_start|>{% for message in messages %}{{ message.role | capitalize }}:"
        "{{ '' if message.content[0].type == 'image' else ' ' }}"
        "{% for part in message.content %}"
        "{{ part.text if part.type == 'text' else '<image>' if part.type == 'image' }}{% endfor %}"
        "<end_of_utterance>\n{% endfor %}{{ 'Assistant:' if add_generation_prompt }}"
    ),
}


def token_id(special: str) -> int:
    """Returns the id of one of the special tokens; they come first in the vocabulary."""
    return SPECIAL.index(special)


def image_token_id(model_type: str) -> int:
    """Returns the id of the token that stands for an image in a family."""
    return VIDEO_ID + list(_ROLES[model_type].values()).index(CONTEXT) if model_type == "internvl" else token_id(IMAGE)


def build_tokenizer(chat: Chat = "vicuna", *, model_type: str = "llava") -> PreTrainedTokenizerFast:
    """Returns the tokenizer of a family; with "vicuna" it puts the begin token before every text."""
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
    roles = _ROLES.get(model_type, {})
    more = (*roles.values(), *_NAMELESS.get(model_type, ()))
    tokenizer.add_special_tokens([AddedToken(piece, normalized=False, special=True) for piece in more])
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
        model_specific_special_tokens=roles,
    )


def write_processor(out: Path, config: Any, *, chat: Chat, images: dict[str, Any] | None = None) -> None:
    """Writes tokenizer, processor settings and chat template of a random model into its directory.

    ``images`` are settings of the image processor.
    """
    build_tokenizer(chat, model_type=config.model_type).save_pretrained(out)
    processor = json.loads(_image_processor(config, images or {}).to_json_string())
    settings = {**_settings(config), "image_processor": processor}
    (out / "processor_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
    template = _CHAT[chat].replace(IMAGE, CONTEXT) if config.model_type == "internvl" else _CHAT[chat]
    (out / "chat_template.jinja").write_text(template, encoding="utf-8")


def _settings(config: Any) -> dict[str, Any]:
    """Returns what the stock processor of a family keeps in ``processor_config.json``."""
    if config.model_type == "internvl":
        return {"processor_class": "InternVLProcessor", "image_seq_length": config.image_seq_length}
    if config.model_type in ("smolvlm", "idefics3"):
        grid = config.vision_config.image_size // config.vision_config.patch_size
        kind = {"smolvlm": "SmolVLMProcessor", "idefics3": "Idefics3Processor"}[config.model_type]
        return {"processor_class": kind, "image_seq_len": (grid // config.scale_factor) ** 2}
    tower, chosen = config.vision_config, {"vision_feature_select_strategy": config.vision_feature_select_strategy}
    if config.model_type == "llava_onevision":
        tokens = (tower.image_size // tower.patch_size) ** 2
        kind = {"processor_class": "LlavaOnevisionProcessor", "num_image_tokens": tokens}
        return {
            **kind,
            **chosen,
            "image_token": IMAGE,
            "vision_aspect_ratio": config.vision_aspect_ratio,
            "video_token": VIDEO,
        }
    kind = {"llava": "LlavaProcessor", "llava_next": "LlavaNextProcessor"}[config.model_type]
    class_token = int(tower.model_type == "clip_vision_model")
    patches = {"patch_size": tower.patch_size, "num_additional_image_tokens": class_token}
    return {"processor_class": kind, "image_token": IMAGE, **chosen, **patches}


def _image_processor(config: Any, settings: dict[str, Any]) -> Any:
    """Returns the stock image processor of a family, on Pillow, for a tower's size."""
    tower = config.vision_config
    size = tower.image_size if isinstance(tower.image_size, int) else tower.image_size[0]
    square, shortest = {"height": size, "width": size}, {"shortest_edge": size}
    match config.model_type, tower.model_type:
        case "internvl", _:
            return GotOcr2ImageProcessorPil(size=square, **settings)
        case "smolvlm" | "idefics3", _:
            kind = SmolVLMImageProcessorPil if config.model_type == "smolvlm" else Idefics3ImageProcessorPil
            return kind(max_image_size={"longest_edge": size}, **settings)
        case "llava_next", _:
            pinpoints = config.image_grid_pinpoints
            return LlavaNextImageProcessorPil(size=shortest, crop_size=square, image_grid_pinpoints=pinpoints)
        case "llava_onevision", _:
            return LlavaOnevisionImageProcessorPil(size=square, image_grid_pinpoints=config.image_grid_pinpoints)
        case _, "clip_vision_model":
            return CLIPImageProcessorPil(size=shortest, crop_size=square)
        case _:
            return SiglipImageProcessorPil(size=square)
