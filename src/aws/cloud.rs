//! EC2 and IAM by AWS's SDK: requests out, facts or classified errors back.

use std::collections::HashMap;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_sdk_ec2::types::IamInstanceProfileSpecification;
use percent_encoding::percent_decode_str;

use crate::aws::errors::{failed, unreadable};
use crate::aws::{ATTEMPTS, timeouts};
use crate::cloud::{Cloud, CloudError, ErrorKind, Fleet, IDS_PER_READ, Operation, Page};
use crate::model::{
    AccountId, Association, AssociationId, AssociationState, Filter, Illegal, Instance, InstanceId,
    InstanceState, Keeper, Platform, Profile, ProfileArn, ProfileId, ProfileName, Role, Tags,
};

/// The most rows EC2 gives a page.
const ROWS_PER_PAGE: i32 = 1000;
/// One try at a page of a whole fleet: up to a thousand instances with all their details, several megabytes.
const PAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// EC2 in one Region, and IAM.
#[derive(Debug, Clone)]
pub struct AwsCloud {
    ec2: aws_sdk_ec2::Client,
    iam: aws_sdk_iam::Client,
}

impl AwsCloud {
    /// A cloud made of two clients.
    #[must_use]
    pub fn new(ec2: aws_sdk_ec2::Client, iam: aws_sdk_iam::Client) -> Self {
        Self { ec2, iam }
    }

    /// The two reads of an event, at once and about an instance that cannot be: what they open and load stays.
    pub(super) async fn look_at_nothing(&self) -> Result<(), CloudError> {
        let Ok(nobody) = InstanceId::parse("i-00000000000000000") else { return Ok(()) };
        let ids = [nobody];
        tokio::try_join!(self.instances(&ids), self.associations(&ids)).map(drop)
    }
}

impl Cloud for AwsCloud {
    async fn instances(&self, ids: &[InstanceId]) -> Result<Vec<Instance>, CloudError> {
        const CALL: Operation = Operation::DescribeInstances;
        let mut instances = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(IDS_PER_READ) {
            let mut pages = self
                .ec2
                .describe_instances()
                // By filter: one unknown id among `InstanceIds` fails the whole call.
                .filters(by_instance_id(chunk))
                .max_results(ROWS_PER_PAGE)
                .into_paginator()
                .send();
            while let Some(page) = pages.next().await {
                let page = page.map_err(|error| failed(CALL, "*", &error))?;
                instances.extend(page.reservations().iter().flat_map(instances_of));
            }
        }
        Ok(instances)
    }

    async fn associations(&self, ids: &[InstanceId]) -> Result<Vec<Association>, CloudError> {
        const CALL: Operation = Operation::DescribeIamInstanceProfileAssociations;
        let mut associations = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(IDS_PER_READ) {
            let mut pages = self
                .ec2
                .describe_iam_instance_profile_associations()
                .filters(by_instance_id(chunk))
                .max_results(ROWS_PER_PAGE)
                .into_paginator()
                .send();
            while let Some(page) = pages.next().await {
                let page = page.map_err(|error| failed(CALL, "*", &error))?;
                associations.extend(
                    page.iam_instance_profile_associations().iter().filter_map(association_of),
                );
            }
        }
        Ok(associations)
    }

    async fn tags(&self, ids: &[InstanceId]) -> Result<HashMap<InstanceId, Tags>, CloudError> {
        let mut by_instance: HashMap<InstanceId, Tags> = HashMap::new();
        for chunk in ids.chunks(IDS_PER_READ) {
            let values = chunk.iter().map(|id| id.as_str().to_owned()).collect();
            let mut pages = self
                .ec2
                .describe_tags()
                .filters(filter("resource-id", values))
                .max_results(ROWS_PER_PAGE)
                .into_paginator()
                .send();
            while let Some(page) = pages.next().await {
                let page = page.map_err(|error| failed(Operation::DescribeTags, "*", &error))?;
                for tag in page.tags() {
                    let id = tag.resource_id().and_then(|id| InstanceId::parse(id).ok());
                    let (Some(id), Some(key)) = (id, tag.key()) else { continue };
                    let value = tag.value().unwrap_or_default().to_owned();
                    by_instance.entry(id).or_default().insert(key.to_owned(), value);
                }
            }
        }
        Ok(by_instance)
    }

    async fn profile(&self, name: &ProfileName) -> Result<Option<Profile>, CloudError> {
        const CALL: Operation = Operation::GetInstanceProfile;
        let answer =
            self.iam.get_instance_profile().instance_profile_name(name.as_str()).send().await;
        match answer.map_err(|error| failed(CALL, name.as_str(), &error)) {
            Ok(output) => match output.instance_profile() {
                Some(found) => profile(found).map(Some),
                None => Err(unreadable(CALL, "the answer holds no instance profile")),
            },
            Err(CloudError { kind: ErrorKind::ProfileNotFound, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn associate(
        &self,
        instance: &InstanceId,
        profile_arn: &str,
    ) -> Result<Option<Association>, CloudError> {
        self.ec2
            .associate_iam_instance_profile()
            .instance_id(instance.as_str())
            .iam_instance_profile(exactly(profile_arn))
            .customize()
            .config_override(once())
            .send()
            .await
            .map(|answer| answer.iam_instance_profile_association().and_then(association_of))
            .map_err(|error| {
                failed(Operation::AssociateIamInstanceProfile, instance.as_str(), &error)
            })
    }

    async fn replace(
        &self,
        association: &AssociationId,
        profile_arn: &str,
    ) -> Result<Option<Association>, CloudError> {
        self.ec2
            .replace_iam_instance_profile_association()
            .association_id(association.as_str())
            .iam_instance_profile(exactly(profile_arn))
            .customize()
            .config_override(once())
            .send()
            .await
            .map(|answer| answer.iam_instance_profile_association().and_then(association_of))
            .map_err(|error| {
                failed(
                    Operation::ReplaceIamInstanceProfileAssociation,
                    association.as_str(),
                    &error,
                )
            })
    }

    async fn disassociate(&self, association: &AssociationId) -> Result<(), CloudError> {
        self.ec2
            .disassociate_iam_instance_profile()
            .association_id(association.as_str())
            .customize()
            .config_override(once())
            .send()
            .await
            .map(drop)
            .map_err(|error| {
                failed(Operation::DisassociateIamInstanceProfile, association.as_str(), &error)
            })
    }
}

impl Fleet for AwsCloud {
    async fn instances_page(
        &self,
        filters: &[Filter],
        from: Option<&str>,
        rows: usize,
    ) -> Result<Page<Instance>, CloudError> {
        const CALL: Operation = Operation::DescribeInstances;
        let filters = filters.iter().map(|by| filter(&by.name, by.values.clone())).collect();
        let page = self
            .ec2
            .describe_instances()
            .set_filters(Some(filters))
            .max_results(i32::try_from(rows).unwrap_or(ROWS_PER_PAGE).clamp(5, ROWS_PER_PAGE))
            .set_next_token(from.map(str::to_owned))
            .customize()
            .config_override(patiently())
            .send()
            .await
            .map_err(|error| failed(CALL, "*", &error))?;
        let rows = page.reservations().iter().flat_map(instances_of);
        Ok(Page { rows: rows.collect(), next: token(page.next_token()) })
    }

    async fn associations_page(&self, from: Option<&str>) -> Result<Page<Association>, CloudError> {
        const CALL: Operation = Operation::DescribeIamInstanceProfileAssociations;
        let page = self
            .ec2
            .describe_iam_instance_profile_associations()
            .max_results(ROWS_PER_PAGE)
            .set_next_token(from.map(str::to_owned))
            .customize()
            .config_override(patiently())
            .send()
            .await
            .map_err(|error| failed(CALL, "*", &error))?;
        let rows = page.iam_instance_profile_associations().iter().filter_map(association_of);
        Ok(Page { rows: rows.collect(), next: token(page.next_token()) })
    }
}

/// The time that a page of a whole fleet may take.
fn patiently() -> aws_sdk_ec2::config::Builder {
    let timeouts = timeouts(PAGE_TIMEOUT, PAGE_TIMEOUT * ATTEMPTS);
    aws_sdk_ec2::Config::builder().timeout_config(timeouts)
}

/// The last page's token is absent, or empty.
fn token(next: Option<&str>) -> Option<String> {
    next.filter(|token| !token.is_empty()).map(str::to_owned)
}

/// One try of a write. A throttled one waits for its next turn. One whose answer was lost may have been carried out, which
/// a look tells, and a second try does not: of Associate's, EC2 would take another token; of the others', it would say
/// that there is no such association, as if another actor had been at work, and what we detached would not be known as
/// ours to put back.
fn once() -> aws_sdk_ec2::config::Builder {
    aws_sdk_ec2::Config::builder().retry_config(RetryConfig::disabled())
}

fn instances_of(
    reservation: &aws_sdk_ec2::types::Reservation,
) -> impl Iterator<Item = Instance> + '_ {
    let account = reservation.owner_id().and_then(|owner| AccountId::parse(owner).ok());
    reservation.instances().iter().filter_map(move |found| instance(found, account.as_ref()))
}

fn by_instance_id(ids: &[InstanceId]) -> aws_sdk_ec2::types::Filter {
    filter("instance-id", ids.iter().map(|id| id.as_str().to_owned()).collect())
}

fn filter(name: &str, values: Vec<String>) -> aws_sdk_ec2::types::Filter {
    aws_sdk_ec2::types::Filter::builder().name(name).set_values(Some(values)).build()
}

/// The ARN alone: with a name beside it EC2 would go by the ARN anyway.
fn exactly(profile_arn: &str) -> IamInstanceProfileSpecification {
    IamInstanceProfileSpecification::builder().arn(profile_arn).build()
}

/// `None` for a row without a legal id: nothing could be done about it, and it was not asked for.
fn instance(found: &aws_sdk_ec2::types::Instance, account: Option<&AccountId>) -> Option<Instance> {
    let managed = found.operator().filter(|operator| operator.managed() == Some(true));
    let state = found.state().and_then(|state| state.name()).map_or("", |name| name.as_str());
    let tag = |tag: &aws_sdk_ec2::types::Tag| {
        Some((tag.key()?.to_owned(), tag.value().unwrap_or("").to_owned()))
    };
    Some(Instance {
        id: InstanceId::parse(found.instance_id()?).ok()?,
        account: account.cloned(),
        state: InstanceState::from_ec2(state),
        tags: found.tags().iter().filter_map(tag).collect(),
        keeper: match managed {
            Some(operator) => Keeper::Service(operator.principal().map(str::to_owned)),
            None => Keeper::Owner,
        },
        vpc: found.vpc_id().map(str::to_owned),
        subnet: found.subnet_id().map(str::to_owned),
        instance_type: found.instance_type().map(|kind| kind.as_str().to_owned()),
        // EC2 names Windows, and leaves the rest to the imagination.
        platform: match found.platform() {
            Some(platform) if platform.as_str().eq_ignore_ascii_case("windows") => {
                Platform::Windows
            }
            Some(_) | None => Platform::Linux,
        },
        started: found.launch_time().map(|time| time.as_nanos()),
    })
}

/// `None` for a row that names no instance or has no id: nothing could be done about it.
fn association_of(row: &aws_sdk_ec2::types::IamInstanceProfileAssociation) -> Option<Association> {
    let profile = row.iam_instance_profile();
    Some(Association {
        id: AssociationId::parse(row.association_id()?).ok()?,
        instance: InstanceId::parse(row.instance_id()?).ok()?,
        profile_arn: profile.and_then(|profile| profile.arn()).unwrap_or_default().to_owned(),
        profile_id: profile
            .and_then(|profile| profile.id())
            .and_then(|id| ProfileId::parse(id).ok()),
        state: AssociationState::from_ec2(row.state().map_or("", |state| state.as_str())),
        since: row.timestamp().map(|time| time.as_nanos()),
    })
}

fn profile(found: &aws_sdk_iam::types::InstanceProfile) -> Result<Profile, CloudError> {
    let unreadable = |why: Illegal| unreadable(Operation::GetInstanceProfile, &why.to_string());
    Ok(Profile {
        arn: ProfileArn::parse(found.arn()).map_err(unreadable)?,
        id: ProfileId::parse(found.instance_profile_id()).map_err(unreadable)?,
        role: found.roles().first().map(|role| Role {
            name: role.role_name().to_owned(),
            // IAM percent-encodes policies (RFC 3986).
            trust_policy: role
                .assume_role_policy_document()
                .and_then(|text| percent_decode_str(text).decode_utf8().ok())
                .map(std::borrow::Cow::into_owned),
        }),
    })
}
