//! What others are told: an event on a bus of the user's for every change, every block and every sweep.

use std::collections::BTreeMap;
use std::future::Future;

use serde::Serialize;

use crate::census::{Census, Source, Standing, SweepRequest};
use crate::decide::Decision;
use crate::failure::{Disposition, Failure};
use crate::model::Tags;
use crate::queue::QueueError;
use crate::report::InstanceReport;

/// A bus that takes events.
///
/// Every call is bounded in time by the implementation. What is not taken is lost to the listeners and to nobody else:
/// the log has it.
pub trait Bus: Send + Sync {
    /// Puts events on the bus with this ARN (`PutEvents`); answers for each, in their order.
    fn tell(
        &self,
        bus: &str,
        notices: &[Notice],
    ) -> impl Future<Output = Vec<Result<(), QueueError>>> + Send;
}

/// The source that the events name.
pub const SOURCE: &str = "auto-instance-profile";

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What kind of event it is.
    pub kind: Kind,
    /// Its detail, as JSON.
    pub detail: String,
}

/// The kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An instance's association was changed.
    Changed,
    /// Something is required that cannot be done until a person acts.
    Blocked,
    /// Another actor keeps undoing what the function does.
    Flapping,
    /// A sweep reached its end.
    SweepCompleted,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Changed, Self::Blocked, Self::Flapping, Self::SweepCompleted];

    /// The event's detail-type.
    #[must_use]
    pub fn detail_type(self) -> &'static str {
        match self {
            Self::Changed => "Instance Profile Changed",
            Self::Blocked => "Instance Profile Blocked",
            Self::Flapping => "Instance Profile Flapping",
            Self::SweepCompleted => "Sweep Completed",
        }
    }
}

/// The version of the details. A field may be added to it; for any other change it grows.
const VERSION: &str = "1";

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct InstanceDetail<'a> {
    version: &'static str,
    instance_id: &'a str,
    account: Option<&'a str>,
    region: &'a str,
    state: Option<&'a str>,
    outcome: &'static str,
    decision: Option<&'static str>,
    decision_row: Option<u8>,
    reason_code: &'static str,
    reason: String,
    rule: Option<&'a str>,
    tags: &'a Tags,
    before: Option<&'a str>,
    after: Option<String>,
    launch_source: Option<String>,
    changed_by: Option<&'a str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct SweepDetail<'a> {
    version: &'static str,
    mode: &'static str,
    asked_by: &'static str,
    filters: BTreeMap<&'a str, &'a [String]>,
    #[serde(flatten)]
    totals: Totals<'a>,
    duration_s: u64,
}

/// A census as others are told of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Totals<'a> {
    instances: u64,
    right: u64,
    wrong: u64,
    waiting: u64,
    stuck: u64,
    blocked: &'a BTreeMap<String, u64>,
    left: &'a BTreeMap<String, u64>,
    failed: &'a BTreeMap<String, u64>,
    bare_sources: Vec<Source<'a>>,
}

impl<'a> From<&'a Census> for Totals<'a> {
    fn from(census: &'a Census) -> Self {
        Self {
            instances: census.instances,
            right: census.right,
            wrong: census.wrong,
            waiting: census.waiting,
            stuck: census.stuck,
            blocked: &census.blocked,
            left: &census.left,
            failed: &census.failed,
            bare_sources: census.ranking(),
        }
    }
}

impl Notice {
    /// The event about an instance, where there is anything to tell.
    #[must_use]
    pub fn about(report: &InstanceReport) -> Option<Self> {
        let changed = report.result.as_ref().is_ok_and(|outcome| outcome.is_change());
        let kind = match (&report.result, report.standing()) {
            (Err(Failure::Flapping { begins: true, .. }), _) => Kind::Flapping,
            _ if report.is_flapping => Kind::Flapping,
            (Ok(_), _) if changed => Kind::Changed,
            // What comes again is told of once it is given up.
            (_, Standing::Blocked) if report.disposition != Some(Disposition::ComeAgain) => {
                Kind::Blocked
            }
            (
                _,
                Standing::Right
                | Standing::Change
                | Standing::Blocked
                | Standing::Left
                | Standing::Waiting
                | Standing::Failed,
            ) => return None,
        };
        let before = report.attached();
        let detail = InstanceDetail {
            version: VERSION,
            instance_id: report.instance.id.as_str(),
            account: report.account().map(|account| account.as_str()),
            region: report.instance.region.as_str(),
            state: report.facts.as_ref().map(|facts| facts.instance.state.as_str()),
            outcome: report.outcome_word(),
            decision: report.decision.as_ref().map(Decision::word),
            decision_row: report.decision.as_ref().and_then(Decision::row),
            reason_code: report.reason(),
            reason: report.sentence(),
            rule: report.rule.as_deref(),
            tags: &report.tags,
            before,
            after: if changed { report.after.clone() } else { before.map(str::to_owned) },
            launch_source: report.launch_source(),
            changed_by: report.cause.changed_by.as_deref(),
        };
        Some(Self { kind, detail: serde_json::to_string(&detail).unwrap_or_default() })
    }

    /// The event about a sweep that reached its end, in this mode and after so many seconds.
    #[must_use]
    pub fn of_sweep(
        request: &SweepRequest,
        census: &Census,
        mode: &'static str,
        duration_s: u64,
    ) -> Self {
        let filters = request.filters.iter();
        let filters =
            filters.map(|filter| (filter.name.as_str(), filter.values.as_slice())).collect();
        let totals = census.into();
        let asked_by = request.asked_by.as_str();
        let detail = SweepDetail { version: VERSION, mode, asked_by, filters, totals, duration_s };
        Self {
            kind: Kind::SweepCompleted,
            detail: serde_json::to_string(&detail).unwrap_or_default(),
        }
    }
}
