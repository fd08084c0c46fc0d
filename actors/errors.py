"""Every error that a caller of Raygate can meet.

RaygateError
├── InvalidRequest            400  the caller's words are wrong; `param` names the field
│   ├── RequestTooLarge       413
│   ├── PromptInputsInvalid   422
│   └── IdempotencyMismatch   422
├── InvalidApiKey             401
├── NotAllowed                403
├── NotFound                  404  `code` says of what
├── DeadlineExceeded          408
├── Conflict                  409
├── RateLimitExceeded         429
├── InsufficientQuota         429
├── ProviderError             502
│   └── ProviderTimeout       504
├── ProviderUnavailable       503
├── Overloaded                503
├── SingletonUnavailable      503
├── LedgerDamaged             503  no more money is spent before somebody has looked
└── StorageFull               503

All arguments go through `Exception.__init__`, so that an error survives pickling
between processes.
"""

from typing import ClassVar


class RaygateError(Exception):
    """Root of the tree.

    message: one sentence that says what was wrong, whose limit it was, and what to do.
    code: the word that clients match on (`error.code`); None takes the class's own.
    param: the field of the request that is at fault, if one is.
    retry_after_s: seconds after which a repeat may succeed; None when waiting does not help.
    should_retry: False where a client's automatic retry would be paid for twice or is futile.
    """

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "api_error"
    default_code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
    ) -> None:
        super().__init__(message, code, param, retry_after_s, should_retry)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.retry_after_s = retry_after_s
        self.should_retry = should_retry

    def __str__(self) -> str:
        return self.message


class InvalidRequest(RaygateError):
    """400: the body, a header or a parameter is not what the endpoint takes."""

    status = 400
    kind = "invalid_request_error"
    default_code = "invalid_request"


class RequestTooLarge(InvalidRequest):
    """413: the body is over the configured limit."""

    status = 413
    default_code = "request_too_large"


class PromptInputsInvalid(InvalidRequest):
    """422: the inputs do not fit the template's schema."""

    status = 422
    default_code = "prompt_inputs_invalid"


class IdempotencyMismatch(InvalidRequest):
    """422: an id or idempotency key came again with other content."""

    status = 422
    default_code = "idempotency_mismatch"


class InvalidApiKey(RaygateError):
    """401: no key, or not a valid one."""

    status = 401
    kind = "authentication_error"
    default_code = "invalid_api_key"


class NotAllowed(RaygateError):
    """403: the key is valid, but may not do this."""

    status = 403
    kind = "permission_error"
    default_code = "not_allowed"


class NotFound(RaygateError):
    """404: no such model, prompt, experiment, trace, ..."""

    status = 404
    kind = "not_found_error"
    default_code = "not_found"


class DeadlineExceeded(RaygateError):
    """408: the request's own timeout passed before an answer."""

    status = 408
    kind = "timeout_error"
    default_code = "deadline_exceeded"


class Conflict(RaygateError):
    """409: the thing changed under the caller."""

    status = 409
    kind = "conflict_error"
    default_code = "conflict"


class RateLimitExceeded(RaygateError):
    """429: a limit refused; the message names the limit and its scope."""

    status = 429
    kind = "rate_limit_error"
    default_code = "rate_limit_exceeded"


class InsufficientQuota(RaygateError):
    """429: a budget is exhausted; the message says which and when it resets."""

    status = 429
    kind = "insufficient_quota"
    default_code = "insufficient_quota"


class ProviderError(RaygateError):
    """502: the provider failed and no target is left."""

    status = 502
    default_code = "provider_error"


class ProviderTimeout(ProviderError):
    """504: the provider did not answer in time."""

    status = 504
    kind = "timeout_error"
    default_code = "provider_timeout"


class ProviderUnavailable(RaygateError):
    """503: every target's breaker is open."""

    status = 503
    default_code = "provider_unavailable"


class Overloaded(RaygateError):
    """503: a bounded queue of ours is full."""

    status = 503
    kind = "overloaded_error"
    default_code = "overloaded"


class SingletonUnavailable(RaygateError):
    """503: a singleton did not answer within the deadline."""

    status = 503
    default_code = "singleton_unavailable"


class LedgerDamaged(RaygateError):
    """503: rows of the ledger are not what was written; the message names them."""

    status = 503
    default_code = "ledger_damaged"


class StorageFull(RaygateError):
    """503: a singleton can't write its store; nothing of the command was done."""

    status = 503
    default_code = "storage_full"
