//! Queues that do not answer.

use std::time::Duration;

use auto_instance_profile::bus::{Bus, Notice};
use auto_instance_profile::cloud::{CloudError, Clouds, Service};
use auto_instance_profile::model::{QueueArn, Region};
use auto_instance_profile::queue::{DeadLetter, Hidden, Outgoing, QueueError, Queues};
use serde_json::json;

use crate::common::fake::FakeCloud;
use crate::common::world::World;
use crate::handler::{WITH_DEAD_LETTERS, failures, invoke, message, running};
use crate::reconcile::ID;

const OTHER: &str = "i-0fedcba9876543210";

/// A cloud whose queues never answer.
#[derive(Clone)]
struct SilentQueues(FakeCloud);

impl Clouds for SilentQueues {
    type Cloud = FakeCloud;

    fn of(&self, region: &Region) -> FakeCloud {
        Clouds::of(&self.0, region)
    }

    async fn connect(&self, region: &Region, to: Service) -> Result<(), CloudError> {
        self.0.connect(region, to).await
    }
}

impl Queues for SilentQueues {
    async fn hide(&self, _: &QueueArn, _: &[Hidden<'_>]) -> Vec<Result<(), QueueError>> {
        std::future::pending().await
    }

    async fn give_up(&self, _: &str, _: &[DeadLetter<'_>]) -> Vec<Result<(), QueueError>> {
        std::future::pending().await
    }

    async fn send(&self, _queue: &str, _messages: &[Outgoing]) -> Vec<Result<(), QueueError>> {
        std::future::pending().await
    }
}

impl Bus for SilentQueues {
    async fn tell(&self, _bus: &str, _notices: &[Notice]) -> Vec<Result<(), QueueError>> {
        std::future::pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_where_the_queues_hang() {
    let cloud = FakeCloud::of(World::new().profile("web").running(ID, Some("web"), None));
    let payload = json!({ "Records": [
        message("poison", "{", 1),
        message("unseen", &running(OTHER).to_string(), 1),
        message("good", &running(ID).to_string(), 1),
    ]});
    let started = tokio::time::Instant::now();
    let answer = invoke(SilentQueues(cloud.clone()), WITH_DEAD_LETTERS, payload).await.unwrap();
    assert_eq!(failures(&answer), ["poison", "unseen"], "they come again by the queue's timeout");
    assert_eq!(cloud.world().writes.len(), 1);
    assert!(started.elapsed() <= Duration::from_secs(25), "{:?}", started.elapsed());
}
