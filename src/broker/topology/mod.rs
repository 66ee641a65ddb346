//! The queues of a consumer: declares them, or compares the existing ones with the settings.
//!
//! Every check comes before the first declaration, so that a refused start leaves nothing behind.

mod difference;
mod examine;
mod limit;
mod look;
mod plan;

use std::{collections::BTreeSet, time::Duration};

use tracing::warn;

use super::{Binding, QueueSpec, Topology, connection::Connection, error::BrokerError};
pub(super) use difference::joined;
pub(crate) use difference::lines;
pub use difference::{Difference, Unfit, Values};
pub(crate) use examine::{QueueSeen, QueueState, Role, examine, exchange_exists, queue_exists};
pub(crate) use limit::{DeliveryLimit, consumed_limit, delivery_limit};
use look::{Found, Look};
pub(super) use plan::{QueuePlan, plan, planned};

/// Declares or compares the queues of `spec`, as its `topology` says.
///
/// # Errors
/// [`BrokerError::Topology`] names each queue that is missing, unfit or different, with each
/// argument, its value and the wanted value. Unless the settings say `none`, it also names each
/// exchange of a binding that does not exist.
pub(crate) async fn ensure(
    connection: &Connection,
    spec: &QueueSpec,
    limit: Duration,
) -> Result<(), BrokerError> {
    let mut look = Look::new(connection, limit);
    let mut seen = Seen::default();
    for plan in plan(spec) {
        seen.queue(&mut look, spec, plan).await?;
    }
    if spec.topology != Topology::None {
        seen.exchanges(&mut look, &spec.bindings).await?;
    }
    if !seen.differences.is_empty() {
        return Err(BrokerError::Topology(seen.differences));
    }
    if !seen.hidden.is_empty() {
        warn!(
            queue = spec.queue, not_seen = ?seen.hidden,
            "the broker does not let this user look at all queues, going on without that check"
        );
    }
    if spec.topology.creates() {
        create(&mut look, spec, seen.missing).await?;
    }
    if spec.topology == Topology::Declare {
        for binding in &spec.bindings {
            look.bind(&spec.queue, binding).await?;
        }
    }
    look.close().await;
    Ok(())
}

/// Declares a queue that is missing: the dead-letter queue, or any retry queue. Leaves the other
/// queues alone.
pub(crate) async fn restore(
    connection: &Connection,
    spec: &QueueSpec,
    queue: &str,
    limit: Duration,
) -> Result<(), BrokerError> {
    let theirs = queue == spec.queue;
    let Some(plan) = planned(spec, queue).filter(|_| !theirs) else {
        return Ok(());
    };
    let mut look = Look::new(connection, limit);
    match look.compare(&plan).await? {
        Found::Differs(differences) => return Err(BrokerError::Topology(differences)),
        Found::Missing => look.declare(&plan).await?,
        Found::Same => {}
    }
    look.close().await;
    Ok(())
}

/// What the checks found.
#[derive(Default)]
struct Seen {
    differences: Vec<Difference>,
    /// Queues to be created.
    missing: Vec<QueuePlan>,
    /// Queues and exchanges that the broker does not let us look at.
    hidden: Vec<String>,
}

impl Seen {
    async fn queue(
        &mut self,
        look: &mut Look<'_>,
        spec: &QueueSpec,
        plan: QueuePlan,
    ) -> Result<(), BrokerError> {
        let is_theirs = spec.topology == Topology::Attach && plan.name == spec.queue;
        if spec.topology == Topology::None || is_theirs {
            return self
                .existing(look, plan.name == spec.queue, plan.name)
                .await;
        }
        match look.compare(&plan).await? {
            Found::Same => {}
            Found::Missing if spec.topology.creates() => self.missing.push(plan),
            Found::Missing => self
                .differences
                .push(Difference::NoQueue { queue: plan.name }),
            Found::Differs(differences) => self.differences.extend(differences),
        }
        Ok(())
    }

    /// A queue whose arguments are the user's.
    async fn existing(
        &mut self,
        look: &mut Look<'_>,
        is_consumed: bool,
        queue: String,
    ) -> Result<(), BrokerError> {
        match look.queue_exists(&queue).await? {
            Some(true) => {}
            Some(false) => {
                self.differences.push(Difference::NoQueue { queue });
                return Ok(());
            }
            None => {
                self.hidden.push(queue);
                return Ok(());
            }
        }
        if !is_consumed {
            return Ok(());
        }
        match look.unfit(&queue).await? {
            Some(Some(why)) => self.differences.push(Difference::Unfit { queue, why }),
            Some(None) => {}
            None => self.hidden.push(queue),
        }
        Ok(())
    }

    /// The exchanges that the bindings name. AMQP has no request for a binding itself.
    async fn exchanges(
        &mut self,
        look: &mut Look<'_>,
        bindings: &[Binding],
    ) -> Result<(), BrokerError> {
        let exchanges: BTreeSet<&str> = bindings.iter().map(|it| it.exchange.as_str()).collect();
        for exchange in exchanges {
            match look.exchange_exists(exchange).await? {
                Some(true) => {}
                Some(false) => {
                    let exchange = exchange.to_owned();
                    self.differences.push(Difference::NoExchange { exchange });
                }
                None => self.hidden.push(exchange.to_owned()),
            }
        }
        Ok(())
    }
}

/// Creates the missing queues. If the broker refuses one, those that were created for nothing are
/// deleted again.
async fn create(
    look: &mut Look<'_>,
    spec: &QueueSpec,
    missing: Vec<QueuePlan>,
) -> Result<(), BrokerError> {
    let mut created = Vec::new();
    for plan in missing {
        match look.declare(&plan).await {
            Ok(()) => created.push(plan.name),
            Err(error) if error.needs_people() => {
                take_back(look, &spec.queue, &created).await;
                return Err(error);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Deletes queues that this worker has just created. Another worker could use them only while it
/// consumes the work queue, so they stay if the work queue has a consumer, and if they hold a
/// message.
async fn take_back(look: &mut Look<'_>, work: &str, created: &[String]) {
    for queue in created.iter().filter(|queue| *queue != work) {
        if let Err(error) = look.delete_unused(work, queue).await {
            warn!(queue, %error, "failed to delete a queue that was created for nothing");
        }
    }
}
