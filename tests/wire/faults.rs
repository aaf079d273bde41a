//! Every call and everything that can become of it: what that makes of the message and of the instance, as the table in
//! `docs/faults.md`. And what no single fault is: answers that never end, and two environments at once.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::common::runtime_api::{CREDENTIALS, Function, Invocation};
use crate::common::wire::sqs::DEAD_LETTER_QUEUE;
use crate::common::wire::{Fault, Wire};
use crate::common::world::{World, Write};
use crate::{
    ASSOCIATE, ASSOCIATIONS, DISASSOCIATE, GET_PROFILE, HIDE, INSTANCES, ONE, REPLACE, SEND,
    a_world, associated, batch, batch_failures, disassociated, function_with, policy_file,
    replaced, running, sample, state_change,
};

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/faults.md");
/// The page that holds its summary, between two marks.
const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/SEMANTICS.md");
const BEGIN: &str = "<!-- written by tests/wire/faults.rs: begin -->\n";
const END: &str = "<!-- end -->\n";
/// The scenes whose calls have a column in the summary, one for each call.
const SUMMARY: [usize; 6] = [0, 2, 4, 5, 7, 8];
const TAGS: &str = "DescribeTags";
/// Functions at work at once; most wait. Those that wait for an answer that never comes are left out.
const AT_ONCE: usize = 32;
const HALF: u32 = 16;
const TEN_MEGABYTES: usize = 10 * 1024 * 1024;
/// What a function may hold at most: half of what the template gives it.
const ENOUGH_MEMORY: u64 = 64 * 1024 * 1024;

/// So long that no fault ends at the same moment as the invocation.
const DUE_IN: Duration = Duration::from_secs(34);

const INTRODUCTION: &str = "\
# What each fault makes of a message

Each call of the function, and what can become of it: the errors that AWS documents or has been seen to send,
and what a network and a broken proxy can do. This table is made by the test `tests/wire/faults.rs`, which
runs the built function against an EC2, an IAM and an SQS that behave as the live ones, one message to an
invocation of 34 s, and compares what comes of it with this file (`make soak`). To write it anew:
`UPDATE_FAULTS=1 cargo test --test wire faults`.

*For good* means that every such call in the invocation meets the fault; *once* that the first does and the
next is answered. In both cases

- **message** is what becomes of the message at its first receive: done, with the
  [outcome](SEMANTICS.md#the-decision-table); or again, after the first delay (a quarter more at most, which
  spreads messages), with the [`errorType`](SEMANTICS.md#errors); or in the dead-letter queue.
- **calls** is how often the call was made, its repetitions by the SDK included.
- **instance** is what it has in the end: the required profile, the old one, or none (*bare*).

Faults that come to the same are one row. Of a call that is *carried out* AWS did what was asked; only its
answer is lost or spoiled. Over the whole table the test asserts that the function answers each invocation and
lives on; that it holds less than 64 MB; that no message is done while its instance has another profile than
the required one; that no instance is left bare unless its message comes again; that no log line holds a
credential or a signature; and that the next delivery, once all is well, does what is left to do.

One exception is known: a letter whose answer is lost is in the dead-letter queue twice in the end.
";

/// A call on the path of a message, and the world that puts it there.
struct Scene {
    call: &'static str,
    title: &'static str,
    world: fn() -> World,
    /// What the message is about.
    body: fn() -> Value,
    /// What the instance must have in the end.
    required: Option<&'static str>,
    allowed: &'static str,
    policy: bool,
}

const POLICY: &str = "version: 1
rules:
  - { name: retired, match: { tags: { Lifecycle: retired } }, profile: none }
  - { name: baseline, match: {}, profile: web, when-different: keep }
";

fn scenes() -> Vec<Scene> {
    let common = Scene {
        call: INSTANCES,
        title: "a running instance has another profile",
        world: || a_world().running(ONE, Some("web"), Some("old")),
        body: || running(ONE),
        required: Some("web"),
        allowed: "web,old",
        policy: false,
    };
    let bare = || a_world().running(ONE, Some("web"), None);
    let stopped = || a_world().stopped(ONE, Some("web"), Some("old"));
    let retired = || {
        let mut world = a_world().running(ONE, None, Some("old"));
        let tags = &mut world.instance_mut(ONE).tags;
        tags.insert("Lifecycle".to_owned(), "retired".to_owned());
        world
    };
    vec![
        Scene { ..common },
        Scene { call: ASSOCIATIONS, ..common },
        Scene {
            call: TAGS,
            title: "the policy says `none`, which a second read of the tags must confirm",
            world: retired,
            required: None,
            policy: true,
            ..common
        },
        Scene {
            call: TAGS,
            title: "an untagged bare instance is to have the policy's baseline",
            world: || a_world().running(ONE, None, None),
            policy: true,
            ..common
        },
        Scene {
            call: GET_PROFILE,
            title: "a running instance is bare",
            world: bare,
            allowed: "we*",
            ..common
        },
        Scene { call: ASSOCIATE, title: "a running instance is bare", world: bare, ..common },
        Scene {
            call: ASSOCIATE,
            title: "the second half of a swap: a stopped instance has another profile",
            world: stopped,
            body: || state_change(ONE, "stopped"),
            ..common
        },
        Scene { call: REPLACE, ..common },
        Scene {
            call: DISASSOCIATE,
            title: "the first half of a swap: a stopped instance has another profile",
            world: stopped,
            body: || state_change(ONE, "stopped"),
            ..common
        },
        Scene {
            call: DISASSOCIATE,
            title: "the policy says `none`",
            world: retired,
            required: None,
            policy: true,
            ..common
        },
        Scene {
            call: HIDE,
            title: "the profile is not made yet, so the message is to come again",
            world: || a_world().running(ONE, Some("late"), None),
            required: Some("late"),
            allowed: "*",
            ..common
        },
        Scene {
            call: SEND,
            title: "the message cannot be read, so it is to be given up",
            world: World::new,
            body: || json!({}),
            required: None,
            ..common
        },
    ]
}

const PASS_ROLE: &str = "You are not authorized to perform this operation. User: \
     arn:aws:sts::123456789012:assumed-role/f/f is not authorized to perform: iam:PassRole on resource: \
     arn:aws:iam::123456789012:role/web-role because no identity-based policy allows the iam:PassRole action";

/// What can become of a call, and how the table names it.
fn troubles() -> Vec<(&'static str, Fault)> {
    use Fault::Refuses;
    vec![
        (
            "`IncorrectState` (something is attached)",
            Refuses(
                400,
                "IncorrectState",
                "There is an existing association for instance i-00000000000000001",
            ),
        ),
        (
            "`IncorrectState` (not the active association)",
            Refuses(
                400,
                "IncorrectState",
                "The association iip-assoc-00000000000000001 is not the active association",
            ),
        ),
        (
            "`IncorrectInstanceState`",
            Refuses(
                400,
                "IncorrectInstanceState",
                "The instance 'i-00000000000000001' is not in the 'running' or 'stopped' states.",
            ),
        ),
        (
            "`InvalidAssociationID.NotFound`",
            Refuses(
                400,
                "InvalidAssociationID.NotFound",
                "An invalid association-id of 'iip-assoc-00000000000000001' was given",
            ),
        ),
        (
            "`InvalidInstanceID.NotFound`",
            Refuses(
                400,
                "InvalidInstanceID.NotFound",
                "The instance ID 'i-00000000000000001' does not exist",
            ),
        ),
        (
            "`InvalidInstanceID.Malformed`",
            Refuses(
                400,
                "InvalidInstanceID.Malformed",
                "Invalid id: \"i-00000000000000001\" (expecting \"i-...\")",
            ),
        ),
        (
            "`InvalidParameterValue` (profile name)",
            Refuses(
                400,
                "InvalidParameterValue",
                "Value (web) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name",
            ),
        ),
        (
            "`InvalidParameterValue` (profile ARN)",
            Refuses(
                400,
                "InvalidParameterValue",
                "Value (web) for parameter iamInstanceProfile.arn is invalid. Invalid IAM Instance Profile ARN",
            ),
        ),
        (
            "`InvalidParameterValue` (another one)",
            Refuses(400, "InvalidParameterValue", "Value () for parameter filter is invalid"),
        ),
        ("`NoSuchEntity`", Refuses(404, "NoSuchEntity", "Instance Profile web cannot be found.")),
        ("`UnauthorizedOperation`", Refuses(403, "UnauthorizedOperation", PASS_ROLE)),
        (
            "`AccessDenied`",
            Refuses(403, "AccessDenied", "User is not authorized to perform this action"),
        ),
        ("`AuthFailure`", Refuses(401, "AuthFailure", "AWS was not able to validate them")),
        ("`ExpiredToken`", Refuses(400, "ExpiredToken", "The security token has expired")),
        ("`RequestLimitExceeded`", Refuses(503, "RequestLimitExceeded", "Request limit exceeded.")),
        ("`EC2ThrottledException`", Refuses(503, "EC2ThrottledException", "Slower, please")),
        ("`Throttling`", Refuses(400, "Throttling", "Rate exceeded")),
        ("`ThrottlingException`", Refuses(400, "ThrottlingException", "Rate exceeded")),
        ("`InternalError`", Refuses(500, "InternalError", "An internal error has occurred")),
        ("`Unavailable`", Refuses(503, "Unavailable", "The service is unavailable")),
        ("an unknown code (HTTP 400)", Refuses(400, "SomethingNew", "Nobody has seen this yet")),
        ("an unknown code (HTTP 500)", Refuses(500, "SomethingNew", "Nobody has seen this yet")),
        ("a proxy\'s page (HTTP 403)", Fault::Intercepts(403, "<html><body>Forbidden</body>")),
        ("a proxy\'s page (HTTP 429)", Fault::Intercepts(429, "<html><body>Too many</body>")),
        ("a proxy\'s page (HTTP 502)", Fault::Intercepts(502, "<html><body>Bad Gateway</body>")),
        ("no answer", Fault::Hangs),
        ("a reset (not carried out)", Fault::BreaksBefore),
        ("a reset (carried out)", Fault::BreaksAfter),
        ("a page for an answer (carried out)", Fault::Garbles),
        ("an answer cut in half (carried out)", Fault::CutsShort),
        ("an empty body (carried out)", Fault::Empties),
        ("a wrong content type (carried out)", Fault::Mislabels),
        ("an answer of 10 MB (carried out)", Fault::Floods(TEN_MEGABYTES)),
        ("an answer of ten bytes a second (carried out)", Fault::Drips),
    ]
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cell {
    message: String,
    calls: String,
    instance: &'static str,
}

/// Faults that come to the same: for good, and once.
struct Row {
    names: Vec<&'static str>,
    cells: Vec<Cell>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lasts {
    Once,
    ForGood,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_each_fault_of_each_call_comes_to_is_what_the_table_says() {
    let policy: Arc<str> = policy_file("faults", POLICY).into();
    // One trusted root for each function to read at its start, in the place of the machine's hundred and more.
    let vouched_for = Wire::serve_tls(World::new()).await;
    let roots: Arc<str> = vouched_for.roots().into();
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut cells = Vec::new();
    for (place, scene) in scenes().into_iter().enumerate() {
        let scene = Arc::new(scene);
        for (name, fault) in troubles() {
            // SQS speaks no XML, and has less than a second: whether this gets through is the machine's business.
            if matches!(fault, Fault::Floods(_)) && [HIDE, SEND].contains(&scene.call) {
                continue;
            }
            for lasts in [Lasts::ForGood, Lasts::Once] {
                let (scene, fault) = (Arc::clone(&scene), fault.clone());
                let (policy, roots) = (Arc::clone(&policy), Arc::clone(&roots));
                let turns = Arc::clone(&turns);
                let cell = tokio::spawn(async move {
                    // What waits takes no processor; what must be read in 5 s has one to itself.
                    let waits = matches!(fault, Fault::Hangs | Fault::Drips);
                    let share = if matches!(fault, Fault::Floods(_)) { HALF } else { 1 };
                    let turn =
                        if waits { None } else { Some(turns.acquire_many(share).await.unwrap()) };
                    let cell = play(&scene, (name, &fault), lasts, (&policy, &roots)).await;
                    drop(turn);
                    cell
                });
                cells.push((place, name, lasts, cell));
            }
        }
    }
    let mut played: BTreeMap<usize, Vec<Row>> = BTreeMap::new();
    let mut complaints = Vec::new();
    for (place, name, lasts, cell) in cells {
        let (cell, more) = cell.await.unwrap();
        complaints.extend(more);
        let rows = played.entry(place).or_default();
        match lasts {
            Lasts::ForGood => rows.push(Row { names: vec![name], cells: vec![cell] }),
            Lasts::Once => rows.last_mut().unwrap().cells.push(cell),
        }
    }
    compare_summary(&summary(&played));
    let mut text = INTRODUCTION.to_owned();
    for (scene, rows) in scenes().iter().zip(played.into_values()) {
        write_table(&mut text, scene, rows);
    }
    compare(&text);
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// Has one message dealt with while this call meets this fault; and, where it comes again, once more when all is well.
/// Faults that mean a missing right.
const DENIALS: [&str; 4] =
    ["`UnauthorizedOperation`", "`AccessDenied`", "`AuthFailure`", "a proxy's page (HTTP 403)"];

async fn play(
    scene: &Scene,
    (name, fault): (&str, &Fault),
    lasts: Lasts,
    (policy, roots): (&str, &str),
) -> (Cell, Vec<String>) {
    let shown = format!("{} meets {name}, {lasts:?} ({})", scene.call, scene.title);
    let mut wire = Wire::serve((scene.world)()).await;
    if scene.title.contains("the second half of a swap") {
        // The first answer is to the question whether the attach would be denied.
        wire = wire.once(ASSOCIATE, super::SOMETHING_IS_ATTACHED);
    }
    let wire = match lasts {
        Lasts::Once => wire.once(scene.call, fault.clone()),
        Lasts::ForGood => wire.always(scene.call, fault.clone()),
    };
    let url = format!("{}/123456789012/{DEAD_LETTER_QUEUE}", wire.endpoint());
    let mut settings = vec![
        ("ALLOWED_PROFILES", scene.allowed),
        ("DEAD_LETTER_QUEUE_URL", url.as_str()),
        ("WRITES_PER_SECOND", "50"),
        ("SSL_CERT_FILE", roots),
        ("AWS_LAMBDA_LOG_FORMAT", "JSON"),
        ("AWS_LAMBDA_LOG_LEVEL", "TRACE"),
    ];
    if scene.policy {
        settings.push(("POLICY_FILE", policy));
    }
    let queue = format!("{}/123456789012/auto-instance-profile-events", wire.endpoint());
    if scene.title.contains("half of a swap") {
        settings.extend([("WHEN_STOPPED", "swap"), ("QUEUE_URL", queue.as_str())]);
    }
    let mut function = function_with(&wire, &settings).await;
    let had = wire_attached(&wire);
    let message = batch(&[("m1", (scene.body)())]);
    let answer = function.take(Invocation::of(message.clone()).due_in(DUE_IN)).await.expect(&shown);
    let is_done = batch_failures(&answer).is_empty();
    let is_dead = !wire.dead_letters().concat().is_empty();
    let has = wire_attached(&wire);
    let calls = wire.requests_of(scene.call).len();
    let delay = wire.hidden().concat().last().map(|(_, seconds)| *seconds);

    let is_right = scene.call != SEND && has.as_deref() == scene.required;
    let is_left_bare = had.is_some() && has.is_none() && scene.required.is_some();
    let mut complaints = Vec::new();
    if is_done && !is_dead && !is_right {
        complaints.push(format!("{shown}: done, and it has {has:?}"));
    }
    if is_done && is_left_bare {
        complaints.push(format!("{shown}: left bare, and nothing comes again"));
    }

    wire.mend();
    // An attach that was denied once nothing was attached is remembered for an hour: nothing is detached for it meanwhile.
    let is_remembered =
        scene.title.contains("the second half of a swap") && DENIALS.contains(&name);
    if !is_done && !is_remembered {
        come_again(scene, &wire, &mut function, &message, &shown).await;
    }
    let answer = function.invoke(sample("foreign.json")).await.expect(&shown);
    assert!(answer["ignored"].is_string(), "{shown}: {answer}");
    let memory = function.peak_memory();
    assert!(memory.is_none_or(|bytes| bytes < ENOUGH_MEMORY), "{shown}: {memory:?} bytes");

    let log = function.stop().await;
    holds_no_secret(&log, &shown);
    let ended = how_it_ended(&log);
    let message = match (is_done, is_dead) {
        (true, true) => format!("dead-letter queue: `{ended}`"),
        (true, false) => format!("done: `{ended}`"),
        // Nobody heard that it is there, so it will be there twice.
        (false, true) => {
            format!("dead-letter queue, and again after {}: `{ended}`", first_delay(delay))
        }
        (false, false) => format!("again after {}: `{ended}`", first_delay(delay)),
    };
    let instance = match has.as_deref() {
        _ if scene.call == SEND => "–",
        None => "bare",
        Some("old") => "old",
        Some(_) => "required",
    };
    let calls = number_of_calls(scene, fault, lasts, calls);
    (Cell { message, calls, instance }, complaints)
}

/// All is well, and the message is delivered until it is done, which must not be long.
async fn come_again(
    scene: &Scene,
    wire: &Wire,
    function: &mut Function,
    message: &Value,
    shown: &str,
) {
    if scene.required == Some("late") {
        wire.world().make_profile("/", "late", Some("ec2.amazonaws.com"));
    }
    // What IAM does not know is believed for 5 s.
    for _ in 0..20 {
        let answer = function.invoke(message).await.expect(shown);
        if batch_failures(&answer).is_empty() {
            if scene.call == SEND {
                // More than one, where an answer was lost.
                assert!(!wire.dead_letters().concat().is_empty(), "{shown}");
            } else {
                assert_eq!(wire_attached(wire).as_deref(), scene.required, "{shown}");
            }
            return;
        }
        sleep(Duration::from_millis(500)).await;
    }
    panic!("{shown}: never done, though all is well");
}

fn wire_attached(wire: &Wire) -> Option<String> {
    wire.world().attached_to(ONE)
}

fn holds_no_secret(log: &[String], shown: &str) {
    let secrets = CREDENTIALS.map(|(_, value)| value);
    let words = ["AWS4-HMAC-SHA256", "Signature=", "uthorization:", "x-amz-security-token"];
    for line in log {
        for secret in secrets.iter().chain(&words) {
            assert!(!line.contains(secret), "{shown}: {line}");
        }
    }
}

/// The error's type, or the outcome, of the first delivery: one line says it. What was left was left for a reason.
fn how_it_ended(log: &[String]) -> String {
    let lines = log.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut ends = lines.filter(|line| line["outcome"].is_string());
    let line = ends.next().expect("a line about the message");
    let text = |field: &str| line[field].as_str();
    match (text("error.type"), text("outcome"), text("reason")) {
        (None, Some("left"), Some(reason)) => format!("left`, `{reason}"),
        (error, outcome, _) => error.or(outcome).unwrap().to_owned(),
    }
}

/// The delay that was spread, as it was before.
fn first_delay(seconds: Option<u64>) -> String {
    let Some(seconds) = seconds else { return "the queue's timeout".to_owned() };
    let is_of = |first: &&u64| (**first..=(**first * 5).div_ceil(4)).contains(&seconds);
    let first = [1, 5, 10, 15, 300].iter().find(is_of);
    match first.unwrap_or_else(|| panic!("{seconds} s is nobody's first delay")) {
        300 => "5 min".to_owned(),
        first => format!("{first} s"),
    }
}

/// A number, where it is always the same.
fn number_of_calls(scene: &Scene, fault: &Fault, lasts: Lasts, calls: usize) -> String {
    let is_slow = matches!(fault, Fault::Hangs | Fault::Drips);
    if is_slow && lasts == Lasts::ForGood && [HIDE, SEND].contains(&scene.call) {
        // Between tries there is a random pause, and for all of them together less than two seconds.
        assert!((2..=3).contains(&calls), "{calls} calls");
        return "2 or 3".to_owned();
    }
    calls.to_string()
}

/// One scene's table; faults that come to the same are one row.
fn write_table(text: &mut String, scene: &Scene, rows: Vec<Row>) {
    let mut merged: Vec<Row> = Vec::new();
    for row in rows {
        match merged.iter_mut().find(|other| other.cells == row.cells) {
            Some(same) => same.names.extend(row.names),
            None => merged.push(row),
        }
    }
    let Scene { call, title, .. } = scene;
    write!(
        text,
        "\n## `{call}`: {title}\n\n\
         | fault | for good: message | calls | instance | once: message | calls | instance |\n\
         |---|---|---|---|---|---|---|\n"
    )
    .unwrap();
    for Row { names, cells } in merged {
        write!(text, "| {} |", names.join(", ")).unwrap();
        for Cell { message, calls, instance } in cells {
            write!(text, " {message} | {calls} | {instance} |").unwrap();
        }
        text.push('\n');
    }
}

/// What becomes of the message where every such call meets the fault. What depends on how fast the machine reads, or how
/// often it asks, is left to the whole table.
fn summary(played: &BTreeMap<usize, Vec<Row>>) -> String {
    let depends_on_speed = |name: &str| {
        let of = troubles().into_iter().find(|(other, _)| *other == name);
        matches!(of, Some((_, Fault::Floods(_) | Fault::Drips)))
    };
    let mut rows: Vec<(Vec<&str>, Vec<&str>)> = Vec::new();
    for (place, row) in played[&SUMMARY[0]].iter().enumerate() {
        let name = row.names[0];
        if depends_on_speed(name) {
            continue;
        }
        let ends: Vec<_> =
            SUMMARY.iter().map(|scene| played[scene][place].cells[0].message.as_str()).collect();
        match rows.iter_mut().find(|(_, others)| *others == ends) {
            Some((names, _)) => names.push(name),
            None => rows.push((vec![name], ends)),
        }
    }
    let scenes = scenes();
    let calls: Vec<_> = SUMMARY.iter().map(|scene| format!("`{}`", scenes[*scene].call)).collect();
    let mut text = format!(
        "| every call meets | {} |\n|---{}|\n",
        calls.join(" | "),
        "|---".repeat(calls.len())
    );
    for (names, ends) in rows {
        writeln!(text, "| {} | {} |", names.join(", "), ends.join(" | ")).unwrap();
    }
    text
}

#[expect(clippy::disallowed_methods, reason = "a test's own switch")]
fn compare_summary(text: &str) {
    let page = fs::read_to_string(PAGE).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the mark in docs/SEMANTICS.md");
    let (written, after) = rest.split_once(END).expect("the mark in docs/SEMANTICS.md");
    if std::env::var_os("UPDATE_FAULTS").is_some() {
        fs::write(PAGE, [before, BEGIN, text, END, after].concat()).unwrap();
        return;
    }
    for (is, said) in text.lines().zip(written.lines()) {
        assert_eq!(is, said, "in docs/SEMANTICS.md; UPDATE_FAULTS=1 writes it anew");
    }
    assert_eq!(text.lines().count(), written.lines().count(), "the table in docs/SEMANTICS.md");
}

#[expect(clippy::disallowed_methods, reason = "a test's own switch")]
fn compare(text: &str) {
    if std::env::var_os("UPDATE_FAULTS").is_some() {
        fs::write(TABLE, text).unwrap();
        return;
    }
    // How often a call is made depends on the machine's speed where answers are long: `make soak` compares, on a quiet one.
    if std::env::var_os("COMPARE_FAULTS").is_none() {
        return;
    }
    let written = fs::read_to_string(TABLE).unwrap_or_default();
    for (number, (is, said)) in text.lines().zip(written.lines()).enumerate() {
        assert_eq!(
            is,
            said,
            "line {} of docs/faults.md; UPDATE_FAULTS=1 writes it anew",
            number + 1
        );
    }
    assert_eq!(text.lines().count(), written.lines().count(), "docs/faults.md");
}

// ---- Answers that never end -----------------------------------------------------------------------------------------

#[tokio::test]
async fn answers_that_are_far_too_long_or_never_end_take_little_memory() {
    let world = a_world().running(ONE, Some("web"), Some("old"));
    let wire = Wire::serve(world)
        .await
        .once(INSTANCES, Fault::Floods(TEN_MEGABYTES))
        .once(ASSOCIATIONS, Fault::Floods(TEN_MEGABYTES))
        .once(GET_PROFILE, Fault::Floods(TEN_MEGABYTES))
        .once(REPLACE, Fault::Floods(TEN_MEGABYTES));
    let mut function = function_with(&wire, &[("ALLOWED_PROFILES", "we*")]).await;
    let report = function.invoke(running(ONE)).await.unwrap();
    assert_eq!(report["instances"][0]["outcome"], "replaced");
    holds_little(&function);

    // Whether the queue's answer is read in time is the machine's business; the function's is to live on.
    let wire = Wire::serve(World::new()).await.always(HIDE, Fault::Floods(TEN_MEGABYTES));
    let mut function = function_with(&wire, &[("ALLOWED_PROFILES", "web")]).await;
    for _ in 0..3 {
        let answer = function.invoke(batch(&[("m1", running(ONE))])).await.unwrap();
        assert_eq!(batch_failures(&answer), ["m1"]);
    }
    holds_little(&function);

    let wire = Wire::serve(a_world().running(ONE, Some("web"), None))
        .await
        .always(INSTANCES, Fault::Drips)
        .always(ASSOCIATIONS, Fault::Drips);
    let mut function = function_with(&wire, &[("ALLOWED_PROFILES", "web")]).await;
    let failure = function.take(Invocation::of(running(ONE)).due_in(DUE_IN)).await.unwrap_err();
    assert_eq!(failure.error_type, "Transient", "{failure:?}");
    holds_little(&function);
    assert_eq!(wire.writes(), []);
}

fn holds_little(function: &Function) {
    let memory = function.peak_memory();
    assert!(memory.is_none_or(|bytes| bytes < ENOUGH_MEMORY), "{memory:?} bytes");
}

// ---- Two environments at once ---------------------------------------------------------------------------------------

#[tokio::test]
async fn two_environments_with_the_same_events_never_fight() {
    const ROUNDS: usize = 20;
    let id = |round: usize, kind: usize| format!("i-{round:08x}{kind:x}");
    let mut world = a_world();
    for round in 0..ROUNDS {
        world = world
            .running(&id(round, 0), Some("web"), None)
            .running(&id(round, 1), Some("web"), Some("old"))
            .stopped(&id(round, 2), Some("web"), Some("old"))
            .stopped(&id(round, 3), Some("web"), None);
    }
    let wire = Wire::serve(world).await.with_jitter(Duration::from_millis(30));
    let queue = format!("{}/123456789012/auto-instance-profile-events", wire.endpoint());
    let settings = [
        ("ALLOWED_PROFILES", "web,old"),
        ("WRITES_PER_SECOND", "1000"),
        ("WHEN_STOPPED", "swap"),
        ("QUEUE_URL", queue.as_str()),
    ];
    let mut one = function_with(&wire, &settings).await;
    let mut other = function_with(&wire, &settings).await;
    for round in 0..ROUNDS {
        let messages: Vec<_> = (0..4)
            .map(|kind| {
                let state = if kind < 2 { "running" } else { "stopped" };
                (format!("m-{round}-{kind}"), state_change(&id(round, kind), state))
            })
            .collect();
        // The one or the other is a little earlier.
        let ahead = Duration::from_millis(5 * (round as u64 % 7));
        let late = async |function: &mut Function, is_late: bool| {
            sleep(if is_late { ahead } else { Duration::ZERO }).await;
            function.invoke(batch(&messages)).await.unwrap()
        };
        let is_odd = round % 2 == 1;
        let (left, right) = tokio::join!(late(&mut one, is_odd), late(&mut other, !is_odd));
        for answer in [left, right] {
            assert_eq!(batch_failures(&answer), [""; 0], "round {round}");
        }
        let expected = [
            vec![associated(&id(round, 0), "web")],
            vec![replaced(&id(round, 1), "web")],
            vec![disassociated(&id(round, 2), "old"), associated(&id(round, 2), "web")],
            vec![associated(&id(round, 3), "web")],
        ];
        for (kind, expected) in expected.into_iter().enumerate() {
            let id = id(round, kind);
            let about = |write: &Write| {
                let (Write::Associated { instance, .. }
                | Write::Replaced { instance, .. }
                | Write::Disassociated { instance, .. }) = write;
                *instance == id
            };
            let writes: Vec<_> = wire.writes().into_iter().filter(about).collect();
            assert_eq!(writes, expected, "round {round}: each change is made once");
            assert_eq!(wire.world().attached_to(&id).as_deref(), Some("web"), "round {round}");
        }
    }
    let tries = [ASSOCIATE, REPLACE, DISASSOCIATE].map(|call| wire.requests_of(call).len());
    assert!(tries.iter().sum::<usize>() > 5 * ROUNDS, "they never met: {tries:?}");
}
