"""``python -m allrounder.commands``: the console script where it is not installed as one."""

from allrounder.commands.cli import program

program()
