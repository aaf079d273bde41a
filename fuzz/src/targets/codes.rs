//! AWS's errors: each has one meaning, and the dangerous confusions never happen.

use super::plain;
use auto_instance_profile::cloud::codes::classify;
use auto_instance_profile::cloud::{CloudError, ErrorKind, MissingRight, Operation};

/// Lines for the operation's number, HTTP's status and the code (none, where the line is missing); the rest is the message.
pub fn codes(data: &[u8]) {
    let text = plain::text(data);
    let mut lines = text.splitn(4, '\n');
    let mut number = || lines.next().and_then(|line| line.trim().parse::<u16>().ok()).unwrap_or(0);
    let operation = Operation::ALL[usize::from(number()) % Operation::ALL.len()];
    let status = number();
    let (code, message) = (lines.next(), lines.next().unwrap_or_default());

    let kind = classify(operation, code, message, status);
    assert_eq!(
        kind,
        classify(operation, code, message, status),
        "the same error, the same meaning"
    );
    let code = code.unwrap_or_default();
    let throttled = code.starts_with("Throttl") || code == "RequestLimitExceeded";
    assert!(!throttled || kind == ErrorKind::Throttled, "{code}, {status}: {kind:?}");
    match &kind {
        // What AWS could not do may work later: it is never given up at once.
        ErrorKind::Rejected => assert!((400..500).contains(&status), "{code}, {status}"),
        ErrorKind::Denied(MissingRight { action, resource }) => {
            // A person must act: so only where AWS says so, or says nothing but 403.
            let says_so = ["Unauthorized", "AccessDenied", "Auth", "Invalid", "OptIn", "Signature"];
            let says_so = says_so.iter().any(|word| code.contains(word));
            assert!(
                says_so || code.starts_with("Unrecognized") || (code.is_empty() && status == 403),
                "{code:?}, {status}"
            );
            let own = operation.iam_action();
            assert!(*action == own || message.contains(action.as_str()), "{action:?}: {message:?}");
            let found =
                resource.as_deref().map(|name| name.trim_start_matches("instance profile "));
            assert!(found.is_none_or(|name| message.contains(name)), "{resource:?}: {message:?}");
            // They go into a line of the log.
            let words = [Some(action.as_str()), found];
            assert!(words.into_iter().flatten().all(|word| !word.contains(char::is_whitespace)));
        }
        // Only EC2's and IAM's own words make something "not there".
        ErrorKind::InstanceNotFound => assert_eq!(code, "InvalidInstanceID.NotFound"),
        ErrorKind::ProfileNotFound => {
            assert!(code == "NoSuchEntity" || code == "InvalidParameterValue", "{code}");
        }
        ErrorKind::Throttled => assert!(!code.is_empty() || status == 429),
        ErrorKind::Conflict => assert!(!code.is_empty()),
        ErrorKind::Transient => {}
        ErrorKind::Unreadable => panic!("no code says so: {code}, {status}"),
    }
    let error = CloudError::new(operation, kind, Some(code.to_owned()), message.to_owned());
    assert!(error.to_string().starts_with(operation.name()));
}
