"""An AWS account in moto: what the tests put into it and read out of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import boto3

from demo import stack

TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "ec2.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ],
}


class Account:
    """EC2, IAM and SQS of one account and Region."""

    def __init__(self, endpoint: str) -> None:
        self._ec2 = boto3.client("ec2", endpoint_url=endpoint, region_name=stack.REGION)
        self._iam = boto3.client("iam", endpoint_url=endpoint, region_name=stack.REGION)
        self._sqs = boto3.client("sqs", endpoint_url=endpoint, region_name=stack.REGION)

    def make_profile(self, name: str, path: str) -> None:
        """Makes a profile that holds a role which EC2 may assume."""
        self._iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(TRUST))
        self._iam.create_instance_profile(InstanceProfileName=name, Path=path)
        self._iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)

    def make_queue(self) -> str:
        """Makes the function's own queue; answers its URL."""
        return str(self._sqs.create_queue(QueueName="own")["QueueUrl"])

    def held_back(self, queue: str) -> int:
        """How many messages a queue holds back until their time."""
        name = "ApproximateNumberOfMessagesDelayed"
        answer = self._sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=[name])
        return int(answer["Attributes"][name])

    def launch(
        self,
        tag: str | None = None,
        profile: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> str:
        """Launches an instance with the tag that names a profile, a profile and other tags."""
        extra: dict[str, Any] = {}
        all_tags = dict(tags or {}) | ({"InstanceProfile": tag} if tag is not None else {})
        if all_tags:
            pairs = [{"Key": key, "Value": value} for key, value in all_tags.items()]
            extra["TagSpecifications"] = [{"ResourceType": "instance", "Tags": pairs}]
        if profile is not None:
            extra["IamInstanceProfile"] = {"Name": profile}
        launched = self._ec2.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1, **extra)
        return str(launched["Instances"][0]["InstanceId"])

    def stop(self, instance: str) -> None:
        """Stops an instance."""
        self._ec2.stop_instances(InstanceIds=[instance])

    def profile_of(self, instance: str) -> str | None:
        """Path and name of the profile that an instance has, if it has one."""
        rows = self._ec2.describe_iam_instance_profile_associations(
            Filters=[{"Name": "instance-id", "Values": [instance]}]
        )["IamInstanceProfileAssociations"]
        attached = [row for row in rows if row["State"] in ("associating", "associated")]
        assert len(attached) <= 1
        if not attached:
            return None
        arn: str = attached[0]["IamInstanceProfile"]["Arn"]
        return arn.partition(":instance-profile/")[2]
