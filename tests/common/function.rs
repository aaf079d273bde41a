//! The function over a modelled world, as Lambda meets it: payloads in; answers, metrics and log lines out.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime};

use auto_instance_profile::bus::Bus;
use auto_instance_profile::cloud::Clouds;
use auto_instance_profile::config::Config;
use auto_instance_profile::handler::{Handler, RawPayload};
use auto_instance_profile::queue::Queues;
use lambda_runtime::tracing::subscriber;
use lambda_runtime::{Context, Diagnostic, LambdaEvent};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tracing::Dispatch;
use tracing::subscriber::DefaultGuard;

pub const FUNCTION_NAME: &str = "auto-instance-profile-Function-0123456789AB";
pub const OWN_ROLE: &str =
    "arn:aws:iam::123456789012:role/auto-instance-profile-FunctionRole-0123456789AB";
const QUEUE: &str = "arn:aws:sqs:us-east-1:123456789012:auto-instance-profile";

/// As the template sets them.
const SETTINGS: [(&str, &str); 8] = [
    ("ALLOWED_PROFILES", "web,db,app/*"),
    ("MODE", "enforce"),
    ("AWS_REGION", "us-east-1"),
    ("AWS_LAMBDA_FUNCTION_NAME", FUNCTION_NAME),
    ("QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/123456789012/auto-instance-profile"),
    ("DEAD_LETTER_QUEUE_URL", "https://sqs.us-east-1.amazonaws.com/123456789012/dead"),
    ("EVENT_BUS", "arn:aws:events:us-east-1:123456789012:event-bus/listeners"),
    ("OWN_ROLE", OWN_ROLE),
];

/// One execution environment.
pub struct Function<A> {
    handler: Handler<A>,
    metrics: Arc<Mutex<Vec<String>>>,
}

impl<A: Clouds + Queues + Bus> Function<A> {
    pub fn over(aws: A) -> Self {
        Self::with(aws, &[])
    }

    /// With these settings, which win over the template's. `POLICY_FILE` is the policy itself.
    pub fn with(aws: A, settings: &[(&'static str, &str)]) -> Self {
        let all = SETTINGS.iter().chain(settings).map(|(name, value)| (*name, (*value).to_owned()));
        Self::set(aws, &all.collect())
    }

    pub fn without(aws: A, left_out: &[&str]) -> Self {
        let rest = SETTINGS.iter().filter(|(name, _)| !left_out.contains(name));
        Self::set(aws, &rest.map(|(name, value)| (*name, (*value).to_owned())).collect())
    }

    /// Without some settings of the template's, and with these.
    pub fn without_but(aws: A, left_out: &[&str], settings: &[(&'static str, &str)]) -> Self {
        let rest = SETTINGS.iter().filter(|(name, _)| !left_out.contains(name));
        let all = rest.chain(settings).map(|(name, value)| (*name, (*value).to_owned()));
        Self::set(aws, &all.collect())
    }

    fn set(aws: A, settings: &BTreeMap<&'static str, String>) -> Self {
        let config = Config::read(|name| settings.get(name).cloned(), |yaml| Ok(yaml.to_owned()));
        let metrics: Arc<Mutex<Vec<String>>> = Arc::default();
        let lines = Arc::clone(&metrics);
        let handler = Handler::new(config.unwrap(), aws)
            .with_metrics(move |line| lines.lock().unwrap().push(line.to_owned()));
        Self { handler, metrics }
    }

    /// By somebody who waits for the answer.
    pub async fn invoke(&self, payload: &Value) -> Result<Value, Diagnostic> {
        self.take(payload, context()).await
    }

    /// With a deadline this far ahead.
    pub async fn invoke_within(
        &self,
        time: Duration,
        payload: &Value,
    ) -> Result<Value, Diagnostic> {
        let mut context = context();
        context.deadline = (now() + time).as_millis().try_into().unwrap();
        self.take(payload, context).await
    }

    /// By the queue, with these messages; answers with the ids of those that come again.
    pub async fn receive(&self, messages: &[Message<'_>]) -> Vec<String> {
        failures(&self.invoke(&batch(messages)).await.unwrap())
    }

    pub async fn receive_within(&self, time: Duration, messages: &[Message<'_>]) -> Vec<String> {
        failures(&self.invoke_within(time, &batch(messages)).await.unwrap())
    }

    pub async fn take(&self, payload: &Value, context: Context) -> Result<Value, Diagnostic> {
        let payload = RawPayload(Some(RawValue::from_string(payload.to_string()).unwrap()));
        let answer = self.handler.handle(LambdaEvent::new(payload, context)).await;
        answer.map(|answer| serde_json::to_value(answer).unwrap()).map_err(Into::into)
    }

    /// The documents of metrics so far.
    pub fn metrics(&self) -> Vec<Value> {
        let lines = self.metrics.lock().unwrap();
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The documents without what all of them hold, and nothing of it is seen twice.
    pub fn take_metrics(&self) -> Vec<Value> {
        let mut documents = self.metrics();
        self.metrics.lock().unwrap().clear();
        for document in &mut documents {
            let fields = document.as_object_mut().unwrap();
            assert!(fields.remove("_aws").is_some());
            assert_eq!(fields.remove("level"), Some(json!("FATAL")));
            assert!(fields.remove("timestamp").is_some());
            assert_eq!(fields.remove("FunctionName"), Some(json!(FUNCTION_NAME)));
        }
        documents
    }
}

/// What Lambda says about an invocation, without a deadline.
fn context() -> Context {
    let mut context = Context::default();
    context.invoked_function_arn =
        format!("arn:aws:lambda:us-east-1:123456789012:function:{FUNCTION_NAME}");
    context
}

/// A message as Lambda hands it over.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    pub id: &'a str,
    pub body: &'a str,
    pub receives: u32,
    pub sent: Option<Duration>,
}

impl<'a> Message<'a> {
    /// Received for the first time; nobody knows when it was sent.
    pub fn of(id: &'a str, body: &'a str) -> Self {
        Self { id, body, receives: 1, sent: None }
    }

    pub fn received(self, times: u32) -> Self {
        Self { receives: times, ..self }
    }

    pub fn sent(self, ago: Duration) -> Self {
        Self { sent: Some(ago), ..self }
    }

    fn record(&self) -> Value {
        let mut attributes = json!({ "ApproximateReceiveCount": self.receives.to_string() });
        if let Some(time) = self.sent {
            attributes["SentTimestamp"] = json!(ago(time).as_millis().to_string());
        }
        json!({
            "messageId": self.id, "body": self.body, "eventSource": "aws:sqs", "eventSourceARN": QUEUE,
            "receiptHandle": self.id, "attributes": attributes,
        })
    }
}

fn batch(messages: &[Message<'_>]) -> Value {
    json!({ "Records": messages.iter().map(Message::record).collect::<Vec<_>>() })
}

fn failures(answer: &Value) -> Vec<String> {
    let failures = answer["batchItemFailures"].as_array().unwrap().iter();
    failures.map(|failure| failure["itemIdentifier"].as_str().unwrap().to_owned()).collect()
}

/// The time this long ago, since 1970.
pub fn ago(time: Duration) -> Duration {
    now().checked_sub(time).unwrap()
}

#[expect(clippy::disallowed_methods, reason = "Lambda's and SQS's times are wall-clock times")]
fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

/// What this thread logs, from its beginning until it is dropped.
pub struct Log {
    text: Arc<Mutex<Vec<u8>>>,
    _until_dropped: DefaultGuard,
}

impl Log {
    pub fn begin() -> Self {
        // While there is only one, or none, tracing takes the thread's own for everybody's: a test without a log would
        // silence a place in the code for all others.
        static OTHERS: OnceLock<[Dispatch; 2]> = OnceLock::new();
        OTHERS.get_or_init(|| [(); 2].map(|()| Dispatch::new(subscriber::registry())));
        let text: Arc<Mutex<Vec<u8>>> = Arc::default();
        let output = Output(Arc::clone(&text));
        let lines = subscriber::fmt().json().flatten_event(true).with_span_list(false);
        let lines = lines.with_writer(move || output.clone()).finish();
        Self { text, _until_dropped: tracing::subscriber::set_default(lines) }
    }

    pub fn lines(&self) -> Vec<Value> {
        let text = self.text.lock().unwrap();
        text.split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    /// The lines about one instance.
    pub fn about(&self, id: &str) -> Vec<Value> {
        self.lines().into_iter().filter(|line| line["instance.id"] == id).collect()
    }
}

#[derive(Clone)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// ---- Payloads --------------------------------------------------------------------------------------------------------

pub fn running(id: &str) -> Value {
    json!({
        "source": "aws.ec2", "detail-type": "EC2 Instance State-change Notification",
        "account": "123456789012", "region": "us-east-1", "detail": { "instance-id": id, "state": "running" },
    })
}

/// An association was changed by this principal, as CloudTrail tells of it.
pub fn drift(id: &str, by: &str) -> Value {
    json!({
        "source": "aws.ec2", "detail-type": "AWS API Call via CloudTrail",
        "account": "123456789012", "region": "us-east-1",
        "detail": {
            "eventName": "ReplaceIamInstanceProfileAssociation",
            "userIdentity": { "type": "IAMUser", "arn": by },
            "responseElements": { "ReplaceIamInstanceProfileAssociationResponse": {
                "iamInstanceProfileAssociation": { "instanceId": id },
            }},
        },
    })
}
