"""Budgets that operators set at run time, beside those of the policy."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from actors import budget_terms, fields
from actors.budget_terms import DEFAULT_NAME, MAX_BUDGETS, Scope, Terms
from actors.errors import Conflict, NotFound, Overloaded
from actors.mechanism import Row

TABLE = "budgets"


class AddedBudgets:
    """See the module's docstring.

    terms: by name. One whose name a policy takes rests until the policy lets go of it.
    binding: names of those that bind, by scope and subject; empty where there are none.
    """

    def __init__(self) -> None:
        self.terms: dict[str, Terms] = {}
        self._changed: set[str] = set()
        self.binding: dict[Scope, dict[str | None, list[str]]] = {}

    def set(self, name: Any, spec: Any, of_policy: Collection[str]) -> Terms:
        """Set one. of_policy: names that the policy has.

        Raises InvalidRequest, Conflict for a name of policy's, Overloaded past MAX_BUDGETS.
        """
        terms = budget_terms.added(name, spec)
        _check_name(terms.name, of_policy)
        if len(self.terms) >= MAX_BUDGETS and terms.name not in self.terms:
            raise Overloaded(f"There are {MAX_BUDGETS:,} budgets beside the policy's; remove one.")
        if self.terms.get(terms.name) != terms:
            self.terms[terms.name] = terms
            self._changed.add(terms.name)
        return terms

    def remove(self, name: Any, of_policy: Collection[str]) -> None:
        """Remove one; set again before the cluster's next day, it knows what was used.

        Raises NotFound, or Conflict for one of policy's.
        """
        fields.identifier(name, "name")
        if name not in self.terms:
            _check_name(name, of_policy)
            raise NotFound(f"There is no budget {name}.")
        del self.terms[name]
        self._changed.add(name)

    def in_force(self, of_policy: Collection[str]) -> list[Terms]:
        """Those that do not rest, by name; `bound` goes by them from now on."""
        found = [self.terms[name] for name in sorted(self.terms) if name not in of_policy]
        self.binding = {}
        for each in found:
            if each.scope != "cluster":
                names = self.binding.setdefault(each.scope, {})
                names.setdefault(each.subject, []).append(each.name)
        return found

    def bound(self, key: str, team: str, model: str, user: str) -> Iterator[tuple[str, str]]:
        """(budget, subject) of those that bind a charge by whose it is; the cluster's left out.

        Whoever reserves need not know them: he would hear of a new one some time later.
        """
        for scope, names in self.binding.items():
            subject = budget_terms.subject_of(scope, key, team, model, user)
            if subject:
                for name in (*names.get(None, ()), *names.get(subject, ())):
                    yield name, subject

    def take_rows(self) -> Iterable[Row]:
        """Rows of what changed since the last call."""
        for name in self._changed:
            yield Row(TABLE, name, self.terms.get(name))
        self._changed = set()

    def load(self, rows: Mapping[str, Any]) -> None:
        """Take over all from their rows."""
        self.terms = {name: Terms(*value) for name, value in rows.items()}


def _check_name(name: str, of_policy: Collection[str]) -> None:
    # The default's as well: any policy may bring it into force.
    if name == DEFAULT_NAME or name in of_policy:
        raise Conflict(f"Budget {name} is the policy's: change it there, or take another name.")
