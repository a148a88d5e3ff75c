"""CI's own shell: what a run of steps exits with and says last."""

import shutil
import subprocess
from pathlib import Path

import pytest

CI = Path(__file__).parents[1] / ".ci"
HEAD = 'set -euo pipefail\ncd "$(dirname "$0")/.."\n. .ci/steps.sh\n'


@pytest.fixture
def run(tmp_path):
    """Runs steps as `.ci/run` does; returns the exit code and the last line."""
    (tmp_path / ".ci").mkdir()
    for name in ("steps.sh", "native.sh"):
        shutil.copy(CI / name, tmp_path / ".ci")

    def run_steps(body: str) -> tuple[int, str]:
        script = tmp_path / ".ci" / "made-up"
        script.write_text(HEAD + body)
        ran = subprocess.run(["bash", script], capture_output=True, text=True, timeout=60, check=False)
        return ran.returncode, ran.stdout.splitlines()[-1]

    return run_steps


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ("step one\ntrue\nstep two\n", 0, "all 2 steps passed"),
        ("step one\nstart side true\nfinish side\n", 0, "all 1 steps passed"),
        ("step one\nstart side sleep 60\n", 0, "all 1 steps passed"),
        ("step one\nstep two\n(exit 3)\nstep three\n", 3, "FAILED at 'two'"),
        ("step one\nstart side false\nfinish side\nstep two\n", 1, "FAILED at 'one'"),
        ("step one\nif passed it; then exit 7; fi\n", 0, "all 1 steps passed"),
    ],
    ids=["passed", "finished", "left_running", "failed", "failed_beside", "never_passed"],
)
def test_a_run_ends_with_what_happened(run, body, code, says):
    returned, last = run(body)
    assert (returned, says in last) == (code, True), last


def test_a_pass_is_remembered_for_these_files_alone(run, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "native" / "one"
    source.parent.mkdir()
    source.write_text("one")
    remembered, asked = "remember it\n", "if passed it; then exit 7; fi\n"
    assert run(remembered)[0] == 0
    assert run(asked)[0] == 0, "remembered without a commit"
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "native")
    git(tmp_path, "commit", "-qm", "one")
    assert run(asked)[0] == 0, "passed before it ran"
    run(remembered)
    assert run(asked)[0] == 7
    source.write_text("two")
    assert run(asked)[0] == 0, "a change was not seen"
    git(tmp_path, "commit", "-qam", "two")
    assert run(asked)[0] == 0, "a commit was not seen"


def git(folder: Path, *command: str) -> None:
    subprocess.run(["git", "-C", folder, "-c", "user.name=n", "-c", "user.email=n@e", *command], check=True)
