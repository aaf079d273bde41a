//! What a request was signed with is a secret of this process: whoever quotes it, in whatever words, is not repeated.

use aws_sdk_ec2::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_ec2::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_ec2::error::BoxError;

use crate::redaction::keep_secret;

/// Remembers the session token and the id of the key that each request goes out with.
#[derive(Debug)]
pub struct KeepsSecrets;

impl Intercept for KeepsSecrets {
    fn name(&self) -> &'static str {
        "KeepsSecrets"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.request().headers();
        if let Some(token) = headers.get("x-amz-security-token") {
            keep_secret(token);
        }
        // AWS4-HMAC-SHA256 Credential=KEY/DATE/REGION/SERVICE/aws4_request, …
        let key = headers.get("authorization").and_then(|header| header.split_once("Credential="));
        if let Some((key, _)) = key.and_then(|(_, credential)| credential.split_once('/')) {
            keep_secret(key);
        }
        Ok(())
    }
}
