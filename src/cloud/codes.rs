//! AWS's error codes, and what each means for this job.
//!
//! The code is the classification: EC2's operations have no modelled errors in the SDK. The message counts only where AWS
//! has no code of its own.

use crate::cloud::{ErrorKind, MissingRight, Operation};
use crate::redaction::ENCODED_DENIAL;

/// Behind this AWS names the missing right.
const NOT_AUTHORIZED: &str = "not authorized to perform: ";

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
    // Without a suffix it is about the instance's state.
    "InvalidInstanceID",
];

const DENIED: &[&str] =
    &["UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "UnauthorizedAccess"];

/// AWS does not take the credentials themselves: there is no right to name.
const CREDENTIALS_REFUSED: &[&str] = &[
    "AuthFailure",
    "IncompleteSignature",
    "IncompleteSignatureException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "InvalidToken",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "OptInRequired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
];

/// Codes of AWS that mean that the Region may not be known to the credentials.
const REGION_NOT_ENABLED: &str = "either this is an opt-in Region that the account has not enabled, or the session token is from STS's global endpoint \
     (sts.amazonaws.com), which opt-in Regions do not accept: use the endpoint of a Region";

/// Associate and Replace need two rights, and what an encoded denial names only AWS can read.
const ENCODED_ON_A_WRITE: &str = "AWS names the missing right only in the encoded message, which `aws sts decode-authorization-message \
     --encoded-message` shows; it is likely iam:PassRole on the profile's role";
const ENCODED: &str =
    "`aws sts decode-authorization-message --encoded-message` shows what the encoded message says";

/// What an answer that is an error means. `status` is HTTP's.
#[must_use]
pub fn classify(operation: Operation, code: Option<&str>, message: &str, status: u16) -> ErrorKind {
    let Some(code) = code.filter(|code| !code.is_empty()) else {
        return by_status(operation, status);
    };
    let is = |codes: &[&str]| codes.iter().any(|known| known.eq_ignore_ascii_case(code));
    if is(THROTTLED) || code.to_ascii_lowercase().starts_with("throttl") {
        ErrorKind::Throttled
    } else if is(TRANSIENT) {
        ErrorKind::Transient
    } else if lacks_a_profile(operation, code, message) {
        ErrorKind::ProfileNotFound
    } else if is(CONFLICT) {
        ErrorKind::Conflict
    } else if is(&["InvalidInstanceID.NotFound"]) {
        ErrorKind::InstanceNotFound
    } else if is(DENIED) {
        ErrorKind::Denied(missing_right(operation, message))
    } else if is(CREDENTIALS_REFUSED) {
        let action = "credentials that AWS accepts".to_owned();
        ErrorKind::Denied(MissingRight { action, resource: Some("this request".to_owned()) })
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

/// Whether IAM or EC2 does not know the profile, or EC2 not yet its role. EC2 has no code of its own for that, and several
/// wordings; IAM's `NoSuchEntity` would mean something else in an answer of EC2's.
fn lacks_a_profile(operation: Operation, code: &str, message: &str) -> bool {
    let is = |known: &str| code.eq_ignore_ascii_case(known);
    match operation {
        Operation::GetInstanceProfile => is("NoSuchEntity") || is("NoSuchEntityException"),
        Operation::AssociateIamInstanceProfile
        | Operation::ReplaceIamInstanceProfileAssociation => {
            // `Invalid IAM Instance Profile name`, `iamInstanceProfile.arn is invalid`, `IAM Instance Profile "…" has no
            // associated IAM Roles`, `InstanceIdentityProfileNotFound`.
            let letters = message.chars().filter(char::is_ascii_alphabetic);
            let text: String = letters.map(|c| c.to_ascii_lowercase()).collect();
            let is_about_a_profile = text.contains("iaminstanceprofile");
            (is("InvalidParameterValue") && is_about_a_profile)
                || ((is("IncorrectState") || is("InvalidParameterValue"))
                    && text.contains("instanceidentityprofilenotfound"))
        }
        Operation::DescribeInstances
        | Operation::DescribeIamInstanceProfileAssociations
        | Operation::DescribeTags
        | Operation::DisassociateIamInstanceProfile => false,
    }
}

/// What a person needs to know besides AWS's own words.
#[must_use]
pub fn hint(operation: Operation, code: &str, message: &str) -> Option<&'static str> {
    if code.eq_ignore_ascii_case("AuthFailure") || code.eq_ignore_ascii_case("OptInRequired") {
        return Some(REGION_NOT_ENABLED);
    }
    if !message.contains(ENCODED_DENIAL) || message.contains(NOT_AUTHORIZED) {
        return None;
    }
    Some(if passes_a_role(operation) { ENCODED_ON_A_WRITE } else { ENCODED })
}

fn passes_a_role(operation: Operation) -> bool {
    match operation {
        Operation::AssociateIamInstanceProfile
        | Operation::ReplaceIamInstanceProfileAssociation => true,
        Operation::DescribeInstances
        | Operation::DescribeIamInstanceProfileAssociations
        | Operation::DescribeTags
        | Operation::GetInstanceProfile
        | Operation::DisassociateIamInstanceProfile => false,
    }
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
    let of_this_call = || match operation.iam_action() {
        action if passes_a_role(operation) && message.contains(ENCODED_DENIAL) => {
            format!("iam:PassRole on the profile's role (likely) or {action}")
        }
        action => action,
    };
    MissingRight {
        action: after(message, NOT_AUTHORIZED).unwrap_or_else(of_this_call),
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
            ("NoSuchEntity", "Instance Profile web cannot be found.", 404, ErrorKind::Rejected),
            (
                "InvalidParameterValue",
                "IAM Instance Profile \"arn:aws:iam::123456789012:instance-profile/web\" has no associated IAM Roles",
                400,
                ErrorKind::ProfileNotFound,
            ),
            (
                "invalidparametervalue",
                "Value (web) for parameter iamInstanceProfile.name is invalid.",
                400,
                ErrorKind::ProfileNotFound,
            ),
            (
                "IncorrectState",
                "Error code: InstanceIdentityProfileNotFound, for instance i-1",
                400,
                ErrorKind::ProfileNotFound,
            ),
            (
                "InvalidInstanceID",
                "The pending instance 'i-1' is not in a valid state",
                400,
                ErrorKind::Conflict,
            ),
            ("incorrectinstancestate", "", 400, ErrorKind::Conflict),
            ("throttlingexception", "", 400, ErrorKind::Throttled),
        ] {
            assert_eq!(classify(WRITE, Some(code), message, status), expected, "{code}: {message}");
        }
    }

    #[test]
    fn each_service_has_its_own_word_for_an_unknown_profile() {
        let of = |operation, code, message| classify(operation, Some(code), message, 400);
        let get = Operation::GetInstanceProfile;
        assert_eq!(
            of(get, "NoSuchEntity", "Instance Profile web cannot be found."),
            ErrorKind::ProfileNotFound
        );
        let filter = "The filter 'iam-instance-profile.arn' is invalid";
        for operation in Operation::ALL.into_iter().filter(|operation| *operation != get) {
            assert_eq!(of(operation, "NoSuchEntity", ""), ErrorKind::Rejected, "{operation}");
        }
        assert_eq!(
            of(Operation::DescribeInstances, "InvalidParameterValue", filter),
            ErrorKind::Rejected
        );
    }

    #[test]
    fn an_encoded_denial_names_the_likely_right_and_how_to_read_it() {
        let message =
            format!("You are not authorized to perform this operation. {ENCODED_DENIAL}aB3-_");
        let ErrorKind::Denied(right) =
            classify(WRITE, Some("UnauthorizedOperation"), &message, 403)
        else {
            panic!("denied")
        };
        assert_eq!(
            right.action,
            "iam:PassRole on the profile's role (likely) or ec2:AssociateIamInstanceProfile"
        );
        let hint = |operation| hint(operation, "UnauthorizedOperation", &message).unwrap();
        for part in ["iam:PassRole", "sts decode-authorization-message"] {
            assert!(hint(WRITE).contains(part), "{}", hint(WRITE));
        }
        let read = hint(Operation::DescribeInstances);
        assert!(read.contains("decode-authorization-message") && !read.contains("PassRole"));
    }

    #[test]
    fn refused_credentials_are_no_missing_right_and_say_why() {
        let hint = hint(WRITE, "AuthFailure", "").unwrap();
        assert!(hint.contains("has not enabled") && hint.contains("global endpoint"), "{hint}");
        for code in CREDENTIALS_REFUSED {
            let ErrorKind::Denied(right) = classify(WRITE, Some(code), "", 401) else {
                panic!("{code}")
            };
            assert!(right.action.contains("credentials"), "{right:?}");
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
