//! The messages that the function sends to its own queue: what a swap takes away, and what is to be looked at again.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::event::envelope::object;
use crate::event::{Malformed, illegal};
use crate::flapping::History;
use crate::model::{
    AccountId, AssociationId, Detached, InstanceId, InstanceRef, ProfileArn, ProfileId, Region,
};
use crate::queue::Outgoing;
use crate::verification::{After, FIRST_LOOK, Verification};

/// The key by which a message about an unfinished swap is known.
pub const FINISH_SWAP: &str = "finish-swap";
/// The key by which a verification is known.
pub const VERIFY: &str = "verify";

const SWAP: &str = "message about a swap";
const VERIFICATION: &str = "verification";
/// When whoever finds the instance without a profile is to finish a swap: the invocation that began it is over by then.
const SWAP_IS_OVER: Duration = Duration::from_mins(1);
/// Whose backlog verifications add to.
const GROUP: &str = "verification";
/// The longest that SQS holds a new message back.
const LONGEST_DELAY: Duration = Duration::from_mins(15);
/// Corrections that a message carries: more are not needed to know that an instance is flapping.
const MAX_CARRIED: usize = 10;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SwapMessage {
    #[serde(rename = "finish-swap", deserialize_with = "object")]
    fields: SwapFields,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifyMessage {
    #[serde(rename = "verify", deserialize_with = "object")]
    fields: VerifyFields,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct SwapFields {
    instance_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    region: String,
    profile: String,
    association_id: String,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct VerifyFields {
    instance_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    region: String,
    after: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    association_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    profile: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    profile_id: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    corrected_s_ago: Vec<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    changed_by: Option<String>,
}

/// The message that is sent before a swap detaches a profile: whoever finds the instance without one attaches what is
/// required, or what was there.
#[must_use]
pub fn message_to_finish_swap(detached: &Detached) -> Outgoing {
    let Detached { instance, profile_arn, association } = detached;
    let fields = SwapFields {
        instance_id: instance.id.to_string(),
        account: instance.account.as_ref().map(ToString::to_string),
        region: instance.region.to_string(),
        profile: profile_arn.clone(),
        association_id: association.to_string(),
    };
    Outgoing { body: json!({ FINISH_SWAP: fields }).to_string(), delay: SWAP_IS_OVER, group: None }
}

/// The message by which an instance is looked at again.
#[must_use]
pub fn message_to_verify(verification: &Verification) -> Outgoing {
    let Verification { instance, after, association, profile_id, history } = verification;
    let seconds = history.corrections.iter().rev().take(MAX_CARRIED).rev().map(Duration::as_secs);
    let fields = VerifyFields {
        instance_id: instance.id.to_string(),
        account: instance.account.as_ref().map(ToString::to_string),
        region: instance.region.to_string(),
        after: after.as_str().to_owned(),
        association_id: association.as_ref().map(ToString::to_string),
        profile: history.to.clone(),
        profile_id: profile_id.as_ref().map(ToString::to_string),
        corrected_s_ago: seconds.collect(),
        changed_by: history.by.clone(),
    };
    let delay = match after {
        After::Associate | After::Correction | After::Wait => FIRST_LOOK,
        After::Flapping => LONGEST_DELAY,
    };
    let body = json!({ VERIFY: fields }).to_string();
    Outgoing { body, delay, group: Some(GROUP) }
}

/// Reads `{"finish-swap": {…}}`.
///
/// # Errors
/// [`Malformed`], naming the field and what it takes.
pub fn read_swap(value: Value) -> Result<Detached, Malformed> {
    let why = |why| Malformed::Fields { kind: SWAP, why };
    let SwapMessage { fields } = SwapMessage::deserialize(value).map_err(why)?;
    let profile = ProfileArn::parse(&fields.profile).map_err(illegal(SWAP, "profile"))?;
    let association = AssociationId::parse(&fields.association_id);
    Ok(Detached {
        instance: instance(SWAP, &fields.instance_id, fields.account.as_deref(), &fields.region)?,
        profile_arn: profile.to_string(),
        association: association.map_err(illegal(SWAP, "association-id"))?,
    })
}

/// Reads `{"verify": {…}}`.
///
/// # Errors
/// [`Malformed`], naming the field and what it takes.
pub fn read_verification(value: Value) -> Result<Verification, Malformed> {
    let why = |why| Malformed::Fields { kind: VERIFICATION, why };
    let VerifyMessage { fields } = VerifyMessage::deserialize(value).map_err(why)?;
    let (id, region) = (&fields.instance_id, &fields.region);
    let after = After::ALL.into_iter().find(|after| after.as_str() == fields.after);
    let association = fields.association_id.as_deref().map(AssociationId::parse).transpose();
    let profile_id = fields.profile_id.as_deref().map(ProfileId::parse).transpose();
    let to = fields.profile.as_deref().map(ProfileArn::parse).transpose();
    let to = to.map_err(illegal(VERIFICATION, "profile"))?;
    Ok(Verification {
        instance: instance(VERIFICATION, id, fields.account.as_deref(), region)?,
        after: after.ok_or(Malformed::Absent {
            kind: VERIFICATION,
            field: "after that is associate, correction, wait or flapping",
        })?,
        association: association.map_err(illegal(VERIFICATION, "association-id"))?,
        profile_id: profile_id.map_err(illegal(VERIFICATION, "profile-id"))?,
        history: History {
            to: to.as_ref().map(ToString::to_string),
            corrections: fields.corrected_s_ago.into_iter().map(Duration::from_secs).collect(),
            by: fields.changed_by,
        },
    })
}

fn instance(
    kind: &'static str,
    id: &str,
    account: Option<&str>,
    region: &str,
) -> Result<InstanceRef, Malformed> {
    Ok(InstanceRef {
        account: account.map(AccountId::parse).transpose().map_err(illegal(kind, "account"))?,
        region: Region::parse(region).map_err(illegal(kind, "region"))?,
        id: InstanceId::parse(id).map_err(illegal(kind, "instance-id"))?,
    })
}
