"""A plain function with boto3: clients made at import, one call after the other.

It attaches the instance profile that an instance's tag names, for state changes that come through a queue. It is here
to be measured beside the function of this repository (`make bench-start`), not to be deployed: it checks no allow-list,
replaces nothing, and takes every error to be worth another try.
"""

import json
import logging
from typing import Any

import boto3

LOG = logging.getLogger()

EC2 = boto3.client("ec2")
IAM = boto3.client("iam")


def handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Deals with a batch; answers with the messages that are not done."""
    failures = []
    for message in event["Records"]:
        try:
            _attach(json.loads(message["body"])["detail"]["instance-id"])
        except Exception:  # any of them may come again
            LOG.exception("message %s", message["messageId"])
            failures.append({"itemIdentifier": message["messageId"]})
    return {"batchItemFailures": failures}


def _attach(instance_id: str) -> None:
    found = EC2.describe_instances(InstanceIds=[instance_id])
    instance = found["Reservations"][0]["Instances"][0]
    tags = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
    name = tags.get("InstanceProfile")
    if instance["State"]["Name"] != "running" or not name:
        return
    found = EC2.describe_iam_instance_profile_associations(
        Filters=[{"Name": "instance-id", "Values": [instance_id]}]
    )
    rows = found["IamInstanceProfileAssociations"]
    if any(row["State"] in ("associating", "associated") for row in rows):
        return
    arn = IAM.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Arn"]
    EC2.associate_iam_instance_profile(
        InstanceId=instance_id, IamInstanceProfile={"Arn": arn}
    )
    LOG.info("%s has %s now", instance_id, arn)
