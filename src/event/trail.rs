//! Calls to EC2's API as CloudTrail tells of them: launches, and changes of associations by whatever hand.

use serde::Deserialize;
use serde_json::Value;

use crate::event::envelope::Envelope;
use crate::event::{
    Ignored, Malformed, Occasion, Origin, Reading, Target, Trigger, absent, illegal,
};
use crate::expectation::Expectation;
use crate::model::{AccountId, InstanceId, InstanceRef, Region};

const API_CALL: &str = "API call of CloudTrail";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Detail {
    event_name: String,
    error_code: Option<String>,
    #[serde(default)]
    user_identity: Value,
    #[serde(default)]
    response_elements: Value,
}

/// Reads a call. `own_role` is the function's: what it did itself it knows.
pub fn api_call(value: Value, own_role: Option<&str>) -> Result<Reading, Malformed> {
    let event: Envelope<Detail> =
        Envelope::deserialize(value).map_err(|why| Malformed::Fields { kind: API_CALL, why })?;
    let occasion = Occasion { at_ms: event.at_ms(), by: None };
    let Detail { event_name: call, error_code, user_identity, response_elements } = event.detail;
    let (origin, ids) = match call.as_str() {
        "RunInstances" => (Origin::Launch, launched(&response_elements)),
        "AssociateIamInstanceProfile"
        | "ReplaceIamInstanceProfileAssociation"
        | "DisassociateIamInstanceProfile" => {
            (Origin::Drift, associated(&response_elements, &call).map(|id| vec![id]))
        }
        _ => return Ok(Reading::Ignored(Ignored::OtherCall { call })),
    };
    if let Some(code) = error_code {
        return Ok(Reading::Ignored(Ignored::FailedCall { call, code }));
    }
    if response_elements.is_null() || response_elements["omitted"] == true {
        // CloudTrail leaves out what is too large. The instances' own events bring them, or the next sweep.
        return Ok(Reading::Ignored(Ignored::CallWithoutInstances { call }));
    }
    let role = user_identity["sessionContext"]["sessionIssuer"]["arn"].as_str();
    if own_role.is_some() && role == own_role {
        return Ok(Reading::Ignored(Ignored::OwnCall { call }));
    }
    let account = event.account.as_deref().ok_or_else(|| absent(API_CALL, "account"))?;
    let account = AccountId::parse(account).map_err(illegal(API_CALL, "account"))?;
    let region = event.region.as_deref().ok_or_else(|| absent(API_CALL, "region"))?;
    let region = Region::parse(region).map_err(illegal(API_CALL, "region"))?;
    let ids =
        ids.ok_or_else(|| absent(API_CALL, "detail.responseElements with an instance's id"))?;
    let (mut targets, mut wrong) = (Vec::new(), Vec::new());
    for id in ids {
        match InstanceId::parse(id) {
            Ok(id) => {
                let (account, region) = (Some(account.clone()), region.clone());
                let instance = InstanceRef { account, region, id };
                targets.push(Target { instance, expected: Expectation::default() });
            }
            Err(why) => wrong.push(why),
        }
    }
    if targets.is_empty()
        && let Some(why) = wrong.pop()
    {
        return Err(illegal(API_CALL, "instance's id")(why));
    }
    let occasion = Occasion { by: principal(&user_identity), ..occasion };
    Ok(Reading::Trigger(Trigger { origin, targets, illegal: wrong, occasion }))
}

fn launched(response: &Value) -> Option<Vec<&str>> {
    let items = response["instancesSet"]["items"].as_array().filter(|items| !items.is_empty())?;
    items.iter().map(|item| item["instanceId"].as_str()).collect()
}

fn associated<'a>(response: &'a Value, call: &str) -> Option<&'a str> {
    let wrapped = &response[format!("{call}Response")];
    let answer = if wrapped.is_null() { response } else { wrapped };
    answer["iamInstanceProfileAssociation"]["instanceId"].as_str()
}

/// Who called: the principal's ARN, or the service that called for itself.
fn principal(identity: &Value) -> Option<String> {
    let text = |field: &str| identity[field].as_str().filter(|text| !text.is_empty());
    text("arn").or_else(|| text("invokedBy")).map(str::to_owned)
}
