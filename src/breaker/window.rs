//! How many handlers run while the service takes less than the lane could give: additive increase,
//! multiplicative decrease.

use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Window {
    /// During a slow start, or while the service takes less than the lane could give: the handlers
    /// that may run.
    most: Option<usize>,
    /// The window of the last cut: above it the window grows slowly.
    ceiling: usize,
    /// Successes since the window last grew above the ceiling.
    credit: usize,
    /// When the window was last cut. Attempts that began before do not cut it again.
    cut_at: Option<Instant>,
    /// The lane's own limit.
    limit: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            most: None,
            ceiling: usize::MAX,
            credit: 0,
            cut_at: None,
            limit: usize::MAX,
        }
    }
}

impl Window {
    /// The handlers that may run; `None`: as many as the lane has slots.
    pub(super) fn most(&self) -> Option<usize> {
        self.most
    }

    /// The lane has this many slots. True: the window has reached them, and there is no limit any
    /// more.
    pub(super) fn slots(&mut self, limit: usize) -> bool {
        self.limit = limit;
        let is_over = self.most.is_some_and(|most| most >= limit);
        if is_over {
            self.most = None;
            self.ceiling = usize::MAX;
        }
        is_over
    }

    /// An outage begins. The window after it grows slowly from where it was cut now.
    pub(super) fn close(&mut self, now: Instant) {
        if self.most.is_some() {
            self.lower(now);
        }
        self.most = None;
    }

    /// The slow start after an outage begins.
    pub(super) fn start_slowly(&mut self) {
        self.most = Some(1);
    }

    /// Each success lets one more handler run, so the number doubles in the time of one run. At the
    /// ceiling it takes the successes of eight runs of all handlers, then of four, two and one.
    pub(super) fn grow(&mut self) {
        const RUNS: usize = 8;
        let Some(most) = &mut self.most else {
            return;
        };
        self.credit += 1;
        let above = most.saturating_sub(self.ceiling).min(RUNS);
        let runs = (RUNS >> above).max(1);
        if *most < self.ceiling || self.credit >= runs * *most {
            *most += 1;
            self.credit = 0;
        }
    }

    /// Lowers the window by a quarter, once for all attempts that ran together.
    pub(super) fn cut(&mut self, started: Instant, now: Instant) {
        if self.cut_at.is_none_or(|at| started > at) {
            self.lower(now);
        }
    }

    fn lower(&mut self, now: Instant) {
        let most = self.most.unwrap_or(self.limit).min(self.limit);
        let lower = (most - most.div_ceil(4)).max(1);
        self.most = Some(lower);
        self.ceiling = lower;
        self.credit = 0;
        self.cut_at = Some(now);
    }
}
