//! A failed call of the SDK as an error of ours: classified, in words that may be written anywhere.
//!
//! Nothing of the SDK's own errors leaves this file: they hold whole answers, and answers quote requests.

use std::error::Error;

use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};

use crate::aws::whole::CutShort;
use crate::cloud::codes::{classify, hint};
use crate::cloud::{CloudError, ErrorKind, MissingRight, Operation};
use crate::failure::chain;
use crate::queue::QueueError;
use crate::redaction::{ENCODED_DENIAL, clean};

/// The longest part of a text that is kept, in characters: AWS's own sentences are shorter.
const MAX_CHARS: usize = 1000;
/// The longest encoded denial that is kept, in characters: it can be read only as a whole, and AWS's have some thousands.
const MAX_ENCODED_CHARS: usize = 32_000;
/// AWS's codes are words.
const MAX_CODE_CHARS: usize = 128;

/// What AWS, or something on the way, says about an error: on one line and without credentials.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Said(String);

impl Said {
    pub(super) fn new(text: &str) -> Self {
        let text = clean(text);
        let (sentence, encoded) = match text.split_once(ENCODED_DENIAL) {
            Some((sentence, encoded)) => (sentence, Some(encoded)),
            None => (text.as_str(), None),
        };
        let mut said: String = sentence.chars().take(MAX_CHARS).collect();
        if let Some(encoded) = encoded {
            said.push_str(ENCODED_DENIAL);
            said.extend(encoded.chars().take(MAX_ENCODED_CHARS));
        }
        Self(said)
    }

    /// An error with everything beneath it.
    pub(super) fn all_of(error: &dyn Error) -> Self {
        Self::new(&chain(error))
    }

    /// With what a person needs besides.
    fn and(mut self, hint: Option<&str>) -> Self {
        if let Some(hint) = hint {
            self.0.push_str("; ");
            self.0.push_str(hint);
        }
        self
    }
}

/// AWS's code, as it may be written.
pub(super) fn code(code: Option<&str>) -> Option<String> {
    code.map(|code| clean(code).chars().take(MAX_CODE_CHARS).collect())
}

/// An answer that says success and cannot be read: what it stands for is unknown.
pub(super) fn unreadable(operation: Operation, why: &str) -> CloudError {
    CloudError::new(operation, ErrorKind::Unreadable, None, Said::new(why))
}

/// A call of EC2's or IAM's that failed. `on` is what it was about: the resource of a missing right, where AWS names none.
pub(super) fn failed<E>(operation: Operation, on: &str, error: &SdkError<E>) -> CloudError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let kind = match error {
        SdkError::ServiceError(answer) => {
            let (said, status) = (answer.err(), answer.raw().status());
            if said.code().is_some() || !status.is_success() {
                return refused(operation, on, said, status.as_u16(), error);
            }
            ErrorKind::Unreadable
        }
        SdkError::ResponseError(_) if is_cut_short(error) => ErrorKind::Unreadable,
        SdkError::ConstructionFailure(_) => ErrorKind::Rejected,
        // Timeouts and connections that broke.
        SdkError::TimeoutError(_)
        | SdkError::DispatchFailure(_)
        | SdkError::ResponseError(_)
        // The SDK's enum may grow; whatever it adds is no better known.
        | _ => ErrorKind::Transient,
    };
    CloudError::new(operation, kind, None, Said::all_of(error))
}

/// An answer that is an error.
fn refused(
    operation: Operation,
    on: &str,
    said: &impl ProvideErrorMetadata,
    status: u16,
    whole: &dyn Error,
) -> CloudError {
    let code = code(said.code());
    // Without credentials already: the words of a missing right come out of it.
    let message = said.message().map(Said::new);
    let text = message.as_ref().map_or("", |message| &message.0);
    let mut kind = classify(operation, code.as_deref(), text, status);
    if let ErrorKind::Denied(MissingRight { resource, .. }) = &mut kind {
        resource.get_or_insert_with(|| on.to_owned());
    }
    let hint = code.as_deref().and_then(|code| hint(operation, code, text));
    let source = match (message, &code) {
        (Some(message), _) => message,
        (None, Some(_)) => Said::new("AWS sent no message"),
        // Not an answer of AWS's: the reader says why it could not read it.
        (None, None) => Said::all_of(whole),
    };
    CloudError::new(operation, kind, code, source.and(hint))
}

/// Whether an answer ended before its end. A proxy that lets only so much through cuts each answer of that length, so that
/// the same question is answered no better the next time, and a shorter one is.
fn is_cut_short(error: &dyn Error) -> bool {
    let mut links = std::iter::successors(error.source(), |link| (*link).source());
    links.any(<dyn Error>::is::<CutShort>)
}

/// A call of SQS's or EventBridge's that failed as a whole.
pub(super) fn failed_call<E>(operation: &'static str, error: &SdkError<E>) -> QueueError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let said = error.message().map_or_else(|| Said::all_of(error), Said::new);
    QueueError::new(operation, code(error.code()), said)
}

/// One entry of a call of SQS's or EventBridge's that failed.
pub(super) fn failed_entry(
    operation: &'static str,
    entry_code: Option<&str>,
    message: &str,
) -> QueueError {
    QueueError::new(operation, code(entry_code), Said::new(message))
}
