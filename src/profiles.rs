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

/// The answers, shared by all invocations of one execution environment.
#[derive(Debug, Default)]
pub struct Profiles(Mutex<HashMap<ProfileName, Arc<Slot>>>);

/// One name's answer. Whoever asks first asks IAM; the others wait for that answer.
type Slot = tokio::sync::Mutex<Option<Answer>>;

#[derive(Debug)]
struct Answer {
    profile: Option<Profile>,
    at: Instant,
}

impl Answer {
    fn is_fresh(&self) -> bool {
        let believed_for = if self.profile.is_some() { KNOWN_FOR } else { UNKNOWN_FOR };
        self.at.elapsed() < believed_for
    }
}

impl Profiles {
    /// The profile of this name, as IAM answers or answered lately.
    ///
    /// # Errors
    /// The call's. A failure is not remembered.
    pub async fn get<C: Cloud>(
        &self,
        cloud: &C,
        name: &ProfileName,
    ) -> Result<Option<Profile>, CloudError> {
        let slot = Arc::clone(self.slots().entry(name.clone()).or_default());
        let mut answer = slot.lock().await;
        if let Some(fresh) = answer.as_ref().filter(|answer| answer.is_fresh()) {
            return Ok(fresh.profile.clone());
        }
        let profile = cloud.profile(name).await?;
        *answer = Some(Answer { profile: profile.clone(), at: Instant::now() });
        Ok(profile)
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
