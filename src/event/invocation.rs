//! What a person, the schedule or a sweep's finding asks for: named instances, or all of them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::census::{AskedBy, SweepRequest};
use crate::event::envelope::object;
use crate::event::{Caller, Malformed, Occasion, Origin, Reading, Target, Trigger};
use crate::expectation::Expectation;
use crate::model::{Filter, InstanceId, InstanceRef};
use crate::queue::Outgoing;

const INVOCATION: &str = "invocation";
const SWEEP: &str = "invocation of a sweep";

/// Reads `{"instance-ids": ["i-…"], "dry-run": true}`.
///
/// # Errors
/// [`Malformed`]; an illegal id is not, as long as it is a text.
pub fn of_instances(value: Value, caller: &Caller) -> Result<Reading, Malformed> {
    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    struct Invocation {
        instance_ids: Vec<String>,
        #[serde(default)]
        dry_run: bool,
        #[serde(default)]
        found_by: FoundBy,
    }
    let invocation = Invocation::deserialize(value)
        .map_err(|why| Malformed::Fields { kind: INVOCATION, why })?;
    if invocation.instance_ids.is_empty() {
        return Err(Malformed::Absent { kind: INVOCATION, field: "instance-ids" });
    }
    let absent =
        Malformed::Absent { kind: INVOCATION, field: "Region to look in (AWS_REGION is not set)" };
    let region = caller.region.clone().ok_or(absent)?;
    let mut targets = Vec::new();
    let mut illegal = Vec::new();
    for text in &invocation.instance_ids {
        match InstanceId::parse(text) {
            Err(why) => illegal.push(why),
            Ok(id) => {
                let account = caller.account.clone();
                let instance = InstanceRef { account, region: region.clone(), id };
                targets.push(Target { instance, expected: Expectation::default() });
            }
        }
    }
    let origin = match invocation.found_by {
        FoundBy::Sweep if !invocation.dry_run => Origin::Sweep,
        // A sweep's own messages never ask for a dry run: whoever does is a person.
        FoundBy::Person | FoundBy::Sweep => Origin::Person { dry_run: invocation.dry_run },
    };
    Ok(Reading::Trigger(Trigger { origin, targets, illegal, occasion: Occasion::default() }))
}

/// Who found the instances.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FoundBy {
    #[default]
    Person,
    Sweep,
}

/// Whose backlog a sweep's findings add to: on a fair queue, those of thousands are served after fresh events.
const GROUP: &str = "sweep";

/// The message by which a sweep has an instance corrected.
#[must_use]
pub fn message_about(id: &InstanceId) -> Outgoing {
    let body = serde_json::json!({ "instance-ids": [id], "found-by": "sweep" }).to_string();
    Outgoing { group: Some(GROUP), ..Outgoing::at_once(body) }
}

/// Reads `{"sweep": {"filters": {"tag:Environment": ["prod"]}}, "dry-run": true, "scheduled": false}`.
///
/// # Errors
/// [`Malformed`].
pub fn of_a_sweep(value: Value) -> Result<Reading, Malformed> {
    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    struct Invocation {
        #[serde(deserialize_with = "object")]
        sweep: Sweep,
        #[serde(default)]
        dry_run: bool,
        #[serde(default)]
        scheduled: bool,
    }
    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "kebab-case", deny_unknown_fields)]
    struct Sweep {
        #[serde(default)]
        filters: BTreeMap<String, Vec<String>>,
    }
    let Invocation { sweep, dry_run, scheduled } =
        Invocation::deserialize(value).map_err(|why| Malformed::Fields { kind: SWEEP, why })?;
    let filters: Vec<_> =
        sweep.filters.into_iter().map(|(name, values)| Filter { name, values }).collect();
    // EC2 would refuse it, or take it for no filter.
    let is_empty = |filter: &Filter| {
        filter.name.is_empty()
            || filter.values.is_empty()
            || filter.values.iter().any(String::is_empty)
    };
    if filters.iter().any(is_empty) {
        return Err(Malformed::Absent { kind: SWEEP, field: "value for each of its filters" });
    }
    let asked_by = if scheduled { AskedBy::Schedule } else { AskedBy::Person };
    Ok(Reading::Sweep(SweepRequest { filters, dry_run, asked_by }))
}
