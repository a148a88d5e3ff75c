"""The import table of the house (docs/architecture.md), held by reading every import statement.

What it is: for each room, the other rooms and third-party packages it may import, anywhere in a file.
What it does not know: what is imported at run time by name; the backends' dict is checked by its own tests.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# room: (folder, rooms it may import besides itself, third-party packages it may import)
TABLE = {
    "contract": ("src/allrounder", set(), {"msgspec"}),
    "hosts": (
        "hosts",
        {"contract"},
        {
            "huggingface_hub",  # fetches a hub id
            "jinja2",  # takes a chat template apart
            "numpy",
            "PIL",
            "safetensors",
            "sklearn",  # the demo scenes' handwritten digits
            "tokenizers",
            "torch",
            "tqdm",
            "transformers",
            "msgspec",
        },
    ),
    "router": (
        "router",
        {"contract", "hosts"},
        {"msgspec", "numpy", "PIL", "safetensors", "torch", "tqdm", "transformers"},
    ),
    "export": (
        "export",
        {"contract", "hosts", "router"},
        # verify runs each graph in ONNX Runtime against the eager module; tokenizers writes the golden pairs
        {"ml_dtypes", "msgspec", "numpy", "onnx", "onnxruntime", "PIL", "tokenizers", "torch", "transformers"},
    ),
    # numpy moves the bytes of weights that leave in another layout
    # (TensorRT is imported by name, in `tensorrt_library`)
    "engines": ("engines", {"contract"}, {"msgspec", "numpy", "onnx", "onnxruntime", "openvino"}),
    "runtime": ("runtime", {"contract"}, {"msgspec", "numpy", "onnxruntime", "openvino", "PIL", "tokenizers"}),
    "calib": ("calib", {"contract", "runtime"}, {"msgspec", "numpy"}),
    "commands": (
        "commands",
        {"contract", "hosts", "router", "export", "engines", "calib", "runtime"},
        {"matplotlib", "msgspec", "numpy", "PIL", "torch"},  # matplotlib: the card's page, in its plots alone
    ),
    "integrations": (
        "integrations",
        {"contract", "engines", "runtime"},
        {"numpy", "tensorrt_llm", "torch", "transformers"},  # what the frameworks that they live in bring
    ),
}
ROOMS = set(TABLE) - {"contract"}


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


def room_of(name: str) -> str:
    """Returns the room that a dotted name under ``allrounder`` lies in."""
    second = [*name.split("."), ""][1]
    return second if second in ROOMS else "contract"


def violations(room: str, paths: list[Path]) -> list[str]:
    _, rooms, packages = TABLE[room]
    found = []
    for path in paths:
        for name in sorted(imports_of(path)):
            top = name.partition(".")[0]
            if top == "allrounder":
                if room_of(name) not in rooms | {room, "contract"}:
                    found.append(f"{path}: {room} must not import {name}")
            elif top not in packages and top not in sys.stdlib_module_names:
                found.append(f"{path}: {room} must not import {top}")
    return found


@pytest.mark.parametrize("room", TABLE)
def test_a_room_imports_only_what_its_row_allows(room):
    paths = sorted((ROOT / TABLE[room][0]).rglob("*.py"))
    assert paths, "an empty room proves nothing"
    assert violations(room, paths) == []


def test_a_planted_violation_is_found(tmp_path):
    planted = tmp_path / "planted.py"
    planted.write_text("def f():\n    import torch\n    from allrounder.hosts.spec import HostSpec\n", encoding="utf-8")
    assert len(violations("runtime", [planted])) == 2


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
def test_only_its_backend_file_imports_a_library(library):
    users = {path.name for path in (ROOT / "runtime").rglob("*.py") if library in imports_of(path)}
    assert users == {f"{library}_backend.py"}


def test_importing_the_runtime_loads_no_torch():
    code = (
        "import sys, allrounder.runtime; "
        "print([m for m in ('torch', 'transformers', 'onnx', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd="/")
    assert done.stdout.strip() == "[]"
