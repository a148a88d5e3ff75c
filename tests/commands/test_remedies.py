"""Remedies are kept: every flag that an error names exists, and every command line that one prints is taken."""

import argparse
import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

import allrounder.commands.build
from allrounder.commands.cli import COMMANDS
from allrounder.engines.tensorrt_llm.limits import checkpoint_parser

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("calib", "commands", "demo", "engines", "export", "router", "runtime", "serving", "src/allrounder", "vlm")
FOREIGN = {"--help"}
COMMAND = re.compile(r"(?:allrounder|python build_engine\.py)(?: [a-z][a-z-]*)?(?: --[a-z-]+(?: [^\s,;:()`]+)?)+")


def parser_of(name):
    parser = argparse.ArgumentParser(exit_on_error=False)
    importlib.import_module(COMMANDS[name].module).add_arguments(parser)
    return parser


def flags_of(parser):
    return {flag for action in parser._actions for flag in action.option_strings}


FLAGS = set().union(FOREIGN, *(flags_of(parser_of(name)) for name in COMMANDS), flags_of(checkpoint_parser("x", "y")))


def said():
    """What errors say by `where` and `remedy`, as far as it is written down: values stand as VALUE."""
    for path in (file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call):
                values = [keyword.value for keyword in call.keywords if keyword.arg in ("where", "remedy")]
            elif isinstance(call, ast.Assign):
                names = {name.id for name in call.targets if isinstance(name, ast.Name)}
                values = [call.value] if names & {"remedy", "command", "_REMEDY"} else []
            else:
                continue
            yield from ((f"{path.relative_to(ROOT)}:{value.lineno}", written(value)) for value in values)


def written(node):
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(written, node.values))
    if isinstance(node, ast.FormattedValue):
        return "VALUE"
    return " ".join(map(written, ast.iter_child_nodes(node))) or "VALUE"


SAID = list(said())
COMMANDS_SAID = [(place, command) for place, text in SAID for command in COMMAND.findall(text)]


def test_errors_name_flags_and_commands():
    assert len([text for _, text in SAID if "--" in text]) > 30
    assert len(COMMANDS_SAID) >= 3


def test_every_flag_that_an_error_names_exists():
    unknown = {
        (place, flag) for place, text in SAID for flag in re.findall(r"--[a-z][a-z-]*", text) if flag not in FLAGS
    }
    assert not unknown


@pytest.mark.parametrize(("place", "command"), COMMANDS_SAID)
def test_every_command_line_that_an_error_prints_is_taken(place, command):
    words = shlex.split(command)
    name, rest = ("build", words[2:]) if words[0] == "python" else (words[1], words[2:])
    parser_of(name).parse_args(rest)


def test_the_router_of_another_model_is_trained_by_the_command_that_is_printed():
    parser = parser_of("build")
    arguments = parser.parse_args(["--model", "some where/model"])
    with pytest.raises(allrounder.commands.build.InputInvalid) as caught:
        allrounder.commands.build.request_from(arguments)
    command = COMMAND.search(str(caught.value).replace("'some where/model'", "model"))[0]
    given = parser_of("train-router").parse_args(shlex.split(command)[2:])
    assert given.model == "model"
    assert given.prompts is not None  # else training refuses to begin
    assert given.out == Path("my-router")
