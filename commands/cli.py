"""The console script ``allrounder``.

Here alone a command's error becomes a message and an exit code. A command's module, imported on use, has
``add_arguments(parser)`` and ``run(arguments) -> int``.

Exit codes: 0 success, 1 a command's own "no", 2 wrong use or an error of allrounder's tree (one message, no traceback;
``--traceback`` before the subcommand shows it), 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn, Protocol, cast

from allrounder import __version__
from allrounder.errors import AllRounderError

__all__ = ["COMMANDS", "main", "program", "quiet", "run_command"]


class Command(NamedTuple):
    """Where a subcommand lives, and its line in the list."""

    module: str
    summary: str


COMMANDS = {
    "build": Command("allrounder.commands.build", "freeze versions of a model into a bundle of engines"),
    "train-router": Command("allrounder.commands.train_router", "train the meta-router of a model"),
    "calibrate": Command("allrounder.commands.calibrate", "measure fidelity and latency on your own prompts"),
    "report": Command("allrounder.commands.report.command", "measure the fidelity report of a model and its router"),
    "run": Command("allrounder.commands.run", "ask a bundle a question about an image"),
    "bench": Command("allrounder.commands.bench", "time versions side by side"),
    "inspect": Command("allrounder.commands.inspect", "show what is in a bundle, and what an image keeps"),
    "verify": Command("allrounder.commands.verify", "hash every byte of a bundle, and compare with its manifest"),
}
_BUILD_PACKAGES = {"ml_dtypes", "onnx", "safetensors", "torch", "transformers"}


class _Module(Protocol):
    """A subcommand's module."""

    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def program() -> NoReturn:
    """The console script itself: `main` in a process of its own."""
    quiet()
    sys.exit(main())


def quiet() -> None:
    """Hides warnings of other packages in this process and its children; ``-W`` or PYTHONWARNINGS shows them.

    They speak to who writes the calls, not to who types a command.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        os.environ["PYTHONWARNINGS"] = "ignore"
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``allrounder <command> ...``; returns the exit code."""
    lines = "\n".join(f"  {name:<14}{command.summary}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="allrounder",
        description="Vision-language models, pruned for real.",
        epilog=f"commands:\n{lines}\n\n`allrounder COMMAND --help` lists the arguments of one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"allrounder {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error was raised")
    parser.add_argument("command", metavar="COMMAND", choices=tuple(COMMANDS), help=", ".join(COMMANDS))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    return run_command(arguments.command, arguments.arguments, traceback=arguments.traceback)


def run_command(name: str, argv: Sequence[str], *, prog: str | None = None, traceback: bool = False) -> int:
    """Runs one subcommand with its arguments; returns the exit code.

    Args:
        name: One of `COMMANDS`.
        argv: Its arguments.
        prog: How the program is called in its help; default ``allrounder <name>``.
        traceback: Let errors of allrounder's tree through instead of printing their message.
    """
    try:
        module = cast("_Module", importlib.import_module(COMMANDS[name].module))
        parser = argparse.ArgumentParser(prog=prog or f"allrounder {name}")
        module.add_arguments(parser)
        return module.run(parser.parse_args(list(argv)))
    except AllRounderError as error:
        if traceback:
            raise
        print(f"allrounder {name}: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in _BUILD_PACKAGES or traceback:
            raise
        remedy = "pip install 'allrounder[build]'"
        print(f"allrounder {name}: this command needs the package {error.name}; remedy: {remedy}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"allrounder {name}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away: not our error, and nothing more can be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
