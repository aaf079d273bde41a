//! Metrics in CloudWatch's embedded format: a JSON document in the log, of which CloudWatch makes metrics. No call is made.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::census::{Census, Standing};
use crate::failure::Failure;
use crate::report::{InstanceReport, Outcome};

/// The namespace of all metrics.
pub const NAMESPACE: &str = "AutoInstanceProfile";
/// The dimension of all metrics: the function's name, so that several stacks stay apart.
pub const FUNCTION: &str = "FunctionName";
/// The second dimension of [`Metric::Blocked`]: the decision's reason code.
pub const REASON: &str = "Reason";
/// The second dimension of [`Metric::Failed`]: the error's type.
pub const ERROR_TYPE: &str = "ErrorType";

/// The metrics, by their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Metric {
    /// Bare instances that were given their profile.
    Associated,
    /// Profiles replaced in one call.
    Replaced,
    /// Profiles swapped on stopped instances.
    Swapped,
    /// Profiles taken away.
    Removed,
    /// Instances that were right already.
    Kept,
    /// Changes that a dry run would make.
    Planned,
    /// Instances of which nothing is required.
    Left,
    /// Instances that wait for their next state.
    Waiting,
    /// Instances that need a person; by reason.
    Blocked,
    /// Instances that could not be brought right; by the error's type.
    Failed,
    /// Instances that another actor keeps changing.
    Flapping,
    /// Associations that EC2 does not put into force, as a verification found.
    Stuck,
    /// Profiles attached again that an unfinished swap had taken away.
    RolledBack,
    /// Looks that were to follow a change and could not be put on the queue.
    FollowUpsLost,
    /// Recreated profiles that EC2 did not replace.
    NotRepaired,
    /// From an event's own time until the profile was there.
    TimeToAssociated,
    /// How long ago the oldest message of a batch was sent.
    OldestMessageAge,
    /// Sweeps that reached their end.
    SweepCompleted,
    /// Scheduled sweeps whose time was up before they had seen every instance.
    SweepIncomplete,
    /// Instances that a completed sweep saw.
    SweptInstances,
    /// Of them: right.
    SweptRight,
    /// Of them: to be changed.
    SweptWrong,
    /// Of them: in need of a person.
    SweptBlocked,
    /// Of them: not ours to change.
    SweptLeft,
    /// Of them: not known, or not what they should be.
    SweptFailed,
    /// Of them: with an association that EC2 does not put into force.
    SweptStuck,
    /// Events that the bus did not take.
    NotificationsFailed,
}

impl Metric {
    fn unit(self) -> &'static str {
        match self {
            Self::TimeToAssociated => "Milliseconds",
            Self::OldestMessageAge => "Seconds",
            Self::Associated
            | Self::Replaced
            | Self::Swapped
            | Self::Removed
            | Self::Kept
            | Self::Planned
            | Self::Left
            | Self::Waiting
            | Self::Blocked
            | Self::Failed
            | Self::Flapping
            | Self::Stuck
            | Self::RolledBack
            | Self::FollowUpsLost
            | Self::NotRepaired
            | Self::SweepCompleted
            | Self::SweepIncomplete
            | Self::SweptInstances
            | Self::SweptRight
            | Self::SweptWrong
            | Self::SweptBlocked
            | Self::SweptLeft
            | Self::SweptFailed
            | Self::SweptStuck
            | Self::NotificationsFailed => "Count",
        }
    }
}

/// The level of a document: the one that no setting of Lambda's log level drops, so that none disarms an alarm. Without a
/// level, or without a time in RFC 3339 beside it, a line in JSON counts as INFO. It is not ERROR, so that searches for
/// errors do not find the metrics; no line of the log has it.
const LEVEL: &str = "FATAL";

/// Values that one metric takes in one document: CloudWatch's limit.
const VALUES: usize = 100;

/// What one invocation did, in numbers.
#[derive(Debug, Default)]
pub struct Tally {
    counts: BTreeMap<Metric, u64>,
    blocked: BTreeMap<String, u64>,
    failed: BTreeMap<String, u64>,
    times: Vec<u64>,
}

impl Tally {
    /// Counts what became of an instance, and how long after its event, where that is known.
    pub fn count(&mut self, report: &InstanceReport, since_event: Option<Duration>) {
        if report.is_stuck {
            self.add(Metric::Stuck, 1);
        }
        if report.is_flapping {
            self.add(Metric::Flapping, 1);
        }
        let metric = match (&report.result, report.standing()) {
            (Err(Failure::Flapping { begins: true, .. }), _) => Metric::Flapping,
            (_, Standing::Blocked) => {
                *self.blocked.entry(report.reason().to_owned()).or_default() += 1;
                return;
            }
            (Err(_), Standing::Waiting) => Metric::Waiting,
            (Err(failure), _) => return self.fail(failure.error_type()),
            (Ok(outcome), _) => match outcome {
                Outcome::Associated => Metric::Associated,
                Outcome::Replaced => Metric::Replaced,
                Outcome::Swapped => Metric::Swapped,
                Outcome::Removed => Metric::Removed,
                Outcome::Kept | Outcome::Converged => Metric::Kept,
                Outcome::Planned => Metric::Planned,
                Outcome::Left => Metric::Left,
                Outcome::Waiting => Metric::Waiting,
                Outcome::NotRepaired => Metric::NotRepaired,
                Outcome::RolledBack => Metric::RolledBack,
            },
        };
        self.add(metric, 1);
        let is_given = matches!(metric, Metric::Associated | Metric::Replaced | Metric::Swapped);
        if let Some(time) = since_event.filter(|_| is_given && self.times.len() < VALUES) {
            self.times.push(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        }
    }

    /// Counts a failure.
    pub fn fail(&mut self, error_type: &'static str) {
        *self.failed.entry(error_type.to_owned()).or_default() += 1;
    }

    /// Notes how long ago the oldest message was sent.
    pub fn oldest(&mut self, age: Duration) {
        let seconds = self.counts.entry(Metric::OldestMessageAge).or_default();
        *seconds = (*seconds).max(age.as_secs());
    }

    /// Notes a sweep that reached its end. What it found blocked or failed is counted by its reason too.
    pub fn sweep(&mut self, census: &Census) {
        let sum = |by: &BTreeMap<String, u64>| by.values().sum::<u64>();
        for (metric, value) in [
            (Metric::SweepCompleted, 1),
            (Metric::SweptInstances, census.instances),
            (Metric::SweptRight, census.right),
            (Metric::SweptWrong, census.wrong),
            (Metric::SweptBlocked, sum(&census.blocked)),
            (Metric::SweptLeft, sum(&census.left)),
            (Metric::SweptFailed, sum(&census.failed)),
            (Metric::SweptStuck, census.stuck),
        ] {
            // A zero is what brings an alarm back.
            self.counts.insert(metric, value);
        }
        for (counts, found) in
            [(&mut self.blocked, &census.blocked), (&mut self.failed, &census.failed)]
        {
            for (reason, number) in found {
                *counts.entry(reason.clone()).or_default() += number;
            }
        }
    }

    /// Adds to a count.
    pub fn add(&mut self, metric: Metric, number: u64) {
        *self.counts.entry(metric).or_default() += number;
    }

    /// The documents, a line each, for this function at this moment, in milliseconds since 1970.
    #[must_use]
    pub fn documents(&self, function: &str, now_ms: u64) -> Vec<String> {
        let mut documents = Vec::new();
        let mut values: BTreeMap<Metric, Value> =
            self.counts.iter().map(|(metric, count)| (*metric, json!(count))).collect();
        if !self.times.is_empty() {
            values.insert(Metric::TimeToAssociated, json!(self.times));
        }
        if !values.is_empty() {
            documents.push(document(&values, function, None, now_ms));
        }
        for (metric, dimension, counts) in
            [(Metric::Blocked, REASON, &self.blocked), (Metric::Failed, ERROR_TYPE, &self.failed)]
        {
            for (value, count) in counts {
                let values = BTreeMap::from([(metric, json!(count))]);
                documents.push(document(&values, function, Some((dimension, value)), now_ms));
            }
        }
        documents
    }
}

/// One document, as CloudWatch's specification of the embedded metric format has it.
fn document(
    values: &BTreeMap<Metric, Value>,
    function: &str,
    second: Option<(&'static str, &str)>,
    now_ms: u64,
) -> String {
    #[derive(Serialize)]
    struct Document<'a> {
        #[serde(rename = "_aws")]
        metadata: Value,
        level: &'static str,
        timestamp: String,
        #[serde(flatten)]
        dimensions: BTreeMap<&'a str, &'a str>,
        #[serde(flatten)]
        values: &'a BTreeMap<Metric, Value>,
    }
    let metrics: Vec<_> =
        values.keys().map(|metric| json!({ "Name": metric, "Unit": metric.unit() })).collect();
    // With a second dimension there is a sum over it too.
    let sets = match second {
        Some((dimension, _)) => json!([[FUNCTION], [FUNCTION, dimension]]),
        None => json!([[FUNCTION]]),
    };
    let metadata = json!({
        "Timestamp": now_ms,
        "CloudWatchMetrics": [{ "Namespace": NAMESPACE, "Dimensions": sets, "Metrics": metrics }],
    });
    let mut dimensions = BTreeMap::from([(FUNCTION, function)]);
    dimensions.extend(second);
    let timestamp = rfc3339(now_ms);
    let document = Document { metadata, level: LEVEL, timestamp, dimensions, values };
    serde_json::to_string(&document).unwrap_or_default()
}

/// A time in UTC, in milliseconds since 1970, as RFC 3339 writes it.
fn rfc3339(ms: u64) -> String {
    let (days, in_day) = (ms / 86_400_000, ms % 86_400_000);
    // Years that begin in March end with the leap day; 400 of them have the same number of days each time.
    let days = days + 719_468;
    let (era, in_era) = (days / 146_097, days % 146_097);
    let year = (in_era - in_era / 1_460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year + year / 4 - year / 100);
    let month = (5 * in_year + 2) / 153;
    let day = in_year - (153 * month + 2) / 5 + 1;
    let (year, month) = (era * 400 + year, if month < 10 { month + 3 } else { month - 9 });
    let year = year + u64::from(month <= 2);
    let (seconds, ms) = (in_day / 1000, in_day % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_names_its_metrics_units_and_dimensions() {
        let mut tally = Tally::default();
        tally.add(Metric::Kept, 2);
        tally.oldest(Duration::from_secs(9));
        tally.oldest(Duration::from_secs(4));
        tally.times = vec![120, 80];
        let documents = tally.documents("f", 1_700_000_000_000);
        let [document] = &documents[..] else { panic!("{documents:?}") };
        let document: Value = serde_json::from_str(document).unwrap();
        assert_eq!(
            document,
            json!({
                "_aws": {
                    "Timestamp": 1_700_000_000_000_u64,
                    "CloudWatchMetrics": [{
                        "Namespace": "AutoInstanceProfile",
                        "Dimensions": [["FunctionName"]],
                        "Metrics": [
                            { "Name": "Kept", "Unit": "Count" },
                            { "Name": "TimeToAssociated", "Unit": "Milliseconds" },
                            { "Name": "OldestMessageAge", "Unit": "Seconds" },
                        ],
                    }],
                },
                "level": "FATAL",
                "timestamp": "2023-11-14T22:13:20.000Z",
                "FunctionName": "f",
                "Kept": 2,
                "TimeToAssociated": [120, 80],
                "OldestMessageAge": 9,
            })
        );
    }

    #[test]
    fn a_documents_time_is_one_that_lambda_reads() {
        for (ms, written) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_001, "2024-02-29T23:59:59.001Z"),
            (1_793_611_300_000, "2026-11-02T09:21:40.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(ms), written);
        }
    }

    #[test]
    fn reasons_and_error_types_are_dimensions_and_summed_too() {
        let mut tally = Tally::default();
        tally.blocked.insert("not-allowed".to_owned(), 3);
        tally.failed.insert("Denied".to_owned(), 1);
        let documents = tally.documents("f", 0);
        let parse = |text: &String| serde_json::from_str::<Value>(text).unwrap();
        let [blocked, failed] = &documents.iter().map(parse).collect::<Vec<_>>()[..] else {
            panic!("{documents:?}")
        };
        let sets =
            |document: &Value| document["_aws"]["CloudWatchMetrics"][0]["Dimensions"].clone();
        assert_eq!((&blocked["Reason"], &blocked["Blocked"]), (&json!("not-allowed"), &json!(3)));
        assert_eq!(sets(blocked), json!([["FunctionName"], ["FunctionName", "Reason"]]));
        assert_eq!((&failed["ErrorType"], &failed["Failed"]), (&json!("Denied"), &json!(1)));
        assert_eq!(sets(failed), json!([["FunctionName"], ["FunctionName", "ErrorType"]]));
    }

    #[test]
    fn a_sweep_reports_its_zeros() {
        let mut tally = Tally::default();
        tally.sweep(&Census { instances: 5, right: 5, ..Census::default() });
        let document: Value = serde_json::from_str(&tally.documents("f", 0)[0]).unwrap();
        assert_eq!((&document["SweptRight"], &document["SweptStuck"]), (&json!(5), &json!(0)));
        assert_eq!(document["SweepCompleted"], 1);
        assert!(Tally::default().documents("f", 0).is_empty());
    }
}
