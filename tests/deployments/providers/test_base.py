import pickle

import pytest

from deployments.providers.base import ProviderFailure, outcome_of, retry_after_s

NOON = 1_445_412_480 * 10**9  # Wed, 21 Oct 2015 07:28:00 GMT


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500", "retry-after": "7"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:27:00 GMT"}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "later"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "99999999999"}, 86_400.0),
    ],
)
def test_retry_after_is_read_in_every_form(headers: dict[str, str], wait_s: float | None) -> None:
    """Seconds, milliseconds and dates are understood; nonsense is no wait, and none is endless."""
    assert retry_after_s(headers, NOON) == wait_s


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (200, "success"),
        (202, "failure"),
        (204, "failure"),
        (302, "failure"),
        (400, "ignored"),
        (401, "ignored"),
        (404, "ignored"),
        (408, "failure"),
        (429, "throttled"),
        (500, "failure"),
        (503, "failure"),
        (529, "throttled"),
    ],
)
def test_a_status_becomes_the_breakers_word(status: int, outcome: str) -> None:
    """Throttling is no failure, the client's mistakes are nobody's, and the rest is."""
    assert outcome_of(status) == outcome


def test_a_failure_survives_the_way_between_processes() -> None:
    """All that a failure says is still there after pickling."""
    failure = pickle.loads(pickle.dumps(ProviderFailure("reset", "gone")))
    assert (failure.kind, failure.message, str(failure)) == ("reset", "gone", "gone")
