//! The whole fleet, by the engine that the function runs on; and `plan`.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

use auto_instance_profile::aws::Aws;
use auto_instance_profile::aws::cloud::AwsCloud;
use auto_instance_profile::cloud::{CloudError, Clouds, Fleet, ROWS_PER_PAGE};
use auto_instance_profile::config::Mode;

use auto_instance_profile::flapping::FlapDetector;
use auto_instance_profile::model::{InstanceId, InstanceRef, Region};
use auto_instance_profile::own_queue::OwnQueue;
use auto_instance_profile::pace::{self, Limits};
use auto_instance_profile::policy::Policy;
use auto_instance_profile::profiles::Profiles;
use auto_instance_profile::reconcile::{Job, Reconciler};
use auto_instance_profile::report::{Cause, FoundBy, InstanceReport};
use tokio::time::Instant;

use crate::args::{FleetArgs, PlanArgs};
use crate::plan::Plan;
use crate::policy::{Loaded, load};
use crate::session;
use crate::show::{FAINT, Progress, UNSURE, printable, write_json};
use crate::{End, Trouble, since_1970, wait_for};

/// Instances a look: as many as EC2 takes in one filter, so that a look costs two calls.
const INSTANCES_PER_LOOK: usize = 200;
/// How long the looks at so many may take, IAM's answers included: a minute and more in the worst of throttling.
pub const TIME_FOR_A_LOOK: Duration = Duration::from_mins(3);
/// How long one change may take, with the looks again that it may need.
const TIME_FOR_A_CHANGE: Duration = Duration::from_mins(1);

/// One Region's instances, and what they are held against.
pub struct Place {
    clouds: Aws,
    pub cloud: AwsCloud,
    pub region: Region,
    pub profiles: Profiles,
    /// Out of the way: a person says how fast changes are begun.
    pace: pace::Pace,
    flapping: FlapDetector,
    /// The function's queue, where it is named: what a swap detaches is written down there first.
    queue: Option<String>,
}

const UNPACED: Limits = Limits { per_second: 1000.0, burst: 1000.0 };

impl Place {
    /// The Region that is asked for, or else the one that AWS's configuration names.
    pub async fn find(region: Option<&Region>, queue: Option<&str>) -> Result<Self, Trouble> {
        let clouds = session::open(region).await?;
        let region = region.cloned().or_else(|| clouds.region()).ok_or(Trouble::NoRegion)?;
        if let Some(of_queue) = queue.and_then(region_in).filter(|of_queue| *of_queue != region) {
            return Err(Trouble::Usage(format!(
                "the queue is in {of_queue} and the instances in {region}; a function's queue is in its own Region"
            )));
        }
        Ok(Self {
            cloud: clouds.of(&region),
            clouds,
            region,
            profiles: Profiles::default(),
            pace: pace::Pace::new(UNPACED),
            flapping: FlapDetector::default(),
            queue: queue.map(str::to_owned),
        })
    }

    /// Whether a call failed for want of credentials.
    pub async fn check_credentials(&self, failed: &CloudError) -> Result<(), Trouble> {
        // An answer of AWS's, even a refusal, has a code, and took credentials.
        if failed.code.is_none() {
            self.clouds.check_credentials().await.map_err(Trouble::NoCredentials)?;
        }
        Ok(())
    }

    /// Has the engine deal with these instances.
    pub async fn run(
        &self,
        ids: &[InstanceId],
        policy: &Policy,
        mode: Mode,
    ) -> Vec<InstanceReport> {
        let time = match mode {
            Mode::DryRun => TIME_FOR_A_LOOK,
            Mode::Enforce => TIME_FOR_A_CHANGE,
        };
        let deadline = Instant::now() + time;
        let job = |id: &InstanceId| {
            let instance =
                InstanceRef { account: None, region: self.region.clone(), id: id.clone() };
            Job::about(instance, mode, Cause { found_by: FoundBy::Person, ..Cause::default() })
        };
        let queue = self.queue.as_deref().map(|url| OwnQueue { queues: &self.clouds, url });
        let reconciler = Reconciler {
            cloud: &self.cloud,
            profiles: &self.profiles,
            policy,
            pace: &self.pace,
            flapping: &self.flapping,
            write_ahead: queue.as_ref(),
            deadline,
            now_ns: now_ns(),
        };
        reconciler.run(ids.iter().map(job).collect()).await
    }

    /// Looks at every instance that passes the filters.
    async fn look(
        &self,
        args: &FleetArgs,
        policy: &Policy,
    ) -> Result<Vec<InstanceReport>, Trouble> {
        let progress = Progress::new();
        // Pages are read one after another while instances come and go: one may be on two of them.
        let mut ids = BTreeSet::new();
        let mut next: Option<String> = None;
        loop {
            progress.say(&format!("Listing instances in {}: {}", self.region, ids.len()));
            let page = match self
                .cloud
                .instances_page(&args.filter, next.as_deref(), *ROWS_PER_PAGE.end())
                .await
            {
                Ok(page) => page,
                Err(error) => {
                    self.check_credentials(&error).await?;
                    return Err(Trouble::List(error));
                }
            };
            ids.extend(page.rows.into_iter().map(|instance| instance.id));
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        let ids: Vec<_> = ids.into_iter().collect();
        let mut reports = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(INSTANCES_PER_LOOK) {
            progress.say(&format!("Looking at instances: {} of {}", reports.len(), ids.len()));
            reports.extend(self.run(chunk, policy, Mode::DryRun).await);
        }
        Ok(reports)
    }

    /// What would be changed, by a look at every instance that passes the filters.
    pub async fn plan<'a>(
        &'a self,
        args: &'a FleetArgs,
        loaded: &'a Loaded,
    ) -> Result<Plan<'a>, Trouble> {
        let reports = self.look(args, &loaded.policy).await?;
        Ok(Plan::new(self.region.as_str(), &loaded.name, &args.allowed.text, reports))
    }
}

pub fn plan(args: &PlanArgs, out: &mut impl Write) -> Result<End, Trouble> {
    let loaded = policy_of(&args.fleet)?;
    wait_for(async {
        let place = Place::find(args.fleet.region.as_ref(), args.queue.as_deref()).await?;
        let plan = place.plan(&args.fleet, &loaded).await?;
        if args.fleet.json {
            write_json(&plan.json(), out)?;
        } else {
            plan.write(args.fleet.all, out)?;
            writeln!(
                out,
                "{FAINT}Not known before it is tried: whether your credentials, or the function's role, may make these \
                 changes.{FAINT:#}"
            )?;
        }
        Ok(match (plan.failures(), plan.changes()) {
            (0, 0) => End::Done,
            (0, _) => End::SomethingToDo,
            (_, _) => End::Wrong,
        })
    })
}

pub fn policy_of(args: &FleetArgs) -> Result<Loaded, Trouble> {
    let loaded =
        load(args.rules.policy.as_deref(), args.rules.tag_key.as_deref(), &args.allowed.list)?;
    let policy = loaded.policy.with_when_stopped_default(args.when_stopped);
    let loaded = Loaded { policy, ..loaded };
    warn(&loaded);
    Ok(loaded)
}

/// Says on standard error where a policy says something else than it seems to.
pub fn warn(loaded: &Loaded) {
    for warning in &loaded.warnings {
        // Nobody may be there to read it.
        let _ = writeln!(anstream::stderr(), "{UNSURE}{}{UNSURE:#}", printable(warning));
    }
}

/// Now, in nanoseconds since 1970.
pub fn now_ns() -> i128 {
    i128::try_from(since_1970().as_nanos()).unwrap_or(i128::MAX)
}

/// The Region in a queue's URL, where its host is one of AWS's.
pub fn region_in(url: &str) -> Option<Region> {
    let (_, rest) = url.split_once("://")?;
    let host: Vec<_> = rest.split(['/', ':']).next()?.split('.').collect();
    match host[..] {
        ["sqs" | "sqs-fips", region, _, ..] | [region, "queue", "amazonaws", ..] => {
            Region::parse(region).ok()
        }
        _ => None,
    }
}
