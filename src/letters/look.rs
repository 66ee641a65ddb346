//! Reading letters without a change.

use std::ops::ControlFlow;

use super::{
    DeadLettersError, Filter, Letter, Progress,
    change::Report,
    desk::Desk,
    walk::{Walk, Walked, plain},
};
use crate::broker::Reading;

/// What to read.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Which letters.
    pub filter: Filter,
    /// The most letters to select, from the head of the queue; `None`: all.
    pub limit: Option<usize>,
    /// Replace letters with fewer than five deliveries left by a copy at the end of the queue, which
    /// has all of them before it.
    pub renew: bool,
}

/// How a reading ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    /// The letters that were ready at the start.
    pub total: u32,
    /// The letters that were read.
    pub seen: u64,
    /// The letters that the filter selected.
    pub selected: u64,
    /// The letters that were replaced by a copy at the end of the queue, because they were short of
    /// deliveries.
    pub renewed: u64,
    /// The letters that went back with fewer than five deliveries left.
    pub short: u64,
    /// Whether the report stopped the reading.
    pub stopped: bool,
}

impl Looked {
    pub(super) fn note(&mut self, walked: Walked) {
        self.renewed = walked.renewed;
        self.short = walked.short;
    }
}

pub(super) async fn look<B: Reading>(
    desk: &Desk<B>,
    look: &Look,
    see: &mut (dyn FnMut(&Letter) + Send),
    report: Report<'_>,
) -> Result<Looked, DeadLettersError> {
    let mut walk = Walk::begin(desk, look.renew, &plain).await?;
    let looked = through(&mut walk, look, see, report).await;
    // Also after an error: what was read goes back in its order.
    let walked = walk.end().await;
    let mut looked = looked?;
    looked.note(walked?);
    Ok(looked)
}

async fn through<B: Reading>(
    walk: &mut Walk<'_, B>,
    look: &Look,
    see: &mut (dyn FnMut(&Letter) + Send),
    report: Report<'_>,
) -> Result<Looked, DeadLettersError> {
    let mut looked = Looked {
        total: walk.total,
        ..Looked::default()
    };
    let limit = look.limit.map_or(u64::MAX, |limit| limit as u64);
    loop {
        let wanted = limit.saturating_sub(looked.selected);
        let most = match (wanted, walk.may_end()) {
            (0, true) => return Ok(looked),
            // Without a filter the next letters are the ones.
            (1.., true) if look.filter.is_all() => usize::try_from(wanted).unwrap_or(usize::MAX),
            _ => usize::MAX,
        };
        let letters = walk.window(most).await?;
        if letters.is_empty() {
            return Ok(looked);
        }
        for letter in &letters {
            looked.seen += 1;
            if looked.selected < limit && look.filter.fits(letter) {
                looked.selected += 1;
                see(letter);
            }
        }
        walk.keep(letters).await?;
        let progress = Progress {
            total: walk.total,
            seen: looked.seen,
            changed: 0,
            canaries: None,
        };
        if report(progress) == ControlFlow::Break(()) {
            looked.stopped = true;
            return Ok(looked);
        }
    }
}
