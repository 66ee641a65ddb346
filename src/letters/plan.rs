//! What a replay would do.

use std::collections::BTreeMap;

use super::{
    DeadLettersError, Letter, Look, Looked, Replay, change::Report, desk::Desk, look::look,
};
use crate::broker::Reading;

/// What a replay would do with the letters as they are now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What was read.
    pub looked: Looked,
    /// The queues that letters would go to, and how many. A letter names its queue itself, so these are at most
    /// [`Plan::MOST`] queues.
    pub targets: BTreeMap<String, u64>,
    /// The letters that would go to other queues.
    pub elsewhere: u64,
    /// The letters that are selected and would stay: why, and how many.
    pub kept: BTreeMap<String, u64>,
}

impl Plan {
    /// The most queues that a plan names.
    pub const MOST: usize = 100;

    /// The letters that would be replayed.
    #[must_use]
    pub fn replayed(&self) -> u64 {
        self.targets.values().sum::<u64>() + self.elsewhere
    }

    fn send(&mut self, queue: &str) {
        if let Some(count) = self.targets.get_mut(queue) {
            *count += 1;
        } else if self.targets.len() < Self::MOST && queue.len() <= LONGEST {
            self.targets.insert(queue.to_owned(), 1);
        } else {
            self.elsewhere += 1;
        }
    }
}

/// The longest name that a queue can have.
const LONGEST: usize = 255;

/// Reads the letters that a replay selects, and changes nothing.
pub(super) async fn plan<B: Reading>(
    desk: &Desk<B>,
    replay: &Replay,
    report: Report<'_>,
) -> Result<Plan, DeadLettersError> {
    let mut plan = Plan::default();
    let wanted = Look {
        filter: replay.filter.clone(),
        limit: replay.limit,
        renew: false,
    };
    let mut see = |letter: &Letter| match replay.target_of(letter) {
        Ok(queue) => plan.send(queue),
        Err(why) => *plan.kept.entry(why).or_default() += 1,
    };
    plan.looked = look(desk, &wanted, &mut see, report).await?;
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_that_name_many_queues_take_no_more_room() {
        let mut plan = Plan::default();
        plan.send(&"x".repeat(LONGEST + 1));
        for number in 0..2 * Plan::MOST {
            plan.send(&format!("q{number}"));
            plan.send("q0");
        }
        assert_eq!((plan.targets.len(), plan.elsewhere), (100, 101));
        assert_eq!(plan.targets["q0"], 201);
        assert_eq!(plan.replayed(), 401);
    }
}
