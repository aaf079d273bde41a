//! The truth of a world, and what must never be. Every call, every message and every change is told to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use auto_instance_profile::cloud::ErrorKind;
use auto_instance_profile::queue::DeadLetter;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::oracle::{Want, is_allowed, want};
use crate::plan::{Behind, Fault, Item, Kind, MOST_BEHIND, Made, Ms, Op, PROFILES, Plan, Rules};
use crate::plan::{id, who};
use crate::sim::{Env, latency, refusal};
use crate::world::{self, AwsError, World};

/// How old what a write rests on may be: a read that is behind, 10 s as the documentation promises, and calls under way.
const FACTS_AGE: Ms = MOST_BEHIND + 10_000 + 2_000;
/// A call that hangs takes 12 s; a look and the question to IAM may each hang.
const HANGING: Ms = 26_000;
/// How long what IAM answered is believed, and asked for meanwhile.
const PROFILES_AGE: Ms = 300_000 + FACTS_AGE + HANGING;
/// How long the queue hides a message that was received, if nobody says otherwise.
pub const VISIBILITY: Ms = 361_000;

/// What must never be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invariant {
    /// A write is sent only if, by what there was no longer ago than facts may be old, the instance's tags, state and keeper
    /// called for this very write: a profile that the policy then required (usable at some moment within what IAM's answers
    /// may be old), in place of nothing, or of another where the rule replaces; a removal where the rule said `none`. Tags
    /// that a read left out count as there. Only what this invocation itself detached may be put back without that.
    WritesOnlyWhatWasRequired,
    /// No profile outside the allow-list is ever sent, but to put back what the same invocation detached; and none is ever
    /// attached, since the role refuses it.
    NeverOutsideTheAllowList,
    /// An invocation that detached a profile does not let go of the instance's last message while the instance is bare for
    /// that reason: neither done nor given up. Unless none is required by then.
    NeverBareAndForgotten,
    /// Writes that were carried out on an instance: at most two for its first requirement and two for each disturbance, by
    /// which is meant anything that happens to it or to a call about it. (A recreated profile that Replace does not mend:
    /// one more for each visit.)
    FewWrites,
    /// Writes sent by one invocation for one instance: one, or two where it was stopped; the same again for each
    /// disturbance in its course, and three more beside a row that is on its way out. Putting back is not counted.
    FewTries,
    /// In dry-run nothing is sent.
    DryRunWritesNothing,
    /// A message is done only if, in the course of its invocation or as long before as reads may be behind, its instance was
    /// as it should be, or nothing was to be done about it; where it changed meanwhile, as it should have been at one of these
    /// moments. A message that cannot be read is never done.
    DoneMeansDone,
    /// What is given up has a type and a reason that names the instance, and its body as it came.
    ReasonsToActOn,
    /// Once nothing happens any more, every message ends.
    MessagesEnd,
    /// When the world holds still and an event arrives, every instance that can be right is right.
    BecomesRight,
    /// And stays so: another event leads to no write.
    StaysRight,
    /// Two environments on one instance at once: at most one write, or one swap, is carried out, each sends at most one, and
    /// an instance that had a profile while running never lacks one.
    NoFight,
}

#[derive(Debug, Clone)]
pub struct Violation {
    pub invariant: Invariant,
    pub at: Ms,
    pub what: String,
}

/// An instance as it truly was from a moment on.
#[derive(Debug, Clone, Default)]
pub struct View {
    pub instance: Option<world::Instance>,
    pub rows: Vec<world::Association>,
    /// Bare because of a swap: of which visit.
    by_swap: Option<usize>,
}

impl View {
    pub fn attached(&self) -> Option<&world::Association> {
        let in_force = self.rows.iter().filter(|row| row.state.starts_with("associat"));
        in_force.max_by_key(|row| row.timestamp)
    }

    pub fn state_word(&self) -> &str {
        self.instance.as_ref().map_or("absent", |instance| &instance.state)
    }

    fn is_in_reach(&self) -> bool {
        matches!(self.state_word(), "running" | "stopped")
            && self.instance.as_ref().is_some_and(|instance| instance.managed_by.is_none())
    }

    fn want(&self, rules: Rules) -> Want {
        self.instance.as_ref().map_or(Want::Leave, |instance| want(rules, &instance.tags))
    }

    fn dies_out(&self) -> bool {
        self.rows.iter().any(|row| row.state == "disassociating")
    }
}

/// A profile as it truly was from a moment on.
#[derive(Debug, Clone)]
struct Known {
    from: Ms,
    /// Its id, while it is there.
    id: Option<String>,
    usable: bool,
}

/// What a message is about.
#[derive(Debug, Clone)]
pub enum About {
    Instance(usize),
    /// A tag that the policy does not read, or not any more by the time the message is taken: it may be ignored.
    Perhaps(usize),
    Garbage,
    Sweep,
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

/// One invocation under way.
#[derive(Debug, Clone)]
pub struct Visit {
    pub number: usize,
    pub began: Ms,
    disturbed: Vec<u32>,
    /// Writes of other environments that were carried out meanwhile.
    others: Vec<u32>,
    sent: Vec<u32>,
    /// Who was detached, and what.
    detached: Vec<(usize, String)>,
    /// Given up in this invocation, by message id.
    given_up: BTreeSet<String>,
}

pub struct Watch {
    pub plan: Plan,
    pub world: World,
    began: Instant,
    past: Vec<Vec<(Ms, View)>>,
    profiles: HashMap<String, Vec<Known>>,
    /// Association ids that ever were: instance and ARN.
    rows: HashMap<String, (String, String)>,
    pub messages: Vec<Message>,
    sent_messages: usize,
    dead: Vec<String>,
    pub visits: HashMap<usize, Visit>,
    visits_of: Vec<u32>,
    visit_count: usize,
    times_left: Vec<u32>,
    carried_out: Vec<u32>,
    pub sent: Vec<u32>,
    disturbed: Vec<u32>,
    left_out: Vec<(Ms, usize)>,
    /// Bare because of a swap: by which visit.
    bare: Vec<Option<usize>>,
    recreated: BTreeSet<String>,
    /// The write being carried out comes late.
    pub late: bool,
    pub violation: Option<Violation>,
    pub stopped: std::sync::Arc<Notify>,
    pub changed: std::sync::Arc<Notify>,
    pub history: Option<Vec<(Ms, String)>>,
}

impl Watch {
    pub fn new(plan: Plan, record: bool) -> Self {
        let count = plan.instances.len();
        let times = |item: &Item| match item {
            Item::Fault { times, .. } => *times,
            Item::Untagged { .. } => 1,
            _ => 0,
        };
        let mut world = World::new();
        world.replace_mends_recreated = plan.mends;
        let mut watch = Self {
            times_left: plan.items.iter().map(times).collect(),
            plan,
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
            left_out: Vec::new(),
            bare: vec![None; count],
            recreated: BTreeSet::new(),
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

    // What is.

    /// Notes how an instance is now, so that reads can show it later and the invariants can look back.
    pub fn note(&mut self, who: usize) {
        let rows = self.world.describe_associations(&[id(who)]).unwrap();
        self.world.calls.clear();
        let instance = self.world.instances.get(&id(who)).cloned();
        for row in &rows {
            self.rows.insert(row.id.clone(), (row.instance.clone(), row.arn.clone()));
        }
        let mut view = View { instance, rows, by_swap: None };
        if view.attached().is_some() || matches!(view.state_word(), "absent" | "terminated") {
            self.bare[who] = None;
        }
        view.by_swap = self.bare[who];
        let now = self.now();
        self.past[who].push((now, view));
    }

    pub fn view(&self, who: usize) -> &View {
        &self.past[who].last().unwrap().1
    }

    /// The views between two moments, the one that held at the first among them.
    fn views(&self, who: usize, from: Ms) -> &[(Ms, View)] {
        let past = &self.past[who];
        let later = past.partition_point(|(at, _)| *at <= from);
        &past[later.saturating_sub(1)..]
    }

    fn known(&self, name: &str, from: Ms) -> &[Known] {
        let Some(past) = self.profiles.get(name) else { return &[] };
        let later = past.partition_point(|known| known.from <= from);
        &past[later.saturating_sub(1)..]
    }

    fn is_there(&self, name: &str) -> Option<&Known> {
        self.profiles.get(name)?.last().filter(|known| known.id.is_some())
    }

    pub fn make_profile(&mut self, path: &str, name: &str, trusts: Option<&str>, unknown: bool) {
        self.world.make_profile(path, name, trusts);
        let made = self.world.profiles.get_mut(name).unwrap();
        made.unknown_to_ec2 = unknown;
        let id = Some(made.id.clone());
        let usable = trusts == Some("ec2.amazonaws.com");
        let known = Known { from: self.now(), id, usable };
        self.profiles.entry(name.to_owned()).or_default().push(known);
        if self.profiles[name].iter().filter(|known| known.id.is_some()).count() > 1 {
            self.recreated.insert(name.to_owned());
        }
    }

    pub fn delete_profile(&mut self, name: &str) {
        self.world.profiles.remove(name);
        let known = Known { from: self.now(), id: None, usable: false };
        self.profiles.entry(name.to_owned()).or_default().push(known);
    }

    /// Something happened to an instance, or to a call about it.
    pub fn disturb(&mut self, who: usize) {
        self.disturbed[who] += 1;
    }

    pub fn disturb_all(&mut self) {
        self.disturbed.iter_mut().for_each(|count| *count += 1);
    }

    // What the function sees.

    /// The view that a read gets, which may be behind.
    pub fn view_as_read(&mut self, who: usize, what: Behind) -> View {
        self.note(who);
        let now = self.now();
        let lag = self.plan.items.iter().find_map(|item| match item {
            Item::Stale { from, to, who: of, what: read, lag }
                if *of == who && *read == what && (*from..=*to).contains(&now) =>
            {
                Some(*lag)
            }
            _ => None,
        });
        let Some(lag) = lag else { return self.view(who).clone() };
        let view = self.views(who, now.saturating_sub(lag))[0].1.clone();
        self.disturb(who);
        self.say(|| format!("  instance {who}: this read shows {what:?} of {lag} ms ago"));
        view
    }

    /// Whether this read leaves an instance's tags out.
    pub fn leaves_tags_out(&mut self, who: usize) -> bool {
        let now = self.now();
        let due = self.plan.items.iter().position(|item| {
            matches!(item, Item::Untagged { from, to, who: of } if *of == who && (*from..=*to).contains(&now))
        });
        let Some(index) = due.filter(|index| self.times_left[*index] > 0) else { return false };
        self.times_left[index] -= 1;
        self.left_out.push((now, who));
        self.disturb(who);
        self.say(|| format!("  instance {who}: this read leaves its tags out"));
        true
    }

    pub fn show_profile(&mut self, name: &str) -> Result<world::Profile, AwsError> {
        self.world.get_instance_profile(name)
    }

    pub fn begin_call(&mut self, op: Op, ids: &[String], env: &Env) -> (Duration, Option<Fault>) {
        let now = self.now();
        let about: Vec<usize> = ids.iter().map(|id| who(id)).collect();
        let times_left = &self.times_left;
        let planned = self.plan.items.iter().enumerate().find_map(|(index, item)| match item {
            Item::Fault { from, to, op: of, who, fault, .. }
                if *of == op
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
        if fault.is_some() || !matches!(op, Op::Instances | Op::Profile | Op::Hide | Op::GiveUp) {
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

    // Writes.

    pub fn associate(&mut self, id: &str, arn: &str) -> Result<world::Association, AwsError> {
        role_allows(arn)?;
        self.world.associate(id, arn)
    }

    pub fn replace(
        &mut self,
        association: &str,
        arn: &str,
    ) -> Result<world::Association, AwsError> {
        role_allows(arn)?;
        self.world.replace(association, arn)
    }

    pub fn disassociate(&mut self, association: &str) -> Result<(), AwsError> {
        self.world.disassociate(association).map(drop)
    }

    pub fn instance_of(&self, association: &str) -> String {
        self.rows.get(association).map(|(instance, _)| instance.clone()).unwrap_or_default()
    }

    pub fn arn_of(&self, association: &str) -> Option<String> {
        self.rows.get(association).map(|(_, arn)| arn.clone())
    }

    pub fn row_now(&mut self, id: &str) -> Option<String> {
        self.note(who(id));
        self.view(who(id)).attached().map(|row| row.id.clone())
    }

    /// How far back what a write rests on may lie.
    fn facts_age(&self) -> Ms {
        let hangs = |item: &Item| matches!(item, Item::Fault { fault: Fault::Hangs, .. });
        if self.plan.items.iter().any(hangs) { FACTS_AGE + HANGING } else { FACTS_AGE }
    }

    /// A write is about to be sent.
    pub fn check_write(
        &mut self,
        op: Op,
        id: &str,
        arn: Option<&str>,
        association: Option<&str>,
        env: &Env,
    ) {
        let who = who(id);
        self.note(who);
        self.sent[who] += 1;
        let from = self.now().saturating_sub(self.facts_age());
        let old = association.and_then(|row| self.arn_of(row));
        let what = format!("{op:?} on instance {who}, from {old:?} to {arn:?}");
        self.say(|| format!("  environment {} sends {what}", env.number));
        if self.plan.kind == Kind::DryRun {
            self.violate(Invariant::DryRunWritesNothing, what.clone());
        }
        let rules = env.rules;
        let mut puts_back = false;
        if let Some(visit) = self.visits.get_mut(&env.number) {
            if let (Op::Associate, Some(arn)) = (op, arn) {
                puts_back = visit.detached.contains(&(who, arn.to_owned()));
            }
            visit.sent[who] += u32::from(!puts_back);
            if let (Op::Disassociate, Some(old)) = (op, &old) {
                visit.detached.push((who, old.clone()));
            }
        }
        if let Some(arn) = arn
            && !is_allowed(arn)
            && !puts_back
        {
            self.violate(Invariant::NeverOutsideTheAllowList, what.clone());
        }
        let called_for = self.calls_for(who, rules, op, arn, old.as_deref(), from);
        if !called_for && !puts_back {
            self.violate(Invariant::WritesOnlyWhatWasRequired, what.clone());
        }
        let was_stopped = views_are(self.views(who, from), "stopped");
        let dies_out = self.views(who, from).iter().any(|(_, view)| view.dies_out());
        let duel = self.plan.kind == Kind::Duel;
        if let Some(visit) = self.visits.get(&env.number) {
            let disturbed = self.disturbed[who] - visit.disturbed[who];
            let disturbed = disturbed + if duel { 0 } else { visit.others[who] };
            let one = if was_stopped { 2 } else { 1 };
            let most = one * (1 + disturbed) + if dies_out { 3 } else { 0 };
            let sent = visit.sent[who];
            if sent > most {
                let what = format!("{what}: write {sent} of this invocation, {most} at most");
                let invariant = if duel { Invariant::NoFight } else { Invariant::FewTries };
                self.violate(invariant, what);
            }
        }
    }

    /// Whether an instance called for a write, since that moment: by its tags then, in reach then, and with what was attached
    /// then. These are different reads, and each may be as far behind as it likes. An instance that is not shown yet has no
    /// tags.
    fn calls_for(
        &self,
        who: usize,
        rules: Rules,
        op: Op,
        arn: Option<&str>,
        old: Option<&str>,
        from: Ms,
    ) -> bool {
        let views = self.views(who, from);
        let untagged = BTreeMap::new();
        let ever = |is: &dyn Fn(&View) -> bool| views.iter().any(|(_, view)| is(view));
        let is_in_reach = ever(&|view| view.is_in_reach());
        let calls = views.iter().any(|(_, view)| {
            let tags = view.instance.as_ref().map_or(&untagged, |instance| &instance.tags);
            let Want::Profile { name, keeps_others, leaves_bare } = want(rules, tags) else {
                let none = want(rules, tags) == Want::Bare && !tags.is_empty();
                return none && op == Op::Disassociate;
            };
            let known = self.known(&name, from.saturating_sub(PROFILES_AGE));
            let is_usable = known.iter().any(|known| known.usable);
            let is_it = |arn: &str| arn.rsplit('/').next() == Some(name.as_str());
            let is_other = old.is_none_or(|old| !is_it(old)) || self.recreated.contains(&name);
            let manner = match op {
                // A swap of ours goes on where it left the instance bare.
                Op::Associate => !leaves_bare || ever(&|view| view.attached().is_some()),
                Op::Replace => !keeps_others && is_other,
                Op::Disassociate => {
                    let is_stopped = ever(&|view| view.state_word() == "stopped");
                    !keeps_others && is_other && is_stopped
                }
                _ => false,
            };
            is_usable && manner && arn.is_none_or(is_it)
        });
        is_in_reach && calls
    }

    /// A write was carried out, or refused.
    pub fn after_write(
        &mut self,
        op: Op,
        id: &str,
        association: Option<&str>,
        env: &Env,
        taken: bool,
    ) {
        let who = who(id);
        let before = self.view(who).clone();
        self.note(who);
        if !taken || self.world.writes.is_empty() {
            return;
        }
        self.world.writes.clear();
        self.carried_out[who] += 1;
        let after = self.view(who).attached().map(|row| row.arn.clone());
        let late = self.late;
        let number = env.number;
        self.say(|| {
            let late = if late { " late" } else { "" };
            format!("  {op:?} by environment {number} is carried out{late}: instance {who} has {after:?}")
        });
        if after.as_ref().is_some_and(|arn| !is_allowed(arn)) && op != Op::Disassociate {
            self.violate(Invariant::NeverOutsideTheAllowList, format!("attached: {after:?}"));
        }
        let from = self.now().saturating_sub(self.facts_age());
        let wanted_bare =
            self.views(who, from).iter().any(|(_, view)| view.want(env.rules) == Want::Bare);
        let detached = association.is_some() && after.is_none();
        if op == Op::Disassociate && detached && !late && !wanted_bare {
            self.bare[who] = self.visits.get(&env.number).map(|visit| visit.number);
            self.note(who);
            if self.plan.kind == Kind::Duel && before.state_word() == "running" {
                self.violate(Invariant::NoFight, format!("instance {who} runs without a profile"));
            }
        }
        // Another environment's write is a disturbance to everybody else.
        for (other, visit) in &mut self.visits {
            if *other != env.number {
                visit.others[who] += 1;
            }
        }
        let (carried_out, disturbed) = (self.carried_out[who], self.disturbed[who]);
        let duel = self.plan.kind == Kind::Duel;
        let stopped = views_are(self.views(who, 0), "stopped");
        let one = if duel && !stopped { 1 } else { 2 };
        let visits = if self.recreated.is_empty() { 0 } else { self.visits_of[who] };
        let most = one * (1 + disturbed) + visits;
        if carried_out > most {
            let what = format!("write {carried_out} on instance {who}, {most} at most");
            let invariant = if duel { Invariant::NoFight } else { Invariant::FewWrites };
            self.violate(invariant, what);
        }
    }

    // Messages.

    pub fn send(&mut self, about: About, body: String, delay: Ms) {
        let now = self.now();
        self.sent_messages += 1;
        let id = format!("m{}", self.sent_messages);
        self.say(|| format!("message {id} about {about:?}, visible after {delay} ms"));
        let visible = now + delay;
        let receipt = String::new();
        self.messages.push(Message { id, body, about, sent: now, visible, receives: 0, receipt });
        self.changed.notify_waiters();
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

    pub fn visits_of(&self) -> &[u32] {
        &self.visits_of
    }

    pub fn next_visible(&self) -> Option<Ms> {
        self.messages.iter().map(|message| message.visible).min()
    }

    pub fn redeliver(&mut self) {
        let now = self.now();
        self.messages.iter_mut().for_each(|message| message.visible = message.visible.min(now));
        self.changed.notify_waiters();
    }

    pub fn hide(&mut self, receipt: &str, for_time: Duration) -> bool {
        let until = self.now() + u64::try_from(for_time.as_millis()).unwrap();
        let message = self.messages.iter_mut().find(|message| message.receipt == receipt);
        let Some(message) = message else { return false };
        message.visible = until;
        let id = message.id.clone();
        self.say(|| format!("  message {id} is hidden for {} ms", for_time.as_millis()));
        self.changed.notify_waiters();
        true
    }

    pub fn give_up(&mut self, letter: &DeadLetter<'_>) {
        let DeadLetter { message_id, error_type, error, body } = letter;
        self.say(|| format!("  message {message_id} is given up: {error_type}: {error}"));
        self.dead.push((*message_id).to_owned());
        for visit in self.visits.values_mut() {
            visit.given_up.insert((*message_id).to_owned());
        }
        let Some(message) = self.messages.iter().find(|message| message.id == *message_id) else {
            return;
        };
        let names_it = match message.about {
            About::Instance(who) | About::Perhaps(who) => error.contains(&id(who)),
            About::Garbage => *error_type == "MalformedEvent" && !error.is_empty(),
            About::Sweep => !error.is_empty(),
        };
        if !names_it || error_type.is_empty() || message.body != *body {
            let what = format!("message {message_id} is given up as {error_type}: {error}");
            self.violate(Invariant::ReasonsToActOn, what);
        }
    }

    pub fn begin_visit(&mut self, env: &Env, batch: &[Message]) {
        self.visit_count += 1;
        let ids: Vec<_> = batch.iter().map(|message| message.id.as_str()).collect();
        self.say(|| format!("environment {} is invoked with {ids:?}", env.number));
        for message in batch {
            if let About::Instance(who) | About::Perhaps(who) = message.about {
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
            given_up: BTreeSet::new(),
        };
        self.visits.insert(env.number, visit);
    }

    /// An environment died: what it was at comes again.
    pub fn cut_visit(&mut self, env: &Env) {
        self.say(|| format!("environment {} dies", env.number));
        self.visits.remove(&env.number);
        self.disturb_all();
    }

    /// An invocation is answered: what is not named as a failure is deleted.
    pub fn end_visit(&mut self, env: &Env, batch: &[Message], failures: &[String]) {
        let Some(visit) = self.visits.remove(&env.number) else { return };
        self.say(|| format!("environment {} is done; not done: {failures:?}", env.number));
        let deleted: Vec<&Message> =
            batch.iter().filter(|message| !failures.contains(&message.id)).collect();
        for message in &deleted {
            self.messages.retain(|other| other.id != message.id);
        }
        self.changed.notify_waiters();
        for message in deleted {
            let given_up = visit.given_up.contains(&message.id);
            match message.about {
                About::Garbage if !given_up => {
                    let what = format!("message {} cannot be read, and is done", message.id);
                    self.violate(Invariant::DoneMeansDone, what);
                }
                About::Instance(who) => {
                    self.check_done(env, &visit, message, who, given_up);
                }
                About::Perhaps(_) | About::Garbage | About::Sweep => {}
            }
        }
    }

    fn check_done(&mut self, env: &Env, visit: &Visit, message: &Message, who: usize, given: bool) {
        self.note(who);
        let about = |other: &Message| matches!(other.about, About::Instance(of) | About::Perhaps(of) if of == who);
        let alive = self.messages.iter().any(about);
        let from = visit.began.saturating_sub(MOST_BEHIND);
        // The tags may have changed since, so that it must be bare.
        let may_be_bare =
            self.views(who, from).iter().any(|(_, view)| view.want(env.rules) == Want::Bare);
        if self.bare[who] == Some(visit.number) && !alive && !may_be_bare {
            let how = if given { "given up" } else { "done" };
            let what = format!("message {} is {how}, and instance {who} is bare", message.id);
            self.violate(Invariant::NeverBareAndForgotten, what);
        }
        if given || self.plan.kind == Kind::DryRun {
            return;
        }
        let left_out = self.left_out.iter().any(|(at, of)| *of == who && *at >= from);
        let views = self.views(who, from);
        // It may have changed in the middle: what was required at one moment, and what there was at another.
        let is_at_rest = views.iter().any(|(_, required)| {
            let want = required.want(env.rules);
            views.iter().any(|(_, found)| self.is_at_rest(found, &want, from, visit.number))
        });
        let wants = |view: &View| view.want(env.rules);
        let is_doubtful = views.iter().any(|(_, view)| wants(view) == Want::Bare)
            && views.iter().any(|(_, view)| wants(view) != Want::Bare);
        if !is_at_rest && !left_out && !is_doubtful {
            let view = self.view(who);
            let what = format!(
                "message {} is done, and instance {who} is {} with {:?}, while it must have {:?}",
                message.id,
                view.state_word(),
                view.attached().map(|row| &row.arn),
                view.want(env.rules)
            );
            self.violate(Invariant::DoneMeansDone, what);
        }
    }

    /// Whether nothing is to be done about an instance that is like this.
    fn is_at_rest(&self, view: &View, want: &Want, from: Ms, visit: usize) -> bool {
        if !view.is_in_reach() {
            return true;
        }
        let attached = view.attached();
        let untagged = view.instance.as_ref().is_some_and(|instance| instance.tags.is_empty());
        match want {
            Want::Leave => true,
            Want::Bare => attached.is_none() || untagged,
            Want::Profile { name, keeps_others, leaves_bare } => {
                let known = self.known(name, from.saturating_sub(PROFILES_AGE));
                let is_unusable = known.iter().any(|known| known.id.is_some() && !known.usable);
                let is_left = match attached {
                    Some(_) => *keeps_others,
                    None => *leaves_bare && view.by_swap != Some(visit),
                };
                let is_right = attached.is_some_and(|row| {
                    row.arn.rsplit('/').next() == Some(name.as_str())
                        && (known.iter().any(|known| known.id.as_ref() == Some(&row.profile_id))
                            || (view.state_word() == "running" && self.recreated.contains(name)))
                });
                is_unusable || is_left || is_right
            }
        }
    }

    // The end.

    /// Whether an instance is right, as far as it can be: asked when the world holds still.
    pub fn check_right(&mut self, rules: Rules) {
        for who in 0..self.plan.instances.len() {
            self.note(who);
            let view = self.view(who).clone();
            let now = self.now();
            let can_be = match view.want(rules) {
                Want::Leave | Want::Bare => true,
                Want::Profile { name, .. } => {
                    self.is_there(&name).is_some_and(|known| known.usable)
                }
            };
            // The end lies further from the last change than IAM's answers may be old.
            if can_be && !self.is_at_rest(&view, &view.want(rules), now + PROFILES_AGE, 0) {
                let attached = view.attached().map(|row| row.arn.clone());
                let wanted = view.want(rules);
                let what = format!(
                    "instance {who} is {} with {attached:?}, while it must have {wanted:?}",
                    view.state_word()
                );
                self.violate(Invariant::BecomesRight, what);
            }
        }
    }

    /// Whether every event leads to one more try, since EC2 does not mend what is attached.
    pub fn cannot_be_mended(&self, who: usize) -> bool {
        let view = self.view(who);
        let stale = view.attached().is_some_and(|row| {
            let name = row.arn.rsplit('/').next().unwrap_or_default();
            self.is_there(name).is_none_or(|known| known.id.as_ref() != Some(&row.profile_id))
        });
        stale && !self.plan.mends
    }
}

fn views_are(views: &[(Ms, View)], state: &str) -> bool {
    views.iter().any(|(_, view)| view.state_word() == state)
}

/// The role in the template attaches allowed profiles only.
fn role_allows(arn: &str) -> Result<(), AwsError> {
    if is_allowed(arn) { Ok(()) } else { Err(refusal("UnauthorizedOperation", 403)) }
}

/// The tag keys that the policies read.
pub fn reads(rules: Rules, key: &str) -> bool {
    match rules {
        Rules::ByTag => key == "InstanceProfile",
        Rules::Many => matches!(key, "InstanceProfile" | "Life" | "Tier" | "Hands"),
        Rules::Baseline => matches!(key, "InstanceProfile" | "Life"),
    }
}

/// Tags as the events show them.
pub fn tags_of(set: &[(&str, &str)]) -> BTreeMap<String, String> {
    set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
