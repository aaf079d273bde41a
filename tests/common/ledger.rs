//! Where a swap is written down: the messages that were sent, or a queue that takes none.

use std::sync::Mutex;

use auto_instance_profile::model::Detached;
use auto_instance_profile::queue::{QueueError, WriteAhead};

#[derive(Debug, Default)]
pub struct Ledger {
    pub written: Mutex<Vec<Detached>>,
    pub refuses: bool,
}

impl WriteAhead for Ledger {
    async fn write_down(&self, detached: &Detached) -> Result<(), QueueError> {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        if self.refuses {
            return Err(QueueError::new("SendMessage", None, "planned by the test"));
        }
        self.written.lock().unwrap().push(detached.clone());
        Ok(())
    }
}
