"""Tokenizers of the two families that the native half speaks, trained on a small text, and texts that try them."""

import json
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = Path(__file__).parents[2]
SPECIALS = ("<unk>", "<s>", "</s>", "<image>", "<|im_start|>", "<|im_end|>")
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SAMPLES = [
    "What's the colour? I'll say they'RE red; you've 12345 of them, I'm sure it'd do.\r\n\r\n  Where  is it?",
    "Ça va, où est-il né ? Ångström, naïve café, cafe\u0301, ﬁn, Größe, İstanbul, ǆ, \u0130\u0131",
    "日本語のテキスト、漢字とかな。한국어 텍스트 각 \u1100\u1161\u11a8 ελληνικά русский עברית العربية हिन्दी ไทย",
    "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 1️⃣ ½ ² Ⅷ ٣٤٥ ๑๒๓ a\u0323\u0307 q\u0307\u0323 \u0344 \u212b \u2126",
]


def corpus() -> list[str]:
    """Some prose, some code, some of everything."""
    return [*(ROOT / "README.md").read_text(encoding="utf-8").splitlines(keepends=True), *SAMPLES * 3]


def trained(tokenizer: Tokenizer, alphabet: list[str], size: int = 700) -> tuple[list[str], list[Any]]:
    """Returns tokens and merges that a tokenizer's own steps find in the corpus."""
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), model["merges"]


def byte_level(normalizer: Any, pre_tokenizer: Any, **options: Any) -> Tokenizer:
    """In the manner of Qwen 2, Llama 3 and GPT-2."""
    made = Tokenizer(models.BPE())
    made.normalizer, made.pre_tokenizer = normalizer, pre_tokenizer
    tokens, merges = trained(made, pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(tokens)}
    made.model = models.BPE(vocabulary, [tuple(merge) for merge in merges], **options)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    made.add_tokens(
        [
            AddedToken("<tool_call>", normalized=False),
            AddedToken("<tool", normalized=False, lstrip=True),
            AddedToken("\u00e9t\u00e9", normalized=True, rstrip=True),
            AddedToken("e\u0301clair", normalized=True),
        ]
    )
    template = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 701), ("</s>", 702)])
    assert [made.token_to_id(text) for text in ("<s>", "</s>")] == [701, 702]
    made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return made


def sentence_piece(scheme: str, split: bool = False) -> Tokenizer:
    """In the manner of Llama 2 (scheme "legacy": by normaliser) and Vicuna (by Metaspace)."""
    made = Tokenizer(models.BPE())
    legacy = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokens, merges = trained(made, ["▁"])
    words = [*SPECIALS[:3], *(f"<0x{byte:02X}>" for byte in range(256)), *tokens]
    vocabulary = {word: i for i, word in enumerate(words)}
    made.model = models.BPE(
        vocabulary, [tuple(merge) for merge in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    if scheme == "legacy":
        made.normalizer, made.pre_tokenizer = legacy, None
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    if split:
        made.decoder = decoders.Metaspace(prepend_scheme=scheme, split=split)
    else:
        steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        made.decoder = decoders.Sequence(steps)
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    made.add_tokens([AddedToken("<pad>", normalized=True), AddedToken("  ", normalized=False, rstrip=True)])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return made


def spelling() -> Tokenizer:
    """A model that makes the image token of its letters by itself."""
    steps = [("<", "i"), ("<i", "m"), ("<im", "a"), ("<ima", "g"), ("<imag", "e"), ("<image", ">")]
    words = dict.fromkeys([*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in steps)])
    made = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, steps))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIALS])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return made


def splitting(pattern: str, behavior: str = "isolated", invert: bool = False) -> Any:
    """A split by a pattern, then bytes."""
    split = pre_tokenizers.Split(Regex(pattern), behavior, invert)
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


MAKERS = {
    "qwen2": lambda: byte_level(normalizers.NFC(), splitting(QWEN2)),
    "llama3": lambda: byte_level(None, splitting(LLAMA3, "removed", invert=True), ignore_merges=True),
    "gpt2": lambda: byte_level(None, pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)),
    "gpt2-split": lambda: byte_level(None, splitting(GPT2)),
    "llama2-legacy": lambda: sentence_piece("legacy"),
    "vicuna-first": lambda: sentence_piece("first"),
    "metaspace-always": lambda: sentence_piece("always", split=True),
    "metaspace-never": lambda: sentence_piece("never"),
    "spelling": spelling,
}
NAMES = ["demo", *MAKERS]


@cache
def tokenizer_json(name: str) -> str:
    """Returns the file of one of NAMES: the demo model's, or a trained one."""
    if name == "demo":
        return (ROOT / "models" / "demo" / "tokenizer.json").read_text(encoding="utf-8")
    return MAKERS[name]().to_str()


FRAGMENTS = [
    *SPECIALS, "<tool_call>", "<tool", " <tool ", "<pad>", "<0x41>", "▁", "▁▁a",
    "\u00e9t\u00e9", "e\u0301te\u0301  x", "\u00e9clair",
    " ", "  ", "   ", "\t", "\n", "\r\n", "\n\n \n", " \r ", "\u00a0", "\u2028", "\u3000", "\x85", "\x1c", "\x1f",
    "\x00", "\x7f", "\ufeff", "\ufe0f", "\u200d", "\u200b", "\ufffd", "\U0010ffff", "\u0378",
    "'s", "'S", "'\u017f", "'ll", "'LL", "'Ll", "'re", "'ve", "'d", "'m", "'t", "''s", "don't", "'", "\u2019s",
    "1", "12", "1234567", "½", "٣", "\U0001d7d8", "Ⅷ", "²", "a", "Z", "hello", "Wörld", "ß", "\u017ft", "\u212a",
    "\u0300", "\u0301", "\u0323", "\u0334", "\u0345", "\u3099", "\u309a", "か", "は",
    "\u1100", "\u1161", "\u11a8", "가", "각", "\ud7a3", "\u09c7\u09be", "\u0b47\u0b56", "\u0dd9\u0dcf",
    "\U00011131\U00011127", "\u0958", "\ufb1d", "\uf900", "\U0002f800", "\u2adc",
    "👩\u200d👩\u200d👧", "👍🏽", "…", "—", ".", "?!", "((", "漢", "字",
]  # fmt: skip


def mixtures(count: int, seed: int) -> Iterator[str]:
    """Texts of fragments and of any characters."""
    draw = random.Random(seed)
    for _ in range(count):
        parts = draw.choices(FRAGMENTS, k=draw.randint(1, 12))
        if draw.random() < 0.3:
            code = draw.choice([draw.randrange(0x300), draw.randrange(0xD800), draw.randrange(0xE000, 0x30000)])
            parts.insert(draw.randrange(len(parts) + 1), chr(code))
        yield "".join(parts)
