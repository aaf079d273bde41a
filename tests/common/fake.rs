//! The world as a `Cloud`: no network, virtual time, errors classified by the shipped code.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use auto_instance_profile::bus::{Bus, Notice};
use auto_instance_profile::cloud::codes::classify;
use auto_instance_profile::cloud::{
    Cloud, CloudError, Clouds, ErrorKind, Fleet, Operation, Page, Service,
};
use auto_instance_profile::model::{
    AccountId, Association, AssociationId, AssociationState, Filter, Instance, InstanceId,
    InstanceState, Keeper, Platform, Profile, ProfileArn, ProfileId, ProfileName, QueueArn, Region,
    Role, Tags,
};
use auto_instance_profile::queue::{DeadLetter, Hidden, Outgoing, QueueError, Queues};

use super::world::{self, ACCOUNT, AwsError, World};

/// A handle on a world; clones share it.
#[derive(Clone)]
pub struct FakeCloud {
    world: Arc<Mutex<World>>,
    queues: Arc<Mutex<FakeQueues>>,
}

/// What was asked of the queues.
#[derive(Debug, Default)]
pub struct FakeQueues {
    /// By receipt handle, in the order of the calls.
    pub hidden: Vec<(String, Duration)>,
    /// Message id, error type and error.
    pub dead_letters: Vec<(String, String, String)>,
    /// What was sent to the queue.
    pub sent: Vec<String>,
    /// The same, with when they are to be seen, and whose backlog they add to.
    pub outgoing: Vec<Outgoing>,
    /// What the bus was told.
    pub told: Vec<Notice>,
    /// Whether every call fails.
    pub fail: bool,
    /// Messages that hold this text are not taken.
    pub refused: Option<String>,
    /// Whether the bus never answers.
    pub bus_hangs: bool,
}

impl FakeCloud {
    pub fn of(world: World) -> Self {
        Self { world: Arc::new(Mutex::new(world)), queues: Arc::default() }
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub fn queues(&self) -> MutexGuard<'_, FakeQueues> {
        self.queues.lock().unwrap()
    }
}

impl Queues for FakeCloud {
    async fn hide(
        &self,
        _queue: &QueueArn,
        messages: &[Hidden<'_>],
    ) -> Vec<Result<(), QueueError>> {
        network().await;
        let mut queues = self.queues();
        if queues.fail {
            let error = QueueError::new("ChangeMessageVisibility", None, "planned by the test");
            return vec![Err(error); messages.len()];
        }
        let hidden = messages.iter().map(|message| (message.receipt.to_owned(), message.for_time));
        queues.hidden.extend(hidden);
        vec![Ok(()); messages.len()]
    }

    async fn give_up(
        &self,
        _dead_letter_queue: &str,
        letters: &[DeadLetter<'_>],
    ) -> Vec<Result<(), QueueError>> {
        network().await;
        let mut queues = self.queues();
        if queues.fail {
            let error = QueueError::new("SendMessage", None, "planned by the test");
            return vec![Err(error); letters.len()];
        }
        queues.dead_letters.extend(letters.iter().map(|letter| {
            let texts = [letter.message_id, letter.error_type, letter.error].map(str::to_owned);
            texts.into()
        }));
        vec![Ok(()); letters.len()]
    }

    async fn send(&self, _queue: &str, messages: &[Outgoing]) -> Vec<Result<(), QueueError>> {
        network().await;
        let mut queues = self.queues();
        if queues.fail {
            let error = QueueError::new("SendMessage", None, "planned by the test");
            return vec![Err(error); messages.len()];
        }
        let is_refused = |message: &Outgoing| {
            queues.refused.as_ref().is_some_and(|refused| message.body.contains(refused))
        };
        let (refused, taken): (Vec<_>, Vec<_>) =
            messages.iter().partition(|message| is_refused(message));
        let error = QueueError::new("SendMessage", Some("InternalError".into()), "this one");
        let answer = |message| if refused.contains(&message) { Err(error.clone()) } else { Ok(()) };
        let answers = messages.iter().map(answer).collect();
        queues.outgoing.extend(taken.iter().map(|message| (*message).clone()));
        queues.sent.extend(taken.into_iter().cloned().map(|message| message.body));
        answers
    }
}

impl Clouds for FakeCloud {
    type Cloud = Self;

    fn of(&self, _region: &Region) -> Self {
        self.clone()
    }

    async fn connect(&self, _region: &Region, _to: Service) -> Result<(), CloudError> {
        network().await;
        Ok(())
    }
}

impl Bus for FakeCloud {
    async fn tell(&self, _bus: &str, notices: &[Notice]) -> Vec<Result<(), QueueError>> {
        network().await;
        if self.queues().bus_hangs {
            std::future::pending::<()>().await;
        }
        let mut queues = self.queues();
        if queues.fail {
            let error = QueueError::new("PutEvents", None, "planned by the test");
            return vec![Err(error); notices.len()];
        }
        queues.told.extend(notices.iter().cloned());
        vec![Ok(()); notices.len()]
    }
}

impl Fleet for FakeCloud {
    async fn instances_page(
        &self,
        filters: &[Filter],
        from: Option<&str>,
        rows: usize,
    ) -> Result<Page<Instance>, CloudError> {
        network().await;
        let takes_per_row = self.world().pages.takes_per_row;
        tokio::time::sleep(takes_per_row * u32::try_from(rows).unwrap()).await;
        let mut world = self.world();
        world.pages.asked.push(rows);
        let fails = |kind, why| CloudError::new(Operation::DescribeInstances, kind, None, why);
        if world.pages.readable_up_to.is_some_and(|most| rows > most) {
            return Err(fails(ErrorKind::Unreadable, "no XML"));
        }
        let from = match from.and_then(|token| token.split_once(" by ")) {
            Some((_, size)) if size != rows.to_string() => {
                return Err(fails(ErrorKind::Rejected, "a token for pages of another size"));
            }
            Some((place, _)) => Some(place),
            None => from,
        };
        let ids: Vec<_> = world.instances.keys().cloned().collect();
        let found = world.describe_instances(&ids);
        let found = found.map_err(failed(Operation::DescribeInstances))?;
        let passes = |instance: &Instance| {
            filters.iter().all(|filter| {
                let key = filter.name.strip_prefix("tag:").expect("the fake knows filters by tags");
                instance.tags.get(key).is_some_and(|value| filter.values.contains(value))
            })
        };
        let mut found: Vec<_> = found.into_iter().map(instance).filter(passes).collect();
        if world.pages.twice {
            found = found.into_iter().flat_map(|found| [found.clone(), found]).collect();
        }
        let (shown, next) = world.page(found, from, rows);
        let bound = |place| {
            if world.pages.tokens_know_the_size { format!("{place} by {rows}") } else { place }
        };
        Ok(Page { rows: shown, next: next.map(bound) })
    }

    async fn associations_page(&self, from: Option<&str>) -> Result<Page<Association>, CloudError> {
        network().await;
        let takes = self.world().pages.of_associations_takes;
        tokio::time::sleep(takes).await;
        let mut world = self.world();
        let ids: Vec<_> = world.instances.keys().cloned().collect();
        let rows = world.describe_associations(&ids);
        let rows = rows.map_err(failed(Operation::DescribeIamInstanceProfileAssociations))?;
        let rows = rows.into_iter().map(|row| association(row, world.is_undated));
        let (rows, next) = world.page(rows.collect(), from, 1000);
        Ok(Page { rows, next })
    }
}

impl Cloud for FakeCloud {
    async fn instances(&self, ids: &[InstanceId]) -> Result<Vec<Instance>, CloudError> {
        network().await;
        let found = self
            .world()
            .describe_instances(&texts(ids))
            .map_err(failed(Operation::DescribeInstances))?;
        Ok(found.into_iter().map(instance).collect())
    }

    async fn associations(&self, ids: &[InstanceId]) -> Result<Vec<Association>, CloudError> {
        network().await;
        let mut world = self.world();
        let rows = world.describe_associations(&texts(ids));
        let rows = rows.map_err(failed(Operation::DescribeIamInstanceProfileAssociations))?;
        Ok(rows.into_iter().map(|row| association(row, world.is_undated)).collect())
    }

    async fn tags(&self, ids: &[InstanceId]) -> Result<HashMap<InstanceId, Tags>, CloudError> {
        network().await;
        let tags =
            self.world().describe_tags(&texts(ids)).map_err(failed(Operation::DescribeTags))?;
        let by_id = tags.into_iter().map(|(id, tags)| (InstanceId::parse(&id).unwrap(), tags));
        Ok(by_id.collect())
    }

    async fn profile(&self, name: &ProfileName) -> Result<Option<Profile>, CloudError> {
        network().await;
        let found = self.world().get_instance_profile(name.as_str());
        match found.map_err(failed(Operation::GetInstanceProfile)) {
            Ok(found) => Ok(Some(profile(found))),
            Err(CloudError { kind: ErrorKind::ProfileNotFound, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn associate(
        &self,
        instance: &InstanceId,
        profile_arn: &str,
    ) -> Result<Option<Association>, CloudError> {
        network().await;
        let done = self.world().associate(instance.as_str(), profile_arn);
        done.map(|row| Some(association(row, false)))
            .map_err(failed(Operation::AssociateIamInstanceProfile))
    }

    async fn replace(
        &self,
        row: &AssociationId,
        profile_arn: &str,
    ) -> Result<Option<Association>, CloudError> {
        network().await;
        let done = self.world().replace(row.as_str(), profile_arn);
        done.map(|row| Some(association(row, false)))
            .map_err(failed(Operation::ReplaceIamInstanceProfileAssociation))
    }

    async fn disassociate(&self, association: &AssociationId) -> Result<(), CloudError> {
        network().await;
        let done = self.world().disassociate(association.as_str());
        done.map(drop).map_err(failed(Operation::DisassociateIamInstanceProfile))
    }
}

/// A round trip: long enough for tasks to interleave.
async fn network() {
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
}

fn texts(ids: &[InstanceId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

fn failed(operation: Operation) -> impl Fn(AwsError) -> CloudError {
    move |error| {
        let kind = classify(operation, Some(&error.code), &error.message, error.status);
        CloudError::new(operation, kind, Some(error.code), error.message)
    }
}

fn instance(found: world::Instance) -> Instance {
    Instance {
        id: InstanceId::parse(&found.id).unwrap(),
        account: Some(AccountId::parse(ACCOUNT).unwrap()),
        state: InstanceState::from_ec2(&found.state),
        tags: found.tags,
        keeper: found.managed_by.map_or(Keeper::Owner, |service| Keeper::Service(Some(service))),
        vpc: Some("vpc-0123456789abcdef0".into()),
        subnet: Some("subnet-0123456789abcdef0".into()),
        instance_type: Some("t3.micro".into()),
        platform: Platform::Linux,
        started: found.started.map(nanoseconds),
    }
}

fn association(row: world::Association, is_undated: bool) -> Association {
    Association {
        id: AssociationId::parse(&row.id).unwrap(),
        instance: InstanceId::parse(&row.instance).unwrap(),
        profile_arn: row.arn,
        profile_id: Some(ProfileId::parse(&row.profile_id).unwrap()),
        state: AssociationState::from_ec2(&row.state),
        since: (!is_undated).then(|| nanoseconds(row.timestamp)),
    }
}

fn nanoseconds(seconds: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000
}

fn profile(found: world::Profile) -> Profile {
    Profile {
        arn: ProfileArn::parse(&found.arn()).unwrap(),
        id: ProfileId::parse(&found.id).unwrap(),
        role: found
            .role
            .map(|role| Role { trust_policy: Some(role.trust_policy()), name: role.name }),
    }
}
