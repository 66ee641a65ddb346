//! Messages whose last attempt ended unavailable: whether they or the service are at fault.

use std::collections::HashMap;

use super::{Evidence, Sign};

/// The most suspects that are remembered. Those of a long outage are each met once.
const MOST: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Suspects(HashMap<u64, Suspect>);

#[derive(Clone, Copy, Debug)]
struct Suspect {
    /// `Evidence::served_by_route` at its last unavailable end.
    served: u64,
    times: u32,
}

impl Suspects {
    /// Notes an unavailable end. Returns how many there were in a row, and whether the message itself
    /// is at fault: others of the same route succeeded since its last one. A limit is never the
    /// message's fault.
    pub(super) fn note(&mut self, evidence: &Evidence<'_>) -> (u32, bool) {
        let served = evidence.served_by_route;
        if self.0.len() >= MOST && !self.0.contains_key(&evidence.message) {
            self.0.clear();
        }
        let none = Suspect { served, times: 0 };
        let suspect = self.0.entry(evidence.message).or_insert(none);
        let is_own = suspect.served != served && evidence.sign == Sign::Unavailable;
        suspect.served = served;
        suspect.times = suspect.times.saturating_add(1);
        (suspect.times, is_own)
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
