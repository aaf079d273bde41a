//! Everything that happens in a world is told to this: the calls, the messages, the invocations.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use auto_instance_profile::bus::Notice;
use auto_instance_profile::cloud::ErrorKind;
use auto_instance_profile::queue::{DeadLetter, Outgoing};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::mutation::Mutation;
use crate::plan::{Behind, Fate, Fault, Item, Kind, Made, Ms, Op, Own, PROFILES, Plan, Rules};
use crate::plan::{id, who};
use crate::promises::{Invariant, Violation};
use crate::sim::{Env, latency};
use crate::truth::{Known, View};
use crate::verdict::lines_of;
use crate::world::{Association, World};

/// How long the queue hides a message that was received, if nobody says otherwise.
pub const VISIBILITY: Ms = 361_000;

/// What a message is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    Instance(usize),
    /// A tag that the policy does not read, or not any more by the time the message is taken: it may be ignored.
    Perhaps(usize),
    /// Sent by the function to itself.
    Own(Own, Vec<usize>),
    Garbage,
}

impl About {
    pub fn instances(&self) -> Vec<usize> {
        match self {
            Self::Instance(who) | Self::Perhaps(who) => vec![*who],
            Self::Own(_, all) => all.clone(),
            Self::Garbage => Vec::new(),
        }
    }
}

impl About {
    /// Whether it asks for what is required. What was written ahead asks only for something in the place of nothing.
    fn makes_right(&self) -> bool {
        match self {
            Self::Instance(_) | Self::Own(Own::Verify | Own::Found, _) => true,
            Self::Perhaps(_) | Self::Own(Own::FinishSwap, _) | Self::Garbage => false,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Message {
    pub id: String,
    pub body: String,
    pub about: About,
    pub sent: Ms,
    pub visible: Ms,
    pub receives: u32,
    pub receipt: String,
}

/// A write that was carried out.
#[derive(Debug, Clone)]
pub struct Carried {
    pub who: usize,
    pub op: Op,
    /// What was attached before it.
    pub from: Option<String>,
    pub to: Option<String>,
    /// EC2 took a replacement and kept the profile that was deleted.
    pub kept_old: bool,
    pub late: bool,
}

/// One invocation under way.
#[derive(Debug, Clone)]
pub struct Visit {
    pub number: usize,
    pub began: Ms,
    pub disturbed: Vec<u32>,
    /// Writes of other environments that were carried out meanwhile.
    pub others: Vec<u32>,
    pub sent: Vec<u32>,
    /// What it sent to be detached: whose, and what.
    pub detached: Vec<(usize, String)>,
    pub carried: Vec<Carried>,
    /// Writes whose answers were lost: whose, and what they would attach.
    pub lost: Vec<(usize, Option<String>)>,
    /// What it told the bus.
    pub notices: Vec<Value>,
    /// Given up in this invocation, by message id.
    given_up: BTreeSet<String>,
}

/// A profile that we detached and that nothing has taken the place of.
#[derive(Debug, Clone)]
pub struct Debt {
    pub since: Ms,
    pub arn: String,
}

/// Something of which no event told, or none that was heard.
#[derive(Debug, Clone)]
pub struct Unheard {
    pub at: Ms,
    /// A look before this long afterwards may not show it.
    pub margin: Ms,
    pub why: &'static str,
}

pub struct Watch {
    pub plan: Plan,
    /// The guard that is off.
    pub mutation: Option<Mutation>,
    pub world: World,
    /// The policy that is deployed.
    pub rules: Rules,
    began: Instant,
    pub past: Vec<Vec<(Ms, View)>>,
    pub profiles: HashMap<String, Vec<Known>>,
    /// Associations that ever were, by id.
    pub rows: HashMap<String, Association>,
    pub messages: Vec<Message>,
    sent_messages: usize,
    /// Dead letters: when, and about whom.
    pub dead: Vec<(Ms, Vec<usize>)>,
    pub visits: HashMap<usize, Visit>,
    pub visits_of: Vec<u32>,
    visit_count: usize,
    pub times_left: Vec<u32>,
    pub carried_out: Vec<u32>,
    pub sent: Vec<u32>,
    pub disturbed: Vec<u32>,
    pub debts: Vec<Option<Debt>>,
    pub unheard: Vec<Vec<Unheard>>,
    /// When the last event about it was sent.
    pub last_event: Vec<Option<Ms>>,
    /// When a look began after what no event had told.
    pub heard: Vec<Ms>,
    /// When it began to start or to stop last.
    pub moved: Vec<Ms>,
    /// Whose message to verify by was lost, or not sent.
    pub unverified: Vec<bool>,
    /// When EC2 took a replacement and kept the profile that was deleted.
    pub kept_old: Vec<Option<Ms>>,
    /// Associations made by us, by id, that EC2 never puts into force: whose, and since when.
    pub stuck: BTreeMap<String, (usize, Ms)>,
    /// Times another tool undid what we wrote.
    pub undone: Vec<Vec<Ms>>,
    /// Metrics that raise an alarm.
    pub alarms: Vec<(Ms, String)>,
    pub recreated: BTreeSet<String>,
    /// Profiles that the function may not attach, as EC2 told it: by name, when last.
    pub denied: BTreeMap<String, Ms>,
    /// Of these, what EC2 told only once the instance had nothing.
    pub denied_when_bare: BTreeMap<String, Ms>,
    /// Sweeps asked for and not ended.
    pub sweeps: u32,
    /// The write being carried out comes late.
    pub late: bool,
    pub violation: Option<Violation>,
    pub stopped: std::sync::Arc<Notify>,
    pub changed: std::sync::Arc<Notify>,
    pub history: Option<Vec<(Ms, String)>>,
}

impl Watch {
    pub fn new(plan: Plan, mutation: Option<Mutation>, record: bool) -> Self {
        let count = plan.instances.len();
        let times = |item: &Item| match item {
            Item::Fault { times, .. } | Item::Untagged { times, .. } => *times,
            _ => 0,
        };
        let mut world = World::new();
        world.replace_mends_recreated = plan.mends;
        let mut watch = Self {
            times_left: plan.items.iter().map(times).collect(),
            rules: plan.rules,
            plan,
            mutation,
            world,
            began: Instant::now(),
            past: vec![Vec::new(); count],
            profiles: HashMap::new(),
            rows: HashMap::new(),
            messages: Vec::new(),
            sent_messages: 0,
            dead: Vec::new(),
            visits: HashMap::new(),
            visits_of: vec![0; count],
            visit_count: 0,
            carried_out: vec![0; count],
            sent: vec![0; count],
            disturbed: vec![0; count],
            debts: vec![None; count],
            unheard: vec![Vec::new(); count],
            last_event: vec![None; count],
            heard: vec![0; count],
            moved: vec![0; count],
            unverified: vec![false; count],
            kept_old: vec![None; count],
            stuck: BTreeMap::new(),
            undone: vec![Vec::new(); count],
            alarms: Vec::new(),
            recreated: BTreeSet::new(),
            denied: BTreeMap::new(),
            denied_when_bare: BTreeMap::new(),
            sweeps: 0,
            late: false,
            violation: None,
            stopped: std::sync::Arc::default(),
            changed: std::sync::Arc::default(),
            history: record.then(Vec::new),
        };
        for (name, path, made) in PROFILES {
            let trusts = match made {
                Made::Usable => Some("ec2.amazonaws.com"),
                Made::WithoutRole => None,
                Made::TrustingLambda => Some("lambda.amazonaws.com"),
            };
            watch.make_profile(path, name, trusts, false);
        }
        for who in 0..count {
            watch.note(who);
        }
        watch
    }

    pub fn now(&self) -> Ms {
        u64::try_from(self.began.elapsed().as_millis()).unwrap()
    }

    pub fn moment(&self, at: Ms) -> Instant {
        self.began + Duration::from_millis(at)
    }

    pub fn say(&mut self, what: impl FnOnce() -> String) {
        let now = self.now();
        if let Some(history) = &mut self.history {
            history.push((now, what()));
        }
    }

    pub fn violate(&mut self, invariant: Invariant, what: String) {
        if self.violation.is_none() {
            let at = self.now();
            self.say(|| format!("VIOLATION {invariant:?}: {what}"));
            self.violation = Some(Violation { invariant, at, what });
            self.stopped.notify_one();
        }
    }

    /// Something happened to an instance, or to a call about it.
    pub fn disturb(&mut self, who: usize) {
        self.disturbed[who] += 1;
    }

    pub fn disturb_all(&mut self) {
        self.disturbed.iter_mut().for_each(|count| *count += 1);
    }

    /// Something of which no event tells.
    pub fn goes_unheard(&mut self, who: usize, margin: Ms, why: &'static str) {
        let at = self.now();
        self.say(|| format!("  instance {who}: nothing tells of it: {why}"));
        self.unheard[who].push(Unheard { at, margin, why });
    }

    // Calls.

    pub fn begin_call(&mut self, op: Op, ids: &[String], env: &Env) -> (Duration, Option<Fault>) {
        let now = self.now();
        let about: Vec<usize> = ids.iter().map(|id| who(id)).collect();
        let times_left = &self.times_left;
        let is_bare = about.iter().all(|who| self.view(*who).attached().is_none());
        let is_of =
            |of: Op| of == op || (of == Op::AssociateBare && op == Op::Associate && is_bare);
        let planned = self.plan.items.iter().enumerate().find_map(|(index, item)| match item {
            Item::Fault { from, to, op: of, who, fault, .. }
                if is_of(*of)
                    && (*from..=*to).contains(&now)
                    && times_left[index] > 0
                    && who.is_none_or(|who| about.is_empty() || about.contains(&who)) =>
            {
                Some((index, *fault))
            }
            _ => None,
        });
        if let Some((index, _)) = planned {
            self.times_left[index] -= 1;
            if about.is_empty() {
                self.disturb_all();
            }
            for who in &about {
                self.disturb(*who);
            }
        }
        let fault = planned.map(|(_, fault)| fault);
        if fault.is_some() || !matches!(op, Op::Profile | Op::Hide | Op::GiveUp) {
            let goes_wrong = fault.map_or(String::new(), |fault| format!(": {fault:?}"));
            self.say(|| format!("  environment {}: {op:?} {about:?}{goes_wrong}", env.number));
        }
        let latency = latency(self.plan.seed, op, ids, now);
        // In half of the duels one of the two is slow: it writes by what it saw long before.
        let is_slow = self.plan.kind == Kind::Duel
            && env.number == 2
            && self.plan.seed % 20 == 11
            && matches!(op, Op::Associate | Op::Replace | Op::Disassociate);
        (if is_slow { latency * 8 } else { latency }, fault)
    }

    pub fn end_call(&mut self, op: Op, ids: &[String], env: &Env, error: Option<&ErrorKind>) {
        if let Some(error) = error {
            let about: Vec<usize> = ids.iter().map(|id| who(id)).collect();
            for who in &about {
                self.disturb(*who);
            }
            let error = format!("{error:?}");
            let error = error.split('(').next().unwrap_or_default().to_owned();
            self.say(|| format!("  environment {}: {op:?} {about:?} failed: {error}", env.number));
        }
    }

    pub fn instance_of(&self, association: &str) -> String {
        self.rows.get(association).map(|row| row.instance.clone()).unwrap_or_default()
    }

    pub fn arn_of(&self, association: &str) -> Option<String> {
        self.rows.get(association).map(|row| row.arn.clone())
    }

    pub fn row_now(&mut self, id: &str) -> Option<String> {
        self.note(who(id));
        self.view(who(id)).attached().map(|row| row.id.clone())
    }

    // Messages.

    pub fn send(&mut self, about: About, body: &str, delay: Ms) {
        let now = self.now();
        self.sent_messages += 1;
        let id = format!("m{}", self.sent_messages);
        self.say(|| format!("message {id} about {about:?}, visible after {delay} ms"));
        if let About::Instance(who) = about {
            self.last_event[who] = Some(now);
        }
        let body = self.mutation.map_or(body.to_owned(), |mutation| mutation.of_event(body));
        let visible = now + delay;
        let receipt = String::new();
        self.messages.push(Message { id, body, about, sent: now, visible, receives: 0, receipt });
        self.changed.notify_waiters();
    }

    /// What a message of the function's own is about.
    pub fn own(&self, body: &str) -> (Own, Vec<usize>) {
        let value: Value = serde_json::from_str(body).unwrap_or_default();
        let own = if value.get("finish-swap").is_some() {
            Own::FinishSwap
        } else if value.get("verify").is_some() {
            Own::Verify
        } else {
            Own::Found
        };
        let is_about = |who: &usize| body.contains(&id(*who));
        (own, (0..self.plan.instances.len()).filter(is_about).collect())
    }

    /// The ids of the instances that messages are about.
    pub fn ids_of(&self, messages: &[Outgoing]) -> Vec<String> {
        let all = messages.iter().flat_map(|message| self.own(&message.body).1);
        all.map(id).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// SQS takes a message of the function's own.
    pub fn take_own(&mut self, message: &Outgoing) {
        let (own, all) = self.own(&message.body);
        let now = self.now();
        let fate = self.plan.items.iter().find_map(|item| match item {
            Item::Letter { from, to, who, own: of, fate }
                if *of == own && all.contains(who) && (*from..=*to).contains(&now) =>
            {
                Some(*fate)
            }
            _ => None,
        });
        let delay = u64::try_from(message.delay.as_millis()).unwrap();
        let (copies, delay) = match fate {
            None => (1, delay),
            Some(Fate::Twice) => (2, delay),
            Some(Fate::Late(later)) => (1, delay + later),
            Some(Fate::Lost) => {
                self.say(|| format!("  {own:?} about {all:?} is lost"));
                self.lose_own(own, &all);
                return;
            }
        };
        for _ in 0..copies {
            self.send(About::Own(own, all.clone()), &message.body, delay);
        }
    }

    /// Messages of this kind that are due are deleted unread.
    pub fn drop_due(&mut self, own: Own) {
        let now = self.now();
        let is_due = |message: &Message| {
            message.visible <= now && matches!(message.about, About::Own(of, _) if of == own)
        };
        let all: Vec<_> = self.messages.extract_if(.., |message| is_due(message)).collect();
        for who in all.iter().flat_map(|message| message.about.instances()) {
            self.check_debt(who, "what was written ahead is ignored");
        }
    }

    /// A message of the function's own was not taken, or is lost.
    pub fn lose_own(&mut self, own: Own, all: &[usize]) {
        for who in all {
            self.unverified[*who] |= own == Own::Verify;
            // Without it a list that was behind stays believed.
            if own == Own::Verify && self.plan.is_behind(*who, Behind::Associations) {
                let margin = self.plan.most_behind(*who);
                self.goes_unheard(*who, margin, "nobody verifies");
            }
        }
    }

    pub fn lose_each(&mut self, messages: &[Outgoing]) {
        for message in messages {
            let (own, all) = self.own(&message.body);
            self.lose_own(own, &all);
        }
    }

    /// Takes messages that are visible, in no order.
    pub fn receive(&mut self, most: usize) -> Vec<Message> {
        let now = self.now();
        let mut due: Vec<usize> =
            (0..self.messages.len()).filter(|index| self.messages[*index].visible <= now).collect();
        let seed = self.plan.seed;
        due.sort_by_key(|index| {
            let number = u64::try_from(*index).unwrap();
            (seed ^ now ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
        });
        due.truncate(most);
        let taken = due.into_iter().map(|index| {
            let message = &mut self.messages[index];
            message.receives += 1;
            message.visible = now + VISIBILITY;
            message.receipt = format!("{}#{}", message.id, message.receives);
            message.clone()
        });
        taken.collect()
    }

    pub fn next_visible(&self) -> Option<Ms> {
        self.messages.iter().map(|message| message.visible).min()
    }

    pub fn redeliver(&mut self) {
        let now = self.now();
        // What is delayed was never delivered.
        let received = self.messages.iter_mut().filter(|message| message.receives > 0);
        received.for_each(|message| message.visible = message.visible.min(now));
        self.changed.notify_waiters();
    }

    pub fn hide(&mut self, receipt: &str, for_time: Duration) -> bool {
        // SQS takes whole seconds.
        let seconds = u64::try_from(for_time.as_millis().div_ceil(1_000)).unwrap();
        let until = self.now() + 1_000 * seconds;
        let message = self.messages.iter_mut().find(|message| message.receipt == receipt);
        let Some(message) = message else { return false };
        message.visible = until;
        let id = message.id.clone();
        self.say(|| format!("  message {id} is hidden for {seconds} s"));
        self.changed.notify_waiters();
        true
    }

    pub fn give_up(&mut self, letter: &DeadLetter<'_>) {
        let DeadLetter { message_id, error_type, error, .. } = letter;
        self.say(|| format!("  message {message_id} is given up: {error_type}: {error}"));
        for visit in self.visits.values_mut() {
            visit.given_up.insert((*message_id).to_owned());
        }
        let found = self.messages.iter().find(|message| message.id == *message_id);
        let Some(message) = found.cloned() else { return };
        let now = self.now();
        self.dead.push((now, message.about.instances()));
        self.check_dead_letter(&message, letter);
    }

    /// The bus takes events.
    pub fn hear(&mut self, env: &Env, notices: &[Notice]) {
        let details = notices.iter().map(|notice| {
            let mut detail: Value = serde_json::from_str(&notice.detail).unwrap();
            detail["kind"] = notice.kind.detail_type().into();
            detail
        });
        let details: Vec<_> = details.collect();
        if let Some(visit) = self.visits.get_mut(&env.number) {
            visit.notices.extend(details);
        }
    }

    /// A line of metrics: a document in CloudWatch's embedded format.
    pub fn measure(&mut self, line: &str) {
        let document: Value = serde_json::from_str(line).unwrap();
        let now = self.now();
        let of = ["ErrorType", "Reason"].iter().find_map(|name| document[*name].as_str());
        let metrics = document["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array().unwrap();
        for metric in metrics {
            let name = metric["Name"].as_str().unwrap();
            // A zero is what brings an alarm back.
            if document[name].as_u64().is_some_and(|value| value > 0) {
                let name = of.map_or(name.to_owned(), |of| format!("{name}:{of}"));
                self.alarms.push((now, name));
            }
        }
    }

    // Invocations.

    pub fn begin_visit(&mut self, env: &Env, batch: &[Message]) {
        self.visit_count += 1;
        let ids: Vec<_> = batch.iter().map(|message| message.id.as_str()).collect();
        self.say(|| format!("environment {} is invoked with {ids:?}", env.number));
        for message in batch {
            for who in message.about.instances() {
                self.visits_of[who] += 1;
            }
        }
        let visit = Visit {
            number: self.visit_count,
            began: self.now(),
            disturbed: self.disturbed.clone(),
            others: vec![0; self.sent.len()],
            sent: vec![0; self.sent.len()],
            detached: Vec::new(),
            carried: Vec::new(),
            lost: Vec::new(),
            notices: Vec::new(),
            given_up: BTreeSet::new(),
        };
        self.visits.insert(env.number, visit);
    }

    /// An environment died: what it was at comes again.
    pub fn cut_visit(&mut self, env: &Env) {
        self.say(|| format!("environment {} dies", env.number));
        let Some(visit) = self.visits.remove(&env.number) else { return };
        self.check_verdicts(env, &visit, &lines_of(env.number));
        self.disturb_all();
        let written: BTreeSet<_> = visit.carried.iter().map(|carried| carried.who).collect();
        for who in written {
            self.lose_own(Own::Verify, &[who]);
        }
    }

    /// An invocation is answered: what is not named as a failure is deleted.
    pub fn end_visit(&mut self, env: &Env, batch: &[Message], failures: &[String]) {
        let Some(visit) = self.visits.remove(&env.number) else { return };
        self.say(|| format!("environment {} is done; not done: {failures:?}", env.number));
        self.check_verdicts(env, &visit, &lines_of(env.number));
        let deleted: Vec<&Message> =
            batch.iter().filter(|message| !failures.contains(&message.id)).collect();
        for message in &deleted {
            self.messages.retain(|other| other.id != message.id);
        }
        self.changed.notify_waiters();
        for message in deleted {
            let given_up = visit.given_up.contains(&message.id);
            if message.about == About::Garbage && !given_up {
                let what = format!("message {} cannot be read, and is done", message.id);
                self.violate(Invariant::WhatCannotBeReadIsNeverDone, what);
            }
            for who in message.about.instances() {
                if given_up {
                    self.goes_unheard(who, 0, "its message is a dead letter");
                } else if message.about.makes_right() {
                    if !self.unheard[who].is_empty() {
                        self.heard[who] = visit.began;
                    }
                    self.unheard[who].retain(|item| item.at + item.margin > visit.began);
                }
                let how = if given_up { "given up" } else { "done" };
                self.check_debt(who, &format!("message {} is {how}", message.id));
            }
        }
    }
}
