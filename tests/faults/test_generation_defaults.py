"""What a model's author says about generating is done as stock `generate` does it, or said, or refused."""

import pytest
from doors import like_stock

EVERY_THIRD = list(range(0, 320, 3))  # so many stop tokens that a random model meets one soon
NEVER = 319  # one that it does not meet


def stops(top="absent", text="absent", generation="absent"):
    """Returns edits of both configs, and whether ``generation_config.json`` stays; "absent" takes the key away."""

    def put(holder, value):
        holder.pop("eos_token_id", None)
        holder |= {} if value == "absent" else {"eos_token_id": value}

    def config(content):
        put(content, top)
        put(content["text_config"], text)

    return {"config.json": config} | (
        {} if generation == "absent" else {"generation_config.json": lambda content: put(content, generation)}
    )


@pytest.mark.parametrize(
    ("top", "text", "generation"),
    [
        (EVERY_THIRD, "absent", "absent"),
        (NEVER, EVERY_THIRD, "absent"),
        (EVERY_THIRD, NEVER, "absent"),
        (None, EVERY_THIRD, "absent"),
        (EVERY_THIRD, None, "absent"),
        ("absent", EVERY_THIRD, "absent"),
        (EVERY_THIRD, EVERY_THIRD, NEVER),
        (NEVER, NEVER, EVERY_THIRD),
        ("absent", "absent", [NEVER, NEVER]),
        ("absent", "absent", EVERY_THIRD),
    ],
)
def test_an_answer_ends_where_transformers_ends_it(model, build, top, text, generation):
    directory = model(edits=stops(top, text, generation))
    if generation == "absent":
        (directory / "generation_config.json").unlink()
    built = build(directory)
    assert built.code == 0, built.stderr
    assert like_stock(built, directory, tokens=24)


@pytest.mark.parametrize(
    ("top", "text", "generation"),
    [
        ("absent", "absent", "absent"),  # the class default of LlamaConfig, 2, is nobody's word
        (1, 1, None),  # generation_config.json alone counts, and says nothing: transformers never stops
        ("absent", "absent", []),
        ("absent", "absent", -1),
        ("absent", "absent", 2.0),
        ("absent", "absent", True),
        ("absent", "absent", "1"),
        ("absent", "absent", [1, None]),
        ("absent", "absent", {"a": 1}),
    ],
)
def test_no_usable_stop_token_is_refused(model, build, top, text, generation):
    directory = model(edits=stops(top, text, generation))
    if generation == "absent":
        (directory / "generation_config.json").unlink()
    assert build(directory).refused("eos_token_id", "remedy")


@pytest.mark.parametrize("text", ["{", "", "[]", "null", "3", '{"eos_token_id": 1', "\udc80"])
def test_a_broken_generation_config_is_refused(model, build, text):
    directory = model()
    (directory / "generation_config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert build(directory).refused("generation_config.json", "remedy")


@pytest.mark.parametrize(
    "said", [{"max_new_tokens": -1}, {"max_new_tokens": "x"}, {"cache_implementation": "none"}, {"early_stopping": 3}]
)
def test_a_generation_config_that_transformers_refuses_is_refused(model, build, said):
    directory = model(edits={"generation_config.json": lambda content: content.update(said)})
    assert build(directory).refused("generation_config.json", "remedy")


APPLIED = {
    "repetition_penalty": 1.8,
    "no_repeat_ngram_size": 2,
    "suppress_tokens": [5, 6],
    "begin_suppress_tokens": [7],
    "bad_words_ids": [[5]],
    "sequence_bias": [[[5], -3.0]],
    "forced_bos_token_id": 9,
    "forced_eos_token_id": 1,
    "exponential_decay_length_penalty": [3, 1.5],
    "guidance_scale": 1.5,
    "encoder_repetition_penalty": 1.5,
    "min_length": 700,
    "min_new_tokens": 9,
    "max_new_tokens": 9,
    "max_length": 99,
    "max_time": 1.5,
    "stop_strings": ["the"],
    "num_beams": 3,
}
SILENT = {"renormalize_logits": True, "use_cache": True, "pad_token_id": 1, "chat_format": "chatml"}


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
def test_what_generate_would_apply_is_said_by_key_and_value(model, build, file):
    directory = model(edits={file: lambda content: content.update(APPLIED | SILENT)})
    if file == "config.json":  # transformers reads it there where the other file is missing
        (directory / "generation_config.json").unlink()
    built = build(directory)
    assert built.code == 0, built.stderr
    (told,) = [line for line in built.stderr.splitlines() if "transformers' generate would apply" in line]
    assert str(directory) in told
    assert all(f"{key}={value!r}" in told for key, value in APPLIED.items())
    assert not any(key in told for key in SILENT)


@pytest.mark.parametrize("key", ["repetition_penalty", "stop_strings"])
def test_one_key_alone_is_said_alone(model, build, key):
    built = build(model(edits={"generation_config.json": lambda content: content.update({key: APPLIED[key]})}))
    assert f"would apply {key}={APPLIED[key]!r}, as" in built.stderr


def test_what_a_request_may_say_is_not_called_lost(model, build):
    edit = {"generation_config.json": lambda content: content.update(max_new_tokens=16)}
    told = build(model(edits=edit)).stderr
    assert "a bundle does so where a request says max_new_tokens\n" in told
    assert "cannot" not in told


def test_sampling_is_said_with_all_that_goes_with_it(model, build):
    said = {"do_sample": True, "temperature": 0.2, "top_p": 0.7}
    built = build(model(edits={"generation_config.json": lambda content: content.update(said)}))
    assert built.code == 0
    assert "do_sample=True, temperature=0.2, top_k=50, top_p=0.7" in built.stderr


@pytest.mark.parametrize(
    "said",
    [
        {"do_sample": False, "temperature": 0.2, "top_p": 0.7, "top_k": 9},  # read by nobody who does not sample
        {"length_penalty": 2.0, "early_stopping": True},  # of beams, and there is one
        {"max_length": 4096},  # longer than any sequence of this model
        {"repetition_penalty": 1.0, "min_length": 0, "num_beams": 1, "no_repeat_ngram_size": 0, "bad_words_ids": None},
    ],
)
def test_what_changes_no_answer_is_not_said(model, build, said):
    directory = model(edits={"generation_config.json": lambda content: content.update(said)})
    built = build(directory)
    assert built.code == 0
    assert "generate would apply" not in built.stderr
    assert like_stock(built, directory, tokens=24)
