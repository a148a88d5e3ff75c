"""Tokenizer, processor and chat template for random models.

A byte-level BPE over the 256 bytes and a few merges, in the manner of Qwen2, with a Llava processor around it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import LlavaConfig, LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

__all__ = ["BOS", "EOS", "IMAGE", "SPECIAL", "build_tokenizer", "token_id", "write_processor"]

Chat = Literal["vicuna", "chatml"]

BOS, EOS, IMAGE, START, END = "<s>", "</s>", "<image>", "<|im_start|>", "<|im_end|>"
SPECIAL = (BOS, EOS, IMAGE, START, END)
# Some of these can form across the border of template and question, which is what a tokenizer test must try.
_MERGES = ("Ċ Ċ", "Ġ t", "Ġ A", "h e", "Ġt he", "i n", "e r", "Ġ Ġ", "w h", "wh a", "wha t", "Ġ w", ": Ġ", "? Ġ", "o n")
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


def build_tokenizer(chat: Chat = "vicuna") -> PreTrainedTokenizerFast:
    """Returns the tokenizer; with "vicuna" it puts the begin token before every text."""
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


def write_processor(out: Path, config: LlavaConfig, *, chat: Chat) -> None:
    """Writes tokenizer, image processor and chat template of a random model into its directory."""
    tower: Any = config.vision_config
    size = tower.image_size
    if tower.model_type == "clip_vision_model":
        image_processor = CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    else:
        image_processor = SiglipImageProcessorPil(size={"height": size, "width": size})
    processor = LlavaProcessor(
        image_processor=image_processor,
        tokenizer=build_tokenizer(chat),
        patch_size=tower.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=int(tower.model_type == "clip_vision_model"),
        chat_template=_CHAT[chat],
        image_token=IMAGE,
    )
    processor.save_pretrained(out)
