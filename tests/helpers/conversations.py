"""Random conversations, and chat templates as models have them, for tests."""

import random

from PIL import Image

WORDS = (
    "what", "is", "the", "red object?", "Qu\u2019est-ce", "\u00dcn\u00ef\u00e7\u00f8de", "e\u0301", "3.14",
    "\u65e5\u672c\u8a9e", "\u0646\u0635", "\U0001f468\u200d\U0001f469", "\u200b", "\x07", "\ufffd", "\ue000",
    "a<b>", "</ s >", "{{ x }}", "{% if %}", "\\n", "'quote\"", "&amp;", "USER:", "ASSISTANT:", "it's",
)  # fmt: skip
SPACES = (" ", " ", " ", "", "  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u2003", " \n ")

# As llava-hf/llava-1.5-7b-hf has it: lists of parts alone, answers marked for training.
LLAVA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{# Render all images first #}{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
    "{{ '<image>\n' }}{% endfor %}{# Render all text next #}{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% else %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
PARTS = (
    "{%- macro shown(content) %}{% if content is string %}{{ content }}{% else %}{% for part in content %}"
    "{{ '<image>\n' if part.type == 'image' else part.text }}{% endfor %}{% endif %}{% endmacro -%}"
)
CHATML = (
    PARTS + "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}{{ shown(message.content) }}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {
    "llava": LLAVA,
    "chatml": CHATML,
    "begin": "{{ bos_token }}" + CHATML,
    # As HuggingFaceTB/SmolVLM2-2.2B-Instruct has it: it asks what the first part is, and refuses a message of none.
    "first-part": "<|im_start|>{% for message in messages %}{{ message.role | capitalize }}"
    "{{ ':' if message.content[0].type == 'image' else ': ' }}{% for part in message.content %}"
    "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{{ 'Assistant:' if add_generation_prompt }}",
    "date": "<|im_start|>system\nToday is {{ strftime_now('%d %B %Y') }}.<|im_end|>\n" + CHATML,
    "trimming": CHATML.replace("{{ shown(message.content) }}", "{{ shown(message.content) | trim }}"),
    "trimming-parts": CHATML.replace("else part.text", "else part.text | trim"),
    "depending": CHATML.replace("part.text }}", "part.text }}{{ ' Look closely.' if part.text and '?' in part.text }}"),
    "measuring": CHATML.replace("part.text }}", "part.text }}{{ ' Short.' if part.text and part.text|length > 20 }}"),
    "thinking": CHATML.replace(
        "{{ shown(message.content) }}",
        "{% if message.role == 'assistant' %}{{ shown(message.content).split('?')[-1].lstrip('\n') }}"
        "{% else %}{{ shown(message.content) }}{% endif %}",
    ),
    "first-system": "{% set rest = messages[1:] if messages[0].role == 'system' else messages %}"
    "{% if messages[0].role == 'system' %}{% set first = messages[0].content %}"
    "{{ first if first is string else first[0].text }}\n\n{% endif %}" + CHATML.replace("in messages", "in rest"),
    "picky": "{% set ns = namespace(images=0) %}{% for message in messages if message.content is not string %}"
    "{% for part in message.content if part.type == 'image' %}{% set ns.images = ns.images + 1 %}{% endfor %}"
    "{% endfor %}{% if ns.images == 0 %}{{ raise_exception('an image, please') }}{% endif %}" + CHATML,
}  # fmt: skip
STRINGS = set(TEMPLATES) - {"llava", "first-part"}  # that take a content that is a text alone


def text(rng: random.Random) -> str:
    words = [rng.choice(WORDS) + rng.choice(SPACES) for _ in range(rng.randint(1, 8))]
    return rng.choice(SPACES) + "".join(words)


def conversation(rng: random.Random, *, strings: bool) -> list[dict]:
    """1 to 4 turns of a user, answers between, 0 to 3 images anywhere in them, perhaps a system prompt."""
    turns = rng.randint(1, 4)
    places = sorted(rng.randrange(turns) for _ in range(rng.randint(0, 3)))
    messages = [message(rng, "system", 0, strings)] if rng.random() < 0.4 else []
    for turn in range(turns):
        messages.append(message(rng, "user", places.count(turn), strings))
        if turn < turns - 1:
            messages.append(message(rng, "assistant", 0, strings))
    return messages


def message(rng: random.Random, role: str, images: int, strings: bool) -> dict:
    if not images and strings and rng.random() < 0.5:
        return {"role": role, "content": text(rng)}
    parts = [{"type": "text", "text": text(rng)} for _ in range(1 if role == "system" else rng.randint(1, 2))]
    parts += [{"type": "image", "image": picture(rng)} for _ in range(images)]
    if role == "user":
        rng.shuffle(parts)
    return {"role": role, "content": parts}


def picture(rng: random.Random) -> Image.Image:
    return Image.new("RGB", (rng.randint(8, 40), rng.randint(8, 40)), (rng.randrange(256), 9, 9))
