//! EventBridge by AWS's SDK.

use std::time::Duration;

use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use futures_util::future::join_all;

use crate::aws::errors::{failed_call, failed_entry};
use crate::aws::secrets::KeepsSecrets;
use crate::aws::{Aws, timeouts};
use crate::bus::{Bus, Notice, SOURCE};
use crate::model::Region;
use crate::queue::QueueError;

const CALL: &str = "PutEvents";
/// Entries that EventBridge takes in one call.
const ENTRIES_PER_CALL: usize = 10;
/// One try, and a call with all its tries. An invocation's end waits for them, and only listeners need them.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(900);
const OPERATION_TIMEOUT: Duration = Duration::from_millis(1900);

impl Bus for Aws {
    async fn tell(&self, bus: &str, notices: &[Notice]) -> Vec<Result<(), QueueError>> {
        // Another Region's EventBridge says that there is no such bus.
        let region = bus.split(':').nth(3).and_then(|region| Region::parse(region).ok());
        let Some(region) = region.or_else(|| self.region()) else {
            let why = "the bus's ARN names no Region, and AWS_REGION is not set";
            return vec![Err(QueueError::new(CALL, None, why)); notices.len()];
        };
        let client = self.events.get_or_make(&region, |region| {
            let config = aws_sdk_eventbridge::config::Builder::from(&self.sdk)
                .region(region)
                .timeout_config(timeouts(ATTEMPT_TIMEOUT, OPERATION_TIMEOUT));
            aws_sdk_eventbridge::Client::from_conf(config.interceptor(KeepsSecrets).build())
        });
        let calls = notices.chunks(ENTRIES_PER_CALL).map(async |chunk| {
            let entries = chunk.iter().map(|notice| {
                PutEventsRequestEntry::builder()
                    .event_bus_name(bus)
                    .source(SOURCE)
                    .detail_type(notice.kind.detail_type())
                    .detail(&notice.detail)
                    .build()
            });
            let answer = client.put_events().set_entries(Some(entries.collect())).send().await;
            let results = match answer {
                Ok(answer) => answer.entries.unwrap_or_default(),
                Err(error) => return vec![Err(failed_call(CALL, &error)); chunk.len()],
            };
            // An answer for each, in their order: an id for what was taken, a code for what was not.
            let each = |place: usize| match results.get(place) {
                Some(entry) if entry.event_id().is_some() => Ok(()),
                Some(entry) => {
                    let message = entry.error_message().unwrap_or("EventBridge sent no message");
                    Err(failed_entry(CALL, entry.error_code(), message))
                }
                None => Err(QueueError::new(CALL, None, "the answer does not say how it went")),
            };
            (0..chunk.len()).map(each).collect()
        });
        join_all(calls).await.concat()
    }
}
