//! EC2 and IAM as far as this job meets them: which call is legal when, what the reads show meanwhile, and the exact codes.
//!
//! Public emulators get many of these wrong, so this model follows what the live service was recorded to do. It knows
//! nothing of the code under test; `fake` serves it as a `Cloud`, `wire` over HTTP.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{Index, IndexMut};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

pub const ACCOUNT: &str = "123456789012";

/// How long EC2 takes to bring an association into force, or to let go of one.
const SETTLES_AFTER: Duration = Duration::from_secs(5);

/// An error as AWS answers it.
#[derive(Debug, Clone)]
pub struct AwsError {
    pub status: u16,
    pub code: String,
    pub message: String,
}

/// The calls of this job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    DescribeInstances,
    DescribeAssociations,
    DescribeTags,
    GetInstanceProfile,
    Associate,
    Replace,
    Disassociate,
}

/// A write that was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    Associated { instance: String, profile: String },
    Replaced { instance: String, profile: String },
    Disassociated { instance: String, profile: String },
}

#[derive(Debug, Clone)]
pub struct Instance {
    pub id: String,
    pub state: String,
    pub tags: BTreeMap<String, String>,
    pub managed_by: Option<String>,
    /// Reads that do not show it yet.
    pub unseen_for: u32,
    /// Reads that show it without its tags.
    pub untagged_for: u32,
    /// What `DescribeInstances` shows as its profile: stale while an association settles.
    pub shown_profile: Option<(String, String)>,
    /// When it was started last, in seconds since 1970, where a test cares.
    pub started: Option<i64>,
}

#[derive(Debug, Clone)]
pub struct Association {
    pub id: String,
    pub instance: String,
    pub arn: String,
    pub profile_id: String,
    pub state: String,
    /// Seconds since 1970, as EC2 shows it.
    pub timestamp: i64,
    since: Instant,
    /// EC2 cannot assume the role, so it is never put into force.
    is_stuck: bool,
}

#[derive(Debug, Clone)]
pub struct Profile {
    pub name: String,
    pub path: String,
    pub id: String,
    pub role: Option<Role>,
    /// EC2 does not know it yet.
    pub unknown_to_ec2: bool,
}

#[derive(Debug, Clone)]
pub struct Role {
    pub name: String,
    pub trusts: String,
}

impl Profile {
    pub fn arn(&self) -> String {
        format!("arn:aws:iam::{ACCOUNT}:instance-profile{}{}", self.path, self.name)
    }
}

impl Role {
    pub fn arn(&self) -> String {
        format!("arn:aws:iam::{ACCOUNT}:role/{}", self.name)
    }

    pub fn trust_policy(&self) -> String {
        format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"Service":"{}"}},"Action":"sts:AssumeRole"}}]}}"#,
            self.trusts
        )
    }
}

/// How pages of all instances come.
#[derive(Debug, Default)]
pub struct Pages {
    /// How long one takes for each of its rows.
    pub takes_per_row: Duration,
    /// How long a page of all associations takes.
    pub of_associations_takes: Duration,
    /// One with more rows than this cannot be read.
    pub readable_up_to: Option<usize>,
    /// A token is good for pages of the size with which it was given, and for no other.
    pub tokens_know_the_size: bool,
    /// Each instance is shown twice.
    pub twice: bool,
    /// The rows that were asked for.
    pub asked: Vec<usize>,
}

type Hook = Box<dyn FnOnce(&mut World) + Send>;

/// The world. Make one with its sentences: `World::new().profile("web").running(id, Some("web"), None)`.
#[derive(Default)]
pub struct World {
    pub instances: BTreeMap<String, Instance>,
    pub profiles: BTreeMap<String, Profile>,
    pub associations: Associations,
    pub calls: Vec<Call>,
    pub writes: Vec<Write>,
    denied: Vec<(Call, String)>,
    denied_once: Vec<(Call, String)>,
    hooks: Vec<(Call, Hook)>,
    /// Whether Replace mends an association with a profile that was made again; nobody outside AWS knows.
    pub replace_mends_recreated: bool,
    counter: u32,
    /// Rows that a list of everything shows at once, though more are asked for; 0 stands for EC2's thousand.
    pub rows_per_page: usize,
    /// How each page of instances comes.
    pub pages: Pages,
    /// EC2 says of no association since when it is as it is.
    pub is_undated: bool,
    /// Instances whose new associations EC2 never puts into force.
    pub sticking: BTreeSet<String>,
    /// Profiles whose role the caller may not pass.
    pub not_passable: BTreeSet<String>,
}

impl World {
    pub fn new() -> Self {
        Self::default()
    }

    /// With so many rows on a page of everything.
    pub fn paged_by(mut self, rows: usize) -> Self {
        self.rows_per_page = rows;
        self
    }

    /// One page of a list of everything, of so many rows. The token is the place where the next begins.
    pub fn page<T>(
        &self,
        all: Vec<T>,
        from: Option<&str>,
        rows: usize,
    ) -> (Vec<T>, Option<String>) {
        let rows = if self.rows_per_page == 0 { rows } else { rows.min(self.rows_per_page) };
        let begin: usize = from.map_or(0, |token| token.parse().unwrap());
        let next = begin + rows;
        let token = (next < all.len()).then(|| next.to_string());
        (all.into_iter().skip(begin).take(rows).collect(), token)
    }

    /// Whose pages of instances take this long for each row.
    pub fn with_heavy_instances(mut self, takes_per_row: Duration) -> Self {
        self.pages.takes_per_row = takes_per_row;
        self
    }

    /// A usable profile at the root path.
    pub fn profile(self, name: &str) -> Self {
        self.profile_at("/", name)
    }

    /// A usable profile.
    pub fn profile_at(mut self, path: &str, name: &str) -> Self {
        self.make_profile(path, name, Some("ec2.amazonaws.com"));
        self
    }

    /// A profile without a role.
    pub fn profile_without_role(mut self, name: &str) -> Self {
        self.make_profile("/", name, None);
        self
    }

    /// A profile whose role trusts another service.
    pub fn profile_trusting(mut self, name: &str, service: &str) -> Self {
        self.make_profile("/", name, Some(service));
        self
    }

    pub fn make_profile(&mut self, path: &str, name: &str, trusts: Option<&str>) {
        let id = format!("AIPA{:012}", self.next());
        let role =
            trusts.map(|service| Role { name: format!("{name}-role"), trusts: service.to_owned() });
        let (name, path) = (name.to_owned(), path.to_owned());
        self.profiles.insert(name.clone(), Profile { name, path, id, role, unknown_to_ec2: false });
    }

    /// An instance in any state, with the tag `InstanceProfile` and a settled association where given.
    pub fn instance(
        mut self,
        id: &str,
        state: &str,
        tag: Option<&str>,
        attached: Option<&str>,
    ) -> Self {
        let tags =
            tag.iter().map(|value| ("InstanceProfile".to_owned(), (*value).to_owned())).collect();
        let instance = Instance {
            id: id.to_owned(),
            state: state.to_owned(),
            tags,
            managed_by: None,
            unseen_for: 0,
            untagged_for: 0,
            shown_profile: None,
            started: None,
        };
        self.instances.insert(id.to_owned(), instance);
        self.associations.unsettle(id);
        if let Some(name) = attached {
            self.attach(id, name);
        }
        self
    }

    pub fn running(self, id: &str, tag: Option<&str>, attached: Option<&str>) -> Self {
        self.instance(id, "running", tag, attached)
    }

    pub fn stopped(self, id: &str, tag: Option<&str>, attached: Option<&str>) -> Self {
        self.instance(id, "stopped", tag, attached)
    }

    pub fn managed_by(mut self, id: &str, service: &str) -> Self {
        self.instance_mut(id).managed_by = Some(service.to_owned());
        self
    }

    /// With one more tag.
    pub fn tagged(mut self, id: &str, key: &str, value: &str) -> Self {
        self.instance_mut(id).tags.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Somebody started the instance this long ago.
    pub fn started(mut self, id: &str, ago: Duration) -> Self {
        self.instance_mut(id).started = Some(seconds_ago(ago));
        self
    }

    /// For so long EC2 has tried to put the instance's association into force, and it never will.
    pub fn stuck_for(mut self, id: &str, time: Duration) -> Self {
        let keys = self.associations.by_instance[id].clone();
        for key in keys {
            let row = self.associations.rows.get_mut(&key).unwrap();
            "associating".clone_into(&mut row.state);
            row.timestamp = seconds_ago(time);
            row.is_stuck = true;
        }
        self.instance_mut(id).shown_profile = None;
        self
    }

    /// The next reads do not show the instance.
    pub fn unseen_for(mut self, id: &str, reads: u32) -> Self {
        self.instance_mut(id).unseen_for = reads;
        self
    }

    /// The next reads show the instance without its tags.
    pub fn untagged_for(mut self, id: &str, reads: u32) -> Self {
        self.instance_mut(id).untagged_for = reads;
        self
    }

    /// IAM knows the profile, EC2 does not yet.
    pub fn unknown_to_ec2(mut self, name: &str) -> Self {
        self.profiles.get_mut(name).unwrap().unknown_to_ec2 = true;
        self
    }

    /// EC2 cannot assume the role: what is attached is never put into force.
    pub fn never_settles(&mut self, id: &str) {
        for key in self.associations.by_instance[id].clone() {
            self.associations.rows.get_mut(&key).unwrap().is_stuck = true;
        }
    }

    /// The next such call is denied, and no other.
    pub fn deny_once(&mut self, call: Call, action_on_resource: &str) {
        self.denied_once.push((call, action_on_resource.to_owned()));
    }

    /// The function's role lacks the right to a call; the message names this action and resource.
    pub fn denying(mut self, call: Call, action_on_resource: &str) -> Self {
        self.denied.push((call, action_on_resource.to_owned()));
        self
    }

    /// Something happens just before the next such call is carried out.
    pub fn before(mut self, call: Call, happens: impl FnOnce(&mut World) + Send + 'static) -> Self {
        self.hooks.push((call, Box::new(happens)));
        self
    }

    /// Another hand attaches a profile, settled, in place of what is there.
    pub fn attach(&mut self, id: &str, name: &str) {
        self.associations.remove_of(id);
        let row = self.new_row(id, name, "associated");
        self.instance_mut(id).shown_profile = Some((row.arn.clone(), row.profile_id.clone()));
        self.associations.push(row);
    }

    /// Another hand detaches what is there.
    pub fn detach(&mut self, id: &str) {
        self.associations.remove_of(id);
        self.instance_mut(id).shown_profile = None;
    }

    pub fn instance_mut(&mut self, id: &str) -> &mut Instance {
        self.associations.unsettle(id);
        self.instances.get_mut(id).unwrap()
    }

    /// The name of the profile an instance counts as having.
    pub fn attached_to(&self, id: &str) -> Option<String> {
        let rows = self.associations.of(id).filter(|row| row.state.starts_with("associat"));
        rows.max_by_key(|row| row.timestamp)
            .and_then(|row| row.arn.rsplit('/').next())
            .map(str::to_owned)
    }

    fn next(&mut self) -> u32 {
        self.counter += 1;
        self.counter
    }

    fn new_row(&mut self, id: &str, name: &str, state: &str) -> Association {
        let number = self.next();
        let profile = self.profiles.get(name).unwrap_or_else(|| panic!("no profile {name}"));
        Association {
            id: format!("iip-assoc-{number:017x}"),
            instance: id.to_owned(),
            arn: profile.arn(),
            profile_id: profile.id.clone(),
            state: state.to_owned(),
            timestamp: 1_700_000_000 + i64::from(number),
            since: Instant::now(),
            is_stuck: state == "associating" && self.sticking.contains(id),
        }
    }

    /// Begins a call: records it, lets happen what was to happen first, and refuses what is denied.
    fn begin(&mut self, call: Call) -> Result<(), AwsError> {
        self.calls.push(call);
        if let Some(index) = self.hooks.iter().position(|(hooked, _)| *hooked == call) {
            let (_, happens) = self.hooks.remove(index);
            happens(self);
        }
        self.settle();
        let once = self.denied_once.iter().position(|(denied, _)| *denied == call);
        let once = once.map(|index| self.denied_once.remove(index));
        match once.iter().chain(&self.denied).find(|(denied, _)| *denied == call) {
            None => Ok(()),
            Some((_, what)) if call == Call::GetInstanceProfile => Err(error(
                403,
                "AccessDenied",
                &format!(
                    "User: arn:aws:sts::{ACCOUNT}:assumed-role/f/f is not authorized to perform: {what} because no identity-based policy allows it"
                ),
            )),
            Some((_, what)) => Err(error(
                403,
                "UnauthorizedOperation",
                &format!(
                    "You are not authorized to perform this operation. User: arn:aws:sts::{ACCOUNT}:assumed-role/f/f is not authorized to perform: {what} because no identity-based policy allows it. Encoded authorization failure message: AbC"
                ),
            )),
        }
    }

    /// Lets time have its effect: on a stopped instance an association stays `associating`.
    fn settle(&mut self) {
        let is_up = |instances: &BTreeMap<String, Instance>, id: &str| {
            instances.get(id).is_some_and(|instance| instance.state == "running")
        };
        let gone = |instances: &BTreeMap<String, Instance>, id: &str| {
            instances.get(id).is_none_or(|instance| instance.state == "terminated")
        };
        let instances = &mut self.instances;
        for key in self.associations.unsettled() {
            let row = self.associations.rows.get_mut(&key).unwrap();
            let old = row.since.elapsed() >= SETTLES_AFTER;
            let over = row.state == "disassociating" && old;
            if over || gone(instances, &row.instance) {
                self.associations.remove(key);
                continue;
            }
            let settles = old && !row.is_stuck && is_up(instances, &row.instance);
            if row.state == "associating" && settles {
                "associated".clone_into(&mut row.state);
                instances.get_mut(&row.instance).unwrap().shown_profile =
                    Some((row.arn.clone(), row.profile_id.clone()));
            }
            if row.state == "associated" {
                self.associations.unsettled.remove(&key);
            }
        }
    }

    /// `DescribeInstances` by the filter `instance-id`: unknown ids are left out.
    pub fn describe_instances(&mut self, ids: &[String]) -> Result<Vec<Instance>, AwsError> {
        self.begin(Call::DescribeInstances)?;
        let mut shown = Vec::new();
        for id in ids {
            let Some(instance) = self.instances.get_mut(id) else {
                continue;
            };
            if instance.unseen_for > 0 {
                instance.unseen_for -= 1;
                continue;
            }
            let mut view = instance.clone();
            if instance.untagged_for > 0 {
                instance.untagged_for -= 1;
                view.tags.clear();
            }
            shown.push(view);
        }
        Ok(shown)
    }

    /// `DescribeIamInstanceProfileAssociations` by the filter `instance-id`.
    pub fn describe_associations(&mut self, ids: &[String]) -> Result<Vec<Association>, AwsError> {
        self.begin(Call::DescribeAssociations)?;
        let rows = ids.iter().collect::<BTreeSet<_>>();
        let mut rows: Vec<_> = rows.into_iter().flat_map(|id| self.associations.of(id)).collect();
        rows.sort_by_key(|row| row.key());
        Ok(rows.into_iter().cloned().collect())
    }

    /// `DescribeTags` by the filter `resource-id`: a view of its own, which lags and lies by itself.
    pub fn describe_tags(
        &mut self,
        ids: &[String],
    ) -> Result<BTreeMap<String, BTreeMap<String, String>>, AwsError> {
        self.begin(Call::DescribeTags)?;
        let tags = |id: &String| Some((id.clone(), self.instances.get(id)?.tags.clone()));
        Ok(ids.iter().filter_map(tags).filter(|(_, tags)| !tags.is_empty()).collect())
    }

    /// `GetInstanceProfile`.
    pub fn get_instance_profile(&mut self, name: &str) -> Result<Profile, AwsError> {
        self.begin(Call::GetInstanceProfile)?;
        self.profiles.get(name).cloned().ok_or_else(|| {
            error(404, "NoSuchEntity", &format!("Instance Profile {name} cannot be found."))
        })
    }

    /// `AssociateIamInstanceProfile`, by ARN.
    pub fn associate(&mut self, id: &str, arn: &str) -> Result<Association, AwsError> {
        self.begin(Call::Associate)?;
        self.may_pass(arn)?;
        let name = self.known_to_ec2(arn)?;
        let Some(instance) = self.instances.get(id).filter(|instance| instance.unseen_for == 0)
        else {
            return Err(error(
                400,
                "InvalidInstanceID.NotFound",
                &format!("The instance ID '{id}' does not exist"),
            ));
        };
        if !matches!(instance.state.as_str(), "running" | "stopped") {
            let message =
                format!("The instance '{id}' is not in the 'running' or 'stopped' states.");
            return Err(error(400, "IncorrectInstanceState", &message));
        }
        if self.associations.of(id).next().is_some() {
            let message = format!("There is an existing association for instance {id}");
            return Err(error(400, "IncorrectState", &message));
        }
        let row = self.new_row(id, &name, "associating");
        self.associations.push(row.clone());
        self.writes.push(Write::Associated { instance: id.to_owned(), profile: name });
        Ok(row)
    }

    /// `ReplaceIamInstanceProfileAssociation`, by ARN.
    pub fn replace(&mut self, association: &str, arn: &str) -> Result<Association, AwsError> {
        self.begin(Call::Replace)?;
        self.may_pass(arn)?;
        let name = self.known_to_ec2(arn)?;
        let old = self.row(association)?.clone();
        let running =
            self.instances.get(&old.instance).is_some_and(|instance| instance.state == "running");
        if !running || old.state == "disassociating" {
            let message = format!("The association {association} is not the active association");
            return Err(error(400, "IncorrectState", &message));
        }
        self.writes.push(Write::Replaced { instance: old.instance.clone(), profile: name.clone() });
        if old.arn == arn
            && !(self.replace_mends_recreated && old.profile_id != self.profiles[&name].id)
        {
            return Ok(old);
        }
        let now = Instant::now();
        if let Some(row) = self.associations.get_mut(association) {
            "disassociating".clone_into(&mut row.state);
            row.since = now;
        }
        let row = self.new_row(&old.instance, &name, "associating");
        self.associations.push(row.clone());
        Ok(row)
    }

    /// `DisassociateIamInstanceProfile`.
    pub fn disassociate(&mut self, association: &str) -> Result<Association, AwsError> {
        self.begin(Call::Disassociate)?;
        let mut row = self.row(association)?.clone();
        let name = row.arn.rsplit('/').next().unwrap_or_default().to_owned();
        if row.state != "disassociating" {
            self.writes
                .push(Write::Disassociated { instance: row.instance.clone(), profile: name });
        }
        let stopped =
            self.instances.get(&row.instance).is_some_and(|instance| instance.state == "stopped");
        if stopped {
            self.associations.remove(row.key());
            self.instance_mut(&row.instance).shown_profile = None;
            "disassociated".clone_into(&mut row.state);
        } else {
            let now = Instant::now();
            if let Some(live) = self.associations.get_mut(association) {
                "disassociating".clone_into(&mut live.state);
                live.since = now;
            }
            "disassociating".clone_into(&mut row.state);
        }
        Ok(row)
    }

    fn row(&self, association: &str) -> Result<&Association, AwsError> {
        self.associations.get(association).ok_or_else(|| {
            let message = format!("An invalid association-id of '{association}' was given");
            error(400, "InvalidAssociationID.NotFound", &message)
        })
    }

    /// IAM is asked before anything else is.
    fn may_pass(&self, arn: &str) -> Result<(), AwsError> {
        let name = arn.rsplit('/').next().unwrap_or_default();
        if !self.not_passable.contains(name) {
            return Ok(());
        }
        Err(error(
            403,
            "UnauthorizedOperation",
            &format!(
                "You are not authorized to perform this operation. User: arn:aws:sts::{ACCOUNT}:assumed-role/f/f is not authorized to perform: iam:PassRole on resource: arn:aws:iam::{ACCOUNT}:role/{name}-role because no identity-based policy allows it. Encoded authorization failure message: AbC"
            ),
        ))
    }

    fn known_to_ec2(&self, arn: &str) -> Result<String, AwsError> {
        let known =
            self.profiles.values().find(|profile| profile.arn() == arn && !profile.unknown_to_ec2);
        known.map(|profile| profile.name.clone()).ok_or_else(|| {
            let message = format!(
                "Value ({arn}) for parameter iamInstanceProfile.arn is invalid. Invalid IAM Instance Profile ARN"
            );
            error(400, "InvalidParameterValue", &message)
        })
    }
}

/// Associations in the order they were made, found by their ids and by their instances: a storm makes thousands of them,
/// and each call lets time have its effect on those alone that it can change.
#[derive(Default)]
pub struct Associations {
    rows: BTreeMap<u64, Association>,
    by_instance: HashMap<String, Vec<u64>>,
    /// Those that may change with time, or because of what became of their instance.
    unsettled: BTreeSet<u64>,
}

impl Association {
    /// The number in its id, which grows with each new one.
    fn key(&self) -> u64 {
        key(&self.id).unwrap()
    }
}

fn key(id: &str) -> Option<u64> {
    u64::from_str_radix(id.strip_prefix("iip-assoc-")?, 16).ok()
}

impl Associations {
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    fn push(&mut self, row: Association) {
        self.unsettled.insert(row.key());
        self.by_instance.entry(row.instance.clone()).or_default().push(row.key());
        self.rows.insert(row.key(), row);
    }

    fn remove(&mut self, key: u64) {
        self.unsettled.remove(&key);
        if let Some(row) = self.rows.remove(&key)
            && let Some(keys) = self.by_instance.get_mut(&row.instance)
        {
            keys.retain(|other| *other != key);
        }
    }

    fn remove_of(&mut self, instance: &str) {
        for key in self.by_instance.remove(instance).unwrap_or_default() {
            self.remove(key);
        }
    }

    fn of(&self, instance: &str) -> impl Iterator<Item = &Association> {
        self.by_instance.get(instance).into_iter().flatten().map(|key| &self.rows[key])
    }

    fn get(&self, id: &str) -> Option<&Association> {
        self.rows.get(&key(id)?).filter(|row| row.id == id)
    }

    /// For a change that time will act on.
    fn get_mut(&mut self, id: &str) -> Option<&mut Association> {
        let key = key(id)?;
        let row = self.rows.get_mut(&key).filter(|row| row.id == id)?;
        self.unsettled.insert(key);
        Some(row)
    }

    fn unsettled(&self) -> Vec<u64> {
        self.unsettled.iter().copied().collect()
    }

    /// Something may become of the instance.
    fn unsettle(&mut self, instance: &str) {
        self.unsettled.extend(self.by_instance.get(instance).into_iter().flatten());
    }
}

impl Index<usize> for Associations {
    type Output = Association;

    fn index(&self, index: usize) -> &Association {
        self.rows.values().nth(index).unwrap()
    }
}

impl IndexMut<usize> for Associations {
    fn index_mut(&mut self, index: usize) -> &mut Association {
        let (key, row) = self.rows.iter_mut().nth(index).unwrap();
        self.unsettled.insert(*key);
        row
    }
}

#[expect(clippy::disallowed_methods, reason = "EC2's times are wall-clock times")]
fn seconds_ago(time: Duration) -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    now.checked_sub(time).unwrap().as_secs().try_into().unwrap()
}

fn error(status: u16, code: &str, message: &str) -> AwsError {
    AwsError { status, code: code.to_owned(), message: message.to_owned() }
}
