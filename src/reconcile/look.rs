//! What EC2 shows of instances: both lists at once, many ids a call, and the tags once more where a list shows none.

use std::collections::{HashMap, HashSet};

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::cloud::{Cloud, CloudError, ErrorKind, IDS_PER_READ};
use crate::model::{Association, Instance, InstanceFacts, InstanceId, TagSource};
use crate::queue::WriteAhead;
use crate::reconcile::attempt::PAUSE_AFTER_A_MOVE;
use crate::reconcile::{MAX_FACTS_AGE, Reconciler};

/// Tries of a look: a batch's instances would all be retried for its sake, and what became of a lost write would stay
/// unknown.
const MAX_TRIES: u32 = 4;

/// What one look showed of one instance; nothing, where EC2 does not know it.
pub(super) type Observation = Result<Option<InstanceFacts>, CloudError>;

/// What the last look at all instances of a run showed. Once it is too old, those that still wait are looked at again.
pub(super) struct SharedObservation {
    pub(super) observations: HashMap<InstanceId, Observation>,
    /// When the look was over: one that took its time would otherwise be made again at once.
    pub(super) at: Instant,
    /// Instances that wait for their beginning or for their turn to be written.
    pub(super) waiting: HashSet<InstanceId>,
}

impl<C: Cloud, W: WriteAhead> Reconciler<'_, C, W> {
    /// What the look at all showed of an instance; it is made again for all that wait, where it has grown too old.
    pub(super) async fn shared_look(
        &self,
        id: &InstanceId,
        shared: &Mutex<SharedObservation>,
    ) -> (Instant, Observation) {
        let mut shared = shared.lock().await;
        shared.waiting.insert(id.clone());
        if shared.at.elapsed() > MAX_FACTS_AGE {
            let ids: Vec<_> = shared.waiting.iter().cloned().collect();
            shared.observations = self.look_at_all(&ids).await;
            shared.at = Instant::now();
        }
        (shared.at, shared.observations.get(id).cloned().unwrap_or(Ok(None)))
    }

    pub(super) async fn look_at(&self, id: &InstanceId) -> Observation {
        // A look behind a write of ours must not fail lightly: it tells what became of it.
        let look = self.look(std::slice::from_ref(id), MAX_TRIES);
        look.await.remove(id).unwrap_or(Ok(None))
    }

    /// One look at many instances. One message that is retried is worth no second try; a batch of them is.
    pub(super) async fn look_at_all(&self, ids: &[InstanceId]) -> HashMap<InstanceId, Observation> {
        self.look(ids, if ids.len() > 1 { MAX_TRIES } else { 1 }).await
    }

    async fn look(&self, ids: &[InstanceId], max_tries: u32) -> HashMap<InstanceId, Observation> {
        let mut observations = HashMap::with_capacity(ids.len());
        // Lists that fail, fail alone.
        let mut lists: Vec<_> = ids.chunks(IDS_PER_READ).map(|list| (1, list)).collect();
        while let Some((tries, list)) = lists.pop() {
            match self.read(list).await {
                Ok(facts) => {
                    let shown = facts.into_iter();
                    observations
                        .extend(shown.map(|facts| (facts.instance.id.clone(), Ok(Some(facts)))));
                }
                // One id, or one row, spoils the whole list: it is halved until that one stands alone.
                Err(CloudError {
                    kind: ErrorKind::Rejected | ErrorKind::InstanceNotFound | ErrorKind::Unreadable,
                    ..
                }) if list.len() > 1 => {
                    let (left, right) = list.split_at(list.len() / 2);
                    lists.extend([(tries, left), (tries, right)]);
                }
                Err(CloudError { kind: ErrorKind::InstanceNotFound, .. }) => {}
                Err(CloudError { kind: ErrorKind::Transient | ErrorKind::Throttled, .. })
                    if tries < max_tries =>
                {
                    sleep(PAUSE_AFTER_A_MOVE * tries).await;
                    lists.push((tries + 1, list));
                }
                Err(error) => {
                    observations.extend(list.iter().map(|id| (id.clone(), Err(error.clone()))));
                }
            }
        }
        observations
    }

    /// What EC2 shows of these instances, each once, however often it shows it.
    async fn read(&self, ids: &[InstanceId]) -> Result<Vec<InstanceFacts>, CloudError> {
        let (instances, associations) =
            tokio::try_join!(self.cloud.instances(ids), self.cloud.associations(ids))?;
        let mut instances = once_each(instances);
        let read_again = self.read_missing_tags(&mut instances).await?;
        let mut rows: HashMap<InstanceId, Vec<Association>> = HashMap::new();
        for row in associations {
            rows.entry(row.instance.clone()).or_default().push(row);
        }
        let facts = instances.into_iter().map(|instance| {
            let association = rows.remove(&instance.id).and_then(Association::in_force);
            let is_read_again = read_again.contains(&instance.id);
            let tags_by = if is_read_again { TagSource::Tags } else { TagSource::Instances };
            InstanceFacts { instance, association, tags_by }
        });
        Ok(facts.collect())
    }

    /// EC2 can leave the tags out of an answer, and another rule, or none, would decide then: instances that show none are
    /// asked for their tags in another way.
    /// Answers with those of which that showed some.
    async fn read_missing_tags(
        &self,
        instances: &mut [Instance],
    ) -> Result<HashSet<InstanceId>, CloudError> {
        let is_untagged = |instance: &&Instance| instance.tags.is_empty();
        let untagged: Vec<_> =
            instances.iter().filter(is_untagged).map(|instance| instance.id.clone()).collect();
        if untagged.is_empty() {
            return Ok(HashSet::new());
        }
        let mut tags = self.cloud.tags(&untagged).await?;
        let mut read_again = HashSet::new();
        for instance in instances {
            if let Some(found) = tags.remove(&instance.id).filter(|found| !found.is_empty()) {
                instance.tags = found;
                read_again.insert(instance.id.clone());
            }
        }
        Ok(read_again)
    }
}

/// Of several rows about an instance the one that shows most of it.
fn once_each(rows: Vec<Instance>) -> Vec<Instance> {
    let mut places: HashMap<InstanceId, usize> = HashMap::with_capacity(rows.len());
    let mut instances: Vec<Instance> = Vec::with_capacity(rows.len());
    for row in rows {
        match places.get(&row.id) {
            None => {
                places.insert(row.id.clone(), instances.len());
                instances.push(row);
            }
            Some(place) if instances[*place].tags.is_empty() => instances[*place] = row,
            Some(_) => {}
        }
    }
    instances
}
