"""The gateway's HTTP as the commands use it: a few small calls, one after another."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from deployments.cli.terminal import Problem

_PATIENCE_S = 10.0
_POLL_S = 0.1


class GatewayClient:
    """One gateway. url: without a path; key: None for what needs none."""

    def __init__(self, url: str, key: str | None) -> None:
        if not url.startswith(("http://", "https://")):
            raise Problem(f"{url} is not a gateway's URL; it begins with http:// or https://.")
        self.url = url.rstrip("/")
        self._key = key
        # A proxy of the environment has no business between this machine and itself.
        here = urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
        handlers = [urllib.request.ProxyHandler({})] if here else []
        self._open = urllib.request.build_opener(*handlers).open

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The reply's JSON. Raises Problem with the gateway's own words."""
        try:
            status, content = self.attempt(method, path, body)
        except OSError as error:
            raise Problem(f"No gateway answers at {self.url} ({error}).") from None
        if status >= 400:
            raise Problem(_words(content) or f"{method} {path}: {status}")
        return content

    def attempt(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and JSON (None where it is none). Raises OSError where nobody answers."""
        data = None if body is None else json.dumps(body).encode()
        url = path if path.startswith("http") else self.url + path
        request = urllib.request.Request(url, data, method=method)  # noqa: S310 - http(s), checked
        request.add_header("content-type", "application/json")
        if self._key:
            request.add_header("authorization", f"Bearer {self._key}")
        try:
            with self._open(request, timeout=_PATIENCE_S) as reply:
                return reply.status, _json(reply.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _json(error.read())
        except http.client.HTTPException as error:
            raise OSError(type(error).__name__) from None

    def answers(self, path: str, statuses: Iterable[int]) -> bool:
        """Whether a GET is answered with one of these."""
        try:
            return self.attempt("GET", path)[0] in statuses
        except OSError:
            return False


def until(holds: Callable[[], bool], times: int, deadline: float, problem: str) -> None:
    """Wait until something held `times` in a row; deadline in monotonic seconds.

    Raises Problem when it comes too late.
    """
    row = 0
    while row < times:
        if holds():
            row += 1
            continue
        row = 0
        if time.monotonic() > deadline:
            raise Problem(problem)
        time.sleep(_POLL_S)


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _words(content: Any) -> str | None:
    error = content.get("error") if isinstance(content, dict) else None
    return str(error["message"]) if isinstance(error, dict) and "message" in error else None
