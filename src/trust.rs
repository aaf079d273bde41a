//! Whether a role's trust policy lets EC2 assume the role. A profile whose role does not gives an instance no
//! credentials: its association stays `associating` for ever.

use serde_json::Value;

use crate::model::{Profile, Role};

/// What a role's trust policy says about EC2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// EC2 may assume the role, as far as statements without conditions tell.
    Ec2,
    /// No statement lets EC2 in, or one shuts it out.
    NotEc2,
    /// There is no policy to read. IAM always sends one, so this is no reason to withhold a profile.
    Unreadable,
}

/// Reads a role's trust policy. A condition is taken as met: it can only be judged by IAM.
#[must_use]
pub fn trust_of(role: &Role) -> Trust {
    let Some(policy) =
        role.trust_policy.as_deref().and_then(|text| serde_json::from_str::<Value>(text).ok())
    else {
        return Trust::Unreadable;
    };
    let statements = one_or_many(&policy["Statement"]);
    let about_ec2 = |effect: &str| {
        statements.iter().any(|statement| {
            statement["Effect"] == effect
                && names_assume_role(statement)
                && names_ec2(&statement["Principal"])
        })
    };
    let shut_out = statements.iter().any(|statement| {
        statement["Effect"] == "Deny"
            && is_unconditional(statement)
            && names_assume_role(statement)
            && names_ec2(&statement["Principal"])
    });
    if about_ec2("Allow") && !shut_out { Trust::Ec2 } else { Trust::NotEc2 }
}

/// IAM writes one thing as itself and several as an array.
fn one_or_many(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Null => Vec::new(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => vec![value],
    }
}

fn names_assume_role(statement: &Value) -> bool {
    one_or_many(&statement["Action"]).iter().filter_map(|action| action.as_str()).any(|action| {
        // Actions are case-insensitive and may hold wildcards.
        wildmatch::WildMatch::new(&action.to_ascii_lowercase()).matches("sts:assumerole")
    })
}

fn is_unconditional(statement: &Value) -> bool {
    statement
        .get("Condition")
        .is_none_or(|condition| condition.as_object().is_some_and(|map| map.is_empty()))
}

fn names_ec2(principal: &Value) -> bool {
    let is_ec2 =
        |service: &str| matches!(service, "*" | "ec2.amazonaws.com" | "ec2.amazonaws.com.cn");
    principal == "*"
        // Whether everybody in AWS includes its services is not documented: no reason to withhold a profile.
        || one_or_many(&principal["AWS"]).iter().any(|name| **name == "*")
        || one_or_many(&principal["Service"]).iter().filter_map(|name| name.as_str()).any(is_ec2)
}

/// Whether an instance with this profile would get credentials, as far as IAM tells.
#[must_use]
pub fn gives_credentials(profile: &Profile) -> bool {
    profile.role.as_ref().is_some_and(|role| match trust_of(role) {
        Trust::Ec2 | Trust::Unreadable => true,
        Trust::NotEc2 => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trust(policy: &str) -> Trust {
        trust_of(&Role { name: "r".into(), trust_policy: Some(policy.into()) })
    }

    #[test]
    fn ec2_is_let_in_by_an_allowing_statement_and_shut_out_by_a_denying_one() {
        let allow = r#"{"Effect":"Allow","Principal":{"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}"#;
        let deny = allow.replace("Allow", "Deny");
        let conditional = deny.replace(
            "\"Action\"",
            "\"Condition\":{\"Bool\":{\"aws:SecureTransport\":\"false\"}},\"Action\"",
        );
        for (statements, expected) in [
            (allow.to_owned(), Trust::Ec2),
            (format!("[{allow}]"), Trust::Ec2),
            (format!("[{allow},{deny}]"), Trust::NotEc2),
            (format!("[{allow},{conditional}]"), Trust::Ec2),
            ("[]".to_owned(), Trust::NotEc2),
            (allow.replace("ec2.", "lambda."), Trust::NotEc2),
            (
                allow.replace(
                    "\"ec2.amazonaws.com\"",
                    "[\"ssm.amazonaws.com\",\"ec2.amazonaws.com\"]",
                ),
                Trust::Ec2,
            ),
            (
                allow.replace("\"sts:AssumeRole\"", "[\"sts:TagSession\",\"sts:Assume*\"]"),
                Trust::Ec2,
            ),
            (allow.replace("sts:AssumeRole", "sts:TagSession"), Trust::NotEc2),
            (allow.replace("{\"Service\":\"ec2.amazonaws.com\"}", "{\"AWS\":\"*\"}"), Trust::Ec2),
        ] {
            let policy = format!(r#"{{"Version":"2012-10-17","Statement":{statements}}}"#);
            assert_eq!(trust(&policy), expected, "{policy}");
        }
    }

    #[test]
    fn a_policy_that_cannot_be_read_withholds_nothing() {
        assert_eq!(trust("not json"), Trust::Unreadable);
        assert_eq!(trust_of(&Role { name: "r".into(), trust_policy: None }), Trust::Unreadable);
        assert_eq!(trust("{}"), Trust::NotEc2);
    }
}
