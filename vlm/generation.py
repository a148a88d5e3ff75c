"""What the author of a model says about generating: which ids end an answer, and what else stock `generate` would do.

transformers takes ``generation_config.json`` where there is one, and then nothing else; otherwise it takes what is
written in ``config.json``, at its top before its ``text_config``, but no class default.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from allrounder.errors import ModelUnreadable, ModelUnsupported

__all__ = ["read_generation", "stop_ids", "unheeded_note"]

GENERATION = "generation_config.json"
# What changes an answer, with the values that change nothing (None is always one of them). `generate` reads the second
# table only when it samples, the third only with several beams, the last with `penalty_alpha`.
_ALWAYS: dict[str, tuple[Any, ...]] = {
    "repetition_penalty": (1,),
    "encoder_repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "bad_words_ids": ([],),
    "sequence_bias": ([], {}),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (),
    "guidance_scale": (1,),
    "watermarking_config": (),
    "token_healing": (False,),
    "remove_invalid_values": (False,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "max_length": (20,),  # counts the prompt; the library's own default
    "max_new_tokens": (),
    "max_time": (),
    "stop_strings": ([], ""),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "num_beam_groups": (1,),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "constraints": (),
    "force_words_ids": (),
    "do_sample": (False,),
}
_SAMPLING: dict[str, tuple[Any, ...]] = {
    "temperature": (1,),
    "top_k": (0,),
    "top_p": (1,),
    "min_p": (),
    "top_h": (),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
}
_BEAMS: dict[str, tuple[Any, ...]] = {"length_penalty": (1,), "early_stopping": (False,), "diversity_penalty": (0,)}
_PER_REQUEST = ("do_sample", "temperature", "top_k", "top_p", "max_new_tokens", "stop_strings")


def read_generation(directory: Path | str) -> GenerationConfig:
    """Returns the generation config that stock `from_pretrained` gives the model of a directory.

    Raises:
        ModelUnreadable: ``generation_config.json``, or ``config.json`` in its stead, is no JSON object.
        ModelUnsupported: transformers does not accept what is in it.
    """
    own = Path(directory) / GENERATION
    path = own if own.is_file() else Path(directory) / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if not isinstance(content, dict):
        raise _unreadable(path, type(content).__name__)
    try:
        return GenerationConfig.from_dict(content) if path == own else GenerationConfig.from_model_config(content)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ModelUnsupported(
            "transformers does not accept this generation config", where=path, got=error, remedy="mend or remove it"
        ) from error


def stop_ids(directory: Path | str) -> tuple[int, ...]:
    """Returns the ids that end an answer, as stock `generate` has them.

    Raises:
        ModelUnreadable, ModelUnsupported: See `read_generation`; or there is none, or one that is no id.
    """
    found: Any = read_generation(directory).eos_token_id
    ids = found if isinstance(found, list) else [] if found is None else [found]
    if not ids or not all(type(each) is int and each >= 0 for each in ids):
        raise ModelUnsupported(
            "no stop token, with which transformers would never end an answer",
            where="eos_token_id",
            got=found,
            wanted="one id, or a list of them",
            remedy=f"write eos_token_id into {Path(directory) / GENERATION}",
        )
    return tuple(dict.fromkeys(ids))


def unheeded_note(directory: Path | str, max_positions: int) -> str | None:
    """Returns a sentence on what the author asks of stock `generate` and our runtimes do not do unasked.

    A ``max_length`` of ``max_positions`` or more says nothing.
    """
    asked = dict(_asked(read_generation(directory)))
    if asked.get("max_length", 0) >= max_positions:
        del asked["max_length"]
    if not asked:
        return None
    listed = ", ".join(f"{key}={value!r}" for key, value in asked.items())
    given = [key for key in asked if key in _PER_REQUEST]
    lost = [key for key in asked if key not in _PER_REQUEST]
    return f"note: transformers' generate would apply {listed}, as {directory} asks" + "".join(
        f"; {what} {', '.join(keys)}"
        for keys, what in (
            (given, "a bundle does so where a request says"),
            (lost, "a bundle cannot, and answers differ where they depend on"),
        )
        if keys
    )


def _asked(config: GenerationConfig) -> Iterator[tuple[str, Any]]:
    tables = dict(_ALWAYS)
    tables |= _SAMPLING if config.do_sample else {"top_k": (0, 1)} if config.penalty_alpha else {}
    tables |= _BEAMS if (config.num_beams or 1) > 1 else {}
    for key, neutral in tables.items():
        value = getattr(config, key, None)
        if key == "top_k" and config.do_sample and value is None:
            value = 50  # the library's own default
        if value is not None and value not in neutral:
            yield key, value


def _unreadable(path: Path, got: object) -> ModelUnreadable:
    return ModelUnreadable("a config that cannot be read", where=path, got=got, remedy="mend it, or download it again")
