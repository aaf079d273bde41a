//! The log's lines: their level, their fields and their words, as a subscriber gets them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use auto_instance_profile::cloud::{CloudError, ErrorKind, Operation};
use auto_instance_profile::decide::{Decision, Patience};
use auto_instance_profile::failure::Failure;
use auto_instance_profile::handler::Handler;
use auto_instance_profile::model::{InstanceId, InstanceRef, ProfileName, ProfileRef, Region};
use auto_instance_profile::report::{Before, Cause, InstanceReport, Outcome};
use serde_json::json;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::common::fake::FakeCloud;
use crate::common::faulty::{Fault, Faulty};
use crate::common::world::World;
use crate::handler::{WITH_DEAD_LETTERS, config, invoke, message, running};
use crate::reconcile::ID;

/// One line: its level, and its fields as text, the words among them as `message`.
#[derive(Debug, Clone)]
struct Line {
    level: Level,
    fields: BTreeMap<String, String>,
}

impl Line {
    fn get(&self, field: &str) -> &str {
        self.fields.get(field).map_or("", String::as_str)
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.fields.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.fields.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

/// Remembers every line of this crate.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<Line>>>);

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("auto_instance_profile")
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line { level: *event.metadata().level(), fields: BTreeMap::new() };
        event.record(&mut line);
        self.0.lock().unwrap().push(line);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn line_of(report: &InstanceReport) -> Line {
    let lines = Lines::default();
    tracing::subscriber::with_default(lines.clone(), || report.log("m1,m2"));
    let found = lines.0.lock().unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

fn report(result: Result<Outcome, Failure>) -> InstanceReport {
    let region = Region::parse("us-east-1").unwrap();
    InstanceReport {
        cause: Cause::default(),
        is_stuck: false,
        instance: InstanceRef { account: None, region, id: InstanceId::parse(ID).unwrap() },
        facts: None,
        rule: Some("a-rule".into()),
        tags: [("App".to_owned(), "shop".to_owned())].into(),
        decision: Some(Decision::KeepBare),
        result,
        patience: Patience::Fresh,
        before: Before::default(),
        after: None,
        is_flapping: false,
        follow_up: None,
        disposition: None,
        duration: Duration::from_millis(1500),
    }
}

#[test]
fn an_error_is_written_only_where_a_person_must_act() {
    let call = |kind| {
        let call = Operation::AssociateIamInstanceProfile;
        Failure::Cloud(CloudError::new(call, kind, None, "beneath"))
    };
    let unknown = || Failure::ProfileUnknown(ProfileRef::Name(ProfileName::parse("web").unwrap()));
    let bare = Failure::RollbackFailed { detached: "db".into(), cause: None, undoing: None };
    for (result, patience, level, disposition) in [
        (Ok(Outcome::Kept), Patience::Fresh, Level::INFO, "done"),
        (Ok(Outcome::NotRepaired), Patience::Fresh, Level::ERROR, "done"),
        (Err(call(ErrorKind::Throttled)), Patience::Fresh, Level::WARN, "come-again"),
        (Err(Failure::OutOfTime), Patience::Exhausted, Level::WARN, "come-again"),
        (Err(unknown()), Patience::Fresh, Level::WARN, "come-again"),
        (Err(unknown()), Patience::Exhausted, Level::ERROR, "give-up"),
        (Err(call(ErrorKind::Rejected)), Patience::Fresh, Level::ERROR, "give-up"),
        (Err(bare), Patience::Fresh, Level::ERROR, "come-again"),
    ] {
        let disposition_of = |failure: &Failure| failure.disposition(patience);
        let given = result.as_ref().err().map(disposition_of);
        let line = line_of(&InstanceReport { patience, disposition: given, ..report(result) });
        assert_eq!((line.level, line.get("disposition")), (level, disposition), "{line:?}");
    }
}

#[test]
fn a_line_holds_what_is_known() {
    let line = line_of(&report(Ok(Outcome::Kept)));
    for (field, value) in [
        ("instance.id", ID),
        ("instance.region", "us-east-1"),
        ("decision", "keep"),
        ("decision.row", "8"),
        ("reason", "right"),
        ("outcome", "kept"),
        ("rule", "a-rule"),
        ("tags", r#"{"App":"shop"}"#),
        ("message.ids", "m1,m2"),
        ("duration_ms", "1500"),
        ("error.type", ""),
    ] {
        assert_eq!(line.get(field), value, "{field}: {line:?}");
    }
    let line = line_of(&report(Err(Failure::OutOfTime)));
    assert_eq!((line.get("outcome"), line.get("error.type")), ("failed", "OutOfTime"));
}

#[test]
fn every_outcome_has_its_words() {
    for (outcome, word, sentence) in [
        (Outcome::Left, "left", "left as it is"),
        (Outcome::Waiting, "waiting", "waiting"),
        (Outcome::Kept, "kept", "right already"),
        (Outcome::Associated, "associated", "profile associated"),
        (Outcome::Removed, "removed", "profile removed"),
        (Outcome::Replaced, "replaced", "profile replaced"),
        (Outcome::Swapped, "swapped", "profile swapped"),
        (Outcome::Converged, "converged", "right by now, by another actor"),
        (Outcome::Planned, "planned", "dry run, nothing written"),
        (
            Outcome::NotRepaired,
            "not-repaired",
            "EC2 took the replacement but kept the deleted profile; disassociate it and associate it again by hand",
        ),
    ] {
        let with = report(Ok(outcome));
        let reason = "nothing is attached, as required";
        let line = line_of(&with);
        assert_eq!(line.get("outcome"), word);
        assert_eq!(line.get("message"), format!("instance {ID}: {sentence}: {reason}"));
        let without = line_of(&InstanceReport { decision: None, ..with });
        assert_eq!(without.get("message"), format!("instance {ID}: {sentence}"));
    }
}

#[tokio::test(start_paused = true)]
async fn every_message_that_is_not_done_has_a_line_that_says_what_becomes_of_it() {
    let said = async |fails: bool| {
        let lines = Lines::default();
        let recording = tracing::subscriber::set_default(lines.clone());
        let cloud = FakeCloud::of(World::new());
        cloud.queues().fail = fails;
        let payload = json!({ "Records": [
            message("poison", "{", 1),
            message("unseen", &running(ID).to_string(), 1),
        ]});
        invoke(cloud, WITH_DEAD_LETTERS, payload).await.unwrap();
        drop(recording);
        let lines = lines.0.lock().unwrap().clone();
        move |level: Level, id: &str, words: &str| {
            let is_it = |line: &&Line| {
                let about = [line.get("message.id"), line.get("message.ids")].contains(&id);
                (line.level, about) == (level, true) && line.get("message").contains(words)
            };
            let found = lines.iter().find(is_it).cloned();
            found.unwrap_or_else(|| panic!("{id}: {words}: {lines:#?}"))
        }
    };
    let line = said(false).await;
    assert_eq!(line(Level::ERROR, "poison", "no JSON").get("error.type"), "MalformedEvent");
    line(Level::INFO, "poison", "given up: in the dead-letter queue");
    line(Level::WARN, "unseen", "EC2 does not know the instance yet");
    let again = line(Level::INFO, "unseen", "since it waits for something that was made seconds");
    assert_eq!(again.get("message.receives"), "1");
    assert!(["10", "11", "12"].contains(&again.get("message.again_in_s")), "{again:?}");

    let line = said(true).await;
    line(Level::ERROR, "poison", "not given up, so it comes again: SendMessage failed: planned");
    line(Level::WARN, "", "come again when the queue's timeout is over: ChangeMessageVisibility");
}

#[tokio::test(start_paused = true)]
async fn a_start_that_was_not_ready_says_why() {
    let hangs = "not ready for the first event: EC2 or IAM did not answer within 3 s";
    let fails = "not ready for the first event: GetInstanceProfile did not get through: planned";
    for (fault, words) in [(Fault::Hangs, hangs), (Fault::Fails(ErrorKind::Transient), fails)] {
        let lines = Lines::default();
        let recording = tracing::subscriber::set_default(lines.clone());
        let cloud = FakeCloud::of(World::new().profile("web").profile("db"));
        let faulty = Faulty::of(cloud).failing(Operation::GetInstanceProfile, fault);
        Handler::new(config("enforce"), faulty).get_ready().await;
        drop(recording);
        let lines = lines.0.lock().unwrap();
        assert_eq!((lines.len(), lines[0].level), (1, Level::WARN), "{lines:?}");
        assert!(lines[0].get("message").starts_with(words), "{lines:?}");
    }
}
