//! What ends the tool, and what it says of its end: signals, readers that are gone, and worlds that moved after the plan.

use super::*;
use crate::common::wire::sqs::QUEUE;
use crate::common::world::{ACCOUNT, Call};

/// Five stopped instances with another profile.
fn stopped() -> World {
    (0..5).fold(World::new().profile("web").profile("old"), |world, number| {
        world.stopped(&format!("i-0c{number}"), Some("web"), Some("old"))
    })
}

fn queue(wire: &Wire) -> String {
    format!("{}/{ACCOUNT}/{QUEUE}", wire.endpoint())
}

/// An `apply` that swaps, one change after another.
fn swap(wire: &Wire, more: &[&str]) -> Command {
    let mut tool = at(
        wire,
        &["apply", "--tag-key", "InstanceProfile", "--allowed", "web,old", "--yes", "--queue"],
    );
    tool.arg(queue(wire)).args(["--when-stopped", "swap"]).args(more);
    tool
}

/// A wire on which attaching takes its time: a swap is half-way for most of a second.
async fn slow() -> Wire {
    let slow = Fault::Delays(Duration::from_millis(500));
    Wire::serve(stopped()).await.always("AssociateIamInstanceProfile", slow)
}

async fn until_half_way(wire: &Wire) {
    while wire.requests_of("DisassociateIamInstanceProfile").is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// How many have the profile that is required, and whether all have one.
fn attached(wire: &Wire) -> (usize, bool) {
    let world = wire.world();
    let profiles = (0..5).map(|number| world.attached_to(&format!("i-0c{number}")));
    let profiles: Vec<_> = profiles.collect();
    let done = profiles.iter().filter(|profile| profile.as_deref() == Some("web")).count();
    (done, profiles.iter().all(Option::is_some))
}

#[tokio::test]
async fn a_stopped_instance_is_left_to_the_function() {
    let wire = Wire::serve(stopped()).await;
    let args = ["apply", "--tag-key", "InstanceProfile", "--allowed", "web,old", "--yes"];
    let ran = end(at(&wire, &args)).await;
    assert_eq!((ran.code, wire.writes().len()), (0, 0), "{}", ran.all());
    assert!(ran.out.contains("5 waiting for their next state (5 instance-stopped)"), "{}", ran.out);
    assert!(ran.out.contains("Left to the function, which replaces the profile when the"));
    assert!(ran.out.contains("5 stopped instances; when-stopped: swap"), "{}", ran.out);
    // To swap, it must be able to write down what it takes away.
    let mut tool = at(&wire, &args);
    tool.env("WHEN_STOPPED", "swap");
    let ran = end(tool).await;
    assert_eq!((ran.code, wire.writes().len()), (0, 0), "{}", ran.all());
    assert!(ran.out.contains("5 stopped instances; --queue, with the URL"), "{}", ran.out);
}

#[tokio::test]
async fn a_swap_is_written_down_on_the_queue_first() {
    let wire = Wire::serve(stopped()).await;
    let ran = end(swap(&wire, &["--writes-per-second", "50"])).await;
    assert_eq!((ran.code, attached(&wire)), (0, (5, true)), "{}", ran.all());
    let sent = wire.sent_in_full();
    assert_eq!(sent.len(), 5);
    assert!(sent.iter().all(|sent| sent.body.contains("finish-swap")), "{sent:?}");
    let first = |action: &str| wire.requests().iter().position(|asked| asked.action == action);
    assert!(first("SendMessageBatch") < first("DisassociateIamInstanceProfile"));

    let gone = Fault::Refuses(400, "AWS.SimpleQueueService.NonExistentQueue", "no such queue");
    let wire = Wire::serve(stopped()).await.always("SendMessageBatch", gone);
    let ran = end(swap(&wire, &["--writes-per-second", "50"])).await;
    assert_eq!((ran.code, wire.writes().len()), (1, 0), "{}", ran.all());
    assert!(ran.out.ends_with("0 of 5 changes done, 5 not done.\n"), "{}", ran.out);

    let mut elsewhere = at(&wire, &["apply", "--tag-key", "A", "--allowed", "web", "--yes"]);
    elsewhere.args(["--queue", "https://sqs.eu-west-2.amazonaws.com/123456789012/events"]);
    let ran = end(elsewhere).await;
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("the queue is in eu-west-2 and the instances in us-east-1"));
}

#[tokio::test]
async fn no_signal_ends_a_change_half_way() {
    for signals in [&["-INT"][..], &["-TERM"], &["-HUP"], &["-QUIT"], &["-INT", "-INT", "-TERM"]] {
        let wire = slow().await;
        let mut tool = swap(&wire, &["--writes-per-second", "1"]);
        let child = tool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        until_half_way(&wire).await;
        for signal in signals {
            let id = child.id().unwrap().to_string();
            assert!(Command::new("kill").args([*signal, &id]).status().await.unwrap().success());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let output = child.wait_with_output().await.unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{signals:?}: {out}");
        assert_eq!(attached(&wire), (1, true), "{signals:?}: {out}");
        let end = "1 of 5 changes done, 4 not begun, because of an interrupt.\n";
        assert!(out.ends_with(end), "{signals:?}: {out}");
    }
}

#[tokio::test]
async fn who_starts_it_by_nohup_means_it() {
    let wire = slow().await;
    let tool = swap(&wire, &["--writes-per-second", "50"]);
    let tool = tool.as_std();
    let mut nohup = Command::new("nohup");
    nohup.arg(tool.get_program()).args(tool.get_args()).stdin(Stdio::null()).env_clear();
    nohup.envs(tool.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let child = nohup.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until_half_way(&wire).await;
    let id = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-HUP", &id]).status().await.unwrap().success());
    let output = child.wait_with_output().await.unwrap();
    assert_eq!((output.status.code(), attached(&wire)), (Some(0), (5, true)));
}

#[tokio::test]
async fn a_reader_that_goes_ends_no_change_half_way() {
    let wire = slow().await;
    let (reader, writer) = std::io::pipe().unwrap();
    let mut tool = swap(&wire, &["--writes-per-second", "1"]);
    let child = tool.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    drop(tool);
    until_half_way(&wire).await;
    drop(reader);
    let output = child.wait_with_output().await.unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), attached(&wire)), (Some(1), (1, true)), "{err}");
    let mut lines = err.lines();
    assert_eq!(lines.next(), Some("i-0c0 swapped: old -> web"), "{err}");
    let end = "error: the output cannot be written (Broken pipe (os error 32)). 1 of 5 changes done, 4 not begun, because \
               the output could not be written";
    assert_eq!(lines.next(), Some(end), "{err}");
}

#[tokio::test]
async fn where_the_plan_cannot_be_shown_nothing_is_changed() {
    for (full, why) in [(true, "No space left on device"), (false, "Broken pipe")] {
        let wire = Wire::serve(stopped()).await;
        let mut tool = swap(&wire, &[]);
        if full {
            tool.stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
        } else {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            tool.stdout(writer);
        }
        let output = tool.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().await.unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), wire.writes().len()), (Some(1), 0), "{err}");
        assert!(err.starts_with(&format!("error: the output cannot be written ({why}")), "{err}");
        assert!(err.ends_with("Nothing was changed\n"), "{err}");
    }
    // Where only the end cannot be shown, all is done, and said on standard error.
    let wire = Wire::serve(stopped()).await;
    let mut tool = swap(&wire, &["--json", "--writes-per-second", "50"]);
    tool.stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let output = tool.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().await.unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), attached(&wire)), (Some(1), (5, true)), "{err}");
    assert!(err.ends_with("5 of 5 changes done\n"), "{err}");
}

#[tokio::test]
async fn a_reader_that_goes_changes_no_exit_code() {
    let wire = Wire::serve(a_fleet()).await;
    let page = ["report", "policy/policy.yaml", "--allowed", ALLOWED, "--html", "-"];
    for (mut tool, code) in [
        (plan(&wire, &[]), 2),
        (plan(&wire, &["--json"]), 2),
        (at(&wire, &["report", "policy/policy.yaml", "--allowed", ALLOWED]), 2),
        (at(&wire, &page), 2),
        (tool(&["check", "policy/policy.yaml"]), 0),
        (tool(&["explain", "policy/policy.yaml", "--tags", "A=b"]), 0),
        (tool(&["completions", "bash"]), 0),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        tool.stdout(writer);
        let output = tool.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().await.unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(code), 0), "{tool:?}");
        // A full disk is another matter.
        tool.stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
        let output = tool.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().await.unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{tool:?}");
        assert!(err.contains("the output cannot be written: No space left on device"), "{err}");
    }
}

// ---- What moved after the plan ----------------------------------------------------------------------------------------------

/// What `apply` says of the one instance, which is bare when the plan is made, and what it answers with.
async fn after(happens: impl FnOnce(&mut World) + Send + 'static) -> (String, i32, usize) {
    let world = World::new().profile("web").profile("api").profile("old").profile("admin");
    let world = world.running(BARE, Some("web"), None);
    // The plan's look is the first one but the list, the change's own look the second.
    let wire = Wire::serve(world.before(Call::GetInstanceProfile, happens)).await;
    let args = ["apply", "--tag-key", "InstanceProfile", "--allowed", "web,api,old", "--yes"];
    let ran = end(at(&wire, &args)).await;
    let said: Vec<_> = ran.out.lines().rev().take(2).collect();
    let line = said[1].trim_start_matches("[1/1] ").trim_start_matches(BARE);
    (format!("{}\n{}", line.trim(), said[0]), ran.code, wire.writes().len())
}

fn retag(world: &mut World, profile: &str) {
    world.instance_mut(BARE).tags.insert("InstanceProfile".to_owned(), profile.to_owned());
}

#[tokio::test]
async fn what_is_not_as_planned_is_said_and_answered_with_1() {
    let (said, code, writes) = after(|world| {
        world.instance_mut(BARE).tags.remove("InstanceProfile");
    })
    .await;
    insta::assert_snapshot!(said, @r"
    left: not associate web as planned, since no rule matches: the instance has no tag InstanceProfile
    0 of 1 change done, 1 not as planned.
    ");
    assert_eq!((code, writes), (1, 0));

    let (said, code, writes) = after(|world| retag(world, "admin")).await;
    insta::assert_snapshot!(said, @r"
    left: not associate web as planned, since no pattern of ALLOWED_PROFILES allows the instance profile admin
    0 of 1 change done, 1 not done.
    ");
    assert_eq!((code, writes), (1, 0));

    let (said, code, writes) = after(|world| retag(world, "old-and-gone")).await;
    assert!(said.ends_with("0 of 1 change done, 1 not done."), "{said}");
    assert_eq!((code, writes), (1, 0));

    let (said, code, writes) =
        after(|world| world.instance_mut(BARE).state = "stopping".to_owned()).await;
    insta::assert_snapshot!(said, @r"
    waiting: not associate web as planned, since the instance is stopping; the event of its next state brings it back
    0 of 1 change done, 1 not done.
    ");
    assert_eq!((code, writes), (1, 0));

    // By its policy it is right; but nobody said yes to that.
    let (said, code, writes) = after(|world| retag(world, "api")).await;
    insta::assert_snapshot!(said, @r"
    associated: nothing -> api, not associate web as planned
    0 of 1 change done, 1 not as planned.
    ");
    assert_eq!((code, writes), (1, 1));

    let (said, code, writes) = after(|world| world.attach(BARE, "old")).await;
    insta::assert_snapshot!(said, @r"
    replaced: old -> web, not associate web as planned
    0 of 1 change done, 1 not as planned.
    ");
    assert_eq!((code, writes), (1, 1));

    // Somebody else was faster.
    let (said, code, writes) = after(|world| world.attach(BARE, "web")).await;
    insta::assert_snapshot!(said, @r"
    kept: arn:aws:iam::123456789012:instance-profile/web is attached, as required
    1 of 1 change done.
    ");
    assert_eq!((code, writes), (0, 0));
}
