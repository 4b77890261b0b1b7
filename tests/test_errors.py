from __future__ import annotations

import inspect
import pickle

import pytest

from policystore import errors
from policystore.errors import MismatchError, NotFoundError, PolicyStoreError

TREE = {
    "AmbiguousError": ValueError,
    "FormatError": ValueError,
    "IntegrityError": OSError,
    "InvalidInputError": ValueError,
    "MatchError": RuntimeError,
    "MismatchError": ValueError,
    "MissingPackageError": ImportError,
    "NotFoundError": KeyError,
    "ProtectedError": PermissionError,
    "ReadOnlyError": PermissionError,
    "StorageError": OSError,
    "SyncError": RuntimeError,
    "UntrustedError": PermissionError,
}


def test_the_tree_is_the_one_that_is_documented() -> None:
    found = {
        name: cls
        for name, cls in inspect.getmembers(errors, inspect.isclass)
        if issubclass(cls, PolicyStoreError) and cls is not PolicyStoreError
    }
    assert found.keys() == TREE.keys()
    for name, builtin in TREE.items():
        assert found[name].__bases__ == (PolicyStoreError, builtin)
        assert f"{name} ({builtin.__name__})" in (errors.__doc__ or "")
    assert set(errors.__all__) == TREE.keys() | {"PolicyStoreError"}


@pytest.mark.parametrize("name", sorted(TREE))
def test_errors_survive_pickling_with_their_message(name: str) -> None:
    error = getattr(errors, name)("what was expected, and what to do")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error) == "what was expected, and what to do"


def test_a_mismatch_lists_everything_and_keeps_it_through_pickling() -> None:
    error = MismatchError(
        "does not fit", missing=["b", "a"], unexpected=["c"], wrong={"d": "float32[2], not [3]"}
    )
    for found in (error, pickle.loads(pickle.dumps(error))):
        assert found.missing == ("a", "b")
        assert found.unexpected == ("c",)
        assert found.wrong == {"d": "float32[2], not [3]"}
        assert str(found).count("does not fit") == 2  # the headline once, and the one for d
        assert [part in str(found) for part in "abcd"] == [True] * 4


def test_a_missing_name_reads_like_a_sentence_though_it_is_a_key_error() -> None:
    with pytest.raises(KeyError) as caught:
        raise NotFoundError("no name 'x'")
    assert str(caught.value) == "no name 'x'"
