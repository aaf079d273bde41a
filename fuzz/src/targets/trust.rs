//! Trust policies: any JSON has an answer, and what shuts EC2 out is never overlooked.

use serde_json::{Value, json};

use super::plain;
use auto_instance_profile::model::Role;
use auto_instance_profile::trust::{Trust, trust_of};

/// A trust policy, or anything else.
pub fn trust(data: &[u8]) {
    let text = plain::text(data);
    let judged = judge(&text);
    assert_eq!(judged, judge(&text), "the same policy, the same answer");
    let Ok(policy) = serde_json::from_str::<Value>(&text) else {
        assert_eq!(judged, Trust::Unreadable);
        return;
    };
    assert_ne!(judged, Trust::Unreadable, "{text}");
    let statements = match &policy["Statement"] {
        Value::Array(statements) => statements.clone(),
        Value::Null => Vec::new(),
        one @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_)) => {
            vec![one.clone()]
        }
    };
    let among = |more: &[Value]| {
        let all: Vec<Value> = statements.iter().chain(more).cloned().collect();
        judge(&json!({ "Statement": all }).to_string())
    };
    assert_eq!(among(&[]), judged, "one statement or a list of one: {text}");

    let service = json!({ "Service": ["lambda.amazonaws.com", "ec2.amazonaws.com"] });
    let statement = |effect: &str, principal: &Value, action: &str| json!({ "Effect": effect, "Principal": principal, "Action": action });
    for (principal, action) in [
        (&service, "sts:AssumeRole"),
        (&json!("*"), "*"),
        (&json!({ "AWS": "*" }), "STS:Assume*"),
        (&json!({ "Service": "*" }), "sts:?ssumeRole"),
    ] {
        let deny = statement("Deny", principal, action);
        assert_eq!(among(std::slice::from_ref(&deny)), Trust::NotEc2, "{deny} beside {text}");
        // Another statement that lets EC2 in takes nothing away; only one that shuts it out does.
        let allowed = among(&[statement("Allow", principal, action)]);
        assert!(judged == Trust::NotEc2 || allowed == Trust::Ec2, "{text}");
    }
    // Nothing is let in by statements that only shut out, and a condition is IAM's to judge.
    let mut conditional = statement("Deny", &service, "sts:AssumeRole");
    conditional["Condition"] = json!({ "Bool": { "aws:SecureTransport": "false" } });
    assert_eq!(among(&[conditional]), judged, "{text}");
    assert_eq!(among(&[statement("Allow", &service, "sts:TagSession")]), judged, "{text}");
    let allows = |statement: &&Value| statement["Effect"] == "Allow";
    if judged == Trust::Ec2 {
        assert!(statements.iter().any(|statement| allows(&statement)), "{text}");
    }
}

fn judge(text: &str) -> Trust {
    trust_of(&Role { name: "role".to_owned(), trust_policy: Some(text.to_owned()) })
}
