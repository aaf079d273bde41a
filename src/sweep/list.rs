//! The list of all instances, a page at a time.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::cloud::{CloudError, ErrorKind, Fleet, Operation};
use crate::model::{Filter, Instance};
use crate::sweep::page_size::PageSize;

/// How long one page may take. A smaller one is asked for then.
const MAX_PAGE_TIME: Duration = Duration::from_secs(40);

/// The list as it is read.
#[derive(Debug)]
pub(super) struct InstanceList<'a> {
    filters: &'a [Filter],
    next: Next,
    size: PageSize,
    /// The instances that had been seen when the list began anew.
    anew_after: Option<usize>,
}

/// Where the next page to be read begins.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Next {
    Beginning,
    At(String),
    End,
}

impl<'a> InstanceList<'a> {
    pub(super) fn new(filters: &'a [Filter], max_rows: usize) -> Self {
        Self { filters, next: Next::Beginning, size: PageSize::new(max_rows), anew_after: None }
    }

    /// How many rows are asked for next.
    pub(super) fn rows(&self) -> usize {
        self.size.rows()
    }

    /// The next page; nothing after the last. After an error the same page is next, and a smaller one, if its size may have
    /// been the reason.
    pub(super) async fn try_read(
        &mut self,
        fleet: &impl Fleet,
    ) -> Result<Option<Vec<Instance>>, CloudError> {
        let from = match &self.next {
            Next::Beginning => None,
            Next::At(from) => Some(from.as_str()),
            Next::End => return Ok(None),
        };
        let asked = Instant::now();
        let call = fleet.instances_page(self.filters, from, self.size.rows());
        let answer = timeout(MAX_PAGE_TIME, call).await.unwrap_or_else(|_| Err(no_answer()));
        match answer {
            Ok(page) => {
                self.size.learn(asked.elapsed());
                self.next = page.next.map_or(Next::End, Next::At);
                Ok(Some(page.rows))
            }
            Err(error) => {
                if matches!(error.kind, ErrorKind::Transient | ErrorKind::Unreadable) {
                    self.size.halve();
                }
                Err(error)
            }
        }
    }

    /// Begins anew where EC2 refuses a page's token, unless that has led to nothing: false then. Instances that were seen
    /// are left out, so this costs calls and nothing else. From here on pages do not grow: a token may be good for one size
    /// only.
    pub(super) fn begin_anew(&mut self, seen: usize) -> bool {
        let can_help = matches!(self.next, Next::At(_)) && self.anew_after != Some(seen);
        if can_help {
            self.next = Next::Beginning;
            self.anew_after = Some(seen);
            self.size.stop_growing();
        }
        can_help
    }
}

fn no_answer() -> CloudError {
    let why = format!("no answer within {} s", MAX_PAGE_TIME.as_secs());
    CloudError::new(Operation::DescribeInstances, ErrorKind::Transient, None, why)
}
