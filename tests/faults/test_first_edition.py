"""Bundles of the first edition: refused at every door, left alone, built again by the command that is named."""

import shlex
from pathlib import Path

import pytest
from doors import IMAGE

from allrounder import build_engine
from allrounder.commands import cli
from allrounder.engines.bundle.reader import open_bundle
from allrounder.engines.bundle.staging import point_to
from allrounder.errors import BundleCorrupt
from allrounder.runtime import Runtime

MANIFEST = Path(__file__).parents[1] / "golden" / "first-edition.json"


@pytest.fixture
def old(tmp_path):
    """A place where a bundle of the first edition stands: its manifest is all that anybody reads."""
    place = tmp_path / "old"
    place.mkdir()
    point_to(place, MANIFEST.read_bytes())
    return place


def remedy(message: str) -> list[str]:
    """The words of the command that a message names."""
    words = shlex.split(message.partition("remedy: ")[2].partition("directory: ")[2])
    assert words[:2] == ["python", "build_engine.py"]
    return words[2:]


def everything(place):
    return {path: path.read_bytes() for path in place.parent.rglob("*") if path.is_file()}


@pytest.mark.parametrize("more", [(), ("--force",)], ids=["", "force"])
def test_a_build_leaves_it_alone_and_names_the_command_that_builds_it_again(old, tiny, tmp_path, capsys, more):
    before = everything(old)
    assert build_engine.main(tiny.arguments(old, "--version", "par-lite", *more)) == 2
    said = capsys.readouterr().err
    assert "older allrounder" in said
    assert "schema 1" in said
    assert everything(old) == before
    if not more:
        new = tmp_path / "new"
        words = [str(new) if word == "DIRECTORY" else word for word in remedy(said.strip())]
        model = ("--model", str(tiny.vlm), "--router", str(tiny.router), "--calib", str(tiny.prompts))
        assert build_engine.main([*words, *model, "--layer-policy", "dynamic"]) == 0
        assert [entry.version for entry in open_bundle(new).manifest.entries] == ["par-lite"]


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "OLD"),
        ("verify", "OLD"),
        ("run", "--bundle", "OLD", "--image", str(IMAGE), "--question", "what?"),
        ("calibrate", "OLD", "--calib", "PROMPTS"),
        ("bench", "OLD"),
    ],
    ids=lambda words: words[0],
)
def test_every_command_refuses_it_with_that_command(old, tiny, capsys, words):
    before = everything(old)
    given = {"OLD": str(old), "PROMPTS": str(tiny.prompts)}
    assert cli.main([given.get(word, word) for word in words]) == 2
    assert remedy(capsys.readouterr().err.strip()) == ["--version", "par-lite", "--out", "DIRECTORY"]
    assert everything(old) == before


def test_the_runtime_refuses_it_with_that_command(old):
    with pytest.raises(BundleCorrupt, match="older allrounder") as caught:
        Runtime.load(old)
    assert remedy(str(caught.value)) == ["--version", "par-lite", "--out", "DIRECTORY"]
