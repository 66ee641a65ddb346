//! What messages weigh, and how many of them the memory budget of a lane allows.
//!
//! AMQP's prefetch counts messages, and RabbitMQ does not implement its limit in bytes. So a lane
//! with a budget learns the sizes of its messages and sets the prefetch of its subscription by them.
//! It begins as if each message were large, and raises its prefetch as long as they are not.

/// The size that a message is taken to have before the lane has seen any: RabbitMQ 4.0 and later
/// refuse larger ones by default (`max_message_size`).
const UNKNOWN: u64 = 16 << 20;
/// What a message takes beside its body.
const BESIDE: u64 = 4 << 10;
/// The largest of this many messages counts, and of those before them.
const PERIOD: u32 = 256;

/// The sizes of a lane's messages.
#[derive(Debug)]
pub(super) struct Sizes {
    /// Bytes; `None`: any number.
    budget: Option<u64>,
    /// How many messages the lane has been sure of so far.
    trusted: usize,
    /// Messages of this period, and the largest of them and of the period before.
    seen: u32,
    largest: u64,
    before: u64,
}

impl Sizes {
    pub(super) fn new(budget: Option<u64>) -> Self {
        let first = budget.map_or(usize::MAX, |budget| fit(budget, UNKNOWN));
        Self {
            budget,
            trusted: first,
            seen: 0,
            largest: 0,
            before: 0,
        }
    }

    /// A message with a body of this size has arrived.
    pub(super) fn saw(&mut self, body: usize) {
        if self.seen == PERIOD {
            self.before = std::mem::take(&mut self.largest);
            self.seen = 0;
        }
        self.seen += 1;
        self.largest = self.largest.max(body as u64 + BESIDE);
    }

    /// As many messages have arrived as the subscription may bring at once, and they were of known
    /// sizes: the lane trusts that four times as many are no larger.
    pub(super) fn trust(&mut self, prefetch: usize) {
        self.trusted = self.trusted.max(prefetch.saturating_mul(4));
    }

    /// How many messages the budget allows, at least 1.
    pub(super) fn allowed(&self) -> usize {
        self.trusted.min(self.fitting())
    }

    /// How many messages fit the budget if none is larger than those that the lane has seen.
    pub(super) fn fitting(&self) -> usize {
        match (self.budget, self.largest()) {
            (None, _) => usize::MAX,
            (Some(_), 0) => self.trusted,
            (Some(budget), size) => fit(budget, size),
        }
    }

    /// Bytes of the largest of the last messages, with what it takes beside its body.
    pub(super) fn largest(&self) -> u64 {
        self.largest.max(self.before)
    }

    pub(super) fn budget(&self) -> Option<u64> {
        self.budget
    }
}

/// How many messages of a size fit, at least 1.
fn fit(budget: u64, size: u64) -> usize {
    usize::try_from(budget / size.max(1))
        .unwrap_or(usize::MAX)
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn without_a_budget_any_number_of_messages_is_allowed() {
        let mut sizes = Sizes::new(None);
        sizes.saw(1 << 30);
        assert_eq!(sizes.allowed(), usize::MAX);
    }

    #[test]
    fn before_its_first_message_a_lane_expects_large_ones() {
        assert_eq!(Sizes::new(Some(64 * MIB)).allowed(), 4);
        assert_eq!(Sizes::new(Some(1)).allowed(), 1);
    }

    #[test]
    fn small_messages_raise_the_number_fourfold_each_time() {
        let mut sizes = Sizes::new(Some(64 * MIB));
        let mut steps = Vec::new();
        for _ in 0..4 {
            let allowed = sizes.allowed();
            steps.push(allowed);
            (0..allowed).for_each(|_| sizes.saw(1000));
            sizes.trust(allowed);
        }
        assert_eq!(steps, [4, 16, 64, 256]);
    }

    #[test]
    fn a_large_message_lowers_the_number_until_it_is_long_past() {
        let mut sizes = Sizes::new(Some(64 * MIB));
        sizes.trust(1000);
        sizes.saw(1000);
        assert_eq!(sizes.allowed(), 4000);
        sizes.saw(15 << 20);
        assert_eq!(sizes.allowed(), 4);
        (0..PERIOD).for_each(|_| sizes.saw(1000));
        assert_eq!(sizes.allowed(), 4);
        (0..PERIOD).for_each(|_| sizes.saw(1000));
        assert_eq!(sizes.allowed(), 4000);
    }

    #[test]
    fn a_message_above_the_budget_comes_alone() {
        let mut sizes = Sizes::new(Some(MIB));
        sizes.saw(15 << 20);
        assert_eq!(sizes.allowed(), 1);
    }
}
