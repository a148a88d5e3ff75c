"""Chat templates: a conversation as text, rendered by the model's own Jinja template as transformers renders it.

What it is: `render`, and `compiled`, which reads a template.
What it knows: the environment that transformers gives to a template (`transformers.utils.chat_template_utils`): an
immutable sandbox, its filters, functions and tags, the special tokens by name.
What it does not know: tokenizers. A template is a stranger's program: what it raises becomes an error of ours.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from allrounder.chat.messages import Messages, plain_messages
from allrounder.errors import InputInvalid
from allrounder.manifest import ChatTemplate

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["compiled", "render"]


def render(
    chat: ChatTemplate, messages: Messages, *, add_generation_prompt: bool = True, now: datetime | None = None
) -> str:
    """Returns a conversation as text.

    Args:
        chat: The model's chat template.
        messages: See `allrounder.chat.messages`; images are not looked at.
        add_generation_prompt: Whether the text ends where the answer begins.
        now: The time that a template gets which asks for it; by default now.

    Raises:
        InputInvalid: They are no messages, or the template refuses them or cannot be rendered; quotes its message.
    """
    moment = now or datetime.now()  # noqa: DTZ005 - local time, as transformers has it
    try:
        return compiled(chat.template).render(
            messages=plain_messages(messages),
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            strftime_now=moment.strftime,
            **chat.special_tokens,
        )
    except InputInvalid:
        raise
    except Exception as error:  # a template is a program, and raises what it likes
        raise InputInvalid(
            "the model's chat template does not take these messages",
            where="messages",
            got=str(error) or type(error).__name__,
            remedy="give roles and contents in the order that the model was trained with",
        ) from error


@lru_cache(maxsize=8)
def compiled(template: str) -> Template:
    """Returns a template, ready to be rendered by any number of threads.

    Raises:
        jinja2.TemplateError: It is not Jinja.
    """
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """``{% generation %}``, which marks answers for training: here a block that writes its body."""

        tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.CallBlock(self.call_method("written"), [], [], body).set_lineno(line)

        def written(self, caller: Callable[[], str]) -> str:
            return caller()

    class Guarded(Namespace):
        """A namespace that takes no name that begins with an underscore."""

        def __init__(*args: Any, **values: Any) -> None:  # a template may call a value of its own `self`
            content: dict[str, Any] = dict(*args[1:], **values)
            Namespace.__init__(args[0])
            for name, value in content.items():
                Guarded.__setitem__(args[0], name, value)

        def __setitem__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                raise TemplateError(f"a namespace takes no name that begins with an underscore: {name!r}")
            super().__setitem__(name, value)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment: Any = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(raise_exception=raise_exception, dict=_Dict(), namespace=Guarded)
    return environment.from_string(template)


class _Dict:
    """``dict`` without the class behind it."""

    def __call__(self, *args: Any, **values: Any) -> dict[Any, Any]:
        return dict(*args, **values)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Jinja's own escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
