//! What the world can look like: checked identifiers and the facts EC2 and IAM answer with.
//!
//! Everything here is plain data. An identifier that exists is legal; an open string of AWS's becomes a closed enum with
//! an explicit unknown, once, at the edge.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};

/// A text that is not the identifier it should be, and what it should look like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not {expected}")]
pub struct Illegal {
    /// What was given, cut to a length that is safe to print.
    pub found: String,
    /// What would have been right, in words.
    pub expected: &'static str,
}

impl Illegal {
    /// Longest excerpt of a refused text that is repeated in a message, in characters.
    const EXCERPT: usize = 80;

    pub(crate) fn new(found: &str, expected: &'static str) -> Self {
        let mut excerpt: String = found.chars().take(Self::EXCERPT).collect();
        if excerpt.len() < found.len() {
            excerpt.push('…');
        }
        Self { found: excerpt, expected }
    }
}

/// Makes a newtype over a checked string: `parse`, `as_str`, `Display`, serialised as the string it is.
macro_rules! checked_string {
    ($(#[$doc:meta])* $name:ident, $legal:expr, $expected:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub struct $name(String);

        impl $name {
            /// Checks a text and takes it.
            ///
            /// # Errors
            /// [`Illegal`], with what was found and what would be right.
            pub fn parse(text: &str) -> Result<Self, Illegal> {
                let legal: fn(&str) -> bool = $legal;
                if legal(text) { Ok(Self(text.to_owned())) } else { Err(Illegal::new(text, $expected)) }
            }

            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_string!(
    /// An EC2 instance's id. EC2 answers `InvalidInstanceID.Malformed` to anything else, and as a filter value a `*` would
    /// name the whole fleet, so nothing but hexadecimal digits gets through.
    InstanceId,
    |text| text.strip_prefix("i-").is_some_and(|hex| {
        (1..=17).contains(&hex.len()) && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }),
    "an instance id: i- and up to 17 hexadecimal digits"
);

checked_string!(
    /// An AWS account's id.
    AccountId,
    |text| text.len() == 12 && text.bytes().all(|b| b.is_ascii_digit()),
    "an account id: 12 digits"
);

checked_string!(
    /// An AWS Region's name.
    Region,
    |text| {
        (1..=32).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    },
    "a Region such as eu-west-1"
);

checked_string!(
    /// An instance profile's name, without its path (IAM: 1 to 128 letters, digits and `_+=,.@-`).
    ProfileName,
    |text| (1..=128).contains(&text.len()) && text.bytes().all(is_name_byte),
    "an instance profile's name (1 to 128 letters, digits and _+=,.@-) or its ARN"
);

checked_string!(
    /// The id EC2 gives an association (`iip-assoc-…`): a new one with every replacement, so it serves as a lock.
    AssociationId,
    |text| !text.is_empty(),
    "an association id such as iip-assoc-0123456789abcdef0"
);

checked_string!(
    /// The id IAM gives an instance profile (`AIPA…`): a profile made again under its old name has the old ARN and a new id.
    ProfileId,
    |text| !text.is_empty(),
    "an instance profile's id such as AIPACKCEVSQ6C2EXAMPLE"
);

/// An SQS queue's ARN: `arn:PARTITION:sqs:REGION:ACCOUNT:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueArn {
    /// The queue's Region.
    pub region: Region,
    /// The queue's account.
    pub account: AccountId,
    /// The queue's name.
    pub name: String,
}

impl QueueArn {
    /// Reads an ARN.
    ///
    /// # Errors
    /// [`Illegal`], with what was found and what would be right.
    pub fn parse(text: &str) -> Result<Self, Illegal> {
        let illegal = || Illegal::new(text, "a queue's ARN: arn:PARTITION:sqs:REGION:ACCOUNT:NAME");
        let parts: Vec<&str> = text.split(':').collect();
        let ["arn", _, "sqs", region, account, name] = parts[..] else {
            return Err(illegal());
        };
        // SQS: up to 80 letters, digits, hyphens and underscores, and .fifo.
        let is_legal = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if !(1..=80).contains(&name.len()) || !name.bytes().all(is_legal) {
            return Err(illegal());
        }
        Ok(Self {
            region: Region::parse(region)?,
            account: AccountId::parse(account)?,
            name: name.to_owned(),
        })
    }
}

/// Whether IAM allows this byte in a name.
pub(crate) fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte)
}

impl Region {
    /// The partition this Region belongs to: ARNs of another partition name nothing here.
    #[must_use]
    pub fn partition(&self) -> &'static str {
        const PREFIXES: [(&str, &str); 7] = [
            ("cn-", "aws-cn"),
            ("us-gov-", "aws-us-gov"),
            ("us-iso-", "aws-iso"),
            ("us-isob-", "aws-iso-b"),
            ("eu-isoe-", "aws-iso-e"),
            ("us-isof-", "aws-iso-f"),
            ("eusc-", "aws-eusc"),
        ];
        PREFIXES
            .iter()
            .find(|(prefix, _)| self.0.starts_with(prefix))
            .map_or("aws", |(_, partition)| partition)
    }
}

/// An instance profile's ARN, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProfileArn {
    partition: String,
    account: AccountId,
    path_and_name: String,
    name: ProfileName,
}

impl ProfileArn {
    const EXPECTED: &'static str =
        "an instance profile's ARN: arn:PARTITION:iam::ACCOUNT:instance-profile/PATH/NAME";

    /// Takes an ARN apart.
    ///
    /// # Errors
    /// [`Illegal`] for anything but an instance profile's ARN, an ARN of a role among them.
    pub fn parse(text: &str) -> Result<Self, Illegal> {
        let illegal = || Illegal::new(text, Self::EXPECTED);
        let mut parts = text.splitn(6, ':');
        let mut next = || parts.next().ok_or_else(illegal);
        let (arn, partition, service, region, account, resource) =
            (next()?, next()?, next()?, next()?, next()?, next()?);
        let is_partition = partition.starts_with("aws")
            && partition.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        if arn != "arn" || !is_partition || service != "iam" || !region.is_empty() {
            return Err(illegal());
        }
        let path_and_name = resource.strip_prefix("instance-profile/").ok_or_else(illegal)?;
        let (path, name) = path_and_name.rsplit_once('/').unwrap_or(("", path_and_name));
        // IAM: a path is up to 512 printable ASCII characters.
        if path.len() > 510 || !path.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(illegal());
        }
        Ok(Self {
            partition: partition.to_owned(),
            account: AccountId::parse(account).map_err(|_| illegal())?,
            path_and_name: path_and_name.to_owned(),
            name: ProfileName::parse(name).map_err(|_| illegal())?,
        })
    }

    /// `aws`, `aws-cn`, …
    #[must_use]
    pub fn partition(&self) -> &str {
        &self.partition
    }

    /// The account the profile lives in.
    #[must_use]
    pub fn account(&self) -> &AccountId {
        &self.account
    }

    /// Path and name without the leading slash, `app/web-prod`: what the allow-list's patterns are matched against.
    #[must_use]
    pub fn path_and_name(&self) -> &str {
        &self.path_and_name
    }

    /// The name alone, which is unique in its account whatever the path.
    #[must_use]
    pub fn name(&self) -> &ProfileName {
        &self.name
    }
}

impl fmt::Display for ProfileArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "arn:{}:iam::{}:instance-profile/{}",
            self.partition, self.account, self.path_and_name
        )
    }
}

impl Serialize for ProfileArn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An instance profile as somebody names it: by its name, or by its whole ARN.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ProfileRef {
    /// By name; the path is IAM's to tell.
    Name(ProfileName),
    /// By ARN; IAM must answer with exactly this one.
    Arn(ProfileArn),
}

impl ProfileRef {
    /// The name to ask IAM for.
    #[must_use]
    pub fn name(&self) -> &ProfileName {
        match self {
            Self::Name(name) => name,
            Self::Arn(arn) => arn.name(),
        }
    }
}

impl fmt::Display for ProfileRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Arn(arn) => arn.fmt(f),
        }
    }
}

/// One instance, wherever it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceRef {
    /// The owner. Every event names it; a person's invocation may not.
    pub account: Option<AccountId>,
    /// The Region it runs in.
    pub region: Region,
    /// Its id.
    pub id: InstanceId,
}

impl fmt::Display for InstanceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "instance {}", self.id)
    }
}

/// An instance's state, as EC2 names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceState {
    /// Starting.
    Pending,
    /// Up.
    Running,
    /// On its way down, to come back.
    Stopping,
    /// Down, to come back.
    Stopped,
    /// On its way down for good.
    ShuttingDown,
    /// Down for good; EC2 shows it for about an hour more.
    Terminated,
    /// A state EC2 did not have when this was written.
    Unknown(String),
}

impl InstanceState {
    /// Reads EC2's word.
    #[must_use]
    pub fn from_ec2(word: &str) -> Self {
        match word {
            "pending" => Self::Pending,
            "running" => Self::Running,
            "stopping" => Self::Stopping,
            "stopped" => Self::Stopped,
            "shutting-down" => Self::ShuttingDown,
            "terminated" => Self::Terminated,
            other => Self::Unknown(other.to_owned()),
        }
    }

    /// EC2's word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::ShuttingDown => "shutting-down",
            Self::Terminated => "terminated",
            Self::Unknown(word) => word,
        }
    }
}

impl fmt::Display for InstanceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where an association is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AssociationState {
    /// Made; on a stopped instance it stays so until the instance starts.
    Associating,
    /// In force.
    Associated,
    /// On its way out: the instance no longer counts as having it.
    Disassociating,
    /// Gone.
    Disassociated,
    /// A state EC2 did not have when this was written.
    Unknown(String),
}

impl AssociationState {
    /// Reads EC2's word.
    #[must_use]
    pub fn from_ec2(word: &str) -> Self {
        match word {
            "associating" => Self::Associating,
            "associated" => Self::Associated,
            "disassociating" => Self::Disassociating,
            "disassociated" => Self::Disassociated,
            other => Self::Unknown(other.to_owned()),
        }
    }

    /// EC2's word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Associating => "associating",
            Self::Associated => "associated",
            Self::Disassociating => "disassociating",
            Self::Disassociated => "disassociated",
            Self::Unknown(word) => word,
        }
    }

    /// Whether an instance with this association counts as having its profile.
    #[must_use]
    pub fn holds(&self) -> bool {
        match self {
            // An unknown state holds: Associate beside it would be refused, so it is something to replace.
            Self::Associating | Self::Associated | Self::Unknown(_) => true,
            Self::Disassociating | Self::Disassociated => false,
        }
    }
}

/// One row of EC2's association list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Association {
    /// The optimistic lock: gone as soon as anybody changes the association.
    pub id: AssociationId,
    /// The instance it is about.
    pub instance: InstanceId,
    /// The profile's ARN as EC2 writes it. It is not taken apart: a row that reads oddly is still an association.
    pub profile_arn: String,
    /// The profile's id; absent only from emulators.
    pub profile_id: Option<ProfileId>,
    /// Where it is in its life.
    pub state: AssociationState,
    /// When EC2 made the row, in nanoseconds since 1970.
    pub since: Option<i128>,
}

impl Association {
    /// The association an instance counts as having: the newest that is not on its way out. After a replacement EC2
    /// shows the new row and the old one side by side for a while.
    #[must_use]
    pub fn in_force(rows: Vec<Self>) -> Option<Self> {
        rows.into_iter().filter(|row| row.state.holds()).max_by_key(|row| {
            let on_its_way_in = row.state == AssociationState::Associating;
            // A row may come without a date: then only a new one can be on its way in.
            let undated = if on_its_way_in { i128::MAX } else { i128::MIN };
            (row.since.unwrap_or(undated), on_its_way_in)
        })
    }
}

/// An instance's tags.
pub type Tags = BTreeMap<String, String>;

/// Who looks after an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keeper {
    /// Its owner.
    Owner,
    /// An AWS service (`Operator.Managed`), named when EC2 names it.
    Service(Option<String>),
}

/// What EC2 answers about one instance, apart from its association.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// The reservation's owner.
    pub account: Option<AccountId>,
    /// Its state.
    pub state: InstanceState,
    /// Its tags as EC2 answered them. EC2 can, rarely, leave them out.
    pub tags: Tags,
    /// Who looks after it.
    pub keeper: Keeper,
    /// Its VPC (`vpc-…`); a terminated instance has none.
    pub vpc: Option<String>,
    /// Its subnet (`subnet-…`).
    pub subnet: Option<String>,
    /// Its type, such as `t3.micro`.
    pub instance_type: Option<String>,
    /// What it runs.
    pub platform: Platform,
    /// When EC2 last started it, in nanoseconds since 1970.
    pub started: Option<i128>,
}

/// A condition on instances in EC2's words: one of the values, with wildcards, must match what the name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// What EC2 calls it, such as `tag:Environment` or `vpc-id`.
    pub name: String,
    /// The values of which one must match.
    pub values: Vec<String>,
}

/// What an instance runs, as far as EC2 tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Platform {
    /// Anything but Windows: EC2 names no other platform.
    #[default]
    Linux,
    /// Windows.
    Windows,
}

impl Platform {
    /// The word in the policy file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Linux => "linux",
            Self::Windows => "windows",
        }
    }
}

/// One instance and the association in force on it: all that a decision may rest on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceFacts {
    /// The instance.
    pub instance: Instance,
    /// The association in force, if there is one.
    pub association: Option<Association>,
    /// Which read showed the tags.
    pub tags_by: TagSource,
}

impl InstanceFacts {
    /// Whether EC2 has yet to put the association of a running instance into force. On a stopped one it never does.
    #[must_use]
    pub fn is_coming_into_force(&self) -> bool {
        let is_associating = |row: &Association| row.state == AssociationState::Associating;
        self.instance.state == InstanceState::Running
            && self.association.as_ref().is_some_and(is_associating)
    }
}

/// Which read showed an instance's tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TagSource {
    /// `DescribeInstances`.
    #[default]
    Instances,
    /// `DescribeTags`, since the other showed none.
    Tags,
}

/// A profile that a swap takes away before it attaches another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detached {
    /// The instance.
    pub instance: InstanceRef,
    /// The profile's ARN as EC2 wrote it.
    pub profile_arn: String,
    /// The association that goes.
    pub association: AssociationId,
}

/// What IAM answers about one instance profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Its ARN: the exact target of every write.
    pub arn: ProfileArn,
    /// Its id, which tells it from an earlier profile of the same ARN.
    pub id: ProfileId,
    /// Its role. An instance profile holds one or none.
    pub role: Option<Role>,
}

/// A profile's role, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// The role's name.
    pub name: String,
    /// The role's trust policy as JSON, where IAM sent one.
    pub trust_policy: Option<String>,
}
