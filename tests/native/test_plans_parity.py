"""A plan's file name says the same to C++ and to Python, and both refuse a foreign one in the same words."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_contract_parity import MANY, Probe, python

from allrounder.engines.tensorrt.plan_names import check_target, parse_version


@pytest.fixture(scope="module")
def probe(program):
    asked = Probe(program("contract_probe"))
    yield asked
    asked.close()


_part = st.sampled_from(
    [
        "-trt",
        "-sm",
        "10.16",
        "10.15.1.29",
        "11.1",
        "1.2.3.4.5",
        "9",
        "90",
        "80",
        ".",
        "-newer",
        "-ampere",
        "-plugin",
        ".plan",
        "decode-0123456789ab",
        ".onnx",
    ]
)
_plan = st.builds(
    "x-trt{}-sm{}{}{}{}.plan".format,
    st.sampled_from(["10.15", "10.16.1", "10.16.1.11", "11.0", "11.1.0.106"]),
    st.sampled_from([75, 80, 86, 90, 120]),
    st.sampled_from(["", "-newer"]),
    st.sampled_from(["", "-ampere"]),
    st.sampled_from(["", "-plugin"]),
)


@MANY
@given(
    st.one_of(_plan, st.lists(_part, min_size=1, max_size=9).map("".join)),
    st.sampled_from(["10.14.1.48", "10.15.1.29", "10.16.1.11", "10.16.", "11.1.0.106+cuda13", "11", "", "nonsense"]),
    st.sampled_from([75, 80, 90, 120]),
)
def test_plans_are_read_and_refused_alike(probe, name, version, sm):
    wanted = python(lambda: json.loads(msgspec.json.encode(check_target(name, version=parse_version(version), sm=sm))))
    assert probe.ask("plan", name=name, version=version, sm=sm) == wanted
