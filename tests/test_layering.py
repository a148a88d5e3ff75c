"""The import tables of the folders (docs/architecture.md), held by reading every import and every `#include "..."`.

What it is: for each part, the other parts and third-party packages it may import, anywhere in a file.
What it does not know: what is imported at run time by name; the backends' dict is checked by its own tests.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# part: (folder, parts it may import besides itself, third-party packages it may import)
TABLE = {
    # jinja2, tokenizers: one rule for all from messages to ids; numpy, PIL: and from images to tiles
    "contract": ("src/allrounder", set(), {"jinja2", "msgspec", "numpy", "PIL", "tokenizers"}),
    "vlm": (
        "vlm",
        {"contract"},
        {
            "huggingface_hub",  # fetches a hub id
            "jinja2",  # takes a chat template apart
            "numpy",
            "PIL",
            "safetensors",
            "tokenizers",
            "torch",
            "transformers",
            "msgspec",
        },
    ),
    "demo": (
        "demo",
        {"contract", "vlm"},
        {
            "numpy",
            "PIL",
            "safetensors",
            "sklearn",  # handwritten digits
            "tokenizers",
            "torch",
            "transformers",
        },
    ),
    "router": (
        "router",
        {"contract", "vlm", "demo"},  # demo: scenes that teach
        {"msgspec", "numpy", "PIL", "safetensors", "torch", "transformers"},
    ),
    "export": (
        "export",
        {"contract", "vlm", "router", "engines"},  # engines: the bundle whose files are used again
        # verify runs each graph in ONNX Runtime against the eager module; tokenizers writes the golden pairs
        {"ml_dtypes", "msgspec", "numpy", "onnx", "onnxruntime", "PIL", "tokenizers", "torch", "transformers"},
    ),
    "engines": ("engines", {"contract"}, {"msgspec", "numpy", "onnx", "onnxruntime", "openvino"}),
    "runtime": ("runtime", {"contract", "engines"}, {"msgspec", "numpy", "PIL", "tokenizers"}),
    "calib": ("calib", {"contract", "engines", "runtime"}, {"msgspec", "numpy"}),
    "calib.report": (
        "calib/report",
        {"contract", "vlm", "demo", "router", "export", "engines", "runtime", "calib"},
        {"msgspec", "numpy", "PIL", "torch"},
    ),
    "commands": (
        "commands",
        {"contract", "vlm", "demo", "router", "export", "engines", "calib", "calib.report", "runtime"},
        {"jinja2", "matplotlib", "msgspec", "numpy", "PIL", "torch"},  # jinja2, matplotlib: the report's page
    ),
    "serving": (
        "serving",
        {"contract", "engines", "runtime"},
        {
            "msgspec",
            "numpy",
            "PIL",
            "tensorrt_llm",
            "torch",
            "transformers",
        },  # what the frameworks that they live in bring
    ),
}
PARTS = set(TABLE) - {"contract"}
MOST = 16  # files in a folder, its `__init__.py` included
WITH_A_REASON = {"src/allrounder": "the contract: a file for each record that all parts share"}

# folder of native/src: the others whose headers it may include
NATIVE = {
    "contract": {"allrounder"},  # status codes are those of c_api.h
    "images": {"contract"},
    "text": {"contract", "images"},
    "engines": {"contract"},
    "runtime": {"contract", "images", "text", "engines"},
    "c_api": {"allrounder", "contract", "text", "runtime"},
    "gather": set(),
    "ort_ops": {"gather"},
    "tensorrt": {"allrounder", "gather"},  # the plugin
}
MOST_UNITS = 15  # a header and its source are one


def imports_of(path: Path) -> set[str]:
    """Returns the dotted names that a file imports, at any depth."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "allrounder" else set()
    return found


def part_of(name: str) -> str:
    """Returns the part that a dotted name under ``allrounder`` lies in."""
    _, second, third = [*name.split("."), "", ""][:3]
    return next((part for part in (f"{second}.{third}", second) if part in PARTS), "contract")


def files_of(part: str) -> list[Path]:
    """Returns the files of a part, but for those of a part inside it."""
    folder = ROOT / TABLE[part][0]
    inner = [ROOT / other for other, _, _ in TABLE.values() if folder in (ROOT / other).parents]
    return sorted(path for path in folder.rglob("*.py") if not any(other in path.parents for other in inner))


def violations(part: str, paths: list[Path]) -> list[str]:
    _, parts, packages = TABLE[part]
    found = []
    for path in paths:
        for name in sorted(imports_of(path)):
            top = name.partition(".")[0]
            if top == "allrounder":
                if part_of(name) not in parts | {part, "contract"}:
                    found.append(f"{path}: {part} must not import {name}")
            elif top not in packages and top not in sys.stdlib_module_names:
                found.append(f"{path}: {part} must not import {top}")
    return found


@pytest.mark.parametrize("part", TABLE)
def test_a_part_imports_only_what_its_row_allows(part):
    paths = files_of(part)
    assert paths, "an empty part proves nothing"
    assert violations(part, paths) == []


def test_a_planted_violation_is_found(tmp_path):
    planted = tmp_path / "planted.py"
    planted.write_text("def f():\n    import torch\n    from allrounder.vlm.spec import ModelSpec\n", encoding="utf-8")
    assert len(violations("runtime", [planted])) == 2


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
def test_only_its_folder_imports_a_library(library):
    users = {path.parent.name for path in (ROOT / "engines").rglob("*.py") if library in imports_of(path)}
    assert users == {library}


def test_what_runs_engines_imports_nothing_that_builds_them():
    paths = [*files_of("runtime"), *(ROOT / "engines").glob("*/session.py"), ROOT / "engines" / "sessions.py"]
    builders = {"allrounder.engines.backends", "onnx"}
    found = {
        f"{path.name}: {name}"
        for path in paths
        for name in imports_of(path)
        if name in builders or name.endswith(".build")
    }
    assert found == set()


def test_a_folder_is_seen_at_a_glance():
    folders = {path.parent for part in TABLE for path in files_of(part)}
    assert {str(path.relative_to(ROOT)) for path in folders if len(list(path.glob("*.py"))) > MOST} == set(
        WITH_A_REASON
    )


def native_units(folder: str) -> dict[Path, set[str]]:
    """Returns the units in each folder under ``native/<folder>``."""
    units: dict[Path, set[str]] = {}
    for path in (ROOT / "native" / folder).rglob("*"):
        if path.suffix in {".cpp", ".hpp", ".h", ".cu"}:
            units.setdefault(path.parent, set()).add(path.stem)
    return units


def test_every_native_folder_has_a_row():
    assert {path.name for path in (ROOT / "native/src").iterdir() if path.is_dir()} == set(NATIVE)


@pytest.mark.parametrize("folder", NATIVE)
def test_a_native_folder_includes_only_what_its_row_allows(folder):
    included = {
        (path.name, name)
        for path in (ROOT / "native/src" / folder).rglob("*.[ch]*")
        for name in re.findall(r'#include "(\w+)/', path.read_text(encoding="utf-8"))
    }
    assert included, "an empty folder proves nothing"
    assert {(file, name) for file, name in included if name not in NATIVE[folder] | {folder}} == set()


@pytest.mark.parametrize("folder", ["src", "include", "tests", "tools"])
def test_a_native_folder_is_seen_at_a_glance(folder):
    units = native_units(folder)
    assert units
    assert {str(path.relative_to(ROOT)): len(found) for path, found in units.items() if len(found) > MOST_UNITS} == {}


def test_importing_the_runtime_loads_no_torch():
    code = (
        "import sys, allrounder.runtime; "
        "print([m for m in ('torch', 'transformers', 'onnx', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd="/")
    assert done.stdout.strip() == "[]"
