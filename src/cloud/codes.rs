//! AWS's error codes, and what each means for this job.
//!
//! The code is the classification: EC2's operations have no modelled errors in the SDK. The message counts only where AWS
//! has no code of its own.

use crate::cloud::{ErrorKind, MissingRight, Operation};

const THROTTLED: &[&str] = &[
    "RequestLimitExceeded",
    "EC2ThrottledException",
    "RequestThrottled",
    "RequestThrottledException",
    "ThrottledException",
    "TooManyRequestsException",
    "BandwidthLimitExceeded",
    "LimitExceededException",
    "PriorRequestNotComplete",
    "SlowDown",
];

const TRANSIENT: &[&str] = &[
    "InternalError",
    "InternalFailure",
    "InternalServerError",
    "Unavailable",
    "ServiceUnavailable",
    "RequestTimeout",
    "RequestTimeoutException",
    "ServerInternal",
    // The credentials or the clock of this environment ran out; the next invocation has new ones.
    "ExpiredToken",
    "ExpiredTokenException",
    "RequestExpired",
];

const CONFLICT: &[&str] = &[
    // Something is attached already, or an association is dying, or the instance is stopped: the message says which, but
    // each of them means that another look is due.
    "IncorrectState",
    "IncorrectInstanceState",
    "InvalidAssociationID.NotFound",
];

const DENIED: &[&str] = &[
    "UnauthorizedOperation",
    "AccessDenied",
    "AccessDeniedException",
    "AuthFailure",
    "InvalidClientTokenId",
    "MissingAuthenticationToken",
    "OptInRequired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];

/// What an answer that is an error means. `status` is HTTP's.
#[must_use]
pub fn classify(operation: Operation, code: Option<&str>, message: &str, status: u16) -> ErrorKind {
    let Some(code) = code.filter(|code| !code.is_empty()) else {
        return by_status(operation, status);
    };
    let is = |codes: &[&str]| codes.contains(&code);
    if is(THROTTLED) || code.starts_with("Throttl") {
        ErrorKind::Throttled
    } else if is(TRANSIENT) {
        ErrorKind::Transient
    } else if is(CONFLICT) {
        ErrorKind::Conflict
    } else if code == "InvalidInstanceID.NotFound" {
        ErrorKind::InstanceNotFound
    } else if code == "NoSuchEntity"
        || (code == "InvalidParameterValue" && names_a_profile(message))
    {
        ErrorKind::ProfileNotFound
    } else if is(DENIED) {
        ErrorKind::Denied(missing_right(operation, message))
    } else {
        match by_status(operation, status) {
            // A code of its own and 403: not a right that IAM could grant.
            ErrorKind::Denied(_) => ErrorKind::Rejected,
            kind @ (ErrorKind::Throttled
            | ErrorKind::Transient
            | ErrorKind::Unreadable
            | ErrorKind::Conflict
            | ErrorKind::InstanceNotFound
            | ErrorKind::ProfileNotFound
            | ErrorKind::Rejected) => kind,
        }
    }
}

/// EC2 has no code for a profile it does not know: `InvalidParameterValue`, and one of two wordings.
fn names_a_profile(message: &str) -> bool {
    message.to_ascii_lowercase().contains("invalid iam instance profile")
}

fn by_status(operation: Operation, status: u16) -> ErrorKind {
    match status {
        429 => ErrorKind::Throttled,
        403 => ErrorKind::Denied(missing_right(operation, "")),
        400..=499 => ErrorKind::Rejected,
        // A success or a redirect that is an error all the same says nothing about what was done.
        _ => ErrorKind::Transient,
    }
}

/// Reads `… is not authorized to perform: ACTION on resource: RESOURCE …` out of AWS's message.
fn missing_right(operation: Operation, message: &str) -> MissingRight {
    let after = |text: &str, marker: &str| {
        let start = text.find(marker)? + marker.len();
        text[start..]
            .split_whitespace()
            .next()
            .map(|word| word.trim_end_matches(['.', ',']).to_owned())
    };
    MissingRight {
        action: after(message, "not authorized to perform: ")
            .unwrap_or_else(|| operation.iam_action()),
        resource: match message.split_once("on resource: ") {
            // IAM writes `resource: instance profile NAME because …` where it has no ARN to show.
            Some((_, rest)) if rest.starts_with("instance profile ") => {
                after(rest, "instance profile ").map(|name| format!("instance profile {name}"))
            }
            Some(_) => after(message, "on resource: "),
            None => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: Operation = Operation::AssociateIamInstanceProfile;

    #[test]
    fn every_documented_error_has_its_meaning() {
        for (code, message, status, expected) in [
            (
                "IncorrectState",
                "There is an existing association for instance i-1",
                400,
                ErrorKind::Conflict,
            ),
            (
                "IncorrectState",
                "The association iip-assoc-1 is not the active association",
                400,
                ErrorKind::Conflict,
            ),
            (
                "IncorrectInstanceState",
                "The instance 'i-1' is not in the 'running' or 'stopped' states.",
                400,
                ErrorKind::Conflict,
            ),
            (
                "InvalidAssociationID.NotFound",
                "An invalid association-id of 'iip-assoc-1' was given",
                400,
                ErrorKind::Conflict,
            ),
            (
                "InvalidInstanceID.NotFound",
                "The instance ID 'i-1' does not exist",
                400,
                ErrorKind::InstanceNotFound,
            ),
            ("InvalidInstanceID.Malformed", "Invalid id: \"i-x\"", 400, ErrorKind::Rejected),
            (
                "InvalidParameterValue",
                "Value (web) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name",
                400,
                ErrorKind::ProfileNotFound,
            ),
            (
                "InvalidParameterValue",
                "Value (x) for parameter iamInstanceProfile.arn is invalid. Invalid IAM Instance Profile ARN",
                400,
                ErrorKind::ProfileNotFound,
            ),
            ("InvalidParameterValue", "The filter 'x' is invalid", 400, ErrorKind::Rejected),
            ("RequestLimitExceeded", "Request limit exceeded.", 503, ErrorKind::Throttled),
            ("EC2ThrottledException", "", 503, ErrorKind::Throttled),
            ("ThrottlingException", "Rate exceeded", 400, ErrorKind::Throttled),
            ("Throttling", "Rate exceeded", 400, ErrorKind::Throttled),
            ("InternalError", "An internal error has occurred", 500, ErrorKind::Transient),
            ("Unavailable", "The service is unavailable", 503, ErrorKind::Transient),
            ("SomethingNew", "", 500, ErrorKind::Transient),
            ("SomethingNew", "", 400, ErrorKind::Rejected),
            ("SomethingNew", "", 403, ErrorKind::Rejected),
            (
                "NoSuchEntity",
                "Instance Profile web cannot be found.",
                404,
                ErrorKind::ProfileNotFound,
            ),
        ] {
            assert_eq!(classify(WRITE, Some(code), message, status), expected, "{code}: {message}");
        }
    }

    #[test]
    fn answers_without_a_code_are_known_by_their_status() {
        for (status, expected) in [
            (429, ErrorKind::Throttled),
            (400, ErrorKind::Rejected),
            (404, ErrorKind::Rejected),
            (500, ErrorKind::Transient),
            (503, ErrorKind::Transient),
            (200, ErrorKind::Transient),
        ] {
            assert_eq!(classify(WRITE, None, "", status), expected, "{status}");
        }
        assert!(matches!(classify(WRITE, Some(""), "", 403), ErrorKind::Denied(_)));
    }

    #[test]
    fn a_missing_right_is_named() {
        for (message, action, resource) in [
            (
                "You are not authorized to perform this operation. User: arn:aws:sts::123456789012:assumed-role/f/f is not \
                 authorized to perform: iam:PassRole on resource: arn:aws:iam::123456789012:role/web because no \
                 identity-based policy allows the iam:PassRole action. Encoded authorization failure message: abc",
                "iam:PassRole",
                Some("arn:aws:iam::123456789012:role/web"),
            ),
            (
                "You are not authorized to perform this operation.",
                "ec2:AssociateIamInstanceProfile",
                None,
            ),
            (
                "User: x is not authorized to perform: iam:GetInstanceProfile on resource: instance profile web because y",
                "iam:GetInstanceProfile",
                Some("instance profile web"),
            ),
        ] {
            let expected =
                MissingRight { action: action.into(), resource: resource.map(Into::into) };
            assert_eq!(
                classify(WRITE, Some("UnauthorizedOperation"), message, 403),
                ErrorKind::Denied(expected)
            );
        }
    }
}
