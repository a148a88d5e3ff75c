"""The machine's fingerprint, read from imagined /proc and cgroup files."""

import os

import pytest

from allrounder import fingerprint
from allrounder.fingerprint import machine, usable_cores


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Returns a function that writes a file of the imagined system; there are 8 CPUs in the affinity mask."""

    def below(path):
        return tmp_path / str(path).lstrip("/")

    def write(path, text):
        below(path).parent.mkdir(parents=True, exist_ok=True)
        below(path).write_bytes(text if isinstance(text, bytes) else text.encode())

    monkeypatch.setattr(fingerprint, "Path", below)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return write


@pytest.mark.parametrize(
    ("cpu_max", "cores"),
    [
        ("max 100000", 8),
        ("200000 100000", 2),
        ("250000 100000", 2),
        ("50000 100000", 1),
        ("99999999 100000", 8),
        ("100000 0", 8),
        ("", 8),
        ("nonsense", 8),
    ],
)
def test_cgroup_v2(system, cpu_max, cores):
    system("/sys/fs/cgroup/cpu.max", cpu_max)
    assert usable_cores() == cores


@pytest.mark.parametrize(
    ("quota", "period", "cores"), [("-1", "100000", 8), ("300000", "100000", 3), ("1", "0", 8), ("x", "1", 8)]
)
def test_cgroup_v1(system, quota, period, cores):
    system("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", quota)
    system("/sys/fs/cgroup/cpu/cpu.cfs_period_us", period)
    assert usable_cores() == cores


def test_without_cgroup_the_affinity_counts(system, monkeypatch):
    assert usable_cores() == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert usable_cores() == 1


def test_the_first_model_name_is_the_cpu(system):
    system("/proc/cpuinfo", b"processor : 0\nmodel name\t: Some CPU @ 2 GHz \xff\nmodel name : other\n")
    assert machine(backend="b 1").cpu == "Some CPU @ 2 GHz \N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("text", ["", "model name :\n", "Features : asimd\n"])
def test_else_the_machine_type(system, text):
    system("/proc/cpuinfo", text)
    assert machine(backend="b 1").cpu == os.uname().machine


def test_a_machine_is_equal_to_itself_and_differs_by_what_counts(system):
    one = machine(backend="onnxruntime 1.31.1")
    assert one == machine(backend="onnxruntime 1.31.1")
    assert one.threads == one.cores == 8
    assert one != machine(backend="onnxruntime 1.31.0")
    assert one != machine(backend="onnxruntime 1.31.1", threads=1)
    assert one != machine(backend="onnxruntime 1.31.1", gpu="H200", driver="570")


def test_the_real_machine_has_a_name_and_a_core():
    here = machine(backend="b")
    assert here.cpu
    assert 1 <= here.cores <= (os.cpu_count() or 1)
    assert here.cpu == here.cpu.strip()
