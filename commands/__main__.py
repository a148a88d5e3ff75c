"""``python -m allrounder.commands``: the console script where it is not installed as one."""

import sys

from allrounder.commands.cli import main

sys.exit(main())
