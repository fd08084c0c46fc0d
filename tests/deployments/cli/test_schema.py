"""The JSON schema for editors."""

import copy
import json
from pathlib import Path

import jsonschema
import yaml

from deployments.cli.schema import schema

ROOT = Path(__file__).parents[3]


def test_the_schema_in_docs_is_the_present_one() -> None:
    """`raygate config schema -o docs/config.schema.json` was run after the last change."""
    assert json.loads((ROOT / "docs" / "config.schema.json").read_text()) == schema()


def test_it_takes_the_shipped_configuration_and_refuses_typing_errors() -> None:
    """An editor underlines what `config check` would refuse."""
    validator = jsonschema.Draft202012Validator(schema())
    shipped = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    assert not list(validator.iter_errors(shipped))
    for path in (["args"], ["deployments", 0, "user_config"], ["deployments", 0], []):
        spoiled = copy.deepcopy(shipped)
        part = spoiled["applications"][0]
        for step in path:
            part = part[step]
        part["no_such_field"] = 1
        assert list(validator.iter_errors(spoiled)), path
