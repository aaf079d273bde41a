//! The simulated AWS: the modelled EC2 and IAM of `world`, and what the function sees of them. Reads may be behind, calls
//! may be cut before or after they are carried out, and a queue delivers at least once.
//!
//! Every call is told to the [`Watch`], which holds the truth and knows what must never be.

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
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::mutation::Mutation;
use crate::oracle::{Want, is_allowed};
use crate::plan::{self, Fault, Item, Ms, Op, Own, Rules};
use crate::watch::Watch;
use crate::world::{self, ACCOUNT, AwsError};

/// How long a call may take before the adapter gives it up.
const CALL_TIME: Duration = Duration::from_secs(12);

/// One execution environment.
pub struct Env {
    pub number: usize,
    pub rules: Rules,
    /// Which deployment it belongs to.
    pub version: usize,
    pub dies: Notify,
}

/// What a handler takes for AWS, in one environment.
#[derive(Clone)]
pub struct SimAws {
    pub watch: Arc<Mutex<Watch>>,
    pub env: Arc<Env>,
    pub mutation: Option<Mutation>,
    /// What `DescribeInstances` showed last, for the mutation that makes the second witness repeat the first.
    seen: Arc<Mutex<std::collections::BTreeMap<String, Tags>>>,
    /// The profiles that this environment detached, for the mutation that never puts one back.
    detached: Arc<Mutex<Vec<String>>>,
}

impl SimAws {
    pub fn new(watch: &Arc<Mutex<Watch>>, env: &Arc<Env>, mutation: Option<Mutation>) -> Self {
        Self {
            watch: Arc::clone(watch),
            env: Arc::clone(env),
            mutation,
            seen: Arc::default(),
            detached: Arc::default(),
        }
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap()
    }

    fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// One call: its latency, what goes wrong with it, and what it does.
    async fn call<T: Send + 'static>(
        &self,
        op: Op,
        ids: Vec<String>,
        act: impl FnOnce(&mut Watch) -> Result<T, AwsError> + Send + 'static,
    ) -> Result<T, CloudError> {
        let (latency, fault) = self.watch().begin_call(op, &ids, &self.env);
        let operation = operation_of(op);
        let lost = || CloudError::new(operation, ErrorKind::Transient, None, "connection reset");
        let refused = |error: AwsError| {
            let kind = classify(operation, Some(&error.code), &error.message, error.status);
            CloudError::new(operation, kind, Some(error.code), error.message)
        };
        sleep(latency / 2).await;
        let result = match fault {
            None => act(&mut self.watch()).map_err(refused),
            Some(Fault::Refused(code, status)) => Err(refused(refusal(code, status))),
            Some(Fault::Cut) => Err(lost()),
            Some(Fault::CutAfterwards) => {
                let _ = act(&mut self.watch());
                Err(lost())
            }
            Some(Fault::DoneThenRefused) => match act(&mut self.watch()) {
                Ok(_) => Err(refused(refusal("IncorrectState", 400))),
                Err(error) => Err(refused(error)),
            },
            Some(Fault::Late(after)) => {
                let watch = Arc::clone(&self.watch);
                tokio::spawn(async move {
                    sleep(Duration::from_millis(after)).await;
                    let mut watch = watch.lock().unwrap();
                    watch.late = true;
                    let _ = act(&mut watch);
                    watch.late = false;
                });
                Err(lost())
            }
            Some(Fault::Hangs) => {
                sleep(CALL_TIME).await;
                Err(lost())
            }
            Some(Fault::DiesBefore) => self.die().await,
            Some(Fault::DiesAfter) => {
                let _ = act(&mut self.watch());
                self.die().await
            }
        };
        sleep(latency / 2).await;
        let told = result.as_ref().err().map(|error| error.kind.clone());
        self.watch().end_call(op, &ids, &self.env, told.as_ref());
        result
    }

    /// A write. With a mutation that weakens a guard, not quite the one that was asked for.
    async fn write<T: Send + 'static>(
        &self,
        op: Op,
        id: String,
        arn: Option<String>,
        association: Option<String>,
        act: impl Fn(&mut Watch) -> Result<T, AwsError> + Clone + Send + 'static,
    ) -> Result<Option<T>, CloudError> {
        let times = if self.is(Mutation::WritesTwice) { 2 } else { 1 };
        let mut result = Ok(None);
        for _ in 0..times {
            let env = Arc::clone(&self.env);
            self.watch().check_write(op, &id, arn.as_deref(), association.as_deref(), &env);
            let undoing = Arc::clone(&self.watch);
            let visit = self.watch().visits.get(&env.number).map(|visit| visit.number);
            let (act, who, association) = (act.clone(), id.clone(), association.clone());
            let carry_out = move |watch: &mut Watch| {
                let result = act(watch);
                watch.after_write(op, &who, association.as_deref(), &env, visit, result.is_ok());
                if result.is_ok() {
                    undo_later(&undoing, watch, &who);
                }
                result
            };
            result = self.call(op, vec![id.clone()], carry_out).await.map(Some);
            self.watch().note_answer(&id, arn.as_deref(), &self.env, result.as_ref().err());
        }
        if self.is(Mutation::TakesFailureForSuccess) { Ok(result.ok().flatten()) } else { result }
    }

    async fn die<T>(&self) -> T {
        self.env.dies.notify_one();
        std::future::pending().await
    }

    /// A call to SQS: what it does, and whether the answer arrives; nothing, where it is lost before SQS has it.
    async fn queue_call<T>(
        &self,
        op: Op,
        ids: &[String],
        act: impl FnOnce(&mut Watch) -> T,
    ) -> Option<(T, bool)> {
        let (latency, fault) = self.watch().begin_call(op, ids, &self.env);
        sleep(latency).await;
        match fault {
            None => Some((act(&mut self.watch()), true)),
            Some(Fault::CutAfterwards) => Some((act(&mut self.watch()), false)),
            Some(Fault::DiesBefore) => self.die().await,
            Some(Fault::DiesAfter) => {
                act(&mut self.watch());
                self.die().await
            }
            Some(_) => None,
        }
    }
}

impl Queues for SimAws {
    async fn hide(
        &self,
        _queue: &QueueArn,
        messages: &[Hidden<'_>],
    ) -> Vec<Result<(), QueueError>> {
        let far = if self.is(Mutation::HidesForEver) { 10_000 } else { 1 };
        let hide = |watch: &mut Watch| -> Vec<bool> {
            let hide =
                messages.iter().map(|hidden| watch.hide(hidden.receipt, hidden.for_time * far));
            hide.collect()
        };
        let lost = || Err(QueueError::new("ChangeMessageVisibility", None, "connection reset"));
        let Some((known, true)) = self.queue_call(Op::Hide, &[], hide).await else {
            return messages.iter().map(|_| lost()).collect();
        };
        let code = || Some("ReceiptHandleIsInvalid".to_owned());
        let expired =
            || QueueError::new("ChangeMessageVisibility", code(), "The receipt has expired");
        known.into_iter().map(|known| if known { Ok(()) } else { Err(expired()) }).collect()
    }

    async fn give_up(
        &self,
        _dead_letter_queue: &str,
        letters: &[DeadLetter<'_>],
    ) -> Vec<Result<(), QueueError>> {
        let mut results = Vec::new();
        for letter in letters {
            let loses = self.is(Mutation::LosesLetters);
            let give_up = |watch: &mut Watch| {
                if !loses {
                    watch.give_up(letter);
                }
            };
            let answer = self.queue_call(Op::GiveUp, &[], give_up).await;
            let lost = || QueueError::new("SendMessage", None, "connection reset");
            results.push(answer.filter(|((), answered)| *answered).map(drop).ok_or_else(lost));
        }
        results
    }

    async fn send(&self, _queue: &str, messages: &[Outgoing]) -> Vec<Result<(), QueueError>> {
        let ids = self.watch().ids_of(messages);
        let mutation = self.mutation;
        let take = |watch: &mut Watch| {
            for message in messages {
                if !watch.swallows(mutation, message) {
                    watch.take_own(message);
                }
            }
        };
        let answer = self.queue_call(Op::Send, &ids, take).await;
        if answer.is_none() {
            self.watch().lose_each(messages);
        }
        let is_answered = matches!(answer, Some(((), true)));
        let lost = || QueueError::new("SendMessage", None, "connection reset");
        messages.iter().map(|_| if is_answered { Ok(()) } else { Err(lost()) }).collect()
    }
}

impl Bus for SimAws {
    async fn tell(&self, _bus: &str, notices: &[Notice]) -> Vec<Result<(), QueueError>> {
        sleep(Duration::from_millis(20)).await;
        self.watch().hear(&self.env, notices);
        notices.iter().map(|_| Ok(())).collect()
    }
}

impl Fleet for SimAws {
    async fn instances_page(
        &self,
        _filters: &[Filter],
        _from: Option<&str>,
        _rows: usize,
    ) -> Result<Page<Instance>, CloudError> {
        let rows = self.instances(&self.everybody()).await?;
        Ok(Page { rows, next: None })
    }

    async fn associations_page(
        &self,
        _from: Option<&str>,
    ) -> Result<Page<Association>, CloudError> {
        let rows = self.associations(&self.everybody()).await?;
        Ok(Page { rows, next: None })
    }
}

impl Clouds for SimAws {
    type Cloud = Self;

    fn of(&self, _region: &Region) -> Self {
        self.clone()
    }

    async fn connect(&self, _region: &Region, _to: Service) -> Result<(), CloudError> {
        sleep(Duration::from_millis(20)).await;
        Ok(())
    }
}

impl Cloud for SimAws {
    async fn instances(&self, ids: &[InstanceId]) -> Result<Vec<Instance>, CloudError> {
        let texts = sorted(ids);
        let asked = texts.clone();
        let found = self
            .call(Op::Instances, texts, move |watch| {
                Ok(asked.iter().filter_map(|id| watch.show_instance(id)).collect::<Vec<_>>())
            })
            .await?;
        let mut seen = self.seen.lock().unwrap();
        seen.extend(found.iter().map(|found| (found.id.clone(), found.tags.clone())));
        Ok(found.into_iter().map(|found| self.warped_instance(found)).collect())
    }

    async fn associations(&self, ids: &[InstanceId]) -> Result<Vec<Association>, CloudError> {
        let texts = sorted(ids);
        let asked = texts.clone();
        let mut rows = self
            .call(Op::Associations, texts, move |watch| {
                Ok(asked.iter().flat_map(|id| watch.show_associations(id)).collect::<Vec<_>>())
            })
            .await?;
        if self.is(Mutation::SeesAssociatedOnly) {
            rows.retain(|row| row.state == "associated");
        }
        let dated = self.watch().plan.dated;
        Ok(rows.into_iter().map(|row| association(row, dated)).collect())
    }

    async fn tags(&self, ids: &[InstanceId]) -> Result<HashMap<InstanceId, Tags>, CloudError> {
        let asked = sorted(ids);
        let texts = asked.clone();
        let tags = self.call(Op::Tags, texts, move |watch| {
            Ok(asked.iter().map(|id| (id.clone(), watch.show_tags(id))).collect::<Vec<_>>())
        });
        let one_witness = self.is(Mutation::OneWitness);
        let reads_once = self.is(Mutation::ReadsEmptyTagsOnce);
        let tags = tags.await?.into_iter().map(|(id, tags)| {
            let seen = || self.seen.lock().unwrap().get(id.as_str()).cloned().unwrap_or_default();
            let repeats = one_witness || (reads_once && seen().is_empty());
            let tags = if repeats { seen() } else { tags };
            (InstanceId::parse(&id).unwrap(), tags)
        });
        Ok(tags.collect())
    }

    async fn profile(&self, name: &ProfileName) -> Result<Option<Profile>, CloudError> {
        let asked = name.to_string();
        let found = self.call(Op::Profile, Vec::new(), move |watch| watch.show_profile(&asked));
        match found.await {
            Ok(found) => Ok(Some(self.warped_profile(&found))),
            Err(CloudError { kind: ErrorKind::ProfileNotFound, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn associate(
        &self,
        instance: &InstanceId,
        arn: &str,
    ) -> Result<Option<Association>, CloudError> {
        let (id, arn) = (instance.to_string(), arn.to_owned());
        if self.is(Mutation::NeverPutsBack) && self.detached.lock().unwrap().contains(&arn) {
            return Ok(None);
        }
        let (who, what) = (id.clone(), arn.clone());
        let act = move |watch: &mut Watch| watch.associate(&who, &what);
        let row = self.write(Op::Associate, id, Some(arn), None, act).await;
        let dated = self.watch().plan.dated;
        row.map(|row| row.map(|row| association(row, dated)))
    }

    async fn replace(
        &self,
        row_id: &AssociationId,
        arn: &str,
    ) -> Result<Option<Association>, CloudError> {
        let (row_id, arn) = (row_id.to_string(), arn.to_owned());
        let id = self.watch().instance_of(&row_id);
        let (without_lock, who) = (self.is(Mutation::IgnoresTheLock), id.clone());
        let (row, what) = (row_id.clone(), arn.clone());
        let act = move |watch: &mut Watch| {
            let row = if without_lock { watch.row_now(&who) } else { None }.unwrap_or(row.clone());
            watch.replace(&row, &what)
        };
        let answer = self.write(Op::Replace, id, Some(arn), Some(row_id), act).await;
        let dated = self.watch().plan.dated;
        answer.map(|row| row.map(|row| association(row, dated)))
    }

    async fn disassociate(&self, association: &AssociationId) -> Result<(), CloudError> {
        let association = association.to_string();
        let id = self.watch().instance_of(&association);
        if let Some(arn) = self.watch().arn_of(&association) {
            self.detached.lock().unwrap().push(arn);
        }
        let (without_lock, who, row) =
            (self.is(Mutation::IgnoresTheLock), id.clone(), association.clone());
        let act = move |watch: &mut Watch| {
            let row = if without_lock { watch.row_now(&who) } else { None }.unwrap_or(row.clone());
            watch.disassociate(&row)
        };
        self.write(Op::Disassociate, id, None, Some(association), act).await.map(drop)
    }
}

impl SimAws {
    fn everybody(&self) -> Vec<InstanceId> {
        let watch = self.watch();
        watch.world.instances.keys().map(|id| InstanceId::parse(id).unwrap()).collect()
    }

    fn warped_instance(&self, mut found: world::Instance) -> Instance {
        if self.is(Mutation::SeesNoKeeper) {
            found.managed_by = None;
        }
        if self.is(Mutation::SeesNoState) {
            "running".clone_into(&mut found.state);
        }
        Instance {
            id: InstanceId::parse(&found.id).unwrap(),
            account: Some(AccountId::parse(ACCOUNT).unwrap()),
            state: InstanceState::from_ec2(&found.state),
            tags: found.tags,
            keeper: found
                .managed_by
                .map_or(Keeper::Owner, |service| Keeper::Service(Some(service))),
            vpc: Some("vpc-0123456789abcdef0".into()),
            subnet: Some("subnet-0123456789abcdef0".into()),
            instance_type: Some("t3.micro".into()),
            platform: Platform::Linux,
            started: None,
        }
    }

    fn warped_profile(&self, found: &world::Profile) -> Profile {
        let trusting = || Role { name: "trusting".into(), trust_policy: None };
        let role = found
            .role
            .as_ref()
            .map(|role| Role { trust_policy: Some(role.trust_policy()), name: role.name.clone() });
        let role = if self.is(Mutation::TrustsEveryProfile) { Some(trusting()) } else { role };
        Profile {
            arn: ProfileArn::parse(&found.arn()).unwrap(),
            id: ProfileId::parse(&found.id).unwrap(),
            role,
        }
    }
}

/// An association as EC2 shows it; some of its answers say when it was made, and others do not.
fn association(row: world::Association, dated: bool) -> Association {
    Association {
        id: AssociationId::parse(&row.id).unwrap(),
        instance: InstanceId::parse(&row.instance).unwrap(),
        profile_arn: row.arn,
        profile_id: Some(ProfileId::parse(&row.profile_id).unwrap()),
        state: AssociationState::from_ec2(&row.state),
        since: dated.then(|| i128::from(row.timestamp)),
    }
}

/// The function's order of ids is a hash map's, which no seed decides.
fn sorted(ids: &[InstanceId]) -> Vec<String> {
    let mut texts: Vec<_> = ids.iter().map(ToString::to_string).collect();
    texts.sort();
    texts
}

/// An error with a code, and the message that belongs to it.
pub fn refusal(code: &str, status: u16) -> AwsError {
    let message = match code {
        "InvalidParameterValue" => "Invalid IAM Instance Profile ARN".to_owned(),
        "UnauthorizedOperation" => format!(
            "You are not authorized to perform this operation. User: arn:aws:sts::{ACCOUNT}:assumed-role/f/f is not \
             authorized to perform: iam:PassRole on resource: arn:aws:iam::{ACCOUNT}:role/x because no identity-based \
             policy allows it. Encoded authorization failure message: AbC"
        ),
        other => format!("{other}, as planned"),
    };
    AwsError { status, code: code.to_owned(), message }
}

fn operation_of(op: Op) -> Operation {
    match op {
        Op::Instances => Operation::DescribeInstances,
        Op::Associations => Operation::DescribeIamInstanceProfileAssociations,
        Op::Tags => Operation::DescribeTags,
        Op::Profile => Operation::GetInstanceProfile,
        Op::Associate | Op::AssociateBare => Operation::AssociateIamInstanceProfile,
        Op::Replace => Operation::ReplaceIamInstanceProfileAssociation,
        Op::Disassociate => Operation::DisassociateIamInstanceProfile,
        Op::Hide | Op::GiveUp | Op::Send => unreachable!("a call to a queue"),
    }
}

impl Watch {
    /// Whether a guard is off that this message would be: then SQS never gets it.
    fn swallows(&self, mutation: Option<Mutation>, message: &Outgoing) -> bool {
        let (own, all) = self.own(&message.body);
        let leaves_bare = |who: &usize| {
            matches!(self.view(*who).want(self.rules), Want::Profile { leaves_bare: true, .. })
        };
        match (mutation, own) {
            (Some(Mutation::NeverWritesAhead), Own::FinishSwap)
            // Who waits for another state is looked at later, too: it takes both guards off to be noticed.
            | (Some(Mutation::NeverVerifies | Mutation::ExpectsNoState), Own::Verify) => true,
            (Some(Mutation::ForgetsWhereBareIsLeft), Own::FinishSwap) => {
                all.iter().any(leaves_bare)
            }
            _ => false,
        }
    }

    fn associate(&mut self, id: &str, arn: &str) -> Result<world::Association, AwsError> {
        role_allows(arn)?;
        self.set_sticking(id);
        self.world.associate(id, arn)
    }

    fn replace(&mut self, association: &str, arn: &str) -> Result<world::Association, AwsError> {
        role_allows(arn)?;
        let id = self.instance_of(association);
        self.set_sticking(&id);
        self.world.replace(association, arn)
    }

    fn disassociate(&mut self, association: &str) -> Result<(), AwsError> {
        self.world.disassociate(association).map(drop)
    }

    /// Whether associations that are made now stay what they are.
    fn set_sticking(&mut self, id: &str) {
        let (who, now) = (plan::who(id), self.now());
        let sticks = self.plan.items.iter().any(|item| {
            matches!(item, Item::Stick { from, to, who: of } if *of == who && (*from..=*to).contains(&now))
        });
        self.world.sticking.remove(id);
        if sticks {
            self.world.sticking.insert(id.to_owned());
        }
    }
}

/// Another tool undoes what was written, a while later.
fn undo_later(shared: &Arc<Mutex<Watch>>, watch: &Watch, id: &str) {
    let (who, now) = (plan::who(id), watch.now());
    let undo = watch.plan.items.iter().find_map(|item| match item {
        Item::Undo { from, to, who: of, profile, after }
            if *of == who && (*from..=*to).contains(&now) =>
        {
            Some((*profile, *after))
        }
        _ => None,
    });
    let Some((profile, after)) = undo else { return };
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        sleep(Duration::from_millis(after)).await;
        let mut watch = shared.lock().unwrap();
        let at = watch.now();
        watch.undone[who].push(at);
        watch.say(|| format!("  instance {who}: another tool undoes it"));
        watch.is_changed_by_another(who, Some(profile));
    });
}

/// The role in the template attaches allowed profiles only.
fn role_allows(arn: &str) -> Result<(), AwsError> {
    if is_allowed(arn) { Ok(()) } else { Err(refusal("UnauthorizedOperation", 403)) }
}

/// A latency that the seed, the call and the moment decide.
pub fn latency(seed: u64, op: Op, ids: &[String], now: Ms) -> Duration {
    let mut mixed = seed ^ now.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ ((op as u64) << 40);
    for byte in ids.iter().flat_map(|id| id.bytes()) {
        mixed = (mixed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    mixed ^= mixed >> 29;
    Duration::from_millis(6 + 2 * (mixed % 30))
}
