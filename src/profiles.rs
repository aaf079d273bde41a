//! What IAM answered lately. A batch asks for the same few profiles again and again, and IAM's rate is shared with the
//! whole account.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::cloud::{Cloud, CloudError};
use crate::model::{Profile, ProfileName};

/// How long a profile that is there is believed. Its role and its id change seldom; a write that finds it gone forgets it.
const KNOWN_FOR: Duration = Duration::from_mins(5);
/// How long a profile that is not there is believed to be absent: it may be about to be made.
const UNKNOWN_FOR: Duration = Duration::from_secs(5);

/// How long a failure stands for everybody who asks: those who waited for the same answer get it, and none asks again.
const FAILED_FOR: Duration = Duration::from_secs(1);

/// The answers, shared by all invocations of one execution environment.
#[derive(Debug, Default)]
pub struct Profiles(Mutex<HashMap<ProfileName, Arc<Slot>>>);

/// One name's answer. Whoever asks first asks IAM; the others wait for that answer.
type Slot = tokio::sync::Mutex<Option<Answer>>;

#[derive(Debug)]
struct Answer {
    profile: Result<Option<Profile>, CloudError>,
    at: Instant,
}

impl Answer {
    fn is_fresh(&self) -> bool {
        let believed_for = match self.profile {
            Ok(Some(_)) => KNOWN_FOR,
            Ok(None) => UNKNOWN_FOR,
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
        let remembered = answer.as_ref().filter(|answer| answer.is_fresh());
        if let Some(fresh) = remembered.filter(is_new_enough) {
            return fresh.profile.clone();
        }
        let profile = cloud.profile(name).await;
        *answer = Some(Answer { profile: profile.clone(), at: Instant::now() });
        profile
    }

    /// Forgets a name: what was believed of it proved wrong.
    pub fn forget(&self, name: &ProfileName) {
        self.slots().remove(name);
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<ProfileName, Arc<Slot>>> {
        // The map is whole between any two statements, so a panic elsewhere leaves nothing half-done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
