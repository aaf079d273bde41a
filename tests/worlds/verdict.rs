//! What the function says: the line about each instance, as fields, and who said it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;

use tracing::field::{Field, Visit as Taker};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::oracle::Want;
use crate::plan::{Fault, Item, Op, who};
use crate::promises::{Invariant, PROFILES_AGE};
use crate::sim::Env;
use crate::truth::{View, name_of};
use crate::watch::{Carried, Visit, Watch};

thread_local! {
    /// The environment whose code runs at this moment.
    static SPEAKER: Cell<Option<usize>> = const { Cell::new(None) };
    static LINES: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// One line about one instance.
#[derive(Debug, Clone)]
pub struct Line {
    pub by: usize,
    pub fields: BTreeMap<&'static str, String>,
}

impl Line {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }
}

/// Runs the code of an environment: what is said meanwhile is its own.
pub async fn speaking<T>(by: usize, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    poll_fn(move |context| {
        SPEAKER.set(Some(by));
        let polled = work.as_mut().poll(context);
        SPEAKER.set(None);
        polled
    })
    .await
}

/// The lines that an environment wrote since this was asked last.
pub fn lines_of(by: usize) -> Vec<Line> {
    LINES.with_borrow_mut(|lines| {
        let (said, others) = lines.drain(..).partition(|line| line.by == by);
        *lines = others;
        said
    })
}

/// Takes the lines of this thread's worlds.
pub struct Listener;

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.fields().field("instance.id").is_some()
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let Some(by) = SPEAKER.get() else { return };
        let mut fields = Fields(BTreeMap::new());
        event.record(&mut fields);
        LINES.with_borrow_mut(|lines| lines.push(Line { by, fields: fields.0 }));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Fields(BTreeMap<&'static str, String>);

impl Taker for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

// What is said, against what is true.

/// What was said of an instance, in the log or on the bus.
struct Verdict<'a> {
    who: usize,
    outcome: &'a str,
    reason: Option<&'a str>,
    error_type: Option<&'a str>,
    from: Option<&'a str>,
    to: Option<&'a str>,
}

impl Watch {
    /// What an invocation said of its instances.
    pub fn check_verdicts(&mut self, env: &Env, visit: &Visit, lines: &[Line]) {
        for line in lines {
            let (Some(id), Some(outcome)) = (line.field("instance.id"), line.field("outcome"))
            else {
                continue;
            };
            let verdict = Verdict {
                who: who(id),
                outcome,
                reason: line.field("reason"),
                error_type: line.field("error.type"),
                from: line.field("profile.from"),
                to: line.field("profile.to"),
            };
            self.say(|| {
                let Verdict { who, outcome, reason, error_type, from, to } = &verdict;
                let error = error_type.map_or(String::new(), |error| format!(" ({error})"));
                format!("  it says of instance {who}: {outcome}{error}, {reason:?}, from {from:?} to {to:?}")
            });
            if let Some(lie) = self.lie_in(env, visit, &verdict) {
                let Verdict { who, outcome, reason, from, to, .. } = verdict;
                let what = format!(
                    "instance {who} is said to be {outcome} ({reason:?}, from {from:?} to {to:?}), but {lie}"
                );
                self.violate(Invariant::EachVerdictIsTrue, what);
            }
        }
        for notice in
            visit.notices.iter().filter(|notice| notice["kind"] == "Instance Profile Changed")
        {
            let text = |name: &str| notice[name].as_str();
            let Some(id) = text("instance-id") else { continue };
            let verdict = Verdict {
                who: who(id),
                outcome: text("outcome").unwrap_or_default(),
                reason: None,
                error_type: None,
                from: text("before"),
                to: text("after"),
            };
            if let Some(lie) = self.lie_in(env, visit, &verdict) {
                self.violate(
                    Invariant::EachVerdictIsTrue,
                    format!("the bus is told {notice}, but {lie}"),
                );
            }
        }
    }

    /// What is untrue about a verdict, if anything is.
    fn lie_in(&self, env: &Env, visit: &Visit, verdict: &Verdict<'_>) -> Option<String> {
        let Verdict { who, outcome, reason, error_type, from, to } = *verdict;
        let since = visit.began.saturating_sub(self.facts_age(who));
        let ours: Vec<_> = visit.carried.iter().filter(|carried| carried.who == who).collect();
        let wrote =
            |op: Op| ours.iter().any(|carried| carried.op == op && carried.to.as_deref() == to);
        let was = |is: &dyn Fn(&View) -> bool| self.ever(who, since, |view| is(view));
        let wanted = |want: Want| was(&|view| view.want(env.rules) == want);
        // Where an answer is lost and it is so afterwards, nobody can tell whether another environment made it so.
        let lost = visit.lost.iter().any(|(of, arn)| {
            *of == who && (arn.as_deref() == to || (outcome == "swapped" && arn.is_none()))
        });
        let may_have_written =
            lost && self.ever(who, visit.began, |view| view.attached_arn() == to);
        let is_true = match outcome {
            "associated" | "replaced" | "swapped" if may_have_written => true,
            "associated" => {
                wrote(Op::Associate) && ours.first().is_some_and(|first| first.op == Op::Associate)
            }
            "replaced" => ours.iter().any(|carried| {
                carried.op == Op::Replace && carried.to.as_deref() == to && !carried.kept_old
            }),
            "swapped" => wrote(Op::Associate),
            // A second detachment of what is on its way out succeeds too.
            "removed" | "disassociated" => {
                visit.detached.iter().any(|(of, _)| *of == who)
                    && self.ever(who, visit.began, |view| view.attached().is_none())
            }
            "rolled-back" => ours.iter().any(|carried| carried.op == Op::Associate),
            "kept" | "unchanged" | "converged" => {
                if self.brought(&ours, to) {
                    return Some("this invocation attached it".to_owned());
                }
                was(&|view| view.attached_arn() == to)
            }
            "not-repaired" => self.kept_old[who].is_some(),
            "left" | "skipped" => match reason.unwrap_or_default() {
                "unmanaged" => wanted(Want::Leave),
                "never-seen" | "gone" => was(&|view| {
                    !matches!(view.state_word(), "pending" | "running" | "stopping" | "stopped")
                }),
                "no-role" | "role-does-not-trust-ec2" => to.is_some_and(|to| {
                    let known = self.known(name_of(to), since.saturating_sub(PROFILES_AGE));
                    known.iter().any(|known| known.id.is_some() && !known.usable)
                }),
                "fills-gaps-only" => was(&|view| view.attached().is_some()),
                "corrects-only" => was(&|view| view.attached().is_none()),
                _ => true,
            },
            "waiting" => was(&|view| view.state_word() != "running"),
            "failed" if matches!(error_type, Some("RollbackFailed")) => {
                self.ever(who, visit.began, |view| view.attached().is_none())
            }
            _ => true,
        };
        if !is_true {
            return Some(format!("no such thing happened; its own writes were {ours:?}"));
        }
        // What was attached before its first write; where it ends what another began, that may be what that one took.
        let first = ours.first()?;
        let says_a_change = matches!(
            outcome,
            "associated"
                | "replaced"
                | "swapped"
                | "removed"
                | "disassociated"
                | "converged"
                | "not-repaired"
        );
        let owed = self.views(who, visit.began).first().and_then(|(_, view)| view.owed.clone());
        let is_from = first.from.as_deref() == from || (from.is_some() && owed.as_deref() == from);
        let is_blind = outcome == "converged" && self.is_refused_though_done();
        if says_a_change && !is_from && !is_blind {
            return Some(format!("{:?} was attached before its first write", first.from));
        }
        None
    }

    /// Whether writes attached a profile that was not there before, and whoever sent them could know it.
    fn brought(&self, writes: &[&Carried], to: Option<&str>) -> bool {
        let brings = |carried: &&Carried| {
            carried.op != Op::Disassociate
                && to.is_some()
                && carried.to.as_deref() == to
                && carried.from.as_deref() != to
                && !carried.kept_old
                && !carried.late
        };
        writes.iter().any(brings) && !self.is_refused_though_done()
    }

    /// Whether a write is refused though it was carried out: it looks like another's.
    fn is_refused_though_done(&self) -> bool {
        let is_it = |item: &Item| matches!(item, Item::Fault { fault: Fault::DoneThenRefused, .. });
        self.plan.items.iter().any(is_it)
    }
}
