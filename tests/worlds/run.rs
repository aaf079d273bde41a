//! A world from its first moment to its last: the event source with its execution environments, the other hands, and the
//! quiet at the end.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use auto_instance_profile::config::Config;
use auto_instance_profile::handler::{Answer, Handler, RawPayload};
use futures_util::future::join;
use lambda_runtime::{Context, LambdaEvent};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::{sleep, sleep_until, timeout};

use crate::mutation::Mutation;
use crate::oracle::{self, ALLOWED};
use crate::plan::{Item, Kind, Ms, Plan, Post, Rules, TAGS, id};
use crate::sim::{Env, SimAws};
use crate::watch::{About, Invariant, Message, Violation, Watch, reads, tags_of};
use crate::world::ACCOUNT;

/// Lambda ends an invocation after this. The deadline that the function is told is beyond any of Lambda's, so that it allows
/// itself its 25 s by its own clock: the wall clock, by which a deadline is told, has no part in these worlds.
const INVOCATION: Duration = Duration::from_secs(28);
/// From nothing to the function's own code.
const COLD_START: Duration = Duration::from_millis(300);
/// How long a message may take to end once nothing happens any more: a missing right is waited for for an hour.
const ENDS_WITHIN: Duration = Duration::from_hours(3);
/// Longer than IAM's answers are remembered.
const QUIET: Duration = Duration::from_mins(6);

/// How a world went.
pub struct Ending {
    pub violation: Option<Violation>,
    /// One line an event.
    pub history: Vec<(Ms, String)>,
    /// Everything that was counted, for a comparison of two runs.
    pub digest: String,
}

/// Runs a plan to its end, or to the first violation.
pub fn run(plan: &Plan, mutation: Option<Mutation>, record: bool) -> Ending {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let watch = Arc::new(Mutex::new(Watch::new(plan.clone(), record)));
        let stopped = Arc::clone(&watch.lock().unwrap().stopped);
        let stage = Stage::new(&watch, plan, mutation);
        tokio::select! {
            biased;
            () = stopped.notified() => {}
            _ = join(stage.slot(0), stage.slot(1)) => unreachable!("an event source never ends"),
            () = stage.play() => {}
        }
        let mut watch = watch.lock().unwrap();
        Ending {
            violation: watch.violation.take(),
            history: watch.history.take().unwrap_or_default(),
            digest: format!("{:?} {:?} {}", watch.sent, watch.visits_of(), watch.now()),
        }
    })
}

struct Stage {
    watch: Arc<Mutex<Watch>>,
    mutation: Option<Mutation>,
    state: Mutex<State>,
}

struct State {
    rules: Rules,
    version: usize,
    environments: usize,
    slots: [Option<Arc<Env>>; 2],
}

/// What is still to come of an action.
#[derive(Debug, Clone)]
enum Next {
    Item(Item),
    Launch(usize),
    /// The instance reaches a state, if it is on its way there.
    Reach {
        who: usize,
        from: &'static str,
        to: &'static str,
        post: Post,
    },
    /// EC2 comes to know a profile.
    Known(&'static str),
}

impl Stage {
    fn new(watch: &Arc<Mutex<Watch>>, plan: &Plan, mutation: Option<Mutation>) -> Self {
        let state = State { rules: plan.rules, version: 0, environments: 0, slots: [None, None] };
        Self { watch: Arc::clone(watch), mutation, state: Mutex::new(state) }
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    // The function.

    async fn slot(&self, slot: usize) {
        let mut warm: Option<(Handler<SimAws>, Arc<Env>)> = None;
        loop {
            let batch = self.gather().await;
            let version = self.state().version;
            warm = warm.filter(|(_, env)| env.version == version);
            let (handler, env) = match warm.take() {
                Some(warm) => warm,
                None => self.start(slot).await,
            };
            self.watch().begin_visit(&env, &batch);
            let answer = tokio::select! {
                biased;
                () = env.dies.notified() => None,
                answer = timeout(INVOCATION, handler.handle(event(&batch, self.watch().now()))) => answer.ok(),
            };
            let Some(answer) = answer else {
                self.watch().cut_visit(&env);
                self.state().slots[slot] = None;
                continue;
            };
            let Ok(Answer::Batch(answer)) = answer else {
                panic!("a batch is answered as a batch")
            };
            let failures = answer.batch_item_failures.into_iter();
            let mut failures: Vec<_> = failures.map(|failure| failure.item_identifier).collect();
            if self.mutation == Some(Mutation::ForgetsFailures) {
                failures.clear();
            }
            self.watch().end_visit(&env, &batch, &failures);
            warm = Some((handler, env));
        }
    }

    async fn gather(&self) -> Vec<Message> {
        let changed = Arc::clone(&self.watch().changed);
        loop {
            let mut news = std::pin::pin!(changed.notified());
            news.as_mut().enable();
            let (batch, next) = {
                let mut watch = self.watch();
                let most = watch.plan.batch;
                let batch = watch.receive(most);
                (batch, watch.next_visible().map(|at| watch.moment(at)))
            };
            if !batch.is_empty() {
                sleep(Duration::from_millis(15)).await;
                return batch;
            }
            match next {
                None => news.await,
                Some(at) => {
                    tokio::select! { biased; () = news => {}, () = sleep_until(at) => {} }
                }
            }
        }
    }

    async fn start(&self, slot: usize) -> (Handler<SimAws>, Arc<Env>) {
        sleep(COLD_START).await;
        let (env, kind) = {
            let mut state = self.state();
            state.environments += 1;
            let (number, rules, version) = (state.environments, state.rules, state.version);
            let dies = tokio::sync::Notify::new();
            let env = Arc::new(Env { number, rules, version, dies });
            state.slots[slot] = Some(Arc::clone(&env));
            (env, self.watch().plan.kind)
        };
        let aws = SimAws::new(&self.watch, &env, self.mutation);
        let handler = Handler::new(config(env.rules, kind, self.mutation), aws);
        handler.get_ready().await;
        (handler, env)
    }

    // The world.

    async fn play(&self) {
        let plan = self.watch().plan.clone();
        let mut agenda: BinaryHeap<Reverse<(Ms, usize)>> = BinaryHeap::new();
        let mut steps: Vec<Next> = Vec::new();
        for (who, spec) in plan.instances.iter().enumerate() {
            if let Some(spec) = spec {
                agenda.push(Reverse((spec.launched, steps.len())));
                steps.push(Next::Launch(who));
            }
        }
        for item in &plan.items {
            agenda.push(Reverse((item.at(), steps.len())));
            steps.push(Next::Item(item.clone()));
        }
        while let Some(Reverse((at, step))) = agenda.pop() {
            let at = self.watch().moment(at);
            sleep_until(at).await;
            let step = steps[step].clone();
            for (after, next) in self.take(&step, &plan) {
                let now = self.watch().now();
                agenda.push(Reverse((now + after, steps.len())));
                steps.push(next);
            }
        }
        let over = self.watch().moment(plan.ends());
        sleep_until(over).await;
        self.watch().say(|| "from here on nothing happens any more".to_owned());
        if !self.all_end().await {
            return;
        }
        self.be_quiet(&plan).await;
    }

    /// Waits until no message is left.
    async fn all_end(&self) -> bool {
        let changed = Arc::clone(&self.watch().changed);
        let all = async {
            loop {
                let mut news = std::pin::pin!(changed.notified());
                news.as_mut().enable();
                if self.watch().messages.is_empty() {
                    return;
                }
                news.await;
            }
        };
        if timeout(ENDS_WITHIN, all).await.is_err() {
            let mut watch = self.watch();
            let left = watch.messages.iter().map(|message| format!("{message:?}"));
            let left = left.collect::<Vec<_>>().join(", ");
            watch.violate(Invariant::MessagesEnd, left);
            return false;
        }
        true
    }

    /// The world holds still, and events arrive, or a sweep.
    async fn be_quiet(&self, plan: &Plan) {
        for round in 0..2 {
            sleep(QUIET).await;
            let before = self.watch().sent.clone();
            if plan.is_swept() {
                self.watch().say(|| "a sweep over every instance".to_owned());
                self.send_sweep();
            } else {
                self.watch().say(|| "an event about every instance".to_owned());
                for (who, spec) in plan.instances.iter().enumerate() {
                    if spec.is_some() {
                        self.send_state(who, Post { delay: 100, copies: 1 });
                    }
                }
            }
            if !self.all_end().await || plan.kind == Kind::DryRun {
                return;
            }
            let rules = self.state().rules;
            let mut watch = self.watch();
            watch.check_right(rules);
            for (who, before) in before.into_iter().enumerate() {
                if round == 1 && watch.sent[who] > before && !watch.cannot_be_mended(who) {
                    let what = format!("instance {who} was right and was written again");
                    watch.violate(Invariant::StaysRight, what);
                }
            }
        }
    }

    /// Carries out a step; answers with what follows from it, and when.
    fn take(&self, step: &Next, plan: &Plan) -> Vec<(Ms, Next)> {
        let (now, what) = {
            let watch = self.watch();
            (watch.now(), format!("{step:?}"))
        };
        let _ = now;
        let is_quiet_item = matches!(
            step,
            Next::Item(
                Item::Fault { .. } | Item::Stale { .. } | Item::Untagged { .. } | Item::Wake { .. }
            )
        );
        if !is_quiet_item {
            self.watch().say(|| what);
        }
        match step {
            Next::Launch(who) => self.launch(*who, plan),
            Next::Reach { who, from, to, post } => {
                if self.changes_state(*who, &[from], to) && matches!(*to, "running" | "stopped") {
                    self.send_state(*who, *post);
                }
                Vec::new()
            }
            Next::Known(name) => {
                let mut watch = self.watch();
                if let Some(profile) = watch.world.profiles.get_mut(*name) {
                    profile.unknown_to_ec2 = false;
                }
                Vec::new()
            }
            Next::Item(item) => self.take_item(item, plan),
        }
    }

    fn launch(&self, who: usize, plan: &Plan) -> Vec<(Ms, Next)> {
        let Some(spec) = &plan.instances[who] else { return Vec::new() };
        let mut watch = self.watch();
        let world = std::mem::take(&mut watch.world);
        let attached = spec.attached.filter(|name| world.profiles.contains_key(*name));
        let mut world = world.instance(&id(who), spec.state, None, attached);
        world.instance_mut(&id(who)).tags = tags_of(TAGS[spec.tags]);
        if spec.managed {
            world = world.managed_by(&id(who), "eks");
        }
        watch.world = world;
        if spec.launched > 0 {
            watch.disturb(who);
        }
        watch.note(who);
        drop(watch);
        let post = Post { delay: 200, copies: 1 };
        if spec.state == "pending" {
            return vec![(3_000, Next::Reach { who, from: "pending", to: "running", post })];
        }
        if spec.launched > 0 {
            self.send_state(who, post);
        }
        Vec::new()
    }

    fn take_item(&self, item: &Item, plan: &Plan) -> Vec<(Ms, Next)> {
        match *item {
            Item::Tag { who, tags, post, .. } => self.tag(who, tags, post),
            Item::Stop { who, post, .. } => {
                if self.changes_state(who, &["running"], "stopping") {
                    return vec![(
                        3_000,
                        Next::Reach { who, from: "stopping", to: "stopped", post },
                    )];
                }
            }
            Item::Start { who, post, .. } => {
                if self.changes_state(who, &["stopped"], "pending") {
                    return vec![(
                        3_000,
                        Next::Reach { who, from: "pending", to: "running", post },
                    )];
                }
            }
            Item::Terminate { who, .. } => {
                let any = ["pending", "running", "stopping", "stopped"];
                self.changes_state(who, &any, "terminated");
            }
            Item::Attach { who, profile, .. } => {
                let mut watch = self.watch();
                let is_there = watch.world.profiles.contains_key(profile);
                if is_there && matches!(watch.view(who).state_word(), "running" | "stopped") {
                    watch.disturb(who);
                    watch.world.attach(&id(who), profile);
                    watch.note(who);
                }
            }
            Item::Detach { who, .. } => {
                let mut watch = self.watch();
                if watch.world.instances.contains_key(&id(who)) {
                    watch.disturb(who);
                    watch.world.detach(&id(who));
                    watch.note(who);
                }
            }
            Item::Recreate { profile, unknown_for, .. } => {
                let mut watch = self.watch();
                watch.disturb_all();
                watch.delete_profile(profile);
                watch.make_profile("/", profile, Some("ec2.amazonaws.com"), unknown_for > 0);
                return vec![(unknown_for, Next::Known(profile))];
            }
            Item::Delete { profile, .. } => {
                let mut watch = self.watch();
                watch.disturb_all();
                watch.delete_profile(profile);
            }
            Item::Make { unknown_for, .. } => {
                let mut watch = self.watch();
                watch.disturb_all();
                watch.make_profile("/", "missing", Some("ec2.amazonaws.com"), unknown_for > 0);
                return vec![(unknown_for, Next::Known("missing"))];
            }
            Item::Deploy { rules, .. } => {
                self.watch().disturb_all();
                let mut state = self.state();
                state.version += 1;
                state.rules = rules;
            }
            Item::Wake { who, post, .. } => {
                if plan.instances[who].is_some() {
                    self.send_state(who, post);
                }
            }
            Item::Garbage { .. } => self.watch().send(About::Garbage, "{".to_owned(), 0),
            Item::Sweep { .. } => self.send_sweep(),
            Item::Redeliver { .. } => self.watch().redeliver(),
            Item::Kill { slot, .. } => {
                if let Some(env) = &self.state().slots[slot] {
                    env.dies.notify_one();
                }
            }
            Item::Fault { .. } | Item::Stale { .. } | Item::Untagged { .. } => {}
        }
        Vec::new()
    }

    fn tag(&self, who: usize, tags: usize, post: Post) {
        let rules = self.state().rules;
        let mut watch = self.watch();
        let Some(instance) = watch.world.instances.get(&id(who)) else { return };
        let (old, new) = (instance.tags.clone(), tags_of(TAGS[tags]));
        let keys: std::collections::BTreeSet<String> = old
            .keys()
            .chain(new.keys())
            .filter(|key| old.get(*key) != new.get(*key))
            .cloned()
            .collect();
        watch.disturb(who);
        watch.world.instance_mut(&id(who)).tags.clone_from(&new);
        watch.note(who);
        if keys.is_empty() {
            return;
        }
        // A deployment may come between the event and its look: then nobody knows which keys were read.
        let deploys = watch.plan.items.iter().any(|item| matches!(item, Item::Deploy { .. }));
        let is_read = !deploys && keys.iter().any(|key| reads(rules, key));
        let about = if is_read { About::Instance(who) } else { About::Perhaps(who) };
        let body = json!({
            "source": "aws.tag", "detail-type": "Tag Change on Resource",
            "account": ACCOUNT, "region": "us-east-1",
            "resources": [format!("arn:aws:ec2:us-east-1:{ACCOUNT}:instance/{}", id(who))],
            "detail": {
                "service": "ec2", "resource-type": "instance",
                "changed-tag-keys": keys, "tags": new,
            },
        });
        for _ in 0..post.copies {
            watch.send(about.clone(), body.to_string(), post.delay);
        }
    }

    fn send_sweep(&self) {
        self.watch().send(About::Sweep, json!({ "sweep": {} }).to_string(), 0);
    }

    fn changes_state(&self, who: usize, from: &[&str], to: &str) -> bool {
        let mut watch = self.watch();
        if !from.contains(&watch.view(who).state_word()) {
            return false;
        }
        watch.disturb(who);
        to.clone_into(&mut watch.world.instance_mut(&id(who)).state);
        watch.note(who);
        true
    }

    fn send_state(&self, who: usize, post: Post) {
        let mut watch = self.watch();
        let body = json!({
            "source": "aws.ec2", "detail-type": "EC2 Instance State-change Notification",
            "account": ACCOUNT, "region": "us-east-1",
            "detail": { "instance-id": id(who), "state": "running" },
        });
        for copy in 0..post.copies {
            // The second of two comes a little later.
            let delay = post.delay + Ms::from(copy) * (post.delay / 3);
            watch.send(About::Instance(who), body.to_string(), delay);
        }
    }
}

/// The function's settings.
fn config(rules: Rules, kind: Kind, mutation: Option<Mutation>) -> Config {
    thread_local! {
        static KNOWN: RefCell<HashMap<(Rules, bool, bool), Config>> = RefCell::default();
    }
    let dry_run = kind == Kind::DryRun && mutation != Some(Mutation::WritesInDryRun);
    let allows_everything = mutation == Some(Mutation::AllowsEverything);
    KNOWN.with_borrow_mut(|known| {
        let make = || {
            let lookup = |name: &str| {
                Some(match name {
                    "ALLOWED_PROFILES" if allows_everything => "*".to_owned(),
                    "ALLOWED_PROFILES" => ALLOWED.to_owned(),
                    "MODE" => (if dry_run { "dry-run" } else { "enforce" }).to_owned(),
                    "AWS_REGION" => "us-east-1".to_owned(),
                    "MAXIMUM_CONCURRENCY" => "2".to_owned(),
                    "POLICY_FILE" => oracle::file(rules).map(|_| "policy.yaml".to_owned())?,
                    "QUEUE_URL" => {
                        format!("https://sqs.us-east-1.amazonaws.com/{ACCOUNT}/queue")
                    }
                    "DEAD_LETTER_QUEUE_URL" => {
                        format!("https://sqs.us-east-1.amazonaws.com/{ACCOUNT}/dead")
                    }
                    _ => return None,
                })
            };
            Config::read(lookup, |_| Ok(oracle::file(rules).unwrap().to_owned())).unwrap()
        };
        known.entry((rules, dry_run, allows_everything)).or_insert_with(make).clone()
    })
}

/// A batch as the event source hands it over.
#[expect(clippy::disallowed_methods, reason = "SQS's times are wall-clock times")]
fn event(batch: &[Message], now: Ms) -> LambdaEvent<RawPayload> {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let records = batch.iter().map(|message| {
        // In whole tens of seconds and a half: what the wall clock does meanwhile changes nothing.
        let age = (now - message.sent) / 10_000 * 10_000 + 5_000;
        let sent = wall.checked_sub(Duration::from_millis(age)).unwrap().as_millis();
        json!({
            "messageId": message.id,
            "receiptHandle": message.receipt,
            "body": message.body,
            "attributes": {
                "ApproximateReceiveCount": message.receives.to_string(),
                "SentTimestamp": sent.to_string(),
            },
            "messageAttributes": {},
            "eventSource": "aws:sqs",
            "eventSourceARN": format!("arn:aws:sqs:us-east-1:{ACCOUNT}:auto-instance-profile"),
            "awsRegion": "us-east-1",
        })
    });
    let payload = json!({ "Records": records.collect::<Vec<_>>() }).to_string();
    let mut context = Context::default();
    context.deadline = u64::try_from((wall + Duration::from_hours(1)).as_millis()).unwrap();
    context.invoked_function_arn =
        format!("arn:aws:lambda:us-east-1:{ACCOUNT}:function:auto-instance-profile");
    LambdaEvent::new(RawPayload(Some(RawValue::from_string(payload).unwrap())), context)
}
