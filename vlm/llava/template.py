"""The chat template of a model, frozen as text around image and question.

A processor's Jinja template is rendered with a mark in place of the question, cut there, and probes prove that the cut
holds. Runtimes read the segments and need no Jinja.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from allrounder.errors import ModelUnsupported
from allrounder.manifest import PromptTemplate
from allrounder.tokenization import PromptEncoder
from allrounder.vlm.control_tokens import sealed_tokenizer, template_tokens

__all__ = ["freeze_template"]

_MARK = "Qmark"
_CHANGING = {"strftime_now", "random", "lipsum"}  # Hugging Face's clock, and Jinja's names for chance
# Questions that a template which is not a plain concatenation would treat differently: white space at the ends,
# lines, markup, quotes, letters outside ASCII.
_PROBES = ("what is it?", " x ", "two\nlines\n", "\n\nx", "a<b> & 'c' {{ d }}", "Ünï—日本 e\u0301")


def freeze_template(processor: Any, image_token_id: int, named: Collection[int] = ()) -> PromptTemplate:
    """Returns the template of a Llava processor as text segments.

    The tokenizer must know the image token by ``image_token_id``; ``named`` are the ids that the model's configs name.

    Raises:
        ModelUnsupported: There is no template or no image token, the image is not before the question, or the
            template does something with the question that concatenation cannot express; it cannot be rendered, or
            asks for time or chance.
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
    if not processor.chat_template:
        raise ModelUnsupported(
            "no chat template",
            where="chat_template",
            remedy="save the processor with the template that the model was trained with",
        )
    rendered = _render(processor, _MARK)
    _check_lasting(processor)
    if rendered.count(image) != 1 or rendered.count(_MARK) != 1 or rendered.index(image) > rendered.index(_MARK):
        raise ModelUnsupported(
            "a prompt must hold one image and, after it, the question once",
            where="chat_template",
            got=repr(rendered),
            wanted=f"... {image} ... {_MARK} ...",
        )
    before_image, rest = rendered.split(image)
    after_image, after_question = rest.split(_MARK)
    bos = processor.tokenizer.bos_token
    template = PromptTemplate(
        before_image=before_image,
        after_image=after_image,
        after_question=after_question,
        # As `apply_chat_template` does it: a template that writes the begin token itself gets no second one.
        prefix_special=not (bos and rendered.startswith(bos)),
    )
    _check_probes(processor, template, PromptEncoder(sealed_tokenizer(processor, template, named), template))
    return template


def _render(processor: Any, question: str) -> str:
    content = [{"type": "image"}, {"type": "text", "text": question}]
    conversation = [{"role": "user", "content": content}]
    try:
        return processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # a template is a program, and raises what it likes
        raise ModelUnsupported(
            "the chat template cannot be rendered with one image and one question",
            where="chat_template",
            got=f"{type(error).__name__}: {error}",
            wanted="a template that takes a user's message as a list of an image and a text",
            remedy="use the template that the model was trained with",
        ) from error


def _check_lasting(processor: Any) -> None:
    """Checks that the template renders alike at all times: it is rendered once, when the bundle is built."""
    names = {text for kind, text in template_tokens(processor.chat_template) if kind == "name"}
    if changing := sorted(names & _CHANGING):
        raise ModelUnsupported(
            "the chat template asks for time or chance, and a bundle's prompt is fixed when it is built",
            where="chat_template",
            got=", ".join(changing),
            remedy="write the text that the model is to see in its place into the template",
        )


def _check_probes(processor: Any, template: PromptTemplate, encoder: PromptEncoder) -> None:
    """Checks that segments and ids are those of Hugging Face for every probe."""
    image = processor.image_token
    image_id = processor.tokenizer.convert_tokens_to_ids(image)
    for probe in _PROBES:
        joined = template.before_image + image + template.after_image + probe + template.after_question
        rendered = _render(processor, probe)
        if rendered != joined:
            raise ModelUnsupported(
                "the chat template changes the question",
                where="chat_template",
                got=repr(rendered),
                wanted=repr(joined),
                remedy="remove what trims, escapes or rewrites message text from the template",
            )
        whole = processor.tokenizer(rendered, add_special_tokens=template.prefix_special)["input_ids"]
        ours = [*encoder.prefix_ids, image_id, *encoder.suffix_ids(probe)]
        if list(whole) != ours:
            raise ModelUnsupported(
                "the tokenizer cannot tokenise the prompt in parts",
                where="tokenizer.json",
                got=ours,
                wanted=list(whole),
                remedy="special tokens that strip their neighbours, or tokens added after the text, are not supported",
            )
