"""Links the top-level folders into ``build/types/allrounder``, so that a type checker sees one package.

What it is: a link farm for checkers that do not follow editable installs.
What it knows: the mapping table in pyproject.toml. What it does not know: how packages are installed.
"""

import shutil
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> None:
    """Makes the farm anew."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["scikit-build"]
    farm = ROOT / "build" / "types"
    shutil.rmtree(farm, ignore_errors=True)
    package = farm / "allrounder"
    package.mkdir(parents=True)
    for name, source in table["wheel"]["packages"].items():
        origin = ROOT / source
        if name == "allrounder":
            for item in origin.iterdir():
                if item.name != "__pycache__":
                    (package / item.name).symlink_to(item)
        else:
            (farm / name).symlink_to(origin)


if __name__ == "__main__":
    main()
