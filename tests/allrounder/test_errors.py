"""The error tree: one root, messages in five parts, and errors that survive a process border."""

import copy
import pickle

import pytest

from allrounder import errors

TREE = [getattr(errors, name) for name in errors.__all__]


def test_everything_is_below_the_root():
    assert all(issubclass(error, errors.AllRounderError) for error in TREE)
    defined = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert set(defined) == set(TREE)


def test_the_message_has_its_parts_in_order():
    error = errors.BundleCorrupt("a file is missing", where="x.bin", got=0, wanted="16 bytes", remedy="build again")
    assert str(error) == "a file is missing; where: x.bin; got: 0; wanted: 16 bytes; remedy: build again"
    assert (error.what, error.where, error.got, error.wanted, error.remedy) == (
        "a file is missing",
        "x.bin",
        0,
        "16 bytes",
        "build again",
    )


def test_absent_parts_leave_no_trace():
    assert str(errors.InputInvalid("nothing to do")) == "nothing to do"


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("clone", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"])
def test_errors_cross_process_borders(kind, clone):
    error = clone(kind("what", where="here", got=3, remedy="that"))
    assert type(error) is kind
    assert str(error) == "what; where: here; got: 3; remedy: that"
    assert (error.what, error.where, error.got, error.wanted) == ("what", "here", 3, None)


def test_families():
    assert issubclass(errors.BundleFromFuture, errors.BundleError)
    assert not issubclass(errors.BundleFromFuture, errors.BundleCorrupt)
    assert issubclass(errors.EngineUnavailable, errors.BackendError)
    assert issubclass(errors.UnknownVersion, errors.InputInvalid)
