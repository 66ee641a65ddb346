//! Handlers in code: what they are given, what becomes of what they do, consumers beside each other.

mod arguments;
mod consumers;
mod faults;
mod slots;
mod subscriptions;
mod threads;

use crate::support::{DEADLINE, Got, VHost};

/// The only dead letter of a queue, once it is there.
async fn dead_letter(vhost: &VHost, queue: &str) -> Got {
    let dead = format!("{queue}.dead");
    vhost.wait_for_counts(&dead, 1, 0, DEADLINE).await;
    vhost.drain_all(&dead).await.pop().expect("it was counted")
}
