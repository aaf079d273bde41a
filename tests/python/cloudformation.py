"""template.yaml as it would be deployed: SAM's own transform, then its functions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samtranslator.translator.managed_policy_translator import ManagedPolicyLoader
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

TEMPLATE = Path(__file__).resolve().parents[2] / "template.yaml"

ACCOUNT = "123456789012"
REGION = "us-east-1"
NO_VALUE = object()
# One binary twice.
FUNCTIONS = ("EventFunction", "SweepFunction")


def template() -> dict[str, Any]:
    """The template as it is written, with the short tags spelled out."""
    parsed = yaml_parse(TEMPLATE.read_text())
    assert isinstance(parsed, dict)
    return parsed


def deploy(
    given: Mapping[str, Any],
    partition: str = "aws",
    policy_at: str = "s3://bucket/policy",
    **more: Any,
) -> Stack:
    """The stack that these parameters make, defaults for the others."""
    source = template()
    parameters = dict(given) | more
    values = {
        name: parameters.pop(name, definition.get("Default"))
        for name, definition in source["Parameters"].items()
    }
    assert not parameters, f"the template has no such parameters: {parameters}"
    pseudo = {
        "AWS::AccountId": ACCOUNT,
        "AWS::NoValue": NO_VALUE,
        "AWS::Partition": partition,
        "AWS::Region": REGION,
        "AWS::StackName": "stack",
    }
    # What `sam package` does to local folders before CloudFormation sees them.
    for function in FUNCTIONS:
        source["Resources"][function]["Properties"]["CodeUri"] = "s3://bucket/function"
    source["Resources"]["PolicyLayer"]["Properties"]["ContentUri"] = policy_at
    # The transform never loads managed policies, because the role is explicit.
    transformed = transform(source, dict(values), ManagedPolicyLoader(None))
    context = _Context({**values, **pseudo}, transformed["Conditions"])
    return Stack(
        {
            name: context.resolve(resource)
            for name, resource in transformed["Resources"].items()
            if "Condition" not in resource or context.holds(resource["Condition"])
        },
        {name: context.resolve(output) for name, output in transformed["Outputs"].items()},
    )


@dataclass(frozen=True)
class Stack:
    """Resources and outputs, functions resolved; an attribute reads `LogicalId.Attribute`.

    A resource whose condition does not hold is not there.
    """

    resources: Mapping[str, Any]
    outputs: Mapping[str, Any]

    def properties(self, logical_id: str) -> Any:
        """The properties of one resource."""
        return self.resources[logical_id]["Properties"]

    def of_type(self, kind: str) -> dict[str, Any]:
        """The properties of every resource of a type, by logical id."""
        return {
            name: resource["Properties"]
            for name, resource in self.resources.items()
            if resource["Type"] == kind
        }

    def role_policy(self) -> Any:
        """The one policy of the function's role."""
        (policy,) = self.properties("FunctionRole")["Policies"]
        return policy["PolicyDocument"]

    def statements(self) -> dict[str, Any]:
        """The statements of that policy, by Sid."""
        return {statement["Sid"]: statement for statement in self.role_policy()["Statement"]}


@dataclass(frozen=True)
class _Context:
    values: Mapping[str, Any]
    conditions: Mapping[str, Any]

    def resolve(self, node: Any) -> Any:
        if isinstance(node, list):
            return [item for item in map(self.resolve, node) if item is not NO_VALUE]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            (name, argument), *_ = node.items()
            # A resource's own Condition stands among its other keys.
            if name in ("Ref", "Condition") or name.startswith("Fn::"):
                return self._call(name, argument)
        resolved = {name: self.resolve(value) for name, value in node.items()}
        return {name: value for name, value in resolved.items() if value is not NO_VALUE}

    def _call(self, name: str, argument: Any) -> Any:
        match name:
            case "Ref":
                return self.values.get(argument, argument)
            case "Fn::GetAtt":
                return argument if isinstance(argument, str) else ".".join(argument)
            case "Fn::Sub":
                text, more = (argument, {}) if isinstance(argument, str) else argument
                context = _Context({**self.values, **self.resolve(more)}, self.conditions)
                return re.sub(r"\$\{([^}]+)\}", lambda found: context._variable(found[1]), text)
            case "Fn::Join":
                delimiter, items = argument
                return delimiter.join(self.resolve(items))
            case "Fn::Split":
                delimiter, text = argument
                return self.resolve(text).split(delimiter)
            case "Fn::If":
                condition, then, otherwise = argument
                return self.resolve(then if self.holds(condition) else otherwise)
            case "Fn::Equals":
                left, right = self.resolve(argument)
                return left == right
            case "Fn::Not":
                return not self.resolve(argument)[0]
            case "Fn::And":
                return all(self.resolve(argument))
            case "Condition":
                return self.holds(argument)
        raise NotImplementedError(name)

    def holds(self, condition: str) -> bool:
        return bool(self.resolve(self.conditions[condition]))

    def _variable(self, name: str) -> str:
        # `${!Name}` stands for the text `${Name}`.
        return f"${{{name[1:]}}}" if name.startswith("!") else str(self.values.get(name, name))
