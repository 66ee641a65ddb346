//! Handlers in Rust: their arguments, their outcomes, and several consumers in one worker.

mod arguments;
mod consumers;
mod faults;
mod slots;
mod subscriptions;
mod threads;

use crate::support::{DEADLINE, Got, VHost};

/// Waits for a dead letter, which must be the only one of the queue.
async fn dead_letter(vhost: &VHost, queue: &str) -> Got {
    let dead = format!("{queue}.dead");
    vhost.wait_for_counts(&dead, 1, 0, DEADLINE).await;
    vhost.drain_all(&dead).await.pop().expect("it was counted")
}
