//! Faults, apart from behaviour: a wrapper that makes chosen calls of any `Cloud` fail.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use auto_instance_profile::bus::{Bus, Notice};
use auto_instance_profile::cloud::{
    Cloud, CloudError, Clouds, ErrorKind, Fleet, Operation, Page, Service,
};
use auto_instance_profile::model::{
    Association, AssociationId, Filter, Instance, InstanceId, Profile, ProfileName, QueueArn,
    Region, Tags,
};
use auto_instance_profile::queue::{DeadLetter, Hidden, Outgoing, QueueError, Queues};

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

    /// The next such calls fail, as often as this.
    #[must_use]
    pub fn failing_times(self, operation: Operation, fault: &Fault, times: usize) -> Self {
        (0..times).fold(self, |faulty, _| faulty.failing(operation, fault.clone()))
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

impl<C: Cloud + Fleet + Clouds + Clone> Clouds for Faulty<C> {
    type Cloud = Self;

    fn of(&self, _region: &Region) -> Self {
        self.clone()
    }

    async fn connect(&self, region: &Region, to: Service) -> Result<(), CloudError> {
        self.cloud.connect(region, to).await
    }
}

impl<C: Queues> Queues for Faulty<C> {
    async fn hide(&self, queue: &QueueArn, messages: &[Hidden<'_>]) -> Vec<Result<(), QueueError>> {
        self.cloud.hide(queue, messages).await
    }

    async fn give_up(
        &self,
        dead_letter_queue: &str,
        letters: &[DeadLetter<'_>],
    ) -> Vec<Result<(), QueueError>> {
        self.cloud.give_up(dead_letter_queue, letters).await
    }

    async fn send(&self, queue: &str, messages: &[Outgoing]) -> Vec<Result<(), QueueError>> {
        self.cloud.send(queue, messages).await
    }
}

impl<C: Bus> Bus for Faulty<C> {
    async fn tell(&self, bus: &str, notices: &[Notice]) -> Vec<Result<(), QueueError>> {
        self.cloud.tell(bus, notices).await
    }
}

impl<C: Fleet> Fleet for Faulty<C> {
    async fn instances_page(
        &self,
        filters: &[Filter],
        from: Option<&str>,
        rows: usize,
    ) -> Result<Page<Instance>, CloudError> {
        let call = self.cloud.instances_page(filters, from, rows);
        self.through(Operation::DescribeInstances, call).await
    }

    async fn associations_page(&self, from: Option<&str>) -> Result<Page<Association>, CloudError> {
        let call = self.cloud.associations_page(from);
        self.through(Operation::DescribeIamInstanceProfileAssociations, call).await
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

    async fn tags(&self, ids: &[InstanceId]) -> Result<HashMap<InstanceId, Tags>, CloudError> {
        self.through(Operation::DescribeTags, self.cloud.tags(ids)).await
    }

    async fn profile(&self, name: &ProfileName) -> Result<Option<Profile>, CloudError> {
        self.through(Operation::GetInstanceProfile, self.cloud.profile(name)).await
    }

    async fn associate(
        &self,
        instance: &InstanceId,
        arn: &str,
    ) -> Result<Option<Association>, CloudError> {
        self.through(Operation::AssociateIamInstanceProfile, self.cloud.associate(instance, arn))
            .await
    }

    async fn replace(
        &self,
        association: &AssociationId,
        arn: &str,
    ) -> Result<Option<Association>, CloudError> {
        let call = self.cloud.replace(association, arn);
        self.through(Operation::ReplaceIamInstanceProfileAssociation, call).await
    }

    async fn disassociate(&self, association: &AssociationId) -> Result<(), CloudError> {
        let call = self.cloud.disassociate(association);
        self.through(Operation::DisassociateIamInstanceProfile, call).await
    }
}
