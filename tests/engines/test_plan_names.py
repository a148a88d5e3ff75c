"""Plans by name: what they were built with is read back, and a foreign one is refused before TensorRT sees it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allrounder.engines.tensorrt.plan_names import PlanTarget, check_target, parse_version, plan_name, read_target
from allrounder.errors import EngineUnavailable
from allrounder.hashing import check_path

TARGETS = st.builds(
    PlanTarget,
    st.lists(st.integers(0, 999), min_size=2, max_size=4).map(tuple),
    st.integers(50, 130),
    st.booleans(),
    st.sampled_from(["same", "ampere"]),
    st.booleans(),
)
DIGEST = "0123456789ab"


@given(TARGETS, st.sampled_from(["prefill", "decode", "vision", "router"]))
def test_a_name_says_what_a_plan_was_built_with(target, kind):
    name = plan_name(kind, DIGEST, target)
    assert read_target(name) == target
    check_path(f"graphs/{name}", where="here")


@pytest.mark.parametrize(
    "name", ["", "decode.plan", f"decode-{DIGEST}.onnx", f"decode-{DIGEST}-trt11-sm90.plan", "x-trt10.16-sm90.plan\n"]
)
def test_other_names_say_nothing(name):
    assert read_target(name) is None
    with pytest.raises(EngineUnavailable, match=r"(?s)nothing says.*allrounder build"):
        check_target(name, version=(10, 16), sm=90)


@pytest.mark.parametrize(
    ("target", "version", "sm"),
    [
        (PlanTarget((10, 16, 1), 90), (10, 16, 0), 90),  # patches of one minor version
        (PlanTarget((10, 15), 80, newer=True), (10, 16), 80),
        (PlanTarget((10, 16), 86, hardware="ampere"), (10, 16), 120),
        (PlanTarget((11, 0), 90, newer=True, plugin=True), (11, 4), 90),
    ],
)
def test_plans_that_run_here(target, version, sm):
    assert check_target(plan_name("decode", DIGEST, target), version=version, sm=sm) == target


@pytest.mark.parametrize(
    ("target", "version", "sm", "words"),
    [
        (PlanTarget((10, 16, 1), 90), (11, 1), 90, r"another TensorRT.*11\.1 here.*10\.16.*tensorrt==10\.16\.\*"),
        (PlanTarget((10, 15), 90), (10, 16), 90, "another TensorRT"),
        (PlanTarget((10, 16), 90, newer=True), (10, 15), 90, "or a newer 10.x"),
        (PlanTarget((10, 16), 90, newer=True), (11, 0), 90, "another TensorRT"),
        (PlanTarget((10, 16), 90), (10, 16), 80, "another GPU architecture.*SM 80 here.*SM 90"),
        (PlanTarget((10, 16), 86, hardware="ampere"), (10, 16), 75, "SM 80 or later"),
    ],
)
def test_plans_that_do_not_run_here(target, version, sm, words):
    with pytest.raises(EngineUnavailable, match=words) as caught:
        check_target(plan_name("decode", DIGEST, target), version=version, sm=sm)
    assert "--force" in str(caught.value)


@pytest.mark.parametrize("text", ["10.14.1.48", "8.5.2.2", "11", "", "nonsense"])
def test_too_old_a_library_is_refused_with_the_reason(text):
    with pytest.raises(EngineUnavailable, match=r"10\.15 or newer.*TensorScatter.*pip install"):
        parse_version(text)


@pytest.mark.parametrize(
    ("text", "version"), [("10.15.1.29", (10, 15, 1, 29)), ("11.1.0.106+cuda13", (11, 1, 0, 106)), ("10.15", (10, 15))]
)
def test_versions_are_numbers(text, version):
    assert parse_version(text) == version
