import pickle
from typing import Any

import pytest

from actors import errors
from actors.errors import RaygateError


def tree(root: type[RaygateError]) -> list[type[RaygateError]]:
    """The class and all below it."""
    return [root, *(one for child in root.__subclasses__() for one in tree(child))]


CLASSES = [one for one in tree(RaygateError) if one.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", CLASSES)
def test_error_arrives_in_another_process_as_it_left(kind: type[RaygateError]) -> None:
    """Pickling keeps the class and every field."""
    sent = kind("why", "code", "field", 1.5, False)
    got = pickle.loads(pickle.dumps(sent))
    assert type(got) is kind
    assert vars(got) == vars(sent)
    assert str(got) == "why"


@pytest.mark.parametrize("kind", CLASSES)
def test_error_without_a_code_has_that_of_its_class(kind: type[RaygateError]) -> None:
    """Clients can always match on a code."""
    assert kind("why").code == kind.default_code != ""
    assert kind("why", "mine").code == "mine"


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("InvalidRequest", 400),
        ("RequestTooLarge", 413),
        ("PromptInputsInvalid", 422),
        ("IdempotencyMismatch", 422),
        ("InvalidApiKey", 401),
        ("NotAllowed", 403),
        ("NotFound", 404),
        ("DeadlineExceeded", 408),
        ("Conflict", 409),
        ("RateLimitExceeded", 429),
        ("InsufficientQuota", 429),
        ("ProviderError", 502),
        ("ProviderTimeout", 504),
        ("ProviderUnavailable", 503),
        ("Overloaded", 503),
        ("SingletonUnavailable", 503),
        ("StorageFull", 503),
    ],
)
def test_status_is_the_documented_one(name: str, status: int) -> None:
    """Known answers of the HTTP contract."""
    kind: Any = getattr(errors, name)
    assert kind.status == status


def test_the_drawing_of_the_tree_is_complete() -> None:
    """Every class stands in the module's drawing, with its status."""
    drawing = errors.__doc__ or ""
    for kind in CLASSES[1:]:
        line = next(line for line in drawing.splitlines() if f" {kind.__name__} " in line)
        assert f" {kind.status}" in line
