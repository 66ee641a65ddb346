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
    /// The queues that letters would go to, and how many.
    pub targets: BTreeMap<String, u64>,
    /// The letters that are selected and would stay: why, and how many.
    pub kept: BTreeMap<String, u64>,
}

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
        Ok(queue) => *plan.targets.entry(queue.to_owned()).or_default() += 1,
        Err(why) => *plan.kept.entry(why).or_default() += 1,
    };
    plan.looked = look(desk, &wanted, &mut see, report).await?;
    Ok(plan)
}
