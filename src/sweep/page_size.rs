//! How many instances a page is asked for: fewer where they are heavy, or EC2 is slow.

use std::time::Duration;

use crate::cloud::ROWS_PER_PAGE;

/// A page that took longer than this is too large.
const TOO_SLOW: Duration = Duration::from_secs(10);
/// A page that took less than this may be larger …
const QUICK: Duration = Duration::from_secs(3);
/// … after so many of them: whatever made a page too large may still be near.
const QUICK_PAGES_TO_GROW: u32 = 4;

/// The number of rows to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PageSize {
    rows: usize,
    max: usize,
    quick_pages: u32,
}

impl PageSize {
    /// As many as may be.
    pub(super) fn new(max: usize) -> Self {
        let max = max.clamp(*ROWS_PER_PAGE.start(), *ROWS_PER_PAGE.end());
        Self { rows: max, max, quick_pages: 0 }
    }

    pub(super) fn rows(self) -> usize {
        self.rows
    }

    /// Learns from a page that came after this time.
    pub(super) fn learn(&mut self, took: Duration) {
        if took > TOO_SLOW {
            self.halve();
        } else if took > QUICK {
            self.quick_pages = 0;
        } else {
            self.quick_pages += 1;
            if self.quick_pages >= QUICK_PAGES_TO_GROW {
                self.quick_pages = 0;
                self.rows = (2 * self.rows).min(self.max);
            }
        }
    }

    /// The page was too large, or may have been.
    pub(super) fn halve(&mut self) {
        self.quick_pages = 0;
        self.rows = (self.rows / 2).max(*ROWS_PER_PAGE.start());
    }

    /// It grows no more.
    pub(super) fn stop_growing(&mut self) {
        self.max = self.rows;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows_after(size: &mut PageSize, seconds: &[u64]) -> usize {
        for seconds in seconds {
            size.learn(Duration::from_secs(*seconds));
        }
        size.rows()
    }

    #[test]
    fn slow_pages_shrink_and_quick_ones_grow_again() {
        let mut size = PageSize::new(1000);
        assert_eq!(rows_after(&mut size, &[1, 1, 1, 1]), 1000, "the most that EC2 gives");
        assert_eq!(rows_after(&mut size, &[11, 11]), 250);
        assert_eq!(rows_after(&mut size, &[5, 5, 5, 5, 1, 1, 1]), 250);
        assert_eq!(rows_after(&mut size, &[1]), 500);
        assert_eq!(rows_after(&mut size, &[1, 1, 1, 5, 1, 1, 1]), 500, "four in a row");
        assert_eq!(rows_after(&mut size, &[1, 1, 1, 1, 1]), 1000);
    }

    #[test]
    fn a_page_has_no_fewer_rows_than_ec2_takes() {
        let mut size = PageSize::new(1000);
        let sizes: Vec<_> = (0..9)
            .map(|_| {
                size.halve();
                size.rows()
            })
            .collect();
        assert_eq!(sizes, [500, 250, 125, 62, 31, 15, 7, 5, 5]);
        assert_eq!((PageSize::new(0).rows(), PageSize::new(5000).rows()), (5, 1000));
    }

    #[test]
    fn what_must_not_grow_only_shrinks() {
        let mut size = PageSize::new(1000);
        size.halve();
        size.stop_growing();
        assert_eq!(rows_after(&mut size, &[1; 12]), 500);
        assert_eq!(rows_after(&mut size, &[11]), 250);
    }
}
