//! EC2 and IAM as a storm meets them: the modelled world behind its documented token buckets, answers that take their
//! time, calls that fail; and in front of it the retries that the SDK makes.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use auto_instance_profile::cloud::{Cloud, CloudError, ErrorKind, Fleet, Operation, Page};
use auto_instance_profile::model::{
    Association, AssociationId, Filter, Instance, InstanceId, Profile, ProfileName, Tags,
};
use tokio::time::{Instant, sleep};

use super::super::fake::FakeCloud;
use super::dice::Dice;
use super::{Tenant, Weather};

/// What Associate's bucket holds, and what flows into it.
pub const ASSOCIATES: f64 = 100.0;
pub const ASSOCIATES_PER_SECOND: f64 = 5.0;

/// How long an answer takes, in milliseconds.
const READ: Range<u32> = 60..150;
const WRITE: Range<u32> = 150..400;
/// What the fake takes of that for itself.
const FAKE: Duration = Duration::from_millis(20);
/// A throttled call is sent back at the door.
const TURNED_AWAY: Range<u32> = 30..80;

/// The wire to EC2 and IAM; clones share it.
#[derive(Clone)]
pub struct Ec2 {
    cloud: FakeCloud,
    failing: f64,
    state: Arc<Mutex<State>>,
}

struct State {
    buckets: HashMap<Operation, Bucket>,
    dice: Dice,
    tally: Tally,
}

/// What came over the wire.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub tries: HashMap<Operation, usize>,
    pub attached: Vec<Instant>,
    pub throttled_writes: Vec<Instant>,
}

struct Bucket {
    tokens: f64,
    capacity: f64,
    per_second: f64,
    filled_at: Instant,
}

/// What becomes of one try.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    /// It never reaches EC2, and takes no token.
    LostOnTheWay,
    /// It is carried out, and nobody hears of it.
    AnswerLost,
}

impl Bucket {
    /// AWS's request throttling page: what the API's bucket holds and what flows into it. IAM's rates are not documented;
    /// this is less than what accounts are seen to have.
    fn of(operation: Operation, tenant: Tenant) -> Self {
        let (capacity, per_second) = match operation {
            Operation::AssociateIamInstanceProfile => (ASSOCIATES, ASSOCIATES_PER_SECOND),
            Operation::DisassociateIamInstanceProfile => (100.0, 5.0),
            Operation::ReplaceIamInstanceProfileAssociation => (50.0, 5.0),
            Operation::DescribeInstances
            | Operation::DescribeIamInstanceProfileAssociations
            | Operation::DescribeTags
            | Operation::GetInstanceProfile => (100.0, 20.0),
        };
        let is_shared = operation == Operation::AssociateIamInstanceProfile;
        let tenant = if is_shared { tenant } else { Tenant::default() };
        Self {
            tokens: capacity - tenant.at_once,
            capacity,
            per_second: per_second - tenant.per_second,
            filled_at: Instant::now(),
        }
    }

    /// Whether there was a token. A throttled call takes none.
    fn take(&mut self) -> bool {
        let now = Instant::now();
        let flowed = (now - self.filled_at).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + flowed).min(self.capacity);
        self.filled_at = now;
        let is_there = self.tokens >= 1.0;
        if is_there {
            self.tokens -= 1.0;
        }
        is_there
    }
}

impl Ec2 {
    pub fn new(cloud: FakeCloud, weather: Weather, dice: Dice) -> Self {
        let buckets = Operation::ALL.map(|call| (call, Bucket::of(call, weather.tenant)));
        let state = State { buckets: buckets.into(), dice, tally: Tally::default() };
        Self { cloud, failing: weather.failing, state: Arc::new(Mutex::new(state)) }
    }

    pub fn tally(&self) -> Tally {
        self.state().tally.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// One try.
    async fn one<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T, CloudError>>,
    ) -> Result<T, CloudError> {
        let (latency, fate) = self.begin(operation);
        let way = latency.saturating_sub(FAKE) / 2;
        sleep(way).await;
        let lost = || CloudError::new(operation, ErrorKind::Transient, None, "connection reset");
        if fate == Fate::LostOnTheWay {
            sleep(way).await;
            return Err(lost());
        }
        if let Err(away) = self.take(operation) {
            sleep(away).await;
            let code = Some("RequestLimitExceeded".to_owned());
            let why = "Request limit exceeded.";
            return Err(CloudError::new(operation, ErrorKind::Throttled, code, why));
        }
        let answer = call.await;
        if operation == Operation::AssociateIamInstanceProfile && answer.is_ok() {
            self.state().tally.attached.push(Instant::now());
        }
        sleep(way).await;
        if fate == Fate::AnswerLost { Err(lost()) } else { answer }
    }

    fn begin(&self, operation: Operation) -> (Duration, Fate) {
        let mut state = self.state();
        *state.tally.tries.entry(operation).or_default() += 1;
        let latency = state.dice.time(if is_write(operation) { WRITE } else { READ });
        let fate = match (state.dice.happens(self.failing), state.dice.happens(0.5)) {
            (false, _) => Fate::Answered,
            (true, false) => Fate::LostOnTheWay,
            (true, true) => Fate::AnswerLost,
        };
        (latency, fate)
    }

    /// A token; or how long it takes to be sent away.
    fn take(&self, operation: Operation) -> Result<(), Duration> {
        let mut state = self.state();
        if state.buckets.get_mut(&operation).unwrap().take() {
            return Ok(());
        }
        if is_write(operation) {
            state.tally.throttled_writes.push(Instant::now());
        }
        Err(state.dice.time(TURNED_AWAY))
    }

    fn share(&self) -> f64 {
        self.state().dice.share()
    }
}

fn is_write(operation: Operation) -> bool {
    match operation {
        Operation::AssociateIamInstanceProfile
        | Operation::ReplaceIamInstanceProfileAssociation
        | Operation::DisassociateIamInstanceProfile => true,
        Operation::DescribeInstances
        | Operation::DescribeIamInstanceProfileAssociations
        | Operation::DescribeTags
        | Operation::GetInstanceProfile => false,
    }
}

/// The tries that the SDK makes of a call, in its standard mode: pauses that double, of which a random share is waited.
/// (Its quota of retries lasts for a hundred failures without a success, more than a storm brings, and is left out.)
#[derive(Debug, Clone, Copy)]
pub struct Retries {
    pub tries: u32,
    pub first_pause: Duration,
    /// Whether a throttled call is tried again too.
    pub throttled: bool,
}

/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// As the shipped adapter has them, by call.
pub fn shipped(operation: Operation) -> Retries {
    let first_pause = Duration::from_millis(300);
    match operation {
        Operation::DescribeInstances
        | Operation::DescribeIamInstanceProfileAssociations
        | Operation::DescribeTags
        | Operation::GetInstanceProfile => Retries { tries: 3, first_pause, throttled: true },
        Operation::AssociateIamInstanceProfile
        | Operation::ReplaceIamInstanceProfileAssociation
        | Operation::DisassociateIamInstanceProfile => {
            Retries { tries: 1, first_pause, throttled: false }
        }
    }
}

/// As the SDK has them where nobody asks for others.
pub fn standard(_: Operation) -> Retries {
    Retries { tries: 3, first_pause: Duration::from_secs(1), throttled: true }
}

/// The wire with the SDK's retries.
#[derive(Clone)]
pub struct Sdk {
    pub ec2: Ec2,
    pub retries: fn(Operation) -> Retries,
}

impl Sdk {
    async fn call<T, F>(&self, operation: Operation, one: impl Fn() -> F) -> Result<T, CloudError>
    where
        F: Future<Output = Result<T, CloudError>>,
    {
        let Retries { tries, first_pause, throttled } = (self.retries)(operation);
        let mut pause = first_pause;
        for _ in 1..tries {
            match self.ec2.one(operation, one()).await {
                Err(error)
                    if error.kind == ErrorKind::Transient
                        || (throttled && error.kind == ErrorKind::Throttled) =>
                {
                    sleep(pause.min(LONGEST_PAUSE).mul_f64(self.ec2.share())).await;
                    pause *= 2;
                }
                answer => return answer,
            }
        }
        self.ec2.one(operation, one()).await
    }
}

impl Fleet for Sdk {
    async fn instances_page(
        &self,
        filters: &[Filter],
        from: Option<&str>,
        rows: usize,
    ) -> Result<Page<Instance>, CloudError> {
        let one = || self.ec2.cloud.instances_page(filters, from, rows);
        self.call(Operation::DescribeInstances, one).await
    }

    async fn associations_page(&self, from: Option<&str>) -> Result<Page<Association>, CloudError> {
        let one = || self.ec2.cloud.associations_page(from);
        self.call(Operation::DescribeIamInstanceProfileAssociations, one).await
    }
}

impl Cloud for Sdk {
    async fn instances(&self, ids: &[InstanceId]) -> Result<Vec<Instance>, CloudError> {
        let one = || self.ec2.cloud.instances(ids);
        self.call(Operation::DescribeInstances, one).await
    }

    async fn associations(&self, ids: &[InstanceId]) -> Result<Vec<Association>, CloudError> {
        let one = || self.ec2.cloud.associations(ids);
        self.call(Operation::DescribeIamInstanceProfileAssociations, one).await
    }

    async fn tags(&self, ids: &[InstanceId]) -> Result<HashMap<InstanceId, Tags>, CloudError> {
        self.call(Operation::DescribeTags, || self.ec2.cloud.tags(ids)).await
    }

    async fn profile(&self, name: &ProfileName) -> Result<Option<Profile>, CloudError> {
        self.call(Operation::GetInstanceProfile, || self.ec2.cloud.profile(name)).await
    }

    async fn associate(
        &self,
        instance: &InstanceId,
        arn: &str,
    ) -> Result<Option<Association>, CloudError> {
        let one = || self.ec2.cloud.associate(instance, arn);
        self.call(Operation::AssociateIamInstanceProfile, one).await
    }

    async fn replace(
        &self,
        association: &AssociationId,
        arn: &str,
    ) -> Result<Option<Association>, CloudError> {
        let one = || self.ec2.cloud.replace(association, arn);
        self.call(Operation::ReplaceIamInstanceProfileAssociation, one).await
    }

    async fn disassociate(&self, association: &AssociationId) -> Result<(), CloudError> {
        let one = || self.ec2.cloud.disassociate(association);
        self.call(Operation::DisassociateIamInstanceProfile, one).await
    }
}
