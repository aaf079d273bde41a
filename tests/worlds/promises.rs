//! What the function promises, and must never break. Said from the outside: by what is true of the world, by what happened
//! to it, and by what the function says. No line here knows how the engine goes about it.

use std::collections::BTreeMap;

use auto_instance_profile::cloud::{CloudError, ErrorKind};
use auto_instance_profile::queue::DeadLetter;

use crate::oracle::{Want, is_allowed, want};
use crate::plan::{Behind, Fault, Item, Kind, Ms, Op, Own, Rules, Stopped, id, who};
use crate::sim::Env;
use crate::truth::{View, name_of};
use crate::watch::{About, Carried, Debt, Message, Watch};
use crate::world;

/// Between a read and the write that rests on it: 10 s, as the documentation promises, and calls under way.
const FACTS_AGE: Ms = 12_000;
/// A call that hangs takes 12 s; a look and the question to IAM may each hang.
const HANGING: Ms = 26_000;
/// How long what IAM answered is believed, and asked for meanwhile.
pub const PROFILES_AGE: Ms = 300_000 + FACTS_AGE + HANGING;
const HOUR: Ms = 3_600_000;
/// How long a refusal for a missing right counts as late: the sweeps of two hours.
const DENIED_LATELY: Ms = 2 * HOUR + HOUR / 2;
/// From a write until somebody must have said that EC2 does not put it into force.
const STUCK_AFTER: Ms = 600_000;

/// What must never be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// A write is sent only if, by what there was no longer ago than facts may be old, the instance's tags, state and keeper
    /// called for this very write: a profile that the policy then required (usable at some moment within what IAM's answers
    /// may be old), in place of nothing, or of another where the rule replaces; on a stopped instance only where it swaps;
    /// a removal where the rule said `none`. Tags that a read left out count as there. Only what we detached may be put
    /// back without that.
    WritesOnlyWhatWasRequired,
    /// No profile outside the allow-list is ever sent; and none is detached for a swap, since it could not be put back.
    NeverOutsideTheAllowList,
    /// What we detached to attach another is our debt until something is attached, the instance is gone, or none is required:
    /// whoever looks next, in this invocation or in another. While it stands there is a message about the instance, and in
    /// the end it is paid. Only where nothing can be attached it stands, and then a person is told.
    DebtsArePaid,
    /// Writes that were carried out on an instance: at most two for its first requirement and two for each disturbance, by
    /// which is meant anything that happens to it or to a call about it. (A recreated profile that Replace does not mend:
    /// one more for each visit.)
    FewWrites,
    /// Writes sent by one invocation for one instance: one, or three where it was stopped (the first may be a try whether
    /// EC2 would take it); the same again for each disturbance in its course, and three more beside a row that is on its
    /// way out. Putting back is not counted.
    FewTries,
    /// In dry-run nothing is sent.
    DryRunWritesNothing,
    /// What the function says of an instance is true at some moment of its invocation, or of the reads that it rests on:
    /// that it changed it, and from what to what; that it was right; that nothing is required, or nothing can be done.
    EachVerdictIsTrue,
    WhatCannotBeReadIsNeverDone,
    /// What is given up has a type and a reason that names the instance, and its body as it came; and something happened that
    /// a person must act on.
    ReasonsToActOn,
    /// Nothing is detached for a profile that EC2 lately said the function may not attach, as long as that is so.
    NeverDetachedInVain,
    /// Once nothing happens any more, every message ends.
    MessagesEnd,
    /// Once every message has ended, each instance that can be right is right: no sweep and no further event is needed,
    /// whatever went wrong on the way. Excused is what no event told of.
    BecomesRight,
    /// And stays so: another event leads to no write.
    StaysRight,
    /// Two environments on one instance at once: at most one write, or one swap, is carried out, each sends at most one, and
    /// an instance that had a profile while running never lacks one.
    NoFight,
    /// What needs a person raises an alarm's metric, or is a dead letter, within the hour: an instance left without a
    /// profile, a recreated profile that is not repaired, an association that EC2 never puts into force, a missing right,
    /// another tool that keeps undoing what we write.
    NeedsAPersonRaisesAlarm,
}

#[derive(Debug, Clone)]
pub struct Violation {
    pub invariant: Invariant,
    pub at: Ms,
    pub what: String,
}

impl Watch {
    /// How far back what a write rests on may lie.
    pub fn facts_age(&self, who: usize) -> Ms {
        let hangs = |item: &Item| matches!(item, Item::Fault { fault: Fault::Hangs, .. });
        let hanging = if self.plan.items.iter().any(hangs) { HANGING } else { 0 };
        self.plan.most_behind(who) + FACTS_AGE + hanging
    }

    // Writes.

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
        let from = self.now().saturating_sub(self.facts_age(who));
        let old = association.and_then(|row| self.arn_of(row));
        let what = format!("{op:?} on instance {who}, from {old:?} to {arn:?}");
        self.say(|| format!("  environment {} sends {what}", env.number));
        if self.plan.kind == Kind::DryRun {
            self.violate(Invariant::DryRunWritesNothing, what.clone());
        }
        let is_owed = op == Op::Associate
            && arn
                .is_some_and(|arn| self.ever(who, from, |view| view.owed.as_deref() == Some(arn)));
        // Whoever reads what was written ahead cannot know that the swap was ended, and what came after it undone by another.
        let names_it = |message: &&Message| arn.is_some_and(|arn| message.body.contains(arn));
        let is_announced = op == Op::Associate && self.announcements(who).any(|it| names_it(&it));
        let mut puts_back = is_owed || is_announced;
        if let Some(visit) = self.visits.get_mut(&env.number) {
            if let (Op::Associate, Some(arn)) = (op, arn) {
                puts_back |= visit.detached.contains(&(who, arn.to_owned()));
            }
            visit.sent[who] += u32::from(!puts_back);
            if let (Op::Disassociate, Some(old)) = (op, &old) {
                visit.detached.push((who, old.clone()));
            }
        }
        let wants_none =
            self.ever(who, from, |view| view.has_tags() && view.want(env.rules) == Want::Bare);
        let cannot_be_put_back = op == Op::Disassociate
            && !wants_none
            && old.as_ref().is_some_and(|old| !is_allowed(old));
        if arn.is_some_and(|arn| !is_allowed(arn)) || cannot_be_put_back {
            self.violate(Invariant::NeverOutsideTheAllowList, what.clone());
        }
        let called_for = self.calls_for(who, env.rules, op, arn, association, from);
        if !called_for && !puts_back {
            self.violate(Invariant::WritesOnlyWhatWasRequired, what.clone());
        }
        if op == Op::Disassociate && !wants_none {
            self.check_worth(who, &what);
        }
        self.check_tries(who, env, from, &what);
    }

    /// The messages that say what a swap was about to detach.
    fn announcements(&self, who: usize) -> impl Iterator<Item = &Message> {
        self.messages.iter().filter(move |message| {
            matches!(&message.about, About::Own(Own::FinishSwap, all) if all.contains(&who))
        })
    }

    /// A profile is about to be detached for another: there must be hope that the other can be attached.
    fn check_worth(&mut self, who: usize, what: &str) {
        let (now, from) = (self.now(), self.now().saturating_sub(self.facts_age(who)));
        let is_denied = |name: &str| {
            let lately = |at: &Ms| now - *at < DENIED_LATELY;
            self.world.not_passable.contains(name) && self.denied.get(name).is_some_and(lately)
        };
        // By an old read it may be for another.
        let may_be_for_another = self.ever(who, from, |view| match view.want(self.rules) {
            Want::Profile { name, .. } => !is_denied(&name),
            Want::Leave | Want::Bare => false,
        });
        if !may_be_for_another {
            let what = format!("{what}, for what the function may not attach, as it was told");
            self.violate(Invariant::NeverDetachedInVain, what);
        }
    }

    /// A write was answered, or its answer is lost.
    pub fn note_answer(
        &mut self,
        id: &str,
        arn: Option<&str>,
        env: &Env,
        error: Option<&CloudError>,
    ) {
        let now = self.now();
        let Some(error) = error else { return };
        match (&error.kind, arn) {
            (ErrorKind::Denied(_), Some(arn)) => {
                let name = name_of(arn).to_owned();
                if self.view(who(id)).attached().is_none() {
                    self.denied_when_bare.insert(name.clone(), now);
                }
                self.denied.insert(name, now);
            }
            (ErrorKind::Transient | ErrorKind::Unreadable, _) => {
                if let Some(visit) = self.visits.get_mut(&env.number) {
                    visit.lost.push((who(id), arn.map(str::to_owned)));
                }
            }
            _ => {}
        }
    }

    fn check_tries(&mut self, who: usize, env: &Env, from: Ms, what: &str) {
        let was_stopped = self.ever(who, from, |view| view.state_word() == "stopped");
        let dies_out = self.ever(who, from, View::dies_out);
        let duel = self.plan.kind == Kind::Duel;
        let Some(visit) = self.visits.get(&env.number) else { return };
        let disturbed = self.disturbed[who] - visit.disturbed[who];
        let disturbed = disturbed + if duel { 0 } else { visit.others[who] };
        let one = match (was_stopped, self.plan.stopped) {
            (false, _) => 1,
            (true, Stopped::Waits) => 2,
            (true, Stopped::IsSwapped) => 3,
        };
        let most = one * (1 + disturbed) + if dies_out { 3 } else { 0 };
        let sent = visit.sent[who];
        if sent > most {
            let what = format!("{what}: write {sent} of this invocation, {most} at most");
            let invariant = if duel { Invariant::NoFight } else { Invariant::FewTries };
            self.violate(invariant, what);
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
        association: Option<&str>,
        from: Ms,
    ) -> bool {
        let old = association.and_then(|row| self.rows.get(row));
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
            let is_it = |arn: &str| name_of(arn) == name;
            // What takes a profile away rests on what IAM answers now.
            let was_recreated = old.is_some_and(|old| {
                let mut known = self.known(&name, from).iter();
                is_it(&old.arn) && known.any(|known| known.id.as_ref() != Some(&old.profile_id))
            });
            let is_other = old.is_none_or(|old| !is_it(&old.arn)) || was_recreated;
            // The required profile itself is watched, even where others are kept.
            let keeps = keeps_others && !was_recreated;
            let manner = match op {
                // A swap of ours goes on where it left the instance bare.
                Op::Associate => {
                    !leaves_bare
                        || self.announcements(who).next().is_some()
                        || ever(&|view| view.attached().is_some() || view.owed.is_some())
                }
                Op::Replace => !keeps && is_other,
                Op::Disassociate => {
                    let is_swapped = self.plan.stopped == Stopped::IsSwapped
                        && ever(&|view| view.state_word() == "stopped");
                    !keeps && is_other && is_swapped
                }
                _ => false,
            };
            is_usable && manner && arn.is_none_or(is_it)
        });
        is_in_reach && calls
    }

    /// A write was carried out, or refused. `visit` is the invocation that sent it.
    pub fn after_write(
        &mut self,
        op: Op,
        id: &str,
        association: Option<&str>,
        env: &Env,
        visit: Option<usize>,
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
        let after = self.view(who).attached().cloned();
        let to = after.as_ref().map(|row| row.arn.clone());
        let late = self.late;
        let number = env.number;
        self.say(|| {
            let late = if late { " late" } else { "" };
            format!(
                "  {op:?} by environment {number} is carried out{late}: instance {who} has {to:?}"
            )
        });
        if to.as_ref().is_some_and(|arn| !is_allowed(arn)) && op != Op::Disassociate {
            self.violate(Invariant::NeverOutsideTheAllowList, format!("attached: {to:?}"));
        }
        let kept_old =
            op == Op::Replace && after.as_ref().map(|row| row.id.as_str()) == association;
        let now = self.now();
        if kept_old {
            self.kept_old[who] = Some(now);
        }
        if let Some(row) = after.as_ref().filter(|_| op != Op::Disassociate)
            && self.world.sticking.contains(id)
        {
            self.stuck.insert(row.id.clone(), (who, now));
        }
        let from = before.attached_arn().map(str::to_owned);
        let carried = Carried { who, op, from, to: to.clone(), kept_old, late };
        for (other, of) in &mut self.visits {
            if Some(of.number) == visit {
                of.carried.push(carried.clone());
            }
            // Another environment's write is a disturbance to everybody else.
            if *other != env.number {
                of.others[who] += 1;
            }
        }
        if op == Op::Disassociate && to.is_none() {
            self.owe(who, env, &before, association);
        }
        self.check_count(who);
    }

    /// We detached a profile: unless none is wanted, we owe another.
    fn owe(&mut self, who: usize, env: &Env, before: &View, association: Option<&str>) {
        let from = self.now().saturating_sub(self.facts_age(who));
        let wanted_none = self.ever(who, from, |view| view.want(env.rules) == Want::Bare);
        let Some(arn) = association.and_then(|row| self.arn_of(row)) else { return };
        if wanted_none || self.view(who).is_gone() {
            return;
        }
        self.debts[who] = Some(Debt { since: self.now(), arn });
        self.note(who);
        if self.plan.kind == Kind::Duel && before.state_word() == "running" {
            self.violate(Invariant::NoFight, format!("instance {who} runs without a profile"));
        }
        self.check_debt(who, "it was detached");
    }

    fn check_count(&mut self, who: usize) {
        let (carried_out, disturbed) = (self.carried_out[who], self.disturbed[who]);
        let duel = self.plan.kind == Kind::Duel;
        let stopped = self.ever(who, 0, |view| view.state_word() == "stopped");
        let one = if duel && !stopped { 1 } else { 2 };
        let visits = if self.recreated.is_empty() { 0 } else { self.visits_of[who] };
        let most = one * (1 + disturbed) + visits;
        if carried_out > most {
            let what = format!("write {carried_out} on instance {who}, {most} at most");
            let invariant = if duel { Invariant::NoFight } else { Invariant::FewWrites };
            self.violate(invariant, what);
        }
    }

    // Debts.

    /// Whether there is anything that could be attached in the place of what we took.
    fn can_be_paid(&self, who: usize, debt: &Debt) -> bool {
        let required = match self.view(who).want(self.rules) {
            Want::Profile { name, .. } => self.is_attachable(&name),
            Want::Leave | Want::Bare => false,
        };
        required || (is_allowed(&debt.arn) && self.is_attachable(name_of(&debt.arn)))
    }

    /// A message has ended, or a debt begun: a debt must have a message left that brings somebody back to it.
    pub fn check_debt(&mut self, who: usize, happened: &str) {
        self.note(who);
        let Some(debt) = self.debts[who].clone() else { return };
        let is_left = self.messages.iter().any(|message| message.about.instances().contains(&who));
        if !is_left && self.can_be_paid(who, &debt) {
            let Debt { arn, since } = debt;
            let what = format!(
                "{happened}, no other is about instance {who}, and {arn} was detached at {since} ms for nothing"
            );
            self.violate(Invariant::DebtsArePaid, what);
        }
    }

    // Dead letters.

    pub fn check_dead_letter(&mut self, message: &Message, letter: &DeadLetter<'_>) {
        let DeadLetter { error_type, error, body, .. } = letter;
        let all = message.about.instances();
        let names_one = all.iter().any(|who| error.contains(&id(*who)));
        let is_named = match message.about {
            About::Garbage => *error_type == "MalformedEvent" && !error.is_empty(),
            About::Instance(_) | About::Perhaps(_) | About::Own(..) => names_one,
        };
        let is_hopeless = message.about == About::Garbage
            || all.iter().any(|who| self.is_hopeless(*who, message.sent));
        if !is_named || !is_hopeless || error_type.is_empty() || message.body != *body {
            let what = format!("message {} is given up as {error_type}: {error}", message.id);
            self.violate(Invariant::ReasonsToActOn, what);
        }
    }

    /// Whether something happened to calls about an instance, or to its profile, that time does not heal.
    fn is_hopeless(&self, who: usize, since: Ms) -> bool {
        let refuses = |item: &Item| match item {
            Item::Fault { fault: Fault::Refused(_, status), who: of, .. } => {
                *status < 500 && of.is_none_or(|of| of == who)
            }
            Item::Deny { .. } => true,
            _ => false,
        };
        let age = self.facts_age(who);
        let wants_what_is_not_there = |view: &View| match view.want(self.rules) {
            Want::Profile { name, .. } => {
                let known = self.known(&name, since.saturating_sub(age));
                known.is_empty() || known.iter().any(|known| known.id.is_none() || !known.usable)
            }
            Want::Leave | Want::Bare => false,
        };
        let is_young = |item: &Item| matches!(item, Item::Make { .. } | Item::Recreate { .. });
        self.plan.items.iter().any(|item| refuses(item) || is_young(item))
            || self.ever(who, since.saturating_sub(age), wants_what_is_not_there)
    }

    // The end.

    /// What is wrong with an instance that could be right, if anything is.
    fn is_wrong(&self, who: usize) -> Option<String> {
        let view = self.view(who);
        let attached = view.attached();
        let wanted = view.want(self.rules);
        let is_wrong = view.is_in_reach()
            && match &wanted {
                Want::Leave => false,
                Want::Bare => {
                    attached.is_some() && view.has_tags() && !self.plan.leaves_tags_out(who)
                }
                Want::Profile { name, .. } if !self.is_attachable(name) => false,
                Want::Profile { leaves_bare, .. } if attached.is_none() => !leaves_bare,
                Want::Profile { name, keeps_others, .. } => attached.is_some_and(|row| {
                    let is_it = name_of(&row.arn) == name;
                    let is_this = self
                        .is_there(name)
                        .is_some_and(|known| known.id.as_ref() == Some(&row.profile_id));
                    match (is_it, is_this) {
                        (true, true) => false,
                        (false, _) if *keeps_others => false,
                        _ => self.can_be_changed(view, &row.arn, name),
                    }
                }),
            };
        is_wrong.then(|| {
            let attached = view.attached().map(|row| (&row.arn, &row.profile_id));
            let state = view.state_word();
            format!("instance {who} is {state} with {attached:?}, while it must have {wanted:?}")
        })
    }

    /// Whether what is attached can be made way for: by Replace, or, on a stopped instance, by a swap whose way back is open.
    fn can_be_changed(&self, view: &View, old: &str, name: &str) -> bool {
        if view.state_word() == "running" {
            return name_of(old) != name || self.plan.mends;
        }
        // Where EC2 said so only once there was nothing any more, it is not tried again soon.
        let was_refused = self.denied_when_bare.get(name);
        self.plan.stopped == Stopped::IsSwapped
            && is_allowed(old)
            && self.is_attachable(name_of(old))
            && was_refused.is_none_or(|at| self.now() - at > DENIED_LATELY)
    }

    /// Why an instance need not be right without another event.
    fn excuse(&self, who: usize) -> Option<&'static str> {
        let without_tags = self.plan.leaves_tags_out(who) && self.plan.is_behind(who, Behind::Tags);
        let both = without_tags.then_some("its tags are left out by one read and old in the other");
        self.unheard[who].first().map(|item| item.why).or(both)
    }

    /// Every message has ended: asked before any further event, and again after one, when nothing is excused any more.
    pub fn check_end(&mut self, after_an_event: bool) {
        for who in 0..self.plan.instances.len() {
            self.note(who);
            if let Some(debt) = self.debts[who].clone()
                && self.can_be_paid(who, &debt)
            {
                let what = format!("instance {who} has nothing; {} was detached", debt.arn);
                self.violate(Invariant::DebtsArePaid, what);
            }
            let excuse = if after_an_event { None } else { self.excuse(who) };
            if let (Some(what), None) = (self.is_wrong(who), excuse) {
                self.violate(Invariant::BecomesRight, what);
            }
            self.check_alarms(who);
        }
    }

    /// Messages are left although nothing happens any more. Those stay that say what was detached, where nothing can be
    /// attached in its place: a person is told.
    pub fn check_messages_left(&mut self) {
        let waits = |message: &&Message| match &message.about {
            About::Own(Own::FinishSwap, all) => {
                !all.iter().all(|who| self.is_hopelessly_bare(*who))
            }
            About::Instance(_) | About::Perhaps(_) | About::Own(..) | About::Garbage => true,
        };
        let left: Vec<_> =
            self.messages.iter().filter(waits).map(|left| format!("{left:?}")).collect();
        if !left.is_empty() {
            self.violate(Invariant::MessagesEnd, left.join(", "));
        }
        for who in 0..self.plan.instances.len() {
            self.check_alarms(who);
        }
    }

    /// Whether an instance has nothing, and neither what it must have nor what a swap took away can be attached.
    fn is_hopelessly_bare(&self, who: usize) -> bool {
        let can_be_paid = |message: &Message| {
            let is_it = |profile: &world::Profile| message.body.contains(&profile.arn());
            let old = self.world.profiles.values().find(|profile| is_it(profile));
            let arn = old.map(world::Profile::arn).unwrap_or_default();
            self.can_be_paid(who, &Debt { since: 0, arn })
        };
        self.view(who).attached().is_none() && !self.announcements(who).any(can_be_paid)
    }

    /// Whether every event leads to one more try, since EC2 does not mend what is attached.
    pub fn cannot_be_mended(&self, who: usize) -> bool {
        let stale = self.view(who).attached().is_some_and(|row| {
            self.is_there(name_of(&row.arn))
                .is_none_or(|known| known.id.as_ref() != Some(&row.profile_id))
        });
        stale && !self.plan.mends
    }

    /// Whether nothing about it, once it is right, calls for another write.
    pub fn should_stay(&self, who: usize) -> bool {
        let undoes = |item: &Item| matches!(item, Item::Undo { who: of, .. } if *of == who);
        let view = self.view(who);
        let is_it = match view.want(self.rules) {
            // Another profile stays as long as EC2 lets nobody change it.
            Want::Profile { name, keeps_others, .. } => {
                let attached = view.attached_arn();
                attached.is_none_or(|arn| name_of(arn) == name || keeps_others)
                    && !self.world.not_passable.contains(&name)
            }
            Want::Leave | Want::Bare => true,
        };
        !self.cannot_be_mended(who) && !self.plan.items.iter().any(undoes) && is_it
    }

    // Alarms.

    fn check_alarms(&mut self, who: usize) {
        let view = self.view(who).clone();
        let now = self.now();
        let mut needs: Vec<(&str, Ms, &[&str])> = Vec::new();
        if let Some(debt) = &self.debts[who] {
            needs.push(("has lost its profile", debt.since, &["Failed:RollbackFailed"]));
        }
        if let (Some(at), true) = (self.kept_old[who], self.cannot_be_mended(who))
            && view.state_word() == "running"
        {
            needs.push(("keeps a profile that was deleted", at, &["NotRepaired"]));
        }
        let stuck = view.attached().and_then(|row| self.stuck.get(&row.id));
        if let Some((_, since)) = stuck
            && view.state_word() == "running"
            && now > since + STUCK_AFTER
            && !self.unverified[who]
            && self.kept_old[who].is_none()
        {
            needs.push(("has an association that EC2 does not put into force", *since, &["Stuck"]));
        }
        let undone = &self.undone[who];
        if let Some(fourth) = undone.windows(4).find(|times| times[3] - times[0] < HOUR) {
            needs.push(("is changed back again and again", fourth[3], &["Flapping"]));
        }
        if let Some(at) = self.denied_since(who, &view) {
            needs.push(("may not be given its profile", at, &["Failed:Denied"]));
        }
        for (what, since, by) in needs {
            // What was said before the last change is said again.
            let in_time = |at: Ms| since <= at && at <= since + HOUR;
            let is_told =
                self.alarms.iter().any(|(at, name)| in_time(*at) && by.contains(&name.as_str()))
                    || self.dead.iter().any(|(at, about)| in_time(*at) && about.contains(&who));
            if !is_told {
                let what = format!(
                    "instance {who} {what} since {since} ms, and nothing of {by:?} says so"
                );
                self.violate(Invariant::NeedsAPersonRaisesAlarm, what);
            }
        }
    }

    /// Since when an instance would have been given its profile, were it not for a right that is missing.
    fn denied_since(&self, who: usize, view: &View) -> Option<Ms> {
        let Want::Profile { name, leaves_bare, keeps_others } = view.want(self.rules) else {
            return None;
        };
        let attached = view.attached_arn();
        let is_due = view.is_in_reach()
            && self.unheard[who].is_empty()
            && match attached {
                None => !leaves_bare,
                Some(arn) => {
                    let waits = self.plan.stopped == Stopped::Waits;
                    name_of(arn) != name
                        && !keeps_others
                        && (view.state_word() == "running" || (!waits && is_allowed(arn)))
                }
            };
        let is_denied = self.is_there(&name).is_some_and(|known| known.usable)
            && self.world.not_passable.contains(&name);
        let last_event = self.last_event[who]?.max(self.heard[who]);
        (is_due && is_denied).then_some(last_event)
    }
}
