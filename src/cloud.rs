//! The cloud in our words: the seven calls this job needs, and how they fail. No SDK type appears here.

pub mod codes;

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::model::{
    Association, AssociationId, Filter, Instance, InstanceId, Profile, ProfileName, Region, Tags,
};

/// Instances that one read can name: EC2 takes up to 200 values a filter without complaint.
pub const IDS_PER_READ: usize = 200;

/// The fewest and the most rows that EC2 gives a page of instances.
pub const ROWS_PER_PAGE: RangeInclusive<usize> = 5..=1000;

/// EC2 in one Region and IAM, for one account.
///
/// Every call is bounded in time by the implementation, retries what is worth retrying, and answers with facts or with a
/// [`CloudError`] that says what the failure means.
pub trait Cloud: Send + Sync {
    /// The instances of these that EC2 shows. One that it does not know is left out of the answer and spoils nothing.
    fn instances(
        &self,
        ids: &[InstanceId],
    ) -> impl Future<Output = Result<Vec<Instance>, CloudError>> + Send;

    /// Every association of these instances, in whatever state.
    fn associations(
        &self,
        ids: &[InstanceId],
    ) -> impl Future<Output = Result<Vec<Association>, CloudError>> + Send;

    /// The tags of these instances, by another call than [`Cloud::instances`]: a second witness. An instance without tags
    /// is left out of the answer.
    fn tags(
        &self,
        ids: &[InstanceId],
    ) -> impl Future<Output = Result<HashMap<InstanceId, Tags>, CloudError>> + Send;

    /// The instance profile of this name; `None` where IAM knows none.
    fn profile(
        &self,
        name: &ProfileName,
    ) -> impl Future<Output = Result<Option<Profile>, CloudError>> + Send;

    /// Attaches a profile to a bare instance. Answers with the association as EC2 made it, which is the evidence of what was
    /// done; `None` where EC2 took the call and its answer names none, as emulators do.
    fn associate(
        &self,
        instance: &InstanceId,
        profile_arn: &str,
    ) -> impl Future<Output = Result<Option<Association>, CloudError>> + Send;

    /// Puts another profile in the place of an association, in one call. Answers as [`Cloud::associate`] does, with the new
    /// association.
    fn replace(
        &self,
        association: &AssociationId,
        profile_arn: &str,
    ) -> impl Future<Output = Result<Option<Association>, CloudError>> + Send;

    /// Detaches an association. A try that may have been carried out is not repeated within the call, so that an
    /// association that is gone was detached by another actor.
    fn disassociate(
        &self,
        association: &AssociationId,
    ) -> impl Future<Output = Result<(), CloudError>> + Send;
}

/// The whole fleet of one Region, page by page: for a sweep, and for a person who asks about all of it.
pub trait Fleet: Send + Sync {
    /// One page of the instances that pass every filter, of so many rows at most: the first one, or the one that begins at
    /// `from`.
    fn instances_page(
        &self,
        filters: &[Filter],
        from: Option<&str>,
        rows: usize,
    ) -> impl Future<Output = Result<Page<Instance>, CloudError>> + Send;

    /// One page of all associations, in whatever state. EC2 has no filter for them that a fleet could go by.
    fn associations_page(
        &self,
        from: Option<&str>,
    ) -> impl Future<Output = Result<Page<Association>, CloudError>> + Send;
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// In EC2's order, which is none.
    pub rows: Vec<T>,
    /// Where the next page begins, unless this is the last.
    pub next: Option<String>,
}

/// Where to find the [`Cloud`] of a Region.
pub trait Clouds: Send + Sync {
    /// The cloud it hands out.
    type Cloud: Cloud + Fleet;

    /// The cloud of this Region.
    fn of(&self, region: &Region) -> Self::Cloud;

    /// Opens the connections that an event's calls will need, by a request that asks for nothing.
    fn connect(
        &self,
        region: &Region,
        to: Service,
    ) -> impl Future<Output = Result<(), CloudError>> + Send;
}

/// A service that calls go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// EC2, in a Region. An event's two reads go out at once, on a connection each.
    Ec2,
    /// IAM.
    Iam,
}

/// The calls, by AWS's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`Cloud::instances`]
    DescribeInstances,
    /// [`Cloud::associations`]
    DescribeIamInstanceProfileAssociations,
    /// [`Cloud::tags`]
    DescribeTags,
    /// [`Cloud::profile`]
    GetInstanceProfile,
    /// [`Cloud::associate`]
    AssociateIamInstanceProfile,
    /// [`Cloud::replace`]
    ReplaceIamInstanceProfileAssociation,
    /// [`Cloud::disassociate`]
    DisassociateIamInstanceProfile,
}

impl Operation {
    /// Every operation, in the order of the trait.
    pub const ALL: [Self; 7] = [
        Self::DescribeInstances,
        Self::DescribeIamInstanceProfileAssociations,
        Self::DescribeTags,
        Self::GetInstanceProfile,
        Self::AssociateIamInstanceProfile,
        Self::ReplaceIamInstanceProfileAssociation,
        Self::DisassociateIamInstanceProfile,
    ];

    /// The name in AWS's API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DescribeInstances => "DescribeInstances",
            Self::DescribeIamInstanceProfileAssociations => {
                "DescribeIamInstanceProfileAssociations"
            }
            Self::DescribeTags => "DescribeTags",
            Self::GetInstanceProfile => "GetInstanceProfile",
            Self::AssociateIamInstanceProfile => "AssociateIamInstanceProfile",
            Self::ReplaceIamInstanceProfileAssociation => "ReplaceIamInstanceProfileAssociation",
            Self::DisassociateIamInstanceProfile => "DisassociateIamInstanceProfile",
        }
    }

    /// The IAM action that permits it.
    #[must_use]
    pub fn iam_action(self) -> String {
        let service = match self {
            Self::GetInstanceProfile => "iam",
            Self::DescribeInstances
            | Self::DescribeIamInstanceProfileAssociations
            | Self::DescribeTags
            | Self::AssociateIamInstanceProfile
            | Self::ReplaceIamInstanceProfileAssociation
            | Self::DisassociateIamInstanceProfile => "ec2",
        };
        format!("{service}:{}", self.name())
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a failed call means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ErrorKind {
    /// The account's request rate is used up.
    Throttled,
    /// AWS, the network or the time limit failed; whether a write was carried out is unknown.
    Transient,
    /// An answer arrived whole and cannot be read; whether a write was carried out is unknown.
    Unreadable,
    /// The world is not as it was when we looked.
    Conflict,
    /// EC2 does not know the instance.
    InstanceNotFound,
    /// EC2 or IAM does not know the instance profile.
    ProfileNotFound,
    /// The function's own role lacks a right.
    Denied(MissingRight),
    /// AWS will never take this request.
    Rejected,
}

impl ErrorKind {
    /// Whether the same read may be answered in a while, although nobody does anything about it.
    #[must_use]
    pub fn may_heal(&self) -> bool {
        match self {
            Self::Throttled | Self::Transient | Self::Unreadable | Self::Conflict => true,
            Self::InstanceNotFound | Self::ProfileNotFound | Self::Denied(_) | Self::Rejected => {
                false
            }
        }
    }
}

/// A right that the function's role lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingRight {
    /// The IAM action, such as `iam:PassRole`.
    pub action: String,
    /// The resource, as AWS names it, where it does.
    pub resource: Option<String>,
}

/// A call that failed.
#[derive(Debug, Clone)]
pub struct CloudError {
    /// Which call.
    pub operation: Operation,
    /// What the failure means.
    pub kind: ErrorKind,
    /// AWS's code for it, where there was an answer.
    pub code: Option<String>,
    // Shared, because one failed read stands for every instance it was about.
    source: Arc<dyn Error + Send + Sync>,
}

impl CloudError {
    /// A failed call, its meaning, AWS's code, and what lies beneath.
    pub fn new(
        operation: Operation,
        kind: ErrorKind,
        code: Option<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { operation, kind, code, source: Arc::from(source.into()) }
    }
}

impl fmt::Display for CloudError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.operation)?;
        match &self.kind {
            ErrorKind::Throttled => f.write_str("was throttled")?,
            ErrorKind::Transient => f.write_str("did not get through")?,
            ErrorKind::Unreadable => f.write_str("was answered with what cannot be read")?,
            ErrorKind::Conflict => f.write_str("found the world changed")?,
            ErrorKind::InstanceNotFound => f.write_str("found no such instance")?,
            ErrorKind::ProfileNotFound => f.write_str("found no such instance profile")?,
            ErrorKind::Denied(MissingRight { action, resource: Some(resource) }) => {
                write!(f, "was denied: the caller needs {action} on {resource}")?;
            }
            ErrorKind::Denied(MissingRight { action, resource: None }) => {
                write!(f, "was denied: the caller needs {action}")?;
            }
            ErrorKind::Rejected => f.write_str("was rejected")?,
        }
        match &self.code {
            Some(code) => write!(f, " ({code})"),
            None => Ok(()),
        }
    }
}

impl Error for CloudError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.source.as_ref())
    }
}
