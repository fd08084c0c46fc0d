"""What policy says about budgets, and what an operator adds to them, checked."""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

from actors import fields, periods
from actors.periods import PERIODS, Period

Scope = Literal["cluster", "team", "key", "model", "user"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

MAX_BUDGETS = 1_000
"""Of a policy, and once more of those that operators add."""
MAX_AMOUNT_NANOS = 10**18
MAX_SUBJECT = 300
DEFAULT_DAILY_NANOS = 500 * 10**9
DEFAULT_NAME = "daily"
_SPEC = ("scope", "period", "amount_nanos", "timezone")


class Terms(NamedTuple):
    """A budget: what each subject of the scope may spend in each period.

    amount_nanos: nano-dollars. timezone: whose calendar the periods follow.
    subject: the only one that it binds; None: each. (Whom a policy's budget binds is for
    those to say who name it with a charge.)
    """

    name: str
    scope: Scope
    period: Period
    amount_nanos: int
    timezone: str
    subject: str | None = None


def parse(policy: Mapping[str, Any]) -> tuple[Terms, ...]:
    """The budgets of a policy, the cluster's daily one added when it names none.

    Raises InvalidRequest that names the field and what is allowed.
    """
    listed = policy.get("budgets", [])
    if not isinstance(listed, list | tuple) or len(listed) > MAX_BUDGETS:
        raise fields.invalid("budgets", f"a list of at most {MAX_BUDGETS} budgets")
    terms = tuple(_one(each, f"budgets[{n}]") for n, each in enumerate(listed))
    names = [each.name for each in terms]
    for n, name in enumerate(names):
        if name in names[:n]:
            raise fields.invalid(f"budgets[{n}].name", f"a name of its own; {name} is taken")
    if any(each.scope == "cluster" and each.period == "day" for each in terms):
        return terms
    if DEFAULT_NAME in names:
        raise fields.invalid(
            f"budgets[{names.index(DEFAULT_NAME)}].name",
            f"another than {DEFAULT_NAME}: so the cluster's daily budget is called, unless the "
            "policy sets one of its own with scope cluster and period day",
        )
    return (Terms(DEFAULT_NAME, "cluster", "day", DEFAULT_DAILY_NANOS, "UTC"), *terms)


def added(name: Any, spec: Any) -> Terms:
    """The budget that an operator adds.

    spec: `scope`, `period`, `amount_nanos`, and, where wanted, `subject` and `timezone`.
    Raises InvalidRequest that names the field and what is allowed.
    """
    name = fields.identifier(name, "name")
    spec = fields.mapping(spec, "", (*_SPEC, "subject"))
    terms = _terms(name, spec, "")
    subject = spec.get("subject")
    if subject is None:
        return terms
    if terms.scope == "cluster":
        raise fields.invalid("subject", "left out: there is one cluster only")
    return terms._replace(subject=fields.text(subject, "subject", MAX_SUBJECT, least=1))


def subject_of(scope: str, key: str, team: str, model: str, user: str) -> str:
    """As whom a call is charged in this scope; "" in the cluster's, and where it has nobody."""
    match scope:
        case "team":
            return team
        case "key":
            return key
        case "model":
            return model
        case "user":
            return f"{team}/{user}" if user else ""
        case _:
            return ""


def _one(each: Any, path: str) -> Terms:
    each = fields.mapping(each, path, ("name", *_SPEC))
    name = fields.text(each.get("name"), f"{path}.name", 100, least=1)
    if "|" in name:
        raise fields.invalid(f"{path}.name", "a name without |")
    return _terms(name, each, f"{path}.")


def _terms(name: str, spec: Mapping[str, Any], path: str) -> Terms:
    if spec.get("scope") not in SCOPES:
        raise fields.invalid(f"{path}scope", "one of " + ", ".join(SCOPES))
    if spec.get("period") not in PERIODS:
        raise fields.invalid(f"{path}period", "one of " + ", ".join(PERIODS))
    amount = fields.whole(spec.get("amount_nanos"), f"{path}amount_nanos", 0, MAX_AMOUNT_NANOS)
    timezone = spec.get("timezone", "UTC")
    try:
        periods.zone(timezone)
    except ValueError:
        raise fields.invalid(f"{path}timezone", "the name of a time zone, such as UTC") from None
    return Terms(name, spec["scope"], spec["period"], amount, timezone)
