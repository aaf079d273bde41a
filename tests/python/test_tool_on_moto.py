"""End to end: the command-line tool as a person runs it, with moto for EC2, IAM and SQS."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from account import Account
from demo import stack

POLICY = """
version: 1
rules:
  - name: named-by-tag
    match: { tags: { InstanceProfile: "?*" } }
    profile: "${tag:InstanceProfile}"
  - name: retired
    match: { tags: { Lifecycle: retired } }
    profile: none
  - name: baseline
    match: { tags: { Team: "*" } }
    profile: batch
    when-different: keep
"""

Tool = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def tool_binary() -> Path:
    """The tool that TOOL_BINARY names, or the one that the Rust tests build."""
    named = os.environ.get("TOOL_BINARY")
    if named:
        return Path(named).resolve()
    cargo = ["cargo", "test", "--locked", "--features", "cli", "--test", "cli", "--no-run"]
    subprocess.run(cargo, cwd=stack.ROOT, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", stack.ROOT / "target"))
    return target / "debug" / "auto-instance-profile"


@pytest.fixture
def environment(moto: str) -> dict[str, str]:
    """The tool's environment: moto for AWS."""
    return {**os.environ, "AWS_ENDPOINT_URL": moto, "AWS_REGION": stack.REGION}


@pytest.fixture
def tool(tool_binary: Path, environment: dict[str, str], tmp_path: Path) -> Tool:
    """Runs a command of the tool on the policy above."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)

    def run(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [tool_binary, command, *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
            check=False,
        )

    return run


def test_a_plan_is_applied_and_then_there_is_nothing_to_do(account: Account, tool: Tool) -> None:
    bare = account.launch(tag="web")
    wrong = account.launch(tag="web", profile="web-old")
    stopped = account.launch(tag="web", profile="web-old")
    account.stop(stopped)
    retired = account.launch(tags={"Lifecycle": "retired"}, profile="web-old")
    gap = account.launch(tags={"Team": "x"})
    kept = account.launch(tags={"Team": "x"}, profile="web-old")
    forbidden = account.launch(tag="admin", profile="web-old")
    options = ("policy.yaml", "--allowed", "web,app/*")

    planned = tool("plan", *options, "--json")
    assert planned.returncode == 2, planned.stderr
    plan = {row["instance-id"]: row for row in json.loads(planned.stdout)["instances"]}
    decisions = {name: plan[name]["decision"] for name in plan}
    assert decisions == {
        bare: "associate",
        wrong: "replace",
        stopped: "wait",
        retired: "remove",
        gap: "associate",
        kept: "leave",
        forbidden: "leave",
    }
    assert account.profile_of(bare) is None, "a plan writes nothing"

    refused = tool("apply", *options)
    assert refused.returncode == 1 and "--yes" in refused.stderr
    assert account.profile_of(bare) is None, "nobody said yes"

    applied = tool("apply", *options, "--yes", "--writes-per-second", "50")
    assert applied.returncode == 0, applied.stdout + applied.stderr
    profiles = [bare, wrong, stopped, retired, gap, kept, forbidden]
    assert [account.profile_of(name) for name in profiles] == [
        "web",
        "web",
        "web-old",
        None,
        "app/batch",
        "web-old",
        "web-old",
    ]
    again = tool("plan", *options)
    assert again.returncode == 0, again.stdout
    assert "Left to the function" in again.stdout and "1 stopped instance;" in again.stdout


def test_a_stopped_instance_is_swapped_where_the_queue_knows_of_it(
    account: Account, queues: Queues, tool: Tool
) -> None:
    stopped = account.launch(tag="web", profile="web-old")
    account.stop(stopped)
    options = ("policy.yaml", "--allowed", "web,web-old", "--when-stopped", "swap", "--yes")
    applied = tool("apply", *options)
    assert applied.returncode == 0, applied.stderr
    assert "--queue, with the URL" in applied.stdout
    assert account.profile_of(stopped) == "web-old"

    applied = tool("apply", *options, "--queue", queues.queue)
    assert applied.returncode == 0, applied.stdout + applied.stderr
    assert f"{stopped} swapped: web-old -> web" in applied.stdout
    assert account.profile_of(stopped) == "web"
    name = "ApproximateNumberOfMessagesDelayed"
    answer = queues.sqs.get_queue_attributes(QueueUrl=queues.queue, AttributeNames=[name])
    assert answer["Attributes"][name] == "1", "what was taken away is written down"


def test_a_real_instance_is_explained(account: Account, tool: Tool) -> None:
    instance = account.launch(tag="web", profile="web-old")
    explained = tool("explain", instance, "--policy", "policy.yaml", "--allowed", "web,app/*")
    assert explained.returncode == 0, explained.stderr
    assert "named-by-tag" in explained.stdout and "replace" in explained.stdout
    assert account.profile_of(instance) == "web-old"


def test_a_report_counts_the_whole_fleet(account: Account, tool: Tool, tmp_path: Path) -> None:
    asg = {"aws:autoscaling:groupName": "web-asg"}
    right = account.launch(tag="web", profile="web")
    wrong = account.launch(tag="web", profile="web-old")
    bare = [account.launch(tag="web", tags=asg) for _ in range(3)]
    forbidden = account.launch(tag="admin", tags={**asg, "Name": "</script><b>"})
    unknown = account.launch(tag="app-of-nobody")
    unmanaged = account.launch(profile="web-old")
    options = ("policy.yaml", "--allowed", "web,app-*", "--html", "report.html")

    ran = tool("report", *options, "--json")
    assert ran.returncode == 2, ran.stderr
    # Before it stands what the policy's author is warned of.
    assert ran.stderr.endswith(f"\nThe report is in {tmp_path / 'report.html'}\n")
    report = json.loads(ran.stdout)
    none = {"failed": 0, "waiting": 0, "stuck": 0}
    counts = {"instances": 8, "right": 1, "wrong": 4, "blocked": 2, "left": 1}
    assert report["counts"] == counts | none
    assert report["blocked"] == {"not-allowed": 1, "profile-unknown": 1}
    assert report["left"] == {"unmanaged": 1} and report["failed"] == {}
    assert report["bare-sources"] == [{"source": "auto-scaling-group web-asg", "count": 4}]
    standings = {row["instance-id"]: row["standing"] for row in report["instances"]}
    assert standings == {
        **dict.fromkeys([wrong, *bare], "change"),
        **dict.fromkeys([forbidden, unknown], "blocked"),
        right: "right",
        unmanaged: "left",
    }
    from_asg = [row["instance-id"] for row in report["instances"] if row["launch-source"]]
    assert sorted(from_asg) == sorted([*bare, forbidden])
    page = (tmp_path / "report.html").read_text()
    data = page.partition('<script type="application/json" id="data">')[2].partition("</script>")[0]
    assert json.loads(data) == report

    account.stop(right)
    said = tool("report", *options).stdout
    assert "6 of 8 instances are not right." in said
    assert "      4  auto-scaling-group web-asg" in said
    assert account.profile_of(bare[0]) is None, "a report writes nothing"


# Dead letters.


@dataclass(frozen=True)
class Queues:
    """A queue and its dead-letter queue."""

    sqs: Any
    queue: str
    dead_letter_queue: str

    def give_up(self, body: str, **attributes: str) -> None:
        """Puts a letter into the dead-letter queue, as the function or EventBridge does."""
        texts = {
            name: {"DataType": "String", "StringValue": text} for name, text in attributes.items()
        }
        self.sqs.send_message(
            QueueUrl=self.dead_letter_queue, MessageBody=body, MessageAttributes=texts
        )

    def deny(self, instance: str) -> str:
        """A letter of the function's about an instance for which it lacked a right; answers its body."""
        body = about(instance)
        error = f"instance {instance}: a call to AWS failed: the caller needs iam:PassRole on web"
        self.give_up(body, ErrorType="Denied", Error=error, MessageId="m-1")
        return body

    def of(self, url: str) -> list[str]:
        """The bodies of a queue's messages that can be seen. They stay."""
        bodies = []
        while True:
            answer = self.sqs.receive_message(
                QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=60
            )
            messages = answer.get("Messages", [])
            bodies += [message["Body"] for message in messages]
            if not messages:
                return sorted(bodies)

    def hidden(self) -> int:
        """How many dead letters somebody hides."""
        name = "ApproximateNumberOfMessagesNotVisible"
        answer = self.sqs.get_queue_attributes(
            QueueUrl=self.dead_letter_queue, AttributeNames=[name]
        )
        return int(answer["Attributes"][name])


def about(instance: str) -> str:
    return json.dumps({"instance-ids": [instance]})


def state_change(instance: str, state: str) -> str:
    event = json.loads((stack.ROOT / "events" / "instance-running.json").read_text())
    return json.dumps({**event, "detail": {"instance-id": instance, "state": state}})


@pytest.fixture
def queues(account: Account, moto: str) -> Queues:
    """Two empty queues."""
    sqs = boto3.client("sqs", endpoint_url=moto, region_name=stack.REGION)
    urls = [sqs.create_queue(QueueName=name)["QueueUrl"] for name in ("events", "dead-letters")]
    return Queues(sqs, *urls)


def options(queues: Queues, *more: str) -> list[str]:
    return ["--dead-letter-queue", queues.dead_letter_queue, "--queue", queues.queue, *more]


def test_letters_go_back_to_the_queue(queues: Queues, tool: Tool) -> None:
    denied = [queues.deny(f"i-{number:017x}") for number in range(30)]
    same = state_change("i-0a", "pending"), state_change("i-0a", "running")
    queues.give_up(same[0], ErrorType="Conflict", Error="instance i-0a: it keeps moving")
    queues.give_up(same[1], ERROR_CODE="NO_PERMISSIONS", ERROR_MESSAGE="the queue's policy")

    ran = tool("replay", *options(queues, "--yes"))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = ran.stdout.splitlines()
    assert lines[0] == f"32 dead letters in dead-letters, {stack.REGION}"
    rows = [line.split() for line in lines[3:6]]
    assert [row[:2] for row in rows] == [
        ["30", "Denied"],
        ["1", "Conflict"],
        ["1", "NO_PERMISSIONS"],
    ]
    assert "and 28 more" in lines[3] and lines[3].endswith("iam:PassRole on web")
    assert lines[-1] == "Replayed 32 letters as 31 messages."
    sent = queues.of(queues.queue)
    assert sent in (sorted([*denied, same[0]]), sorted([*denied, same[1]]))
    assert queues.of(queues.dead_letter_queue) == [] and queues.hidden() == 0

    again = tool("replay", *options(queues, "--yes"))
    assert (again.returncode, again.stdout) == (0, "There is no dead letter in dead-letters.\n")


def test_a_choice_of_letters_goes_back(queues: Queues, tool: Tool) -> None:
    denied = queues.deny("i-0a")
    queues.give_up(about("i-0b"), ErrorType="Rejected", Error="instance i-0b: no")
    queues.give_up("{", ErrorType="MalformedEvent", Error="no JSON")

    ran = tool("replay", *options(queues, "--yes", "--json", "--only", "Denied"))
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert (said["letters"], said["replayed"], said["held-back"]) == (3, 1, 2)
    assert {group["error-type"]: group["chosen"] for group in said["groups"]} == {
        "Denied": True,
        "Rejected": False,
        "MalformedEvent": False,
    }
    assert queues.of(queues.queue) == [denied]
    # What stays is seen again at once, and what cannot be read stays until it is named.
    ran = tool("replay", *options(queues, "--yes"))
    assert ran.returncode == 1
    assert "MalformedEvent" in ran.stdout and "only by --only MalformedEvent" in ran.stdout
    assert ran.stdout.endswith("Replayed 1 letter as 1 message, 1 held back.\n")
    assert queues.of(queues.queue) == [about("i-0b")]
    ran = tool("replay", *options(queues, "--yes", "--only", "MalformedEvent"))
    assert ran.returncode == 0, ran.stdout
    assert queues.of(queues.queue) == ["{"]
    assert queues.of(queues.dead_letter_queue) == []


def test_no_more_letters_than_asked_for(queues: Queues, tool: Tool) -> None:
    letters = sorted(queues.deny(f"i-{number:017x}") for number in range(13))
    ran = tool("replay", *options(queues, "--yes", "--max", "11"))
    assert ran.returncode == 0, ran.stderr
    sent, left = queues.of(queues.queue), queues.of(queues.dead_letter_queue)
    assert (len(sent), len(left)) == (11, 2) and sorted(sent + left) == letters


def test_what_is_not_sent_is_not_deleted(queues: Queues, tool: Tool) -> None:
    letters = sorted(queues.deny(f"i-{number:017x}") for number in range(13))
    nowhere = queues.queue.replace("events", "nowhere")
    lost = ("--dead-letter-queue", queues.dead_letter_queue, "--queue", nowhere)
    ran = tool("replay", *lost, "--yes")
    assert ran.returncode == 1
    assert "Replayed 0 letters as 0 messages, 10 not sent, and still there, 3 not begun." in ran.stdout
    assert "SendMessage failed (" in ran.stdout
    assert queues.of(queues.dead_letter_queue) == letters, "and seen again at once"

    no_queue = queues.dead_letter_queue.replace("dead-letters", "nowhere")
    ran = tool("replay", "--dead-letter-queue", no_queue, "--queue", queues.queue, "--yes")
    assert ran.returncode == 1 and "the dead letters cannot be read" in ran.stderr


def test_nothing_is_replayed_without_a_yes(queues: Queues, tool: Tool) -> None:
    letter = queues.deny("i-0a")
    ran = tool("replay", *options(queues))
    assert ran.returncode == 1
    assert "nothing was replayed: without a terminal to ask at, replay needs --yes" in ran.stderr
    assert queues.of(queues.dead_letter_queue) == [letter]


@contextmanager
def at_a_terminal(
    command: list[str | Path], environment: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A program at a terminal of its own: the process, and the terminal's other end."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        command, env=environment, stdin=its, stdout=its, stderr=its, start_new_session=True
    )
    os.close(its)
    try:
        yield process, ours
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, text: str) -> str:
    """What the terminal shows, up to this text and what comes with it."""
    said, deadline = "", time.monotonic() + 60
    while text not in said:
        assert time.monotonic() < deadline, said
        said += os.read(terminal, 65536).decode()
    return said


def read_to_the_end(terminal: int) -> str:
    said = ""
    # Where nobody is at the other end any more, Linux says that there is no such device.
    with suppress(OSError):
        while part := os.read(terminal, 65536):
            said += part.decode()
    return said


@pytest.mark.parametrize("answer", ["yes", "y", "no", "interrupt", "hang-up"])
def test_a_person_is_asked(
    queues: Queues, tool_binary: Path, environment: dict[str, str], answer: str
) -> None:
    letters = sorted(queues.deny(f"i-{number:017x}") for number in range(3))
    command: list[str | Path] = [tool_binary, "replay", *options(queues)]
    with at_a_terminal(command, environment) as (process, terminal):
        read_until(terminal, "Send 3 messages to events? (yes/no) ")
        assert queues.of(queues.dead_letter_queue) == [], "they are hidden from others"
        if answer == "interrupt":
            process.send_signal(signal.SIGINT)
        elif answer == "hang-up":
            process.send_signal(signal.SIGHUP)
        else:
            os.write(terminal, f"{answer}\n".encode())
        said = read_to_the_end(terminal)
        code = process.wait(timeout=60)
    if answer in ("yes", "y"):
        assert (code, queues.of(queues.queue)) == (0, letters), said
        assert queues.of(queues.dead_letter_queue) == [] and queues.hidden() == 0
    else:
        assert code == 1 and "Nothing was replayed." in said
        assert queues.of(queues.queue) == []
        assert queues.of(queues.dead_letter_queue) == letters
