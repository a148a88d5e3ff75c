"""The chat template of a model, read from its processor and checked.

What it is: `read_chat`, what a processor says of its conversations; `golden_prompts`, which proves on
conversations that we make the ids that Hugging Face makes.
What it knows: how Hugging Face renders and tokenises a conversation. What it does not know: the model.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from allrounder.chat.messages import Message, question, texts_of
from allrounder.chat.template import compiled, render
from allrounder.chat.tokenization import ChatEncoder
from allrounder.errors import InputInvalid, ModelUnsupported
from allrounder.golden import GOLDEN_TIME, GoldenPrompt
from allrounder.manifest import ChatTemplate
from allrounder.vlm.control_tokens import template_tokens

__all__ = ["CONVERSATIONS", "golden_prompts", "read_chat"]

_CHANCE = {"random", "lipsum"}  # Jinja's words for it


def _turn(role: str, *parts: str) -> Message:
    """Returns a message; an empty part is an image."""
    content = [{"type": "text", "text": part} if part else {"type": "image"} for part in parts]
    return {"role": role, "content": content}


# The first is what a template must take; others may be refused. Each tries something that tokenizers get wrong: white
# space at the borders, normal forms, digits, letters of other scripts, signs outside the basic plane, control
# characters, markup, long words, byte fallback; and something that templates do: turns, roles, places of images.
CONVERSATIONS: Final[tuple[list[Message], ...]] = (
    question("what is the red object?"),
    question("  how many  circles are there?  "),
    question("first line\nsecond line\r\n\n\tthird"),
    question("Qu\u2019est-ce que c\u2019est? \u00dcn\u00ef\u00e7\u00f8de e\u0301 \u00e9 a\u030a \u00e5 \ufb01"),
    question("a<b> & 'c' {{ d }} \\n </ s > it's I'LL we've", images=2),
    question("\x07 \x7f \u200b\u200e\ufffd ~^|", images=0),
    [{"role": "user", "content": "Read the digits: 0123456789 42 3.14"}],
    [_turn("user", "\u8fd9\u662f\u4ec0\u4e48\uff1f", "", " \u3053\u308c\u306f \u0446\u0432\u0435\u0442 \u0645\u0627")],
    [_turn("user", "", "x" * 200 + " \u00a0\u2003end", "", "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 ok?")],
    [_turn("system", "Answer in one word."), _turn("user", "", "what is it ?")],
    [_turn("user", "", "one?\n"), _turn("assistant", " yes. "), _turn("user", "\n two?")],
    [_turn("user", "", "this?"), _turn("assistant", "a ring"), _turn("user", "", "and that?", "")],
)


def read_chat(processor: Any, image_token_id: int) -> ChatTemplate:
    """Returns the chat template of a processor.

    Args:
        processor: A `Processor`, or a stock one: tokenizer, image token and chat template.
        image_token_id: The model's; the tokenizer must know it by the same id.

    Raises:
        ModelUnsupported: There is no image token or no template, or the template is not Jinja or asks for chance.
    """
    image = processor.image_token
    known = processor.tokenizer.convert_tokens_to_ids(image)
    if known != image_token_id or image == processor.tokenizer.unk_token:
        raise ModelUnsupported(
            f"the tokenizer does not know {image!r} as the model's image token",
            where="image_token_index",
            got=known,
            wanted=image_token_id,
            remedy="use the processor that belongs to this checkpoint",
        )
    templates = processor.chat_template
    template = templates.get("default") if isinstance(templates, dict) else templates
    if not template:
        raise ModelUnsupported(
            "no chat template",
            where="chat_template",
            remedy="save the processor with the template that the model was trained with",
        )
    try:
        compiled(template)
    except Exception as error:  # Jinja has errors of its own, and lets Python's through
        raise ModelUnsupported(
            "the chat template is not Jinja",
            where="chat_template",
            got=f"{type(error).__name__}: {error}",
            remedy="use the template that the model was trained with",
        ) from error
    if chance := sorted({word for kind, word in template_tokens(template) if kind == "name"} & _CHANCE):
        raise ModelUnsupported(
            "the chat template asks for chance, and the same messages must give the same prompt",
            where="chat_template",
            got=", ".join(chance),
            remedy="write the text that the model is to see in its place into the template",
        )
    return ChatTemplate(template=template, special_tokens=processor.tokenizer.special_tokens_map, image_token=image)


def golden_prompts(processor: Any, tokenizer_json: str, chat: ChatTemplate) -> list[GoldenPrompt]:
    """Returns those of `CONVERSATIONS` that the template takes, checked against Hugging Face's own text and ids.

    Args:
        processor: A `Processor`, or a stock one.
        tokenizer_json: Its tokenizer, control tokens sealed (`allrounder.vlm.control_tokens`).
        chat: Its chat template.

    Raises:
        ModelUnsupported: The template does not take one user turn with an image and a text; or we make other text or
            other ids than Hugging Face.
    """
    encoder, prompts = ChatEncoder(tokenizer_json, chat), list[GoldenPrompt]()
    for number, messages in enumerate(CONVERSATIONS):
        try:
            ids, text = encoder.ids(messages, GOLDEN_TIME), render(chat, messages, now=GOLDEN_TIME)
        except InputInvalid as error:
            if number:
                continue
            raise ModelUnsupported(
                "the chat template does not take a user's message of one image and one text",
                where="chat_template",
                got=error,
                wanted="a template that takes it as a list of an image and a text",
                remedy="use the template that the model was trained with",
            ) from error
        if all(part.strip() in text for part in texts_of(messages)):  # else transformers leaves it out, and we do not
            _check_stock(processor, encoder, chat, messages)
            prompts.append(GoldenPrompt(messages=messages, text=text, input_ids=ids))
    return prompts


def _check_stock(processor: Any, encoder: ChatEncoder, chat: ChatTemplate, messages: list[Message]) -> None:
    """Checks that text and ids of a conversation are those of Hugging Face."""
    for last in (False, False, True):  # a second may pass between our rendering and theirs
        now = datetime.now()  # noqa: DTZ005 - as transformers has it
        text, ours = render(chat, messages, now=now), encoder.ids(messages, now)
        stock = processor.apply_chat_template(messages, add_generation_prompt=True)
        if text == stock:
            break
        if last:
            raise ModelUnsupported(
                "the chat template is rendered otherwise than by transformers",
                where=f"chat_template: {messages!r}",
                got=repr(text),
                wanted=repr(stock),
                remedy="a template must not ask for the time in fractions of a second",
            )
    bos = processor.tokenizer.bos_token
    special = not (bos and stock.startswith(bos))  # as `apply_chat_template` does it
    whole = tuple(processor.tokenizer(stock, add_special_tokens=special)["input_ids"])
    if whole != ours:
        raise ModelUnsupported(
            "the tokenizer cannot tokenise the prompt in parts",
            where=f"tokenizer.json: {stock!r}",
            got=ours,
            wanted=whole,
            remedy="special tokens that strip their neighbours, or tokens added after the text, are not supported",
        )
