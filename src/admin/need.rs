//! How much a consumer needs a person.

use super::views::{Consumer, Consumers, Recent};
use crate::{ConsumerState, Load};

/// Fewer failed runs than this in a minute never count as failing.
const FEW: u64 = 3;

impl Recent {
    /// Whether at least half of the runs failed.
    pub(super) fn is_failing(self) -> bool {
        self.failed >= FEW && self.failed >= self.succeeded
    }
}

impl Consumers {
    /// Sorts consumers, which are sorted by name, by their need.
    pub(super) fn by_need(mut consumers: Vec<Consumer>) -> Self {
        // A stable sort.
        consumers.sort_by_key(|consumer| consumer.need);
        Self { consumers }
    }
}

impl Consumer {
    /// 0: the consumer needs a person most.
    pub(super) fn need_of(state: ConsumerState, is_failing: bool, load: Load) -> u8 {
        match (state, load) {
            (ConsumerState::Connecting | ConsumerState::Held | ConsumerState::Stopped, _) => 0,
            (ConsumerState::ServiceDown | ConsumerState::Draining, _) => 1,
            (ConsumerState::Consuming, _) if is_failing => 2,
            (ConsumerState::Consuming, Load::AtLimit) => 3,
            (ConsumerState::Consuming, Load::Growing) => 4,
            (ConsumerState::ServiceUnknown | ConsumerState::Paused, _) => 5,
            (ConsumerState::Consuming, _) => 6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_in_trouble_come_first_then_those_that_do_not_keep_up() {
        let need = Consumer::need_of;
        let order = [
            need(ConsumerState::Connecting, false, Load::Unknown),
            need(ConsumerState::ServiceDown, true, Load::Growing),
            need(ConsumerState::Consuming, true, Load::AtLimit),
            need(ConsumerState::Consuming, false, Load::AtLimit),
            need(ConsumerState::Consuming, false, Load::Growing),
            need(ConsumerState::Paused, true, Load::Growing),
            need(ConsumerState::Consuming, false, Load::KeepingUp),
        ];
        assert!(order.is_sorted_by(|a, b| a < b), "{order:?}");
    }

    #[test]
    fn a_consumer_fails_if_at_least_half_of_several_runs_fail() {
        let failing = |succeeded, failed| Recent { succeeded, failed }.is_failing();
        assert!(failing(0, 3) && failing(50, 50));
        assert!(!failing(0, 2) && !failing(51, 50) && !failing(0, 0));
    }
}
