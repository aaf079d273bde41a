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
        lambda policy: policy["rules"][0]["match"]["tags"].update({"": "web"}),
        lambda policy: policy["rules"][0]["match"]["tags"].update({"k" * 129: "web"}),
        lambda policy: policy["rules"][0].update({"when-stopped": "later"}),
        lambda policy: policy["rules"][0].update(profile="None"),
        lambda policy: policy["rules"][0].update(profile=""),
    ],
)
def test_a_spoiled_policy_is_invalid(spoil: Callable[[dict[str, Any]], object]) -> None:
    policy = copy.deepcopy(EXAMPLE)
    spoil(policy)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(policy, SCHEMA)


PROPERTIES = ["account", "region", "vpc", "subnet", "instance-type", "platform", "attached"]
FILE_KEYS = ["version", "ignore", "rules"]
RULE_KEYS = ["name", "match", "profile", "when-different", "when-absent", "when-stopped"]


@pytest.mark.parametrize(
    "spoil",
    [
        *[lambda policy, key=key: policy.update({key: None}) for key in FILE_KEYS],
        lambda policy: policy.update(ignore=[None]),
        lambda policy: policy.update(rules=[None]),
        *[lambda policy, key=key: policy["rules"][0].update({key: None}) for key in RULE_KEYS],
        *[
            lambda policy, key=key, value=value: policy["rules"][0]["match"].update({key: value})
            for key in ["tags", *PROPERTIES]
            for value in (None, [None], "", [""], [])
        ],
        *[
            lambda policy, value=value: policy["ignore"][0]["tags"].update({"A*": value})
            for value in (None, [None], [])
        ],
        *[
            lambda policy, key=key: policy["ignore"][0].update({key: None})
            for key in ["tags", *PROPERTIES]
        ],
    ],
)
def test_a_key_without_a_value_is_invalid(spoil: Callable[[dict[str, Any]], object]) -> None:
    policy = copy.deepcopy(EXAMPLE)
    spoil(policy)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(policy, SCHEMA)


def test_an_empty_value_of_a_tag_and_every_key_are_valid() -> None:
    policy = copy.deepcopy(EXAMPLE)
    properties = {key: ["*"] for key in PROPERTIES} | {"tags": {"A": "", "B*": ["", "x"]}}
    rule = {"name": "a", "match": properties, "profile": "none", "when-stopped": "swap"}
    policy["rules"].append(rule | {"when-different": "keep", "when-absent": "leave"})
    jsonschema.validate(policy, SCHEMA)
