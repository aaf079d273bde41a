//! Lambda as a storm meets it: the event source that takes batches from the queue, and execution environments that start
//! cold, stay warm and sometimes die.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use auto_instance_profile::bus::{Bus, Notice};
use auto_instance_profile::cloud::{Cloud, CloudError, Clouds, Service};
use auto_instance_profile::config::Config;
use auto_instance_profile::handler::{Answer, Handler, RawPayload};
use auto_instance_profile::model::{InstanceId, QueueArn, Region};
use auto_instance_profile::queue::{DeadLetter, Hidden, Outgoing, QueueError, Queues};
use futures_util::future::join_all;
use lambda_runtime::{Context, LambdaEvent};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::dice::Dice;
use super::ec2::{Ec2, Sdk, shipped};
use super::sqs::{Received, Sqs};
use super::{Outcome, Weather, Wiring};

/// From nothing to the function's own code.
const COLD_START: Duration = Duration::from_millis(300);
/// Messages that one receive brings at most, and how long it takes, in milliseconds.
const PER_RECEIVE: usize = 10;
const RECEIVE: std::ops::Range<u32> = 10..30;
/// When an invocation that is to die does so, in milliseconds: within the time that a full batch takes.
const DIES: std::ops::Range<u32> = 0..10_000;
/// Tries of the adapter's SQS calls, and the entries in one of them.
const SQS_TRIES: i32 = 3;
const PER_SQS_CALL: usize = 10;

/// What the handler takes for AWS; clones share it.
#[derive(Clone)]
pub struct Aws {
    sdk: Sdk,
    sqs: Sqs,
    failing: f64,
    state: Arc<Mutex<(Dice, usize)>>,
}

impl Aws {
    pub fn new(ec2: Ec2, sqs: Sqs, weather: Weather, dice: Dice) -> Self {
        let sdk = Sdk { ec2, retries: shipped };
        Self { sdk, sqs, failing: weather.failing, state: Arc::new(Mutex::new((dice, 0))) }
    }

    pub fn sqs_calls(&self) -> usize {
        self.state.lock().unwrap().1
    }

    /// A call to SQS with all its tries.
    async fn call(&self) -> Result<(), QueueError> {
        let (latency, fails) = {
            let (dice, calls) = &mut *self.state.lock().unwrap();
            *calls += 1;
            (dice.time(RECEIVE), dice.happens(self.failing.powi(SQS_TRIES)))
        };
        sleep(latency).await;
        if fails { Err(QueueError::new("SQS", None, "connection reset")) } else { Ok(()) }
    }
}

impl Queues for Aws {
    async fn hide(
        &self,
        _queue: &QueueArn,
        messages: &[Hidden<'_>],
    ) -> Vec<Result<(), QueueError>> {
        let calls = messages.chunks(PER_SQS_CALL).map(async |entries| {
            let answer = self.call().await;
            let each = entries.iter().map(|entry| {
                answer.clone()?;
                if self.sqs.change_visibility(entry.receipt, entry.for_time) {
                    return Ok(());
                }
                let code = Some("ReceiptHandleIsInvalid".to_owned());
                Err(QueueError::new("ChangeMessageVisibility", code, "The receipt has expired"))
            });
            each.collect::<Vec<_>>()
        });
        join_all(calls).await.concat()
    }

    async fn give_up(
        &self,
        _dead_letter_queue: &str,
        letters: &[DeadLetter<'_>],
    ) -> Vec<Result<(), QueueError>> {
        let calls = letters.iter().map(async |_| {
            self.call().await?;
            self.sqs.give_up();
            Ok(())
        });
        join_all(calls).await
    }

    /// The looks that follow each write.
    async fn send(&self, _queue: &str, messages: &[Outgoing]) -> Vec<Result<(), QueueError>> {
        let calls = messages.chunks(PER_SQS_CALL).map(async |entries| {
            let answer = self.call().await;
            let each = entries.iter().map(|entry| {
                answer.clone()?;
                self.sqs.send_later(entry.body.clone(), entry.delay);
                Ok(())
            });
            each.collect::<Vec<_>>()
        });
        join_all(calls).await.concat()
    }
}

impl Bus for Aws {
    /// Nobody listens in a storm, and none is told: the function has no bus here.
    async fn tell(&self, bus: &str, _notices: &[Notice]) -> Vec<Result<(), QueueError>> {
        panic!("there is no bus {bus}")
    }
}

impl Clouds for Aws {
    type Cloud = Sdk;

    fn of(&self, _region: &Region) -> Sdk {
        self.sdk.clone()
    }

    async fn connect(&self, _region: &Region, to: Service) -> Result<(), CloudError> {
        match to {
            Service::Ec2 => {
                let nobody = [InstanceId::parse("i-00000000000000000").unwrap()];
                let look = (self.sdk.instances(&nobody), self.sdk.associations(&nobody));
                tokio::try_join!(look.0, look.1).map(drop)
            }
            Service::Iam => {
                sleep(RECEIVE_TIME).await;
                Ok(())
            }
        }
    }
}

/// A request that asks for nothing.
const RECEIVE_TIME: Duration = Duration::from_millis(100);

/// The event source, with as many environments as may run at once.
pub struct EventSource {
    wiring: Wiring,
    killed: f64,
    aws: Aws,
    state: Mutex<(Dice, Outcome)>,
}

impl EventSource {
    pub fn new(wiring: Wiring, weather: Weather, aws: Aws, dice: Dice) -> Self {
        let state = Mutex::new((dice, Outcome::default()));
        Self { wiring, killed: weather.killed, aws, state }
    }

    /// Takes and invokes, for ever.
    pub async fn run(&self) {
        join_all((0..self.wiring.maximum_concurrency).map(|_| self.slot())).await;
    }

    pub fn outcome(&self) -> Outcome {
        std::mem::take(&mut self.state().1)
    }

    fn state(&self) -> MutexGuard<'_, (Dice, Outcome)> {
        self.state.lock().unwrap()
    }

    fn time(&self, milliseconds: std::ops::Range<u32>) -> Duration {
        self.state().0.time(milliseconds)
    }

    async fn slot(&self) {
        let mut environment = None;
        loop {
            let batch = self.gather().await;
            let began = Instant::now();
            let handler = match environment.take() {
                Some(warm) => warm,
                None => self.start().await,
            };
            let is_to_die = self.state().0.happens(self.killed);
            let dies_after =
                if is_to_die { self.time(DIES) } else { Duration::MAX }.min(self.wiring.timeout);
            let invocation = timeout(dies_after, handler.handle(self.event(&batch))).await;
            let is_cut_short = invocation.is_err();
            if let Ok(answer) = invocation {
                self.delete_what_is_done(&batch, answer.unwrap());
                environment = Some(handler);
            }
            let (_, outcome) = &mut *self.state();
            outcome.invocations += 1;
            outcome.cut_short += usize::from(is_cut_short);
            outcome.billed += began.elapsed();
        }
    }

    /// A batch: full, or as much as came within the window after the first.
    async fn gather(&self) -> Vec<Received> {
        let Wiring { batch_size, batching_window, .. } = self.wiring;
        let mut batch = Vec::new();
        while batch.is_empty() {
            self.aws.sqs.something().await;
            sleep(self.time(RECEIVE)).await;
            batch = self.aws.sqs.receive(PER_RECEIVE.min(batch_size));
        }
        let ends = Instant::now() + batching_window;
        while batch.len() < batch_size {
            if timeout_at(ends, self.aws.sqs.something()).await.is_err() {
                break;
            }
            sleep(self.time(RECEIVE)).await;
            batch.extend(self.aws.sqs.receive(PER_RECEIVE.min(batch_size - batch.len())));
        }
        batch
    }

    async fn start(&self) -> Handler<Aws> {
        sleep(COLD_START).await;
        let config = Config::read(|name| self.setting(name), |_| unreachable!("no policy file"));
        let handler = Handler::new(config.unwrap(), self.aws.clone());
        handler.get_ready().await;
        handler
    }

    fn setting(&self, name: &str) -> Option<String> {
        let setting = match name {
            "ALLOWED_PROFILES" => "web".to_owned(),
            "AWS_REGION" => "us-east-1".to_owned(),
            "DEAD_LETTER_QUEUE_URL" => {
                "https://sqs.us-east-1.amazonaws.com/123456789012/dead".to_owned()
            }
            "QUEUE_URL" => "https://sqs.us-east-1.amazonaws.com/123456789012/queue".to_owned(),
            "MAXIMUM_CONCURRENCY" => self.wiring.maximum_concurrency.to_string(),
            "MODE" => "enforce".to_owned(),
            "WRITES_PER_SECOND" => self.wiring.writes_per_second.to_string(),
            _ => return None,
        };
        Some(setting)
    }

    #[expect(clippy::disallowed_methods, reason = "Lambda's and SQS's times are wall-clock times")]
    fn event(&self, batch: &[Received]) -> LambdaEvent<RawPayload> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let records = batch.iter().map(|message| {
            let sent = now.checked_sub(message.age).unwrap().as_millis();
            json!({
                "messageId": message.id,
                "receiptHandle": message.receipt,
                "body": &*message.body,
                "attributes": {
                    "ApproximateReceiveCount": message.receives.to_string(),
                    "SentTimestamp": sent.to_string(),
                },
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:auto-instance-profile",
                "awsRegion": "us-east-1",
            })
        });
        let payload = json!({ "Records": records.collect::<Vec<_>>() }).to_string();
        let mut context = Context::default();
        context.deadline = u64::try_from((now + self.wiring.timeout).as_millis()).unwrap();
        "arn:aws:lambda:us-east-1:123456789012:function:auto-instance-profile"
            .clone_into(&mut context.invoked_function_arn);
        LambdaEvent::new(RawPayload(Some(RawValue::from_string(payload).unwrap())), context)
    }

    fn delete_what_is_done(&self, batch: &[Received], answer: Answer) {
        let Answer::Batch(answer) = answer else { panic!("a batch is answered as a batch") };
        let failures = &answer.batch_item_failures;
        for message in batch {
            if !failures.iter().any(|failure| failure.item_identifier == message.id) {
                self.aws.sqs.delete(&message.receipt);
            }
        }
    }
}
