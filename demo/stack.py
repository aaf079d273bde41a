"""Building, deploying and talking to the stack, with the tools that a user has."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from demo.console import Failure
from demo.processes import LOOPBACK, free_port, run, server

ROOT = Path(__file__).resolve().parent.parent
STATE = ROOT / ".demo"
BUILD = STATE / "build"
BINARY = BUILD / "EventFunction" / "bootstrap"

STACK_NAME = "auto-instance-profile-demo"
REGION = "us-east-1"
ACCOUNT = "000000000000"  # the emulator's

# The most that SQS takes in one call.
MESSAGES_AT_ONCE = 10

ARCHITECTURE = "arm64" if platform.machine() in ("aarch64", "arm64") else "x86_64"

TOOL = "auto-instance-profile"
REPORT = STATE / "report.html"


@dataclass(frozen=True)
class Cloud:
    """The emulated cloud: where it is and how to talk to it."""

    endpoint: str

    def client(self, service: str) -> Any:
        """A client that never reads the person's own configuration or credentials."""
        session: Any = boto3.Session("test", "test", region_name=REGION)
        config = Config(connect_timeout=5, read_timeout=30, retries={"max_attempts": 1})
        return session.client(service, endpoint_url=self.endpoint, config=config)


@dataclass(frozen=True)
class Stack:
    """The deployed stack's outputs, and what one does with them."""

    cloud: Cloud
    outputs: Mapping[str, str]

    def send(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Puts events into the queue, as the stack's EventBridge rules would."""
        entries = [
            {"Id": str(number), "MessageBody": json.dumps(event)}
            for number, event in enumerate(events)
        ]
        for start in range(0, len(entries), MESSAGES_AT_ONCE):
            some = entries[start : start + MESSAGES_AT_ONCE]
            answer = self.cloud.client("sqs").send_message_batch(
                QueueUrl=self.outputs["QueueUrl"], Entries=some
            )
            if len(answer.get("Successful", [])) != len(some):
                raise Failure(f"the queue did not take every event: {answer}")

    def scheduled(self) -> Mapping[str, Any]:
        """What the stack's schedule invokes the function with."""
        scheduler = self.cloud.client("scheduler")
        targets = [
            scheduler.get_schedule(Name=found["Name"], GroupName=found["GroupName"])["Target"]
            for found in scheduler.list_schedules()["Schedules"]
        ]
        if len(targets) != 1:
            raise Failure(f"the stack should have one schedule: {targets}")
        payload = json.loads(targets[0]["Input"])
        assert isinstance(payload, dict)
        return payload

    def begin_sweep(self, payload: Mapping[str, Any]) -> None:
        """Invokes the function that sweeps as the schedule does: nobody waits for its answer."""
        self.cloud.client("lambda").invoke(
            FunctionName=self.outputs["SweepFunctionName"],
            InvocationType="Event",
            Payload=json.dumps(payload),
        )

    def sweep(self, payload: Mapping[str, Any]) -> Mapping[str, Any]:
        """Invokes the function that sweeps as a person would, and answers what it answered."""
        answer = self.cloud.client("lambda").invoke(
            FunctionName=self.outputs["SweepFunctionName"], Payload=json.dumps(payload)
        )
        answered = json.loads(answer["Payload"].read())
        if "FunctionError" in answer or not isinstance(answered, dict):
            raise Failure(f"the function answered {payload} with {answered}")
        return answered

    def waiting(self) -> int:
        """How many messages the queue holds, those at work included.

        Not those that it holds back: the looks that follow each write, minutes later.
        """
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        attributes = self.cloud.client("sqs").get_queue_attributes(
            QueueUrl=self.outputs["QueueUrl"], AttributeNames=names
        )["Attributes"]
        return sum(int(attributes[name]) for name in names)

    def log(self) -> list[str]:
        """Every line of the functions' log group."""
        logs = self.cloud.client("logs")
        pages = logs.get_paginator("filter_log_events").paginate(
            logGroupName=self.outputs["LogGroupName"]
        )
        return [event["message"] for page in pages for event in page["events"]]


def environment() -> dict[str, str]:
    """Our environment without the person's AWS settings: nothing can reach a real account."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    tools = Path(sys.executable).parent
    return kept | {
        "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": f"{LOOPBACK},localhost",
        "no_proxy": f"{LOOPBACK},localhost",
        "SAM_CLI_TELEMETRY": "0",
        "__SAM_CLI_APP_DIR": str(STATE / "sam"),
    }


def build() -> None:
    """Builds with `sam build`, in the dev profile: a release build takes twice as long."""
    STATE.mkdir(exist_ok=True)
    env = environment() | {
        "SAM_BUILD_MODE": "debug",
        # The host's own linker, instead of zig's, which cargo-lambda would want installed.
        "CARGO_LAMBDA_COMPILER": os.environ.get("CARGO_LAMBDA_COMPILER", "cargo"),
    }
    command = ["sam", "build", "--template", str(ROOT / "template.yaml"), "--build-dir", str(BUILD)]
    overrides = ["--parameter-overrides", f"Architecture={ARCHITECTURE}"]
    run([*command, *overrides], STATE / "build.log", env, ROOT)


def build_tool() -> Path:
    """Builds the command-line tool, unless TOOL_BINARY names it; answers where it is."""
    if named := os.environ.get("TOOL_BINARY"):
        return Path(named).resolve()
    # Where cargo-lambda builds: what the function and the tool have in common is built once.
    machine = "aarch64" if ARCHITECTURE == "arm64" else "x86_64"
    target = f"{machine}-unknown-linux-gnu"
    features = ["--features", "cli", "--bin", TOOL]
    command = ["cargo", "build", "--locked", "--target", target, *features]
    run(command, STATE / "build-tool.log", environment(), ROOT)
    folder = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return folder / target / "debug" / TOOL


def report(tool: Path, cloud: Cloud, policy: Path, allowed: str, scratch: Path) -> tuple[str, str]:
    """Has the tool report on the fleet, as a page too; answers the command and what it printed."""
    words = ["report", str(policy.relative_to(ROOT)), "--allowed", allowed]
    words += ["--html", str(REPORT.relative_to(ROOT))]
    env = environment() | {"AWS_ENDPOINT_URL": cloud.endpoint}
    log = scratch / "report.log"
    # Status 2: something is not right, which is so with what is blocked.
    run([str(tool), *words], log, env, ROOT, good=(0, 2))
    return shlex.join([TOOL, *words]), log.read_text()


@contextmanager
def emulator(scratch: Path) -> Iterator[Cloud]:
    """Runs ministack on loopback, with its files and those of its functions in `scratch`."""
    port = free_port()
    env = environment() | {
        "GATEWAY_PORT": str(port),
        "BIND_HOST": LOOPBACK,
        "MINISTACK_HOST": LOOPBACK,
        "LAMBDA_EXECUTOR": "local",
        "TMPDIR": str(scratch),
        "STATE_DIR": str(scratch / "state"),
        # Lambda tells a function its log format so; the emulator passes on what it is told.
        "AWS_LAMBDA_LOG_FORMAT": "JSON",
        "AWS_LAMBDA_LOG_LEVEL": "INFO",
    }
    with server(["ministack"], port, scratch / "ministack.log", env, scratch):
        yield Cloud(f"http://{LOOPBACK}:{port}")


def deploy(cloud: Cloud, parameters: Mapping[str, str], scratch: Path) -> Stack:
    """Deploys the built template with `sam deploy` and reads the stack's outputs."""
    # In quotes, because a path may hold spaces.
    overrides = [f'{name}="{value}"' for name, value in parameters.items()]
    command = [
        *["sam", "deploy", "--template-file", str(BUILD / "template.yaml")],
        *["--stack-name", STACK_NAME, "--region", REGION, "--resolve-s3"],
        *["--capabilities", "CAPABILITY_IAM", "--no-confirm-changeset", "--no-progressbar"],
        *["--parameter-overrides", *overrides],
    ]
    env = environment() | {"AWS_ENDPOINT_URL": cloud.endpoint}
    run(command, scratch / "deploy.log", env, ROOT)
    stacks = cloud.client("cloudformation").describe_stacks(StackName=STACK_NAME)["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stacks[0]["Outputs"]}
    return Stack(cloud, outputs)
