//! A world from its first moment to its last: the event source with its execution environments, the other hands, and the
//! quiet at the end.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use auto_instance_profile::config::Config;
use auto_instance_profile::handler::{Answer, Handler, RawPayload};
use futures_util::future::join3;
use lambda_runtime::{Context, LambdaEvent};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::{sleep, sleep_until, timeout};

use crate::mutation::Mutation;
use crate::oracle::{self, ALLOWED, reads};
use crate::plan::{Item, Kind, Ms, Own, Plan, Post, Rules, Stopped, TAGS, id};
use crate::promises::{Invariant, PROFILES_AGE, Violation};
use crate::sim::{Env, SimAws};
use crate::verdict::{Listener, speaking};
use crate::watch::{About, Message, Watch};
use crate::world::ACCOUNT;

/// Lambda ends an invocation after this. The deadline that the function is told is beyond any of Lambda's, so that it allows
/// itself its 25 s by its own clock: the wall clock, by which a deadline is told, has no part in these worlds.
const INVOCATION: Duration = Duration::from_secs(28);
/// From nothing to the function's own code.
const COLD_START: Duration = Duration::from_millis(300);
/// How long a message may take to end once nothing happens any more: a missing right is waited for for an hour.
const ENDS_WITHIN: Duration = Duration::from_hours(3);
/// A profile that comes to be usable this long after an event is attached without another; the patience of 3 minutes, less
/// what a message waits between two looks.
const PATIENT_FOR: Ms = 100_000;
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
    thread_local! {
        static LISTENER: tracing::Dispatch = tracing::Dispatch::new(Listener);
    }
    let _listening = LISTENER.with(tracing::dispatcher::set_default);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(async {
        let watch = Arc::new(Mutex::new(Watch::new(plan.clone(), mutation, record)));
        let stopped = Arc::clone(&watch.lock().unwrap().stopped);
        let stage = Stage::new(&watch, mutation);
        tokio::select! {
            biased;
            () = stopped.notified() => {}
            _ = join3(stage.slot(0), stage.slot(1), stage.sweeper()) => {
                unreachable!("an event source never ends")
            }
            () = stage.play() => {}
        }
        let mut watch = watch.lock().unwrap();
        Ending {
            violation: watch.violation.take(),
            history: watch.history.take().unwrap_or_default(),
            digest: format!("{:?} {:?} {}", watch.sent, watch.visits_of, watch.now()),
        }
    })
}

struct Stage {
    watch: Arc<Mutex<Watch>>,
    mutation: Option<Mutation>,
    state: Mutex<State>,
}

struct State {
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
    /// A profile is given its role.
    Role(&'static str),
}

impl Stage {
    fn new(watch: &Arc<Mutex<Watch>>, mutation: Option<Mutation>) -> Self {
        let state = State { version: 0, environments: 0, slots: [None, None] };
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
            let now = self.watch().now();
            let answer = tokio::select! {
                biased;
                () = env.dies.notified() => None,
                answer = timeout(INVOCATION, speaking(env.number, handler.handle(event(&batch, now)))) => answer.ok(),
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
                if self.mutation == Some(Mutation::IgnoresWriteAhead) {
                    watch.drop_due(Own::FinishSwap);
                }
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
        let (handler, env) = self.environment();
        self.state().slots[slot] = Some(Arc::clone(&env));
        handler.get_ready().await;
        (handler, env)
    }

    fn environment(&self) -> (Handler<SimAws>, Arc<Env>) {
        let mut state = self.state();
        state.environments += 1;
        let (number, version) = (state.environments, state.version);
        let watch = self.watch();
        let dies = tokio::sync::Notify::new();
        let env = Arc::new(Env { number, rules: watch.rules, version, dies });
        let aws = SimAws::new(&self.watch, &env, self.mutation);
        let measured = Arc::clone(&self.watch);
        let measure = move |line: &str| measured.lock().unwrap().measure(line);
        let handler = Handler::new(config(&watch.plan, env.rules, self.mutation), aws);
        (handler.with_metrics(measure), env)
    }

    /// The function that sweeps: invoked once for each sweep, and once more a minute later where that fails.
    async fn sweeper(&self) {
        let changed = Arc::clone(&self.watch().changed);
        loop {
            let mut news = std::pin::pin!(changed.notified());
            news.as_mut().enable();
            if self.watch().sweeps == 0 {
                news.await;
                continue;
            }
            for _ in 0..3 {
                sleep(COLD_START).await;
                let (handler, env) = self.environment();
                self.watch().begin_visit(&env, &[]);
                let swept = tokio::select! {
                    biased;
                    () = env.dies.notified() => None,
                    answer = speaking(env.number, handler.handle(sweep_request())) => answer.ok(),
                };
                if swept.is_some() {
                    self.watch().end_visit(&env, &[], &[]);
                    break;
                }
                self.watch().cut_visit(&env);
                sleep(Duration::from_mins(1)).await;
            }
            let mut watch = self.watch();
            watch.sweeps -= 1;
            watch.changed.notify_waiters();
        }
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
                let is_over = {
                    let watch = self.watch();
                    watch.messages.is_empty() && watch.sweeps == 0
                };
                if is_over {
                    return;
                }
                news.await;
            }
        };
        if timeout(ENDS_WITHIN, all).await.is_err() {
            self.watch().check_messages_left();
            return false;
        }
        true
    }

    /// The world holds still: what could be right must be right, and stay so when events arrive, or a sweep.
    async fn be_quiet(&self, plan: &Plan) {
        for round in 0..3 {
            let before = self.watch().sent.clone();
            if round > 0 {
                sleep(QUIET).await;
                if plan.is_swept() {
                    self.watch().say(|| "a sweep over every instance".to_owned());
                    self.send_sweep();
                } else {
                    self.watch().say(|| "an event about every instance".to_owned());
                    for who in
                        (0..plan.instances.len()).filter(|who| plan.instances[*who].is_some())
                    {
                        self.send_state(who, Post { delay: 100, copies: 1 });
                    }
                }
                if !self.all_end().await {
                    return;
                }
            }
            if plan.kind == Kind::DryRun {
                return;
            }
            let mut watch = self.watch();
            watch.check_end(round > 0);
            for (who, before) in before.into_iter().enumerate() {
                if round == 2 && watch.sent[who] > before && watch.should_stay(who) {
                    let what = format!("instance {who} was right and was written again");
                    watch.violate(Invariant::StaysRight, what);
                }
            }
        }
    }

    /// Carries out a step; answers with what follows from it, and when.
    fn take(&self, step: &Next, plan: &Plan) -> Vec<(Ms, Next)> {
        if !matches!(step, Next::Item(item) if item.is_quiet()) {
            self.watch().say(|| format!("{step:?}"));
        }
        match step {
            Next::Launch(who) => self.launch(*who, plan),
            Next::Reach { who, from, to, post } => {
                if self.changes_state(*who, &[from], to) {
                    self.send_state(*who, *post);
                }
                Vec::new()
            }
            Next::Known(name) => {
                let mut watch = self.watch();
                if let Some(profile) = watch.world.profiles.get_mut(*name) {
                    profile.unknown_to_ec2 = false;
                }
                watch.becomes_usable(name);
                Vec::new()
            }
            Next::Role(name) => {
                let mut watch = self.watch();
                watch.give_role(name);
                watch.becomes_usable(name);
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
        } else if spec.state != "pending" {
            watch.goes_unheard(who, 0, "it was there before the world began");
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
                    watch.is_changed_by_another(who, Some(profile));
                }
            }
            Item::Detach { who, .. } => {
                let mut watch = self.watch();
                if watch.world.instances.contains_key(&id(who)) {
                    watch.is_changed_by_another(who, None);
                }
            }
            Item::Recreate { profile, unknown_for, .. } => {
                let mut watch = self.watch();
                watch.profiles_change("a profile is made again");
                watch.delete_profile(profile);
                watch.make_profile("/", profile, Some("ec2.amazonaws.com"), unknown_for > 0);
                return vec![(unknown_for, Next::Known(profile))];
            }
            Item::Delete { profile, .. } => {
                let mut watch = self.watch();
                watch.profiles_change("a profile is deleted");
                watch.delete_profile(profile);
            }
            Item::Move { profile, path, .. } => {
                let mut watch = self.watch();
                watch.profiles_change("a profile is moved");
                watch.delete_profile(profile);
                watch.make_profile(path, profile, Some("ec2.amazonaws.com"), false);
            }
            Item::Make { unknown_for, role_after, .. } => {
                let mut watch = self.watch();
                if watch.is_there("missing").is_some() {
                    return Vec::new();
                }
                watch.disturb_all();
                let trusts = (role_after == 0).then_some("ec2.amazonaws.com");
                watch.make_profile("/", "missing", trusts, unknown_for > 0);
                let role = (role_after > 0).then_some((role_after, Next::Role("missing")));
                return [(unknown_for, Next::Known("missing"))].into_iter().chain(role).collect();
            }
            Item::Deploy { rules, .. } => {
                let mut state = self.state();
                state.version += 1;
                let mut watch = self.watch();
                watch.disturb_all();
                watch.rules = rules;
                watch.everybody_goes_unheard(0, "another policy is deployed");
            }
            Item::Wake { who, post, .. } => {
                if plan.instances[who].is_some() {
                    self.send_state(who, post);
                }
            }
            Item::Garbage { .. } => self.watch().send(About::Garbage, "{", 0),
            Item::Sweep { .. } => self.send_sweep(),
            Item::Redeliver { .. } => self.watch().redeliver(),
            Item::Kill { slot, .. } => {
                if let Some(env) = &self.state().slots[slot] {
                    env.dies.notify_one();
                }
            }
            Item::Deny { profile, .. } => {
                let mut watch = self.watch();
                watch.profiles_change("a right is taken away");
                watch.world.not_passable.insert(profile.to_owned());
            }
            Item::Fault { .. }
            | Item::Stale { .. }
            | Item::Untagged { .. }
            | Item::Letter { .. }
            | Item::Stick { .. }
            | Item::Undo { .. } => {}
        }
        Vec::new()
    }

    fn tag(&self, who: usize, tags: usize, post: Post) {
        let mut watch = self.watch();
        let rules = watch.rules;
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
            "source": "aws.tag", "detail-type": "Tag Change on Resource", "time": time(watch.now()),
            "account": ACCOUNT, "region": "us-east-1",
            "resources": [format!("arn:aws:ec2:us-east-1:{ACCOUNT}:instance/{}", id(who))],
            "detail": {
                "service": "ec2", "resource-type": "instance",
                "changed-tag-keys": keys, "tags": new,
            },
        });
        if post.copies == 0 && (is_read || deploys) {
            let margin = watch.plan.most_behind(who);
            watch.goes_unheard(who, margin, "the event of its tags is lost");
        }
        for _ in 0..post.copies {
            watch.send(about.clone(), &body.to_string(), post.delay);
        }
    }

    fn send_sweep(&self) {
        let mut watch = self.watch();
        watch.sweeps += 1;
        watch.changed.notify_waiters();
    }

    fn changes_state(&self, who: usize, from: &[&str], to: &str) -> bool {
        let mut watch = self.watch();
        if !from.contains(&watch.view(who).state_word()) {
            return false;
        }
        watch.disturb(who);
        to.clone_into(&mut watch.world.instance_mut(&id(who)).state);
        if matches!(to, "pending" | "stopping") {
            watch.moved[who] = watch.now();
        }
        watch.note(who);
        true
    }

    fn send_state(&self, who: usize, post: Post) {
        let mut watch = self.watch();
        let state = watch.view(who).state_word().to_owned();
        if !matches!(state.as_str(), "running" | "stopped") && post.copies > 0 {
            // The rule passes on no other state.
            return;
        }
        // An event that met the instance on its way here is patient until it arrives.
        let is_waited_for = watch.last_event[who].is_some_and(|at| at > watch.moved[who]);
        if post.copies == 0 && !is_waited_for {
            let margin = watch.plan.most_behind(who);
            watch.goes_unheard(who, margin, "the event of its state is lost");
        }
        let body = json!({
            "source": "aws.ec2", "detail-type": "EC2 Instance State-change Notification",
            "time": time(watch.now()),
            "account": ACCOUNT, "region": "us-east-1",
            "detail": { "instance-id": id(who), "state": state },
        });
        for copy in 0..post.copies {
            // The second of two comes a little later.
            let delay = post.delay + Ms::from(copy) * (post.delay / 3);
            watch.send(About::Instance(who), &body.to_string(), delay);
        }
    }
}

/// The function's settings.
fn config(plan: &Plan, rules: Rules, mutation: Option<Mutation>) -> Config {
    thread_local! {
        static KNOWN: RefCell<HashMap<(Rules, Stopped, bool, bool), Config>> = RefCell::default();
    }
    let stopped = plan.stopped;
    let dry_run = plan.kind == Kind::DryRun && mutation != Some(Mutation::WritesInDryRun);
    let allows_everything = mutation == Some(Mutation::AllowsEverything);
    KNOWN.with_borrow_mut(|known| {
        let make = || {
            let lookup = |name: &str| {
                Some(match name {
                    "ALLOWED_PROFILES" if allows_everything => "*".to_owned(),
                    "ALLOWED_PROFILES" => ALLOWED.to_owned(),
                    "MODE" => (if dry_run { "dry-run" } else { "enforce" }).to_owned(),
                    "AWS_REGION" => "us-east-1".to_owned(),
                    "WHEN_STOPPED" => oracle::when_stopped(rules, stopped).to_owned(),
                    "EVENT_BUS" | "EVENT_BUS_ARN" => {
                        format!("arn:aws:events:us-east-1:{ACCOUNT}:event-bus/told")
                    }
                    "MAXIMUM_CONCURRENCY" => "2".to_owned(),
                    "POLICY_FILE" => {
                        oracle::file(rules, stopped).map(|_| "policy.yaml".to_owned())?
                    }
                    "QUEUE_URL" => {
                        format!("https://sqs.us-east-1.amazonaws.com/{ACCOUNT}/queue")
                    }
                    "DEAD_LETTER_QUEUE_URL" => {
                        format!("https://sqs.us-east-1.amazonaws.com/{ACCOUNT}/dead")
                    }
                    _ => return None,
                })
            };
            let file = oracle::file(rules, stopped);
            Config::read(lookup, |_| Ok(file.clone().unwrap())).unwrap()
        };
        known.entry((rules, stopped, dry_run, allows_everything)).or_insert_with(make).clone()
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
    invocation(&json!({ "Records": records.collect::<Vec<_>>() }))
}

/// What the schedule invokes the function with that sweeps.
fn sweep_request() -> LambdaEvent<RawPayload> {
    invocation(&json!({ "sweep": {} }))
}

#[expect(clippy::disallowed_methods, reason = "Lambda's deadline is a wall-clock time")]
fn invocation(payload: &serde_json::Value) -> LambdaEvent<RawPayload> {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let mut context = Context::default();
    context.deadline = u64::try_from((wall + Duration::from_hours(1)).as_millis()).unwrap();
    context.invoked_function_arn =
        format!("arn:aws:lambda:us-east-1:{ACCOUNT}:function:auto-instance-profile");
    let payload = RawValue::from_string(payload.to_string()).unwrap();
    LambdaEvent::new(RawPayload(Some(payload)), context)
}

/// A moment as EventBridge writes it: in whole seconds.
fn time(at: Ms) -> String {
    let (day, seconds) = (1 + at / 86_400_000, at / 1_000 % 86_400);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("2026-01-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Tags as the events show them.
fn tags_of(set: &[(&str, &str)]) -> BTreeMap<String, String> {
    set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

impl Watch {
    /// Another tool attaches a profile, or detaches what is there.
    pub fn is_changed_by_another(&mut self, who: usize, profile: Option<&str>) {
        self.disturb(who);
        match profile {
            Some(profile) => self.world.attach(&id(who), profile),
            None => self.world.detach(&id(who)),
        }
        self.note(who);
        let margin = self.plan.most_behind(who);
        self.goes_unheard(who, margin, "another tool changes it");
    }

    fn everybody_goes_unheard(&mut self, margin: Ms, why: &'static str) {
        for who in 0..self.plan.instances.len() {
            let margin = margin + self.plan.most_behind(who);
            self.goes_unheard(who, margin, why);
        }
    }

    /// What IAM answered before is believed for a while.
    fn profiles_change(&mut self, why: &'static str) {
        self.disturb_all();
        self.everybody_goes_unheard(PROFILES_AGE, why);
    }

    /// A profile that was made lately can be attached from now on. Events of the last minutes are patient with it.
    fn becomes_usable(&mut self, name: &str) {
        if !self.is_attachable(name) {
            return;
        }
        let now = self.now();
        for who in 0..self.plan.instances.len() {
            let is_waited_for = self.last_event[who].is_some_and(|at| at + PATIENT_FOR >= now);
            if !is_waited_for {
                self.goes_unheard(who, 0, "a profile becomes usable late");
            }
        }
    }
}
