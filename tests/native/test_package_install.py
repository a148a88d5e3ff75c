"""What `cmake --install` lays down, and that programs of others find it, link it and run."""

import re
import subprocess
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "native"
VERSION = ".".join(re.findall(r"AR_VERSION_\w+ (\d+)", (NATIVE / "include/allrounder/c_api.h").read_text("utf-8")))


def run(*command, **options):
    return subprocess.run([str(each) for each in command], check=False, capture_output=True, text=True, **options)


def consumers(prefix, folder, wanted=""):
    source = NATIVE / "tests/package/consumer"
    found = f"-Dallrounder_DIR={prefix}/lib/cmake/allrounder"
    return run("cmake", "-S", source, "-B", folder, "-G", "Ninja", found, f"-DWANTED={wanted}")


def test_everything_is_laid_down_and_nothing_else(prefix):
    there = sorted(str(path.relative_to(prefix)) for path in prefix.rglob("*") if not path.is_dir())
    optional = [name for name in there if name == "lib/liballrounder_tensorrt_plugin.so"]
    major = VERSION.partition(".")[0]
    assert there == sorted(
        [
            "bin/allrounder-native",
            "include/allrounder/allrounder.hpp",
            "include/allrounder/c_api.h",
            "include/allrounder/request.hpp",
            "lib/cmake/allrounder/allrounder-config-version.cmake",
            "lib/cmake/allrounder/allrounder-config.cmake",
            "lib/cmake/allrounder/allrounder-targets-release.cmake",
            "lib/cmake/allrounder/allrounder-targets.cmake",
            "lib/liballrounder.so",
            f"lib/liballrounder.so.{major}",
            f"lib/liballrounder.so.{VERSION}",
            "lib/liballrounder_ort_ops.so",
            "share/doc/allrounder/LICENSE",
            *optional,
        ]
    )
    assert (prefix / "lib/liballrounder.so").resolve().name == f"liballrounder.so.{VERSION}"


def test_no_folder_of_the_builder_is_named(prefix, native_build):
    for path in (prefix / "lib/cmake/allrounder").iterdir():
        text = path.read_text(encoding="utf-8")
        assert str(NATIVE) not in text, path
        assert str(native_build) not in text, path


@pytest.mark.parametrize("program", ["c_consumer", "cxx_consumer"])
def test_programs_of_others_find_it(prefix, tmp_path, program):
    configured = consumers(prefix, tmp_path, VERSION.rpartition(".")[0])
    assert configured.returncode == 0, configured.stderr
    built = run("cmake", "--build", tmp_path, "--target", program)
    assert built.returncode == 0, built.stdout
    assert run(tmp_path / program, cwd="/").stdout == f"{VERSION} BundleError\n"


@pytest.mark.parametrize("wanted", ["1.0", "99"])
def test_another_major_version_is_not_taken(prefix, tmp_path, wanted):
    configured = consumers(prefix, tmp_path, wanted)
    assert configured.returncode != 0
    assert "version" in configured.stderr
