//! Random worlds, faults and interleavings: fixed point, idempotent, safe, bounded, order-blind.

use std::time::Duration;

use auto_instance_profile::cloud::{ErrorKind, MissingRight, Operation};
use auto_instance_profile::config::Mode;
use auto_instance_profile::flapping::FlapDetector;
use auto_instance_profile::profiles::Profiles;
use auto_instance_profile::reconcile::{Job, Reconciler};
use auto_instance_profile::report::{InstanceReport, Outcome};
use proptest::prelude::*;
use tokio::time::Instant;

use crate::common::fake::FakeCloud;
use crate::common::faulty::{Fault, Faulty};
use crate::common::ledger::Ledger;
use crate::common::world::{Call, World, Write};
use crate::reconcile::{job, no_pace, swapping};

const ALLOWED: [&str; 3] = ["web", "db", "api"];

#[derive(Debug, Clone)]
struct Scene {
    instances: Vec<(&'static str, Option<&'static str>, Option<&'static str>)>,
    faults: Vec<(Operation, Option<Fault>)>,
    moves: Vec<(Call, usize, Move)>,
    dry_run: bool,
}

/// What another actor does in the middle of a run.
#[derive(Debug, Clone, Copy)]
enum Move {
    Attaches(&'static str),
    Detaches,
    Stops,
    Starts,
    Untags,
}

fn id(index: usize) -> String {
    format!("i-{index:017x}")
}

fn build(scene: &Scene) -> World {
    let mut world = World::new()
        .profile("web")
        .profile("db")
        .profile_at("/app/", "api")
        .profile("admin")
        .profile_without_role("app-empty");
    for (index, (state, tag, attached)) in scene.instances.iter().enumerate() {
        world = world.instance(&id(index), state, *tag, *attached);
    }
    for (call, index, what) in scene.moves.clone() {
        world = world.before(call, move |world| {
            let id = id(index);
            if !world.instances.contains_key(&id) {
                return;
            }
            match what {
                Move::Attaches(name) => world.attach(&id, name),
                Move::Detaches => world.detach(&id),
                Move::Stops => world.instance_mut(&id).state = "stopped".into(),
                Move::Starts => world.instance_mut(&id).state = "running".into(),
                Move::Untags => world.instance_mut(&id).tags.clear(),
            }
        });
    }
    world
}

fn scenes() -> impl Strategy<Value = Scene> {
    let state = prop::sample::select(vec![
        "pending",
        "running",
        "running",
        "stopping",
        "stopped",
        "stopped",
        "terminated",
    ]);
    let tag = prop::sample::select(vec![
        None,
        Some("web"),
        Some("web"),
        Some("db"),
        Some("api"),
        Some("admin"),
        Some("missing"),
        Some(""),
        Some("app-empty"),
        Some("arn:aws:iam::123456789012:instance-profile/admin"),
        Some("*"),
        Some("../admin"),
    ]);
    let attached = prop::sample::select(vec![None, None, Some("web"), Some("db"), Some("admin")]);
    let denied = ErrorKind::Denied(MissingRight { action: "x".into(), resource: None });
    let fault = prop::sample::select(vec![
        None,
        Some(Fault::AnswerIsLost),
        Some(Fault::Hangs),
        Some(Fault::Fails(ErrorKind::Throttled)),
        Some(Fault::Fails(ErrorKind::Transient)),
        Some(Fault::Fails(ErrorKind::Conflict)),
        Some(Fault::Fails(ErrorKind::Rejected)),
        Some(Fault::Fails(ErrorKind::ProfileNotFound)),
        Some(Fault::Fails(denied)),
    ]);
    let faults =
        prop::collection::vec((prop::sample::select(Operation::ALL.to_vec()), fault), 0..6);
    let call = prop::sample::select(vec![
        Call::Associate,
        Call::Replace,
        Call::Disassociate,
        Call::DescribeInstances,
    ]);
    let what = prop::sample::select(vec![
        Move::Attaches("web"),
        Move::Attaches("db"),
        Move::Detaches,
        Move::Stops,
        Move::Starts,
        Move::Untags,
    ]);
    let moves = prop::collection::vec((call, 0..4_usize, what), 0..3);
    let instances = prop::collection::vec((state, tag, attached), 1..5);
    (instances, faults, moves, prop::bool::weighted(0.2))
        .prop_map(|(instances, faults, moves, dry_run)| Scene { instances, faults, moves, dry_run })
}

/// One world and the virtual time it lives in.
struct Stage {
    runtime: tokio::runtime::Runtime,
    cloud: FakeCloud,
}

impl Stage {
    fn set(scene: &Scene) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let world = {
            let _entered = runtime.enter();
            build(scene)
        };
        Self { runtime, cloud: FakeCloud::of(world) }
    }

    /// One run, and the time it took.
    fn run(&self, scene: &Scene, order: Order) -> (Vec<InstanceReport>, Duration) {
        let mut faulty = Faulty::of(self.cloud.clone());
        for (operation, fault) in &scene.faults {
            faulty = match fault {
                Some(fault) => faulty.failing(*operation, fault.clone()),
                None => faulty.working(*operation),
            };
        }
        let mode = if scene.dry_run { Mode::DryRun } else { Mode::Enforce };
        let mut jobs: Vec<Job> =
            (0..scene.instances.len()).map(|index| Job { mode, ..job(&id(index)) }).collect();
        if order == Order::Backward {
            jobs.reverse();
        }
        self.runtime.block_on(async {
            let (profiles, policy, started) = (Profiles::default(), swapping(), Instant::now());
            let pace = no_pace();
            let deadline = started + Duration::from_mins(1);
            let reconciler = Reconciler {
                cloud: &faulty,
                profiles: &profiles,
                policy: &policy,
                pace: &pace,
                flapping: &FlapDetector::default(),
                write_ahead: Some(&Ledger::default()),
                deadline,
                now_ns: 0,
            };
            let reports = reconciler.run(jobs).await;
            let took = started.elapsed();
            // Until the next run everything settles.
            tokio::time::sleep(Duration::from_secs(10)).await;
            (reports, took)
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Forward,
    Backward,
}

fn attached(stage: &Stage, scene: &Scene) -> Vec<Option<String>> {
    (0..scene.instances.len()).map(|index| stage.cloud.world().attached_to(&id(index))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_writes_are_safe_and_bounded(scene in scenes()) {
        let stage = Stage::set(&scene);
        let (reports, took) = stage.run(&scene, Order::Forward);
        prop_assert!(took <= Duration::from_mins(1));
        prop_assert_eq!(reports.len(), scene.instances.len());
        let world = stage.cloud.world();
        if scene.dry_run {
            prop_assert_eq!(&world.writes, &[]);
        }
        for (index, (_, tag, before)) in scene.instances.iter().enumerate() {
            let id = id(index);
            let of_instance = |write: &&Write| match write {
                Write::Associated { instance, .. } | Write::Replaced { instance, .. }
                | Write::Disassociated { instance, .. } => *instance == id,
            };
            let writes: Vec<&Write> = world.writes.iter().filter(of_instance).collect();
            prop_assert!(writes.len() <= 12, "{writes:?}");
            let may_be_written = tag.is_some_and(|tag| ALLOWED.contains(&tag));
            prop_assert!(may_be_written || writes.is_empty(), "{tag:?}: {writes:?}");
            for write in writes {
                if let Write::Associated { profile, .. } | Write::Replaced { profile, .. } = write {
                    let required = Some(profile.as_str()) == *tag;
                    let put_back = Some(profile.as_str()) == *before || scene.moves.iter().any(|(_, _, what)| {
                        matches!(what, Move::Attaches(name) if name == profile)
                    });
                    prop_assert!(required || put_back, "{tag:?}: {write:?}");
                }
            }
        }
    }

    #[test]
    fn when_the_world_holds_still_everything_that_can_be_right_becomes_right_and_stays(scene in scenes()) {
        let stage = Stage::set(&scene);
        stage.run(&scene, Order::Forward);
        let still = Scene { faults: vec![], moves: vec![], dry_run: false, ..scene.clone() };
        // The moves left over are part of the world; a few more runs use them up.
        for _ in 0..4 {
            stage.run(&still, Order::Forward);
        }
        let (reports, _) = stage.run(&still, Order::Forward);
        let writes = stage.cloud.world().writes.len();
        for report in &reports {
            let facts = report.facts.as_ref().unwrap();
            let tag = facts.instance.tags.get("InstanceProfile").map(String::as_str);
            let reachable = matches!(facts.instance.state.as_str(), "running" | "stopped");
            if reachable && tag.is_some_and(|tag| ALLOWED.contains(&tag)) {
                // What may not be put back is not swapped: it waits until the instance runs.
                let attached = report.attached().and_then(|arn| arn.rsplit('/').next());
                let is_fixed = facts.instance.state.as_str() == "stopped"
                    && attached.is_some_and(|name| !ALLOWED.contains(&name));
                let expected = if is_fixed { Outcome::Waiting } else { Outcome::Kept };
                prop_assert_eq!(report.result.as_ref().ok(), Some(&expected), "{:?}", report);
            }
        }
        stage.run(&still, Order::Forward);
        prop_assert_eq!(stage.cloud.world().writes.len(), writes);
    }

    #[test]
    fn the_order_of_the_messages_changes_nothing(scene in scenes()) {
        let still = Scene { faults: vec![], moves: vec![], ..scene };
        let (one, other) = (Stage::set(&still), Stage::set(&still));
        one.run(&still, Order::Forward);
        other.run(&still, Order::Backward);
        prop_assert_eq!(attached(&one, &still), attached(&other, &still));
    }

    #[test]
    fn without_faults_an_instance_with_a_profile_is_never_left_without_one(scene in scenes()) {
        let still = Scene { faults: vec![], moves: vec![], ..scene };
        let stage = Stage::set(&still);
        let before = attached(&stage, &still);
        stage.run(&still, Order::Forward);
        for (index, (before, after)) in before.iter().zip(attached(&stage, &still)).enumerate() {
            let terminated = still.instances[index].0 == "terminated";
            prop_assert!(before.is_none() || after.is_some() || terminated);
        }
    }
}
