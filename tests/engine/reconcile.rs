//! Reconciliation over a modelled world: the outcome, the writes, and what is attached in the end.

use std::time::Duration;

use auto_instance_profile::allow::AllowList;
use auto_instance_profile::cloud::{Cloud, ErrorKind, MissingRight, Operation};
use auto_instance_profile::config::Mode;
use auto_instance_profile::decide::Patience;
use auto_instance_profile::expectation::Expectation;
use auto_instance_profile::failure::Disposition;
use auto_instance_profile::flapping::FlapDetector;
use auto_instance_profile::model::{InstanceId, InstanceRef, Region};
use auto_instance_profile::pace::{Limits, Pace};
use auto_instance_profile::policy::rule::WhenStopped;
use auto_instance_profile::policy::{Policy, file};
use auto_instance_profile::profiles::Profiles;
use auto_instance_profile::reconcile::{Job, Reconciler};
use auto_instance_profile::report::{Cause, InstanceReport};
use tokio::time::Instant;

use crate::common::fake::FakeCloud;
use crate::common::faulty::{Fault, Faulty};
use crate::common::ledger::Ledger;
use crate::common::world::{Call, World, Write};

pub const ID: &str = "i-0123456789abcdef0";
const OTHER: &str = "i-0fedcba9876543210";

/// Tries of a write that is throttled each time, in one invocation.
const TRIES_OF_A_THROTTLED_WRITE: usize = 5;

pub fn policy() -> Policy {
    Policy::named_by_tag("InstanceProfile", AllowList::parse("web,db,app/*").unwrap())
}

/// As [`policy`], and stopped instances are swapped.
pub fn swapping() -> Policy {
    policy().with_when_stopped_default(WhenStopped::Swap)
}

/// Out of the way, for what is not about it.
pub fn no_pace() -> Pace {
    Pace::new(Limits { per_second: 1000.0, burst: 1000.0 })
}

pub fn job(id: &str) -> Job {
    let region = Region::parse("us-east-1").unwrap();
    let instance = InstanceRef { account: None, region, id: InstanceId::parse(id).unwrap() };
    Job { patience: Patience::Fresh, ..Job::about(instance, Mode::Enforce, Cause::default()) }
}

/// What a tag event says that gave the instance the profile web.
fn expecting_web() -> Expectation {
    let tags = [("InstanceProfile".to_owned(), "web".to_owned())].into();
    Expectation::of_tags(None, tags)
}

/// Faults that begin after the question whether a swap's attach would be denied.
fn past_the_first_question(cloud: &FakeCloud) -> Faulty<FakeCloud> {
    Faulty::of(cloud.clone()).working(Operation::AssociateIamInstanceProfile)
}

async fn run_within<C: Cloud>(cloud: &C, jobs: Vec<Job>, time: Duration) -> Vec<InstanceReport> {
    let (profiles, policy) = (Profiles::default(), swapping());
    let deadline = Instant::now() + time;
    let pace = no_pace();
    Reconciler {
        cloud,
        profiles: &profiles,
        policy: &policy,
        pace: &pace,
        flapping: &FlapDetector::default(),
        write_ahead: Some(&Ledger::default()),
        deadline,
        now_ns: 0,
    }
    .run(jobs)
    .await
}

async fn run_job<C: Cloud>(cloud: &C, job: Job) -> InstanceReport {
    run_within(cloud, vec![job], Duration::from_mins(1)).await.remove(0)
}

async fn run<C: Cloud>(cloud: &C) -> InstanceReport {
    run_job(cloud, job(ID)).await
}

/// How it ended, in one word: an outcome, or a failure's type and what becomes of the message.
fn ending(report: &InstanceReport) -> String {
    match &report.result {
        Ok(outcome) => outcome.word().to_owned(),
        Err(failure) => {
            format!("{} {}", failure.error_type(), report.disposition.unwrap().word())
        }
    }
}

fn world() -> World {
    World::new().profile("web").profile("db").profile_at("/app/", "api")
}

fn associated(profile: &str) -> Write {
    Write::Associated { instance: ID.into(), profile: profile.into() }
}

fn replaced(profile: &str) -> Write {
    Write::Replaced { instance: ID.into(), profile: profile.into() }
}

fn disassociated(profile: &str) -> Write {
    Write::Disassociated { instance: ID.into(), profile: profile.into() }
}

#[tokio::test(start_paused = true)]
async fn each_situation_ends_as_it_should_with_only_the_writes_it_needs() {
    for (world, expected, attached, writes) in [
        (
            world().running(ID, Some("web"), None),
            "associated",
            Some("web"),
            vec![associated("web")],
        ),
        (
            world().stopped(ID, Some("web"), None),
            "associated",
            Some("web"),
            vec![associated("web")],
        ),
        (
            world().running(ID, Some("api"), None),
            "associated",
            Some("api"),
            vec![associated("api")],
        ),
        (world().running(ID, Some("web"), Some("web")), "kept", Some("web"), vec![]),
        (world().stopped(ID, Some("web"), Some("web")), "kept", Some("web"), vec![]),
        (
            world().running(ID, Some("web"), Some("db")),
            "replaced",
            Some("web"),
            vec![replaced("web")],
        ),
        (
            world().stopped(ID, Some("web"), Some("db")),
            "swapped",
            Some("web"),
            vec![disassociated("db"), associated("web")],
        ),
        (world().running(ID, None, Some("db")), "left", Some("db"), vec![]),
        (world().running(ID, Some(""), Some("db")), "left", Some("db"), vec![]),
        (
            world().profile("admin").running(ID, Some("admin"), Some("db")),
            "left",
            Some("db"),
            vec![],
        ),
        (world().profile_at("/x/", "web").running(ID, Some("web"), None), "left", None, vec![]),
        (
            world().instance(ID, "pending", Some("web"), None),
            "InstanceNotReady come-again",
            None,
            vec![],
        ),
        (
            world().instance(ID, "stopping", Some("web"), Some("db")),
            "InstanceNotReady come-again",
            Some("db"),
            vec![],
        ),
        (world().instance(ID, "terminated", Some("web"), None), "left", None, vec![]),
        (world().running(ID, Some("web"), None).managed_by(ID, "eks"), "left", None, vec![]),
        (
            world().profile_without_role("web").running(ID, Some("web"), None),
            "ProfileNotReady come-again",
            None,
            vec![],
        ),
        (
            world().profile_trusting("web", "lambda.amazonaws.com").running(ID, Some("web"), None),
            "ProfileNotReady come-again",
            None,
            vec![],
        ),
    ] {
        let cloud = FakeCloud::of(world);
        let report = run(&cloud).await;
        assert_eq!(ending(&report), expected, "{report:?}");
        assert_eq!(cloud.world().attached_to(ID).as_deref(), attached, "{report:?}");
        assert_eq!(cloud.world().writes, writes, "{report:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_run_writes_nothing() {
    for world in [
        world().running(ID, Some("web"), None),
        world().running(ID, Some("web"), Some("db")),
        world().stopped(ID, Some("web"), Some("db")),
    ] {
        let cloud = FakeCloud::of(world);
        run(&cloud).await;
        let writes = cloud.world().writes.len();
        assert_eq!(ending(&run(&cloud).await), "kept");
        assert_eq!(cloud.world().writes.len(), writes);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_decides_and_writes_nothing() {
    for state in ["running", "stopped"] {
        for attached in [None, Some("db")] {
            let cloud = FakeCloud::of(world().instance(ID, state, Some("web"), attached));
            let report = run_job(&cloud, Job { mode: Mode::DryRun, ..job(ID) }).await;
            assert_eq!(ending(&report), "planned");
            assert_eq!(cloud.world().writes, []);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn names_that_no_pattern_could_allow_cost_no_question_to_iam() {
    let cloud = FakeCloud::of(World::new().running(ID, Some("admin"), None));
    let narrow =
        Policy::named_by_tag("InstanceProfile", AllowList::parse("web,app/web-?").unwrap());
    let (profiles, deadline) = (Profiles::default(), Instant::now() + Duration::from_mins(1));
    let pace = no_pace();
    let reconciler = Reconciler {
        cloud: &cloud,
        profiles: &profiles,
        policy: &narrow,
        pace: &pace,
        flapping: &FlapDetector::default(),
        write_ahead: Some(&Ledger::default()),
        deadline,
        now_ns: 0,
    };
    let report = reconciler.run(vec![job(ID)]).await.remove(0);
    assert_eq!(report.decision.unwrap().row(), Some(3));
    assert!(!cloud.world().calls.contains(&Call::GetInstanceProfile));
}

#[tokio::test(start_paused = true)]
async fn a_profile_that_iam_may_not_show_is_not_allowed_unless_it_should_be_readable() {
    let denied = "iam:GetInstanceProfile on resource: instance profile x";
    let hidden = world().profile("secret").running(ID, Some("secret"), None);
    let cloud = FakeCloud::of(hidden.denying(Call::GetInstanceProfile, denied));
    assert_eq!(run(&cloud).await.decision.unwrap().row(), Some(3), "app/* could have matched");
    let cloud = FakeCloud::of(
        world().running(ID, Some("web"), None).denying(Call::GetInstanceProfile, denied),
    );
    assert_eq!(ending(&run(&cloud).await), "Denied give-up", "the role should be able to read web");
}

#[tokio::test(start_paused = true)]
async fn when_the_world_moves_between_look_and_act_another_look_decides() {
    for (world, expected, attached) in [
        (
            world()
                .running(ID, Some("web"), None)
                .before(Call::Associate, |world| world.attach(ID, "web")),
            "converged",
            "web",
        ),
        (
            world()
                .running(ID, Some("web"), None)
                .before(Call::Associate, |world| world.attach(ID, "db")),
            "replaced",
            "web",
        ),
        (
            world()
                .running(ID, Some("web"), Some("db"))
                .before(Call::Replace, |world| world.detach(ID)),
            "associated",
            "web",
        ),
        (
            world()
                .running(ID, Some("web"), Some("db"))
                .before(Call::Replace, |world| world.attach(ID, "web")),
            "converged",
            "web",
        ),
        (
            world()
                .running(ID, Some("web"), Some("db"))
                .before(Call::Replace, |world| world.instance_mut(ID).state = "stopped".into()),
            "swapped",
            "web",
        ),
        (
            world()
                .stopped(ID, Some("web"), Some("db"))
                .before(Call::Disassociate, |world| world.detach(ID)),
            "associated",
            "web",
        ),
        (
            world()
                .stopped(ID, Some("web"), Some("db"))
                .before(Call::Associate, |world| world.attach(ID, "web")),
            "converged",
            "web",
        ),
        (
            world()
                .running(ID, Some("web"), None)
                .before(Call::Associate, |world| world.instance_mut(ID).state = "stopping".into()),
            "InstanceNotReady come-again",
            "",
        ),
    ] {
        let cloud = FakeCloud::of(world);
        let report = run(&cloud).await;
        assert_eq!(ending(&report), expected, "{report:?}");
        assert_eq!(cloud.world().attached_to(ID).unwrap_or_default(), attached);
    }
}

#[tokio::test(start_paused = true)]
async fn a_world_that_never_holds_still_is_left_to_a_later_message() {
    let mut fidgety = world().running(ID, Some("web"), Some("db"));
    for _ in 0..10 {
        fidgety = fidgety.before(Call::Replace, |world| world.attach(ID, "db"));
    }
    let cloud = FakeCloud::of(fidgety);
    assert_eq!(ending(&run(&cloud).await), "Conflict come-again");
    let tries = cloud.world().calls.iter().filter(|call| **call == Call::Replace).count();
    assert_eq!(tries, 4, "one decision and at most three more");
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_was_lost_is_looked_for_before_it_is_sent_again() {
    for (world, operation, writes) in [
        (world().running(ID, Some("web"), None), Operation::AssociateIamInstanceProfile, 1),
        (
            world().running(ID, Some("web"), Some("db")),
            Operation::ReplaceIamInstanceProfileAssociation,
            1,
        ),
        (
            world().stopped(ID, Some("web"), Some("db")),
            Operation::DisassociateIamInstanceProfile,
            2,
        ),
        (world().stopped(ID, Some("web"), Some("db")), Operation::AssociateIamInstanceProfile, 2),
    ] {
        let cloud = FakeCloud::of(world);
        let report = run(&Faulty::of(cloud.clone()).failing(operation, Fault::AnswerIsLost)).await;
        assert!(report.result.is_ok(), "{report:?}");
        assert_eq!(cloud.world().attached_to(ID).as_deref(), Some("web"));
        assert_eq!(cloud.world().writes.len(), writes, "{operation}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_swap_puts_the_old_profile_back_and_keeps_the_message() {
    for (kind, expected) in [
        (ErrorKind::Throttled, "SwapRolledBack come-again"),
        (ErrorKind::ProfileNotFound, "SwapRolledBack come-again"),
        (ErrorKind::Rejected, "SwapRolledBack give-up"),
        (denied(), "SwapRolledBack give-up"),
    ] {
        let cloud = FakeCloud::of(world().stopped(ID, Some("web"), Some("db")));
        let tries = if kind == ErrorKind::Throttled { TRIES_OF_A_THROTTLED_WRITE } else { 1 };
        let faulty = past_the_first_question(&cloud).failing_times(
            Operation::AssociateIamInstanceProfile,
            &Fault::Fails(kind),
            tries,
        );
        assert_eq!(ending(&run(&faulty).await), expected);
        assert_eq!(cloud.world().attached_to(ID).as_deref(), Some("db"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_detachment_whose_answer_was_lost_is_put_back_too() {
    let cloud = FakeCloud::of(world().stopped(ID, Some("web"), Some("db")));
    let faulty = past_the_first_question(&cloud)
        .failing(Operation::DisassociateIamInstanceProfile, Fault::AnswerIsLost)
        .failing(Operation::AssociateIamInstanceProfile, Fault::Fails(denied()));
    assert_eq!(ending(&run(&faulty).await), "SwapRolledBack give-up");
    assert_eq!(cloud.world().attached_to(ID).as_deref(), Some("db"));
}

#[tokio::test(start_paused = true)]
async fn a_swap_that_ends_in_a_replacement_puts_nothing_back() {
    let moved =
        to_be_swapped().0.before(Call::Associate, |_| ()).before(Call::Associate, |world| {
            world.instance_mut(ID).state = "running".into();
            world.attach(ID, "api");
        });
    let cloud = FakeCloud::of(moved);
    assert_eq!(ending(&run(&cloud).await), "replaced");
    assert_eq!(cloud.world().attached_to(ID).as_deref(), Some("web"));
    assert_eq!(cloud.world().calls.last(), Some(&Call::Replace));
}

#[tokio::test(start_paused = true)]
async fn a_swap_cut_short_by_the_deadline_puts_the_old_profile_back() {
    let cloud = FakeCloud::of(world().stopped(ID, Some("web"), Some("db")));
    let faulty = past_the_first_question(&cloud)
        .failing(Operation::AssociateIamInstanceProfile, Fault::Hangs);
    assert_eq!(ending(&run(&faulty).await), "SwapRolledBack come-again");
    assert_eq!(cloud.world().attached_to(ID).as_deref(), Some("db"));
}

#[tokio::test(start_paused = true)]
async fn a_swap_that_cannot_be_undone_is_said_and_healed_by_the_next_message() {
    let cloud = FakeCloud::of(world().stopped(ID, Some("web"), Some("db")));
    let faulty = past_the_first_question(&cloud)
        .failing(Operation::AssociateIamInstanceProfile, Fault::Fails(ErrorKind::ProfileNotFound))
        .failing(Operation::AssociateIamInstanceProfile, Fault::Fails(denied()));
    assert_eq!(ending(&run(&faulty).await), "RollbackFailed come-again");
    assert_eq!(cloud.world().attached_to(ID), None);
    assert_eq!(ending(&run(&faulty).await), "associated");
    assert_eq!(cloud.world().attached_to(ID).as_deref(), Some("web"));
}

#[tokio::test(start_paused = true)]
async fn a_tag_removed_in_the_middle_of_a_swap_strips_nothing() {
    let moved =
        to_be_swapped().0.before(Call::Associate, |_| ()).before(Call::Associate, |world| {
            world.instance_mut(ID).tags.clear();
            world.instance_mut(ID).state = "stopping".into();
        });
    let cloud = FakeCloud::of(moved.before(Call::DescribeInstances, |_| ()).before(
        Call::DescribeInstances,
        |world| {
            world.instance_mut(ID).state = "stopped".into();
        },
    ));
    assert_eq!(ending(&run(&cloud).await), "rolled-back");
    assert_eq!(cloud.world().attached_to(ID).as_deref(), Some("db"));
}

#[tokio::test(start_paused = true)]
async fn a_swap_is_not_begun_without_the_time_to_finish_it() {
    let cloud = FakeCloud::of(world().stopped(ID, Some("web"), Some("db")));
    let report = run_within(&cloud, vec![job(ID)], Duration::from_secs(3)).await.remove(0);
    assert_eq!(ending(&report), "OutOfTime come-again");
    assert_eq!(cloud.world().writes, []);
}

#[tokio::test(start_paused = true)]
async fn a_recreated_profile_is_replaced_once_and_the_result_is_reported() {
    for (mends, expected) in [(true, "replaced"), (false, "not-repaired")] {
        let mut world = world().running(ID, Some("web"), Some("web"));
        world.make_profile("/", "web", Some("ec2.amazonaws.com"));
        world.replace_mends_recreated = mends;
        let cloud = FakeCloud::of(world);
        assert_eq!(ending(&run(&cloud).await), expected);
        assert_eq!(cloud.world().writes, [replaced("web")]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_about_a_recreated_profile_undoes_nothing() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), None));
    let (profiles, policy) = (Profiles::default(), swapping());
    let deadline = Instant::now() + Duration::from_mins(1);
    let pace = no_pace();
    let reconciler = Reconciler {
        cloud: &cloud,
        profiles: &profiles,
        policy: &policy,
        pace: &pace,
        flapping: &FlapDetector::default(),
        write_ahead: Some(&Ledger::default()),
        deadline,
        now_ns: 0,
    };
    reconciler.run(vec![job(ID)]).await;
    cloud.world().make_profile("/", "web", Some("ec2.amazonaws.com"));
    cloud.world().attach(ID, "web");
    let report = reconciler.run(vec![job(ID)]).await.remove(0);
    assert_eq!(ending(&report), "kept");
    assert_eq!(cloud.world().writes, [associated("web")]);
}

#[tokio::test(start_paused = true)]
async fn profiles_that_are_not_there_yet_come_again_and_then_need_a_person() {
    let unknown = || world().running(ID, Some("app-new"), None);
    let report = run(&FakeCloud::of(unknown())).await;
    assert_eq!(ending(&report), "ProfileNotFound come-again");
    assert_eq!(report.decision.unwrap().row(), Some(12));
    let exhausted = Job { patience: Patience::Exhausted, ..job(ID) };
    assert_eq!(
        ending(&run_job(&FakeCloud::of(unknown()), exhausted).await),
        "ProfileNotFound give-up"
    );
    let cloud = FakeCloud::of(world().running(ID, Some("web"), None).unknown_to_ec2("web"));
    assert_eq!(ending(&run(&cloud).await), "ProfileNotFound come-again");
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_ec2_does_not_show_yet_is_looked_for_again() {
    let late = |reads| world().running(ID, Some("web"), None).unseen_for(ID, reads);
    assert_eq!(ending(&run(&FakeCloud::of(late(2))).await), "associated");
    assert_eq!(ending(&run(&FakeCloud::of(late(9))).await), "InstanceNotFound come-again");
    let exhausted = Job { patience: Patience::Exhausted, ..job(ID) };
    assert_eq!(ending(&run_job(&FakeCloud::of(late(9)), exhausted).await), "left");
}

#[tokio::test(start_paused = true)]
async fn tags_that_an_event_showed_are_looked_for_again() {
    let late =
        |reads| FakeCloud::of(world().running(ID, Some("web"), None).untagged_for(ID, reads));
    let announced = || Job { expected: expecting_web(), ..job(ID) };
    assert_eq!(ending(&run_job(&late(2), announced()).await), "associated");
    let cloud = late(9);
    assert_eq!(ending(&run(&cloud).await), "associated", "the tags are read in another way");
    assert_eq!(cloud.world().calls.len(), 5);
}

/// Rules of a policy file, the profiles of `world` allowed.
fn rules(yaml: &str) -> Policy {
    file::check(yaml, &AllowList::parse("web,db,app/*").unwrap()).policy.unwrap()
}

async fn run_by<C: Cloud>(policy: &Policy, cloud: &C, job: Job) -> InstanceReport {
    let profiles = Profiles::default();
    let deadline = Instant::now() + Duration::from_mins(1);
    let pace = no_pace();
    Reconciler {
        cloud,
        profiles: &profiles,
        policy,
        pace: &pace,
        flapping: &FlapDetector::default(),
        write_ahead: Some(&Ledger::default()),
        deadline,
        now_ns: 0,
    }
    .run(vec![job])
    .await
    .remove(0)
}

const RETIRED: &str = "version: 1
rules: [{ name: retired, match: { tags: { InstanceProfile: retired } }, profile: none }]";

#[tokio::test(start_paused = true)]
async fn a_profile_is_taken_away_only_when_two_reads_of_the_tags_agree() {
    for state in ["running", "stopped"] {
        let retired = || world().instance(ID, state, Some("retired"), Some("db"));
        let cloud = FakeCloud::of(retired());
        assert_eq!(ending(&run_by(&rules(RETIRED), &cloud, job(ID)).await), "removed");
        assert_eq!(cloud.world().writes, [disassociated("db")]);
        assert_eq!(ending(&run_by(&rules(RETIRED), &cloud, job(ID)).await), "kept");

        let doubtful = retired().before(Call::DescribeTags, |world| {
            world.instance_mut(ID).tags.clear();
        });
        let cloud = FakeCloud::of(doubtful);
        let exhausted = Job { patience: Patience::Exhausted, ..job(ID) };
        assert_eq!(ending(&run_by(&rules(RETIRED), &cloud, exhausted).await), "left");
        assert_eq!(cloud.world().writes, []);

        let cloud = FakeCloud::of(retired());
        let dry = Job { mode: Mode::DryRun, ..job(ID) };
        assert_eq!(ending(&run_by(&rules(RETIRED), &cloud, dry).await), "planned");
        assert_eq!(cloud.world().writes, []);
    }
}

#[tokio::test(start_paused = true)]
async fn a_removal_whose_answer_was_lost_is_looked_for_before_it_is_sent_again() {
    let cloud = FakeCloud::of(world().stopped(ID, Some("retired"), Some("db")));
    let lost = Fault::AnswerIsLost;
    let faulty = Faulty::of(cloud.clone()).failing(Operation::DisassociateIamInstanceProfile, lost);
    assert_eq!(ending(&run_by(&rules(RETIRED), &faulty, job(ID)).await), "removed");
    assert_eq!(cloud.world().writes, [disassociated("db")]);
}

#[tokio::test(start_paused = true)]
async fn a_late_tag_that_an_event_showed_is_awaited_before_another_rule_decides() {
    let baseline = rules(
        "version: 1
rules:
  - { name: named, match: { tags: { InstanceProfile: '*' } }, profile: '${tag:InstanceProfile}' }
  - { name: baseline, match: {}, profile: db }",
    );
    let late = FakeCloud::of(world().running(ID, Some("web"), None).untagged_for(ID, 1));
    let announced = Job { expected: expecting_web(), ..job(ID) };
    assert_eq!(ending(&run_by(&baseline, &late, announced).await), "associated");
    assert_eq!(late.world().writes, [associated("web")]);
}

#[tokio::test(start_paused = true)]
async fn one_bad_instance_never_stops_the_others() {
    let cloud =
        FakeCloud::of(world().running(ID, Some("web"), None).running(OTHER, Some("db"), None));
    let reject = || Fault::Fails(ErrorKind::Rejected);
    let faulty = Faulty::of(cloud.clone())
        .failing(Operation::DescribeInstances, reject())
        .failing(Operation::DescribeInstances, reject());
    let reports = run_within(&faulty, vec![job(ID), job(OTHER)], Duration::from_mins(1)).await;
    let endings: Vec<_> = reports.iter().map(ending).collect();
    assert_eq!(endings, ["associated", "Rejected give-up"]);
    assert_eq!(cloud.world().writes, [associated("web")]);
}

#[tokio::test(start_paused = true)]
async fn each_failure_has_its_disposition() {
    for (operation, kind, expected) in [
        (Operation::DescribeInstances, ErrorKind::Throttled, "Throttled come-again"),
        (
            Operation::DescribeIamInstanceProfileAssociations,
            ErrorKind::Transient,
            "Transient come-again",
        ),
        (Operation::DescribeInstances, denied(), "Denied give-up"),
        (Operation::GetInstanceProfile, ErrorKind::Throttled, "Throttled come-again"),
        (Operation::AssociateIamInstanceProfile, ErrorKind::Throttled, "Throttled come-again"),
        (Operation::AssociateIamInstanceProfile, denied(), "Denied give-up"),
        (Operation::AssociateIamInstanceProfile, ErrorKind::Rejected, "Rejected give-up"),
        (
            Operation::AssociateIamInstanceProfile,
            ErrorKind::ProfileNotFound,
            "ProfileNotFound come-again",
        ),
    ] {
        let cloud = FakeCloud::of(world().running(ID, Some("web"), None));
        let faulty = Faulty::of(cloud.clone()).failing_times(
            operation,
            &Fault::Fails(kind),
            TRIES_OF_A_THROTTLED_WRITE,
        );
        assert_eq!(ending(&run(&faulty).await), expected, "{operation}");
        assert_eq!(cloud.world().writes, [], "{operation}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_ends_before_its_deadline_whatever_hangs() {
    for operation in Operation::ALL {
        let cloud = FakeCloud::of(world().stopped(ID, Some("web"), Some("db")).running(
            OTHER,
            Some("web"),
            None,
        ));
        let mut faulty = Faulty::of(cloud.clone());
        for _ in 0..20 {
            faulty = faulty.failing(operation, Fault::Hangs);
        }
        let started = Instant::now();
        let reports = run_within(&faulty, vec![job(ID), job(OTHER)], Duration::from_secs(10)).await;
        assert!(
            started.elapsed() <= Duration::from_secs(10),
            "{operation}: {:?}",
            started.elapsed()
        );
        for report in reports.iter().filter(|report| report.result.is_err()) {
            assert_eq!(report.disposition, Some(Disposition::ComeAgain), "{operation}: {report:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_costs_two_reads_and_asks_iam_once_a_profile() {
    let mut world = world();
    let ids: Vec<String> = (0..100).map(|n| format!("i-{n:017x}")).collect();
    for id in &ids {
        world = world.running(id, Some("web"), None);
    }
    let cloud = FakeCloud::of(world);
    let jobs = ids.iter().map(|id| job(id)).collect();
    let reports = run_within(&cloud, jobs, Duration::from_mins(1)).await;
    assert!(reports.iter().all(|report| ending(report) == "associated"));
    let reads = cloud.world().calls.iter().filter(|call| **call != Call::Associate).count();
    assert_eq!((reads, cloud.world().writes.len()), (3, 100));
}

fn denied() -> ErrorKind {
    ErrorKind::Denied(MissingRight { action: "iam:PassRole".into(), resource: None })
}

#[tokio::test(start_paused = true)]
async fn tags_that_ec2_left_out_are_read_in_another_way_before_a_write() {
    let yaml = "version: 1
ignore: [{ tags: { 'eks:cluster-name': '*' } }]
rules:
  - { name: named, match: { tags: { InstanceProfile: '*' } }, profile: '${tag:InstanceProfile}' }
  - { name: baseline, match: {}, profile: db }";
    for state in ["running", "stopped"] {
        let world = world().instance(ID, state, Some("web"), Some("web")).untagged_for(ID, 1);
        let cloud = FakeCloud::of(world);
        assert_eq!(ending(&run_by(&rules(yaml), &cloud, job(ID)).await), "kept");
        assert_eq!(cloud.world().writes, []);
    }
    let cloud = FakeCloud::of(world().running(ID, None, Some("web")));
    assert_eq!(ending(&run_by(&rules(yaml), &cloud, job(ID)).await), "replaced");
}

#[tokio::test(start_paused = true)]
async fn a_value_that_an_event_showed_is_awaited() {
    let world = world().running(ID, Some("db"), None).before(Call::DescribeInstances, |_| ());
    let cloud = FakeCloud::of(world.before(Call::DescribeInstances, |world| {
        let tags = &mut world.instance_mut(ID).tags;
        tags.insert("InstanceProfile".into(), "web".into());
    }));
    let job = Job { expected: expecting_web(), ..job(ID) };
    assert_eq!(ending(&run_job(&cloud, job).await), "associated");
    assert_eq!(cloud.world().writes, [associated("web")]);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_iam_does_not_answer_for_stops_nobody_else() {
    let mut world = world().running(OTHER, Some("db"), None);
    let ids: Vec<String> = (1..=40).map(|n| format!("i-{n:017x}")).collect();
    for id in &ids {
        world = world.running(id, Some("web"), None);
    }
    let cloud = FakeCloud::of(world);
    let throttled = Fault::Fails(ErrorKind::Throttled);
    let faulty = Faulty::of(cloud.clone()).failing(Operation::GetInstanceProfile, throttled);
    let mut jobs: Vec<Job> = ids.iter().map(|id| job(id)).collect();
    jobs.push(job(OTHER));
    let reports = run_within(&faulty, jobs, Duration::from_mins(1)).await;
    assert!(reports[..40].iter().all(|report| ending(report) == "Throttled come-again"));
    assert_eq!(ending(&reports[40]), "associated");
    let questions =
        cloud.world().calls.iter().filter(|call| **call == Call::GetInstanceProfile).count();
    assert_eq!(questions, 1, "the failure stood for all who asked for web");
}

#[tokio::test(start_paused = true)]
async fn a_replacement_that_ec2_refuses_is_no_try() {
    let mut world = world().running(ID, Some("web"), Some("web"));
    world.make_profile("/", "web", Some("ec2.amazonaws.com"));
    let cloud = FakeCloud::of(world);
    let refused = || Fault::Fails(ErrorKind::Conflict);
    let replace = Operation::ReplaceIamInstanceProfileAssociation;
    let faulty = Faulty::of(cloud.clone()).failing(replace, refused()).failing(replace, refused());
    assert_eq!(ending(&run(&faulty).await), "not-repaired");
    assert_eq!(cloud.world().writes, [replaced("web")], "what EC2 refused was no try");
}

#[tokio::test(start_paused = true)]
async fn instances_that_ec2_does_not_show_keep_nobody_waiting() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), None));
    let mut jobs: Vec<Job> = (1..=300).map(|n| job(&format!("i-{n:017x}"))).collect();
    jobs.push(job(ID));
    let reports = run_within(&cloud, jobs, Duration::from_secs(10)).await;
    assert_eq!(ending(&reports[300]), "associated");
}

/// A pace of one write at a time, so many a second.
fn paced(per_second: f64) -> Pace {
    Pace::new(Limits { per_second, burst: 1.0 })
}

async fn run_paced<C: Cloud>(cloud: &C, pace: &Pace, ids: &[String]) -> Vec<InstanceReport> {
    let (profiles, policy) = (Profiles::default(), swapping());
    let deadline = Instant::now() + Duration::from_mins(1);
    let reconciler = Reconciler {
        cloud,
        profiles: &profiles,
        policy: &policy,
        pace,
        flapping: &FlapDetector::default(),
        write_ahead: Some(&Ledger::default()),
        deadline,
        now_ns: 0,
    };
    reconciler.run(ids.iter().map(|id| job(id)).collect()).await
}

fn many(count: usize) -> (World, Vec<String>) {
    let ids: Vec<String> = (0..count).map(|index| format!("i-{index:017x}")).collect();
    let world = ids.iter().fold(world(), |world, id| world.running(id, Some("web"), None));
    (world, ids)
}

#[tokio::test(start_paused = true)]
async fn a_throttled_write_waits_for_its_next_turn() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), None));
    let faulty = Faulty::of(cloud.clone()).failing_times(
        Operation::AssociateIamInstanceProfile,
        &Fault::Fails(ErrorKind::Throttled),
        TRIES_OF_A_THROTTLED_WRITE - 1,
    );
    let started = Instant::now();
    let reports = run_paced(&faulty, &paced(5.0), &[ID.to_owned()]).await;
    assert_eq!(ending(&reports[0]), "associated");
    assert!(started.elapsed() > Duration::from_secs(1), "no tries in a row");
}

#[tokio::test(start_paused = true)]
async fn writes_keep_to_the_pace_and_the_rest_is_left_for_later() {
    let (world, ids) = many(100);
    let cloud = FakeCloud::of(world);
    let started = Instant::now();
    let reports = run_paced(&cloud, &paced(1.0), &ids).await;
    let done = reports.iter().filter(|report| report.result.is_ok()).count();
    assert!((56..=59).contains(&done), "58 s at one a second: {done}");
    assert!(started.elapsed() <= Duration::from_secs(58), "no turn is waited for in vain");
    let rest = reports.iter().filter(|report| report.result.is_err());
    assert!(rest.clone().all(|report| ending(report) == "OutOfTime come-again"));
    assert_eq!(cloud.world().writes.len(), done);
}

#[tokio::test(start_paused = true)]
async fn what_waited_long_for_its_turn_is_looked_at_again_before_it_is_written() {
    let (world, ids) = many(40);
    let last = ids.last().unwrap().clone();
    let cloud = FakeCloud::of(world);
    let (changing, untagged) = (cloud.clone(), last.clone());
    let somebody = async {
        tokio::time::sleep(Duration::from_secs(15)).await;
        changing.world().instance_mut(&untagged).tags.clear();
    };
    let pace = paced(1.0);
    let (reports, ()) = tokio::join!(run_paced(&cloud, &pace, &ids), somebody);
    assert_eq!(ending(reports.last().unwrap()), "left", "it has no tag any more");
    assert_eq!(cloud.world().attached_to(&last), None);
    assert_eq!(cloud.world().writes.len(), 39);
    let looks = cloud.world().calls.iter().filter(|call| **call == Call::DescribeInstances).count();
    assert!(looks < 8, "all together: {looks}");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_written_at_once_costs_two_reads() {
    let (world, ids) = many(100);
    let cloud = FakeCloud::of(world);
    run_paced(&cloud, &no_pace(), &ids).await;
    let world = cloud.world();
    let count = |call| world.calls.iter().filter(|made| **made == call).count();
    assert_eq!(count(Call::DescribeInstances) + count(Call::DescribeAssociations), 2);
    assert_eq!(count(Call::Associate), 100);
}

#[tokio::test(start_paused = true)]
async fn what_another_hand_attaches_in_the_middle_of_a_failed_swap_stays() {
    // The swap is refused after the detachment; the old profile is not put over what somebody put there meanwhile.
    let cloud = FakeCloud::of(
        world()
            .stopped(ID, Some("web"), Some("db"))
            .before(Call::Associate, |_| ())
            .before(Call::Associate, |world| world.attach(ID, "api")),
    );
    let faulty = past_the_first_question(&cloud)
        .failing(Operation::AssociateIamInstanceProfile, Fault::Fails(denied()));
    assert_eq!(
        ending(&run(&faulty).await),
        "Denied give-up",
        "nothing is bare, nothing was undone"
    );
    assert_eq!(cloud.world().attached_to(ID).as_deref(), Some("api"));
    assert_eq!(cloud.world().writes, [disassociated("db")]);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_still_shows_what_a_swap_detached_is_not_believed() {
    // The second look shows a row as old as the one that was detached; it is gone when EC2 is asked to write.
    let lagging = world()
        .stopped(ID, Some("web"), Some("db"))
        .before(Call::DescribeAssociations, |_| ())
        .before(Call::DescribeAssociations, |world| {
            world.attach(ID, "db");
            world.associations[0].timestamp = 0;
        })
        .before(Call::Associate, |_| ())
        .before(Call::Associate, |world| world.detach(ID));
    let cloud = FakeCloud::of(lagging);
    let faulty = past_the_first_question(&cloud)
        .failing(Operation::AssociateIamInstanceProfile, Fault::Fails(ErrorKind::Throttled));
    assert_eq!(ending(&run(&faulty).await), "swapped");
    assert_eq!(cloud.world().attached_to(ID).as_deref(), Some("web"));
    assert_eq!(cloud.world().writes, [disassociated("db"), associated("web")]);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_knows_no_such_instance_shows_nothing_yet() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), None));
    let unknown = Fault::Fails(ErrorKind::InstanceNotFound);
    let faulty = Faulty::of(cloud.clone()).failing(Operation::DescribeInstances, unknown.clone());
    assert_eq!(ending(&run(&faulty).await), "associated");
    let faulty = Faulty::of(cloud).failing_times(Operation::DescribeInstances, &unknown, 3);
    let exhausted = Job { patience: Patience::Exhausted, ..job(ID) };
    assert_eq!(ending(&run_job(&faulty, exhausted).await), "left", "not a failure of the call");
}

#[tokio::test(start_paused = true)]
async fn a_look_at_many_is_worth_four_tries_and_a_look_at_one_is_worth_one() {
    for (jobs, failures, expected) in [
        (vec![job(ID)], 1, "Transient come-again"),
        (vec![job(ID), job(OTHER)], 3, "associated"),
        (vec![job(ID), job(OTHER)], 4, "Transient come-again"),
    ] {
        let both = world().running(ID, Some("web"), None).running(OTHER, Some("web"), None);
        let transient = Fault::Fails(ErrorKind::Transient);
        let faulty = Faulty::of(FakeCloud::of(both)).failing_times(
            Operation::DescribeInstances,
            &transient,
            failures,
        );
        let started = Instant::now();
        let reports = run_within(&faulty, jobs, Duration::from_mins(1)).await;
        for report in &reports {
            assert_eq!(ending(report), expected, "{} of them, {failures} failures", reports.len());
        }
        let pauses = if reports.len() > 1 { Duration::from_secs(3) } else { Duration::ZERO };
        assert_eq!(started.elapsed().as_secs(), pauses.as_secs(), "0.5, 1 and 1.5 s, or none");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_lagging_list_shows_after_a_failed_way_back_is_no_proof() {
    // The list still shows what was detached, and the way back was not carried out: the message must come again.
    let lagging = world()
        .stopped(ID, Some("web"), Some("db"))
        .before(Call::DescribeAssociations, |_| ())
        .before(Call::DescribeAssociations, |world| {
            world.attach(ID, "db");
            world.associations[0].timestamp = 0;
        });
    let faulty = past_the_first_question(&FakeCloud::of(lagging))
        .failing(Operation::AssociateIamInstanceProfile, Fault::Fails(denied()))
        .failing(Operation::AssociateIamInstanceProfile, Fault::Fails(ErrorKind::Transient));
    assert_eq!(ending(&run(&faulty).await), "RollbackFailed come-again");
}

#[tokio::test(start_paused = true)]
async fn a_way_back_that_is_refused_is_a_plain_answer_and_costs_no_look() {
    let cloud = FakeCloud::of(world().stopped(ID, Some("web"), Some("db")));
    let faulty = past_the_first_question(&cloud)
        .failing(Operation::AssociateIamInstanceProfile, Fault::Fails(denied()))
        .failing(Operation::AssociateIamInstanceProfile, Fault::Fails(denied()));
    assert_eq!(ending(&run(&faulty).await), "RollbackFailed come-again");
    let looks = cloud.world().calls.iter().filter(|call| **call == Call::DescribeInstances).count();
    assert_eq!(looks, 1);
}

#[tokio::test(start_paused = true)]
async fn each_pause_before_another_look_is_twice_the_last() {
    let started = Instant::now();
    let late = world().running(ID, Some("web"), None).unseen_for(ID, 9);
    run(&FakeCloud::of(late)).await;
    let pauses = Duration::from_secs(1 + 2);
    assert_eq!(started.elapsed().as_secs(), pauses.as_secs(), "{:?}", started.elapsed());
    let started = Instant::now();
    let conflict = Fault::Fails(ErrorKind::Conflict);
    let faulty = Faulty::of(FakeCloud::of(world().running(ID, Some("web"), None))).failing_times(
        Operation::AssociateIamInstanceProfile,
        &conflict,
        9,
    );
    assert_eq!(ending(&run(&faulty).await), "Conflict come-again");
    let took = started.elapsed().as_millis();
    assert!((3500..4000).contains(&took), "0.5, 1 and 2 s: {took} ms");
}

/// The list lags behind: it shows a row that is gone, so that no call on it is carried out.
fn show_again(world: &mut World, row: &str, profile: &str) {
    world.attach(ID, profile);
    row.clone_into(&mut world.associations[0].id);
}

fn require(world: &mut World, profile: &str) {
    world.instance_mut(ID).tags.insert("InstanceProfile".into(), profile.into());
}

/// A stopped instance that requires `web` and has `db`, and the association's id.
fn to_be_swapped() -> (World, String) {
    let world = world().stopped(ID, Some("web"), Some("db"));
    let row = world.associations[0].id.clone();
    (world, row)
}

#[tokio::test(start_paused = true)]
async fn a_detachment_that_a_second_try_proves_is_believed_whatever_the_list_shows() {
    let (world, row) = to_be_swapped();
    let lagging = world
        .before(Call::DescribeAssociations, |_| ())
        .before(Call::DescribeAssociations, move |world| show_again(world, &row, "db"))
        .before(Call::Associate, |_| ())
        .before(Call::Associate, |world| world.detach(ID));
    let cloud = FakeCloud::of(lagging);
    let faulty = Faulty::of(cloud.clone())
        .failing(Operation::DisassociateIamInstanceProfile, Fault::AnswerIsLost);
    assert_eq!(ending(&run(&faulty).await), "swapped");
    assert_eq!(cloud.world().writes, [disassociated("db"), associated("web")]);
    let tries = cloud.world().calls.iter().filter(|call| **call == Call::Disassociate).count();
    assert_eq!(tries, 2);
}

#[tokio::test(start_paused = true)]
async fn a_second_try_that_is_refused_for_another_reason_proves_no_detachment() {
    let (world, _) = to_be_swapped();
    let cloud = FakeCloud::of(world);
    let detach = Operation::DisassociateIamInstanceProfile;
    let faulty = Faulty::of(cloud.clone())
        .failing(detach, Fault::Fails(ErrorKind::Transient))
        .failing(detach, Fault::Fails(ErrorKind::Throttled));
    assert_eq!(ending(&run(&faulty).await), "swapped");
    assert_eq!(cloud.world().writes, [disassociated("db"), associated("web")]);
    let tries = cloud.world().calls.iter().filter(|call| **call == Call::Associate).count();
    assert_eq!(tries, 2, "one question, and once nothing is attached");
}

#[tokio::test(start_paused = true)]
async fn a_row_that_may_be_detached_is_not_kept_before_the_list_has_caught_up() {
    let (world, row) = to_be_swapped();
    let lagging = world
        .before(Call::DescribeAssociations, |_| ())
        .before(Call::DescribeAssociations, move |world| {
            show_again(world, &row, "db");
            require(world, "db");
        })
        .before(Call::DescribeAssociations, |world| world.detach(ID));
    let cloud = FakeCloud::of(lagging);
    let faulty = Faulty::of(cloud.clone())
        .failing(Operation::DisassociateIamInstanceProfile, Fault::AnswerIsLost);
    assert_eq!(ending(&run(&faulty).await), "swapped");
    assert_eq!(cloud.world().attached_to(ID).as_deref(), Some("db"), "it was bare");
}

#[tokio::test(start_paused = true)]
async fn a_row_that_another_hand_made_is_kept_whatever_became_of_ours() {
    let (world, _) = to_be_swapped();
    let moved = world.before(Call::DescribeAssociations, |_| ()).before(
        Call::DescribeAssociations,
        |world| {
            world.attach(ID, "db");
            require(world, "db");
        },
    );
    let cloud = FakeCloud::of(moved);
    let faulty = Faulty::of(cloud.clone())
        .failing(Operation::DisassociateIamInstanceProfile, Fault::AnswerIsLost);
    assert_eq!(ending(&run(&faulty).await), "converged");
    let world = cloud.world();
    let looks = world.calls.iter().filter(|call| **call == Call::DescribeInstances).count();
    assert_eq!((looks, &*world.writes), (2, &[disassociated("db")][..]));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_to_put_back_proves_that_nothing_was_detached() {
    let (world, _) = to_be_swapped();
    let cloud = FakeCloud::of(world);
    let faulty = Faulty::of(cloud)
        .failing(Operation::DisassociateIamInstanceProfile, Fault::Fails(ErrorKind::Transient))
        .working(Operation::DescribeInstances)
        .failing(Operation::DescribeInstances, Fault::Fails(denied()));
    // EC2 refuses to put anything back, for something is attached: the call was not carried out.
    assert_eq!(ending(&run(&faulty).await), "Denied give-up");
}

#[tokio::test(start_paused = true)]
async fn what_began_to_wait_and_changed_meanwhile_is_looked_at_again_too() {
    // All begin at once, so what they were seen to be is 15 s old at the last one's turn.
    let (world, ids) = many(16);
    let last = ids.last().unwrap().clone();
    let cloud = FakeCloud::of(world);
    let (changing, untagged) = (cloud.clone(), last.clone());
    let somebody = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        changing.world().instance_mut(&untagged).tags.clear();
    };
    let pace = paced(1.0);
    let (reports, ()) = tokio::join!(run_paced(&cloud, &pace, &ids), somebody);
    assert_eq!(ending(reports.last().unwrap()), "left");
    assert_eq!(cloud.world().attached_to(&last), None);
    assert_eq!(cloud.world().writes.len(), 15);
}

#[tokio::test(start_paused = true)]
async fn a_short_invocation_still_does_what_is_short() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), None));
    let report = run_within(&cloud, vec![job(ID)], Duration::from_secs(1)).await.remove(0);
    assert_eq!(ending(&report), "associated");
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_answer_was_lost_counts_as_one_that_ec2_took() {
    let cloud = FakeCloud::of(world().running(ID, Some("web"), None));
    let associate = Operation::AssociateIamInstanceProfile;
    let faulty = Faulty::of(cloud).failing(associate, Fault::AnswerIsLost);
    let pace = Pace::new(Limits { per_second: 5.0, burst: 10.0 });
    let reports = run_paced(&faulty, &pace, &[ID.to_owned()]).await;
    assert_eq!(ending(&reports[0]), "associated");
    let (one, two) = (pace.turn(Instant::now()).await, pace.turn(Instant::now()).await);
    assert!(one.is_some() && two.is_some(), "after one that was taken two may be under way");
}
