//! One page of a fleet as a `Cloud`: what was read about its instances is not asked for again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cloud::{Cloud, CloudError, ErrorKind, Operation};
use crate::model::{Association, AssociationId, Instance, InstanceId, Profile, ProfileName, Tags};

/// What a page showed; for the rest, EC2 and IAM are asked as ever.
#[derive(Debug)]
pub(super) struct Snapshot<'a, C> {
    cloud: &'a C,
    instances: HashMap<InstanceId, Instance>,
    /// The associations in force, where the whole list of them is known.
    listed: Option<&'a HashMap<InstanceId, Association>>,
    /// The second reads of tags so far.
    tags: Mutex<HashMap<InstanceId, Tags>>,
}

impl<'a, C> Snapshot<'a, C> {
    pub(super) fn new(
        cloud: &'a C,
        instances: Vec<Instance>,
        listed: Option<&'a HashMap<InstanceId, Association>>,
    ) -> Self {
        let instances = instances.into_iter().map(|instance| (instance.id.clone(), instance));
        Self { cloud, instances: instances.collect(), listed, tags: Mutex::default() }
    }

    fn second_reads(&self) -> MutexGuard<'_, HashMap<InstanceId, Tags>> {
        self.tags.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tags that are known without another call. Those that a page shows are believed: a second read of each would be a
    /// call for each, what is found so is a finding, and before anything is written both are read again.
    fn known_tags(&self, id: &InstanceId) -> Option<Tags> {
        let shown = self.instances.get(id).map(|instance| &instance.tags);
        shown.filter(|tags| !tags.is_empty()).cloned().or_else(|| {
            // One lock for each id is as good: nobody else asks about it.
            self.second_reads().get(id).cloned()
        })
    }
}

impl<C: Cloud> Cloud for Snapshot<'_, C> {
    async fn instances(&self, ids: &[InstanceId]) -> Result<Vec<Instance>, CloudError> {
        Ok(ids.iter().filter_map(|id| self.instances.get(id)).cloned().collect())
    }

    async fn associations(&self, ids: &[InstanceId]) -> Result<Vec<Association>, CloudError> {
        match self.listed {
            Some(listed) => Ok(ids.iter().filter_map(|id| listed.get(id)).cloned().collect()),
            None => self.cloud.associations(ids).await,
        }
    }

    /// Instances whose page shows no tags are asked about once, all of them together.
    async fn tags(&self, ids: &[InstanceId]) -> Result<HashMap<InstanceId, Tags>, CloudError> {
        let unknown: Vec<_> =
            ids.iter().filter(|id| self.known_tags(id).is_none()).cloned().collect();
        if !unknown.is_empty() {
            let mut found = self.cloud.tags(&unknown).await?;
            let answers = unknown.into_iter().map(|id| {
                let tags = found.remove(&id).unwrap_or_default();
                (id, tags)
            });
            self.second_reads().extend(answers);
        }
        Ok(ids.iter().filter_map(|id| Some((id.clone(), self.known_tags(id)?))).collect())
    }

    async fn profile(&self, name: &ProfileName) -> Result<Option<Profile>, CloudError> {
        self.cloud.profile(name).await
    }

    async fn associate(
        &self,
        _instance: &InstanceId,
        _arn: &str,
    ) -> Result<Option<Association>, CloudError> {
        Err(not_written(Operation::AssociateIamInstanceProfile))
    }

    async fn replace(
        &self,
        _row: &AssociationId,
        _arn: &str,
    ) -> Result<Option<Association>, CloudError> {
        Err(not_written(Operation::ReplaceIamInstanceProfileAssociation))
    }

    async fn disassociate(&self, _row: &AssociationId) -> Result<(), CloudError> {
        Err(not_written(Operation::DisassociateIamInstanceProfile))
    }
}

fn not_written(operation: Operation) -> CloudError {
    CloudError::new(operation, ErrorKind::Rejected, None, "a sweep writes nothing")
}
