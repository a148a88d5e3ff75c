"""The demo tokenizer: a byte-level BPE in the manner of Qwen2, trained on the demo's questions and answers."""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from allrounder.demo.questions import all_questions, careless
from allrounder.demo.scenes import Split, sample_scene, scene_generator

PAD, EOS, IMAGE = "<pad>", "</s>", "<image>"
VOCABULARY = 512
MAX_LENGTH = 2048
BEFORE_IMAGE, AFTER_IMAGE, BEFORE_ANSWER = "USER: ", "\n", " ASSISTANT:"
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].upper() + ':' }}"
    "{% if message['content'] is string %}{{ ' ' + message['content'] }}{% else %}"
    "{% for content in message['content'] if content['type'] == 'image' %}{{ ' <image>\n' }}{% endfor %}"
    "{% for content in message['content'] if content['type'] == 'text' %}"
    "{{ ('' if message['role'] == 'user' and loop.first else ' ') + content['text'] }}{% endfor %}{% endif %}"
    "{{ '</s>' if message['role'] == 'assistant' else ' ' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def render_prompt(question: str) -> str:
    """The whole prompt of one question, with one ``<image>`` where the image tokens go."""
    return BEFORE_IMAGE + IMAGE + AFTER_IMAGE + question + BEFORE_ANSWER


def corpus(scenes: int = 400) -> Iterator[str]:
    """Prompts and answers of ``scenes`` training scenes, as the tokenizer's training text."""
    for seed in range(scenes):
        scene = sample_scene(Split.TRAIN, seed)
        rng = scene_generator(Split.TRAIN, seed, 2)
        for question in all_questions(scene, rng):
            asked = careless(question, rng)
            yield f"{BEFORE_IMAGE}{AFTER_IMAGE}{asked.text}{BEFORE_ANSWER} {asked.answer}"


def train_tokenizer() -> Tokenizer:
    """Train the byte-level BPE; every byte has a token, so any text can be read and written back."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, EOS, IMAGE],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The trained tokenizer as Hugging Face saves and loads it; pads on the left, adds no tokens by itself."""
    return PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(),
        pad_token=PAD,
        eos_token=EOS,
        padding_side="left",
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )
