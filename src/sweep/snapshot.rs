//! One page of a fleet as a `Cloud`: what was read about its instances is not asked for again.

use std::collections::HashMap;

use crate::cloud::{Cloud, CloudError, ErrorKind, Operation};
use crate::model::{
    Association, AssociationId, Instance, InstanceFacts, InstanceId, Profile, ProfileName, Tags,
};

/// What a page showed; IAM is asked as ever.
pub struct Snapshot<'a, C> {
    /// Where to ask for what the page does not show.
    pub cloud: &'a C,
    /// The instances of the page.
    pub facts: HashMap<InstanceId, InstanceFacts>,
}

impl<C> Snapshot<'_, C> {
    fn of<T>(&self, ids: &[InstanceId], part: impl Fn(&InstanceFacts) -> Option<T>) -> Vec<T> {
        ids.iter().filter_map(|id| self.facts.get(id).and_then(&part)).collect()
    }
}

impl<C: Cloud> Cloud for Snapshot<'_, C> {
    async fn instances(&self, ids: &[InstanceId]) -> Result<Vec<Instance>, CloudError> {
        Ok(self.of(ids, |facts| Some(facts.instance.clone())))
    }

    async fn associations(&self, ids: &[InstanceId]) -> Result<Vec<Association>, CloudError> {
        Ok(self.of(ids, |facts| facts.association.clone()))
    }

    /// The same tags again: a fleet of untagged instances would take a call for each. What is found so is a finding, and
    /// before anything is taken away the second witness is heard.
    async fn tags(&self, ids: &[InstanceId]) -> Result<HashMap<InstanceId, Tags>, CloudError> {
        let shown = |id: &InstanceId| Some((id.clone(), self.facts.get(id)?.instance.tags.clone()));
        Ok(ids.iter().filter_map(shown).collect())
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
