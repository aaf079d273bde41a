//! Faults, apart from behaviour: a wrapper that makes chosen calls of any `Cloud` fail.

use std::sync::{Arc, Mutex};

use auto_instance_profile::cloud::{Cloud, CloudError, Clouds, ErrorKind, Operation};
use auto_instance_profile::model::{
    Association, AssociationId, Instance, InstanceId, Profile, ProfileName, Region, Tags,
};

/// What goes wrong with one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It fails, and nothing was carried out.
    Fails(ErrorKind),
    /// It is carried out, and its answer is lost.
    AnswerIsLost,
    /// It never answers.
    Hangs,
}

/// A cloud some of whose calls fail, in the order planned for each operation.
#[derive(Clone)]
pub struct Faulty<C> {
    cloud: C,
    plan: Arc<Mutex<Plan>>,
}

/// The fate of calls to come: a fault, or none.
type Plan = Vec<(Operation, Option<Fault>)>;

impl<C> Faulty<C> {
    pub fn of(cloud: C) -> Self {
        Self { cloud, plan: Arc::default() }
    }

    /// The next such call fails.
    #[must_use]
    pub fn failing(self, operation: Operation, fault: Fault) -> Self {
        self.plan.lock().unwrap().push((operation, Some(fault)));
        self
    }

    /// The next such call works; failures planned after it come later.
    #[must_use]
    pub fn working(self, operation: Operation) -> Self {
        self.plan.lock().unwrap().push((operation, None));
        self
    }

    fn next_fault(&self, operation: Operation) -> Option<Fault> {
        let mut plan = self.plan.lock().unwrap();
        let index = plan.iter().position(|(planned, _)| *planned == operation)?;
        plan.remove(index).1
    }

    async fn through<T>(
        &self,
        operation: Operation,
        call: impl Future<Output = Result<T, CloudError>>,
    ) -> Result<T, CloudError> {
        match self.next_fault(operation) {
            None => call.await,
            Some(Fault::Fails(kind)) => {
                Err(CloudError::new(operation, kind, None, "planned by the test"))
            }
            Some(Fault::AnswerIsLost) => {
                let _ = call.await;
                Err(CloudError::new(operation, ErrorKind::Transient, None, "connection reset"))
            }
            Some(Fault::Hangs) => std::future::pending().await,
        }
    }
}

impl<C: Cloud + Clone> Clouds for Faulty<C> {
    type Cloud = Self;

    fn of(&self, _region: &Region) -> Self {
        self.clone()
    }
}

impl<C: Cloud> Cloud for Faulty<C> {
    async fn instances(&self, ids: &[InstanceId]) -> Result<Vec<Instance>, CloudError> {
        self.through(Operation::DescribeInstances, self.cloud.instances(ids)).await
    }

    async fn associations(&self, ids: &[InstanceId]) -> Result<Vec<Association>, CloudError> {
        let call = self.cloud.associations(ids);
        self.through(Operation::DescribeIamInstanceProfileAssociations, call).await
    }

    async fn tags(&self, id: &InstanceId) -> Result<Tags, CloudError> {
        self.through(Operation::DescribeTags, self.cloud.tags(id)).await
    }

    async fn profile(&self, name: &ProfileName) -> Result<Option<Profile>, CloudError> {
        self.through(Operation::GetInstanceProfile, self.cloud.profile(name)).await
    }

    async fn associate(&self, instance: &InstanceId, arn: &str) -> Result<(), CloudError> {
        self.through(Operation::AssociateIamInstanceProfile, self.cloud.associate(instance, arn))
            .await
    }

    async fn replace(&self, association: &AssociationId, arn: &str) -> Result<(), CloudError> {
        let call = self.cloud.replace(association, arn);
        self.through(Operation::ReplaceIamInstanceProfileAssociation, call).await
    }

    async fn disassociate(&self, association: &AssociationId) -> Result<(), CloudError> {
        let call = self.cloud.disassociate(association);
        self.through(Operation::DisassociateIamInstanceProfile, call).await
    }
}
