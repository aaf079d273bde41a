//! What IAM answered lately. A batch asks for the same few profiles again and again, and IAM's rate is shared with the
//! whole account.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::cloud::{Cloud, CloudError};
use crate::model::{Profile, ProfileArn, ProfileName};
use crate::trust::gives_credentials;

/// How long a profile that is there is believed. Its role and its id change seldom; a write that finds it gone forgets it.
const KNOWN_FOR: Duration = Duration::from_mins(5);
/// How long a profile that is not there is believed to be absent: it may be about to be made.
const UNKNOWN_FOR: Duration = Duration::from_secs(5);

/// How long a failure stands for everybody who asks: those who waited for the same answer get it, and none asks again.
const FAILED_FOR: Duration = Duration::from_secs(1);

/// Names asked for again beside a look. IAM's rate is shared with the whole account.
const REFRESHED_AT_ONCE: usize = 8;

/// How long a denied attach is remembered: no instance is detached meanwhile for the sake of that profile.
const DENIED_FOR: Duration = Duration::from_hours(1);

/// The answers, shared by all invocations of one execution environment.
#[derive(Debug, Default)]
pub struct Profiles {
    slots: Mutex<HashMap<ProfileName, Arc<Slot>>>,
    denied: Mutex<HashMap<ProfileArn, (Instant, CloudError)>>,
}

/// One name's answer. Whoever asks first asks IAM; the others wait for that answer.
type Slot = tokio::sync::Mutex<Option<Answer>>;

#[derive(Debug)]
struct Answer {
    profile: Result<Option<Profile>, CloudError>,
    at: Instant,
    /// Whether anybody asked for it since.
    wanted: bool,
}

impl Answer {
    fn is_fresh(&self) -> bool {
        let believed_for = match &self.profile {
            Ok(Some(profile)) if gives_credentials(profile) => KNOWN_FOR,
            // It may be made, or its role be put into it or be trusted, at any moment.
            Ok(Some(_) | None) => UNKNOWN_FOR,
            Err(_) => FAILED_FOR,
        };
        self.at.elapsed() < believed_for
    }
}

impl Profiles {
    /// The profile of this name, as IAM answers or answered lately; where `since` is given, not before then.
    ///
    /// # Errors
    /// The call's.
    pub async fn get<C: Cloud>(
        &self,
        cloud: &C,
        name: &ProfileName,
        since: Option<Instant>,
    ) -> Result<Option<Profile>, CloudError> {
        let slot = Arc::clone(self.slots().entry(name.clone()).or_default());
        let mut answer = slot.lock().await;
        let is_new_enough = |answer: &&Answer| since.is_none_or(|since| answer.at >= since);
        if let Some(fresh) = answer.as_mut().filter(|answer| answer.is_fresh())
            && is_new_enough(&&*fresh)
        {
            fresh.wanted = true;
            return fresh.profile.clone();
        }
        let profile = cloud.profile(name).await;
        *answer = Some(Answer { profile: profile.clone(), at: Instant::now(), wanted: true });
        profile
    }

    /// Asks IAM for these names before anybody needs them. Only what is there is remembered: a profile that is missing may
    /// be made at any moment, and a failure is nobody's answer yet.
    ///
    /// # Errors
    /// The first call's that failed; the others' answers are remembered all the same.
    pub async fn prefetch<C: Cloud>(
        &self,
        cloud: &C,
        names: &[ProfileName],
    ) -> Result<(), CloudError> {
        let calls = names.iter().map(async |name| {
            let profile = cloud.profile(name).await?;
            if profile.is_some() {
                let slot = Arc::clone(self.slots().entry(name.clone()).or_default());
                let answer = Answer { profile: Ok(profile), at: Instant::now(), wanted: false };
                *slot.lock().await = Some(answer);
            }
            Ok(())
        });
        join_all(calls).await.into_iter().collect()
    }

    /// Asks IAM again for what was wanted and is remembered for too long, a few names at most: beside the first look at
    /// the instances this costs no time, and behind it, as a rule, a round trip.
    pub async fn refresh<C: Cloud>(&self, cloud: &C) {
        let slots: Vec<_> =
            self.slots().iter().map(|(name, slot)| (name.clone(), Arc::clone(slot))).collect();
        let is_due = |slot: &Slot| {
            // A slot that is locked is being filled.
            slot.try_lock().is_ok_and(|answer| {
                answer.as_ref().is_some_and(|answer| {
                    answer.wanted && matches!(answer.profile, Ok(Some(_))) && !answer.is_fresh()
                })
            })
        };
        let due = slots.into_iter().filter(|(_, slot)| is_due(slot)).take(REFRESHED_AT_ONCE);
        let names: Vec<ProfileName> = due.map(|(name, _)| name).collect();
        // Whoever needs what failed here asks again, and gets the error.
        let _failed = self.prefetch(cloud, &names).await;
    }

    /// Forgets a name: what was believed of it proved wrong.
    pub fn forget(&self, name: &ProfileName) {
        self.slots().remove(name);
    }

    /// Remembers that EC2 refused to attach a profile for want of a right.
    pub fn deny(&self, arn: &ProfileArn, error: &CloudError) {
        self.denied().insert(arn.clone(), (Instant::now(), error.clone()));
    }

    /// Why EC2 refused to attach a profile lately, if it did.
    #[must_use]
    pub fn denied_lately(&self, arn: &ProfileArn) -> Option<CloudError> {
        let mut denied = self.denied();
        denied.retain(|_, (at, _)| at.elapsed() < DENIED_FOR);
        denied.get(arn).map(|(_, error)| error.clone())
    }

    fn denied(&self) -> std::sync::MutexGuard<'_, HashMap<ProfileArn, (Instant, CloudError)>> {
        self.denied.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<ProfileName, Arc<Slot>>> {
        // The map is whole between any two statements, so a panic elsewhere leaves nothing half-done.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
