//! AWS by its SDK: with the files below it the only library room that names it. Here the clients are made, once, and
//! made ready before the first event is there.

pub mod bus;
pub mod cloud;
mod errors;
pub mod letters;
pub mod queue;
mod secrets;
mod whole;

use std::collections::HashMap;
use std::error::Error;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{AppName, BehaviorVersion, SdkConfig};
use aws_sdk_ec2::config::ProvideCredentials;
use aws_sdk_ec2::error::SdkError;
use aws_sdk_ec2::primitives::{DateTime, DateTimeFormat};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;

use crate::aws::cloud::AwsCloud;
use crate::aws::errors::{Said, failed};
use crate::aws::secrets::KeepsSecrets;
use crate::aws::whole::WholeAnswers;
use crate::cloud::{CloudError, Clouds, Operation, Service};
use crate::model::Region;

/// EC2 answers in well under a second; a connection that is not up by then will not be.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// One try. Associate has been seen to take seconds, not more.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// A call with all its tries.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(12);
/// Tries of a call that was throttled or did not get through. More patience is the queue's business.
const ATTEMPTS: u32 = 3;
/// The longest the first pause between two tries can be; it doubles, with jitter.
const FIRST_BACKOFF: Duration = Duration::from_millis(300);

/// AWS as the environment describes it: credentials, endpoint and all.
pub struct Aws {
    sdk: SdkConfig,
    iam: aws_sdk_iam::Client,
    iam_for_nobody: aws_sdk_iam::Client,
    ec2: ByRegion<aws_sdk_ec2::Client>,
    sqs: ByRegion<aws_sdk_sqs::Client>,
    events: ByRegion<aws_sdk_eventbridge::Client>,
}

impl Aws {
    /// Takes credentials, Region and endpoint from where AWS's SDKs look for them.
    pub async fn from_env() -> Self {
        Self::from_env_in(None).await
    }

    /// As [`Self::from_env`], in this Region where one is given.
    pub async fn from_env_in(region: Option<&Region>) -> Self {
        let retries =
            RetryConfig::standard().with_max_attempts(ATTEMPTS).with_initial_backoff(FIRST_BACKOFF);
        // One for all clients: each of its own would read the trusted roots again and share no connection.
        let connector = aws_smithy_http_client::Builder::new()
            .tls_provider(Provider::Rustls(CryptoMode::AwsLc))
            .build_https();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(connector)
            // An attempt's time limit covers its body too, and each event would pay for the watching.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .timeout_config(timeouts(ATTEMPT_TIMEOUT, OPERATION_TIMEOUT))
            .retry_config(retries);
        if let Ok(name) = AppName::new(env!("CARGO_PKG_NAME")) {
            loader = loader.app_name(name);
        }
        if let Some(region) = region {
            loader = loader.region(aws_config::Region::new(region.as_str().to_owned()));
        }
        Self::with(loader.load().await)
    }

    /// With all that this configuration holds: credentials, Region, endpoint, connector, retries and timeouts.
    #[must_use]
    pub fn with(sdk: SdkConfig) -> Self {
        let iam = aws_sdk_iam::config::Builder::from(&sdk)
            .interceptor(WholeAnswers)
            .interceptor(KeepsSecrets)
            .build();
        let iam = aws_sdk_iam::Client::from_conf(iam);
        let mut nobody = sdk.clone().into_builder();
        nobody.set_credentials_provider(None);
        let nobody = aws_sdk_iam::config::Builder::from(&nobody.build()).allow_no_auth().build();
        Self {
            sdk,
            iam,
            iam_for_nobody: aws_sdk_iam::Client::from_conf(nobody),
            ec2: ByRegion::default(),
            sqs: ByRegion::default(),
            events: ByRegion::default(),
        }
    }

    /// The Region found in the environment, where one is set there.
    #[must_use]
    pub fn region(&self) -> Option<Region> {
        self.sdk.region().and_then(|region| Region::parse(region.as_ref()).ok())
    }

    /// Asks for credentials once more than the calls do, to say why they have none.
    ///
    /// # Errors
    /// What each place answered that was asked.
    pub async fn check_credentials(&self) -> Result<(), Box<dyn Error + Send + Sync>> {
        match self.sdk.credentials_provider() {
            Some(provider) => match provider.provide_credentials().await {
                Ok(_) => Ok(()),
                Err(error) => Err(Said::all_of(&error).into()),
            },
            None => Err("nothing is configured that could answer with credentials".into()),
        }
    }
}

impl Clouds for Aws {
    type Cloud = AwsCloud;

    fn of(&self, region: &Region) -> AwsCloud {
        let ec2 = self.ec2.get_or_make(region, |region| {
            let config = aws_sdk_ec2::config::Builder::from(&self.sdk).region(region);
            aws_sdk_ec2::Client::from_conf(
                config.interceptor(WholeAnswers).interceptor(KeepsSecrets).build(),
            )
        });
        AwsCloud::new(ec2, self.iam.clone())
    }

    async fn connect(&self, region: &Region, to: Service) -> Result<(), CloudError> {
        match to {
            Service::Ec2 => self.of(region).look_at_nothing().await,
            // Without credentials: IAM refuses, no right is needed, and no account's trail shows a failed call.
            Service::Iam => {
                let call = self.iam_for_nobody.get_instance_profile();
                let answer = call.instance_profile_name(env!("CARGO_PKG_NAME")).send().await;
                match answer {
                    Ok(_) | Err(SdkError::ServiceError(_)) => Ok(()),
                    Err(error) => Err(failed(Operation::GetInstanceProfile, "*", &error)),
                }
            }
        }
    }
}

/// A client for each Region, made when it is first asked for.
#[derive(Debug)]
struct ByRegion<C>(Mutex<HashMap<Region, C>>);

impl<C> Default for ByRegion<C> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<C: Clone> ByRegion<C> {
    fn get_or_make(&self, region: &Region, make: impl FnOnce(aws_config::Region) -> C) -> C {
        // A panic while the lock was held cannot have left a half-made client behind.
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || make(aws_config::Region::new(region.as_str().to_owned()));
        clients.entry(region.clone()).or_insert_with(make).clone()
    }
}

/// A time as AWS writes it: RFC 3339 in UTC, to the second.
#[must_use]
pub fn written(since_1970: Duration) -> String {
    let seconds = i64::try_from(since_1970.as_secs()).unwrap_or(i64::MAX);
    // What cannot be written is after the year 9999.
    DateTime::from_secs(seconds).fmt(DateTimeFormat::DateTime).unwrap_or_default()
}

fn timeouts(attempt: Duration, operation: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(attempt)
        .operation_timeout(operation)
        .build()
}
