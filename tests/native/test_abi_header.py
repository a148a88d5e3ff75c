"""The C interface only grows: what each released header declared, today's declares too, and means the same by it.

The frozen headers lie in native/tests/abi, where `freeze.py` writes them.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from c_header import lost, read_header, renamed

NATIVE = Path(__file__).parents[2] / "native"
CURRENT = NATIVE / "include/allrounder/c_api.h"
FROZEN = sorted((NATIVE / "tests/abi").glob("c_api_*.h"))


def version_of(text):
    return tuple(int(number) for number in re.findall(r"define AR_VERSION_\w+ (\d+)", text))


def compiles(compiler, standard, source):
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler} here")
    command = [compiler, f"-std={standard}", "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    done = subprocess.run(
        [*command, f"-I{NATIVE / 'include'}", str(source)], check=False, capture_output=True, text=True
    )
    return done.returncode == 0, done.stderr


def test_there_is_a_frozen_header_and_it_is_read():
    assert [path.name for path in FROZEN][:1] == ["c_api_0_1.h"]
    for path in FROZEN:
        text = path.read_text(encoding="utf-8")
        header = read_header(text)
        assert len(header.functions) == len(re.findall(r"^AR_API ", text, re.MULTILINE)) >= 27, path
        assert {"ar_load_options", "ar_request", "ar_timing"} <= header.structs.keys()
        assert header.structs["ar_request"][:2] == ["size_t size", "const uint8_t* rgb"]
        assert header.constants["AR_RUNTIME_CLOSED"] == "51"
        assert {"ar_log_fn", "ar_progress_fn", "ar_piece_fn"} <= header.callbacks.keys()


@pytest.mark.parametrize("path", FROZEN, ids=lambda path: path.stem)
def test_nothing_that_was_released_is_gone(path):
    old, new = (each.read_text(encoding="utf-8") for each in (path, CURRENT))
    if version_of(old)[0] == version_of(new)[0]:  # a new major version may break with the old one
        assert lost(read_header(old), read_header(new)) == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("AR_API void ar_answer_free(ar_answer* answer);", ""),
        ("void* user, ar_level level, const char* message", "void* user, const char* message"),
        ("AR_BUNDLE_CORRUPT = 21", "AR_BUNDLE_CORRUPT = 24"),
        ("  int64_t width; ", "  int32_t width; "),
        ("typedef struct ar_prompt ar_prompt;", ""),
        ("  double tpot_ms;          /* target", "  double more_ms;\n  double tpot_ms;          /* target"),
    ],
)
def test_a_planted_break_is_found(before, after):
    text = FROZEN[0].read_text(encoding="utf-8")
    assert before in text
    assert lost(read_header(text), read_header(text.replace(before, after))) != []


def test_growth_is_no_break():
    text = FROZEN[0].read_text(encoding="utf-8")
    grown = text.replace("handed to `piece` */\n", "handed to `piece` */\n  int64_t more;\n")
    grown = grown.replace(
        "AR_API const char* ar_version(void);", "AR_API const char* ar_version(void);\nAR_API int ar_more(void);"
    )
    old, new = read_header(text), read_header(grown)
    assert len(new.structs["ar_request"]) == len(old.structs["ar_request"]) + 1
    assert lost(old, new) == []


def layout_program(frozen):
    """Returns a C program that compiles if every field of the frozen structs still lies where it lay."""
    lines = [renamed(frozen, "old_"), '#include "allrounder/c_api.h"']
    for name, fields in read_header(frozen).structs.items():
        for field in fields:
            place = f"{name}, {field.split()[-1].lstrip('*')}"
            lines.append(f"CHECK(offsetof(old_{place}) == offsetof({place}));")
        lines.append(f"CHECK(sizeof(old_{name}) <= sizeof({name}));")
    return "\n".join(lines)


@pytest.mark.parametrize("path", FROZEN, ids=lambda path: path.stem)
@pytest.mark.parametrize(
    ("compiler", "standard", "check"), [("gcc", "c11", "_Static_assert"), ("g++", "c++17", "static_assert")]
)
def test_frozen_structs_are_a_prefix_of_todays(path, compiler, standard, check, tmp_path):
    text = path.read_text(encoding="utf-8")
    head = f"#define CHECK(fact) {check}(fact, #fact)\n"
    source = tmp_path / ("layout.c" if compiler == "gcc" else "layout.cpp")
    source.write_text(head + layout_program(text), encoding="utf-8")
    good, said = compiles(compiler, standard, source)
    assert good, said
    source.write_text(
        head + layout_program(text.replace("  int64_t width; ", "  int32_t width, more[3]; ")), encoding="utf-8"
    )
    assert not compiles(compiler, standard, source)[0], "a field that moved must be found"


@pytest.mark.parametrize(("compiler", "standard"), [("gcc", "c99"), ("gcc", "c17"), ("g++", "c++11"), ("g++", "c++17")])
def test_the_header_alone_is_c_and_cxx(compiler, standard, tmp_path):
    source = tmp_path / ("alone.c" if compiler == "gcc" else "alone.cpp")
    source.write_text('#include "allrounder/c_api.h"\nint main(void) { return AR_OK; }\n', encoding="utf-8")
    good, said = compiles(compiler, standard, source)
    assert good, said
