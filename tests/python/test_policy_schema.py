"""The JSON Schema of policy files, as editors use it: it takes the example and refuses the mistakes that a schema can name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "policy"
SCHEMA = json.loads((FOLDER / "policy.schema.json").read_text())
EXAMPLE = yaml.safe_load((FOLDER / "policy.yaml").read_text())


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_example_is_valid() -> None:
    jsonschema.validate(EXAMPLE, SCHEMA)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda policy: policy.update(version=2),
        lambda policy: policy.update(rule=[]),
        lambda policy: policy.pop("rules"),
        lambda policy: policy["rules"][0].pop("name"),
        lambda policy: policy["rules"][0].update(profil="web"),
        lambda policy: policy["rules"][0].update({"when-different": "keeps"}),
        lambda policy: policy["rules"][0]["match"].update(tag={}),
        lambda policy: policy["rules"][0]["match"].update(account=123456789012),
        lambda policy: policy["rules"][0]["match"]["tags"].update(Tier={}),
    ],
)
def test_a_spoiled_policy_is_invalid(spoil: Callable[[dict[str, Any]], object]) -> None:
    policy = copy.deepcopy(EXAMPLE)
    spoil(policy)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(policy, SCHEMA)
