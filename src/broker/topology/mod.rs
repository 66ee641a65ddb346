//! The queues of a consumer: declares them, or compares the existing ones with the settings.
//!
//! Every check comes before the first declaration, so that a refused start leaves nothing behind.

mod bound;
mod difference;
mod limit;
mod look;
mod plan;
mod replaced;
mod survey;

use std::time::Duration;

use tracing::warn;

use super::{QueueSpec, Topology, connection::Connection, error::BrokerError};
pub use bound::Bound;
pub(super) use difference::joined;
pub(crate) use difference::lines;
pub use difference::{Difference, Unfit, Values};
pub(crate) use limit::{DeliveryLimit, consumed_limit, delivery_limit};
use look::Found;
pub(super) use look::Look;
pub(super) use plan::{QueuePlan, plan, planned};
pub use survey::QueueRole;
pub(crate) use survey::{Standing, Survey, SurveyedQueue};

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
    ensure_all(connection, std::slice::from_ref(spec), limit).await
}

/// As [`ensure`], for several consumers: nothing is created if the queues of one of them are refused.
pub(crate) async fn ensure_all(
    connection: &Connection,
    specs: &[QueueSpec],
    limit: Duration,
) -> Result<(), BrokerError> {
    let mut look = Look::new(connection, limit);
    let mut surveys = Vec::with_capacity(specs.len());
    for spec in specs {
        surveys.push(survey::survey(&mut look, spec).await?);
    }
    survey::check(&surveys)?;
    for (spec, survey) in specs.iter().zip(&surveys) {
        let hidden = survey.hidden();
        if !hidden.is_empty() {
            warn!(
                queue = spec.queue, not_seen = ?hidden,
                "the broker does not let this user look at all queues, going on without that check"
            );
        }
    }
    create(&mut look, specs, &surveys).await?;
    for spec in specs.iter().filter(|it| it.topology == Topology::Declare) {
        for binding in &spec.bindings {
            look.bind(&spec.queue, &binding.into()).await?;
        }
    }
    look.close().await;
    Ok(())
}

/// What exists of a consumer's queues and exchanges. Creates nothing.
pub(crate) async fn survey(
    connection: &Connection,
    spec: &QueueSpec,
    limit: Duration,
) -> Result<Survey, BrokerError> {
    let mut look = Look::new(connection, limit);
    let survey = survey::survey(&mut look, spec).await?;
    look.close().await;
    Ok(survey)
}

/// As [`survey`], for a doctor: compares also the queues that the worker uses as they are. What the broker
/// does not tell is hidden.
pub(crate) async fn examine(connection: &Connection, spec: &QueueSpec, limit: Duration) -> Survey {
    let mut look = Look::new(connection, limit);
    let survey = survey::examine(&mut look, spec).await;
    look.close().await;
    survey
}

/// Whether the exchange exists; `None` if the broker does not tell.
pub(crate) async fn exchange_exists(
    connection: &Connection,
    exchange: &str,
    limit: Duration,
) -> Option<bool> {
    let mut look = Look::new(connection, limit);
    let exists = look.exchange_exists(exchange).await.ok().flatten();
    look.close().await;
    exists
}

/// Whether the queue exists; `None` if the broker does not tell.
pub(crate) async fn queue_exists(
    connection: &Connection,
    queue: &str,
    limit: Duration,
) -> Option<bool> {
    let mut look = Look::new(connection, limit);
    let exists = look.queue_exists(queue).await.ok().flatten();
    look.close().await;
    exists
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

/// Creates the missing queues: first those beside the work queues. If the broker refuses one, those
/// that were created for nothing are deleted again.
async fn create(
    look: &mut Look<'_>,
    specs: &[QueueSpec],
    surveys: &[Survey],
) -> Result<(), BrokerError> {
    let missing = specs.iter().zip(surveys).flat_map(|(spec, survey)| {
        let plans = survey.to_create();
        plans.map(|plan| (spec.queue.as_str(), plan))
    });
    let (last, first): (Vec<_>, Vec<_>) = missing.partition(|(work, plan)| plan.name == *work);
    let mut created = Vec::new();
    for (work, plan) in first.into_iter().chain(last) {
        match look.declare(plan).await {
            Ok(()) => created.push((work, plan.name.as_str())),
            Err(error) if error.needs_people() => {
                take_back(look, &created).await;
                return Err(error);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Deletes queues that have just been created, each with the work queue that it was created for.
/// Another worker could use them only while it consumes the work queue, so they stay if the work
/// queue has a consumer, and if they hold a message.
async fn take_back(look: &mut Look<'_>, created: &[(&str, &str)]) {
    for (work, queue) in created.iter().filter(|(work, queue)| queue != work) {
        if let Err(error) = look.delete_unused(work, queue).await {
            warn!(queue, %error, "failed to delete a queue that was created for nothing");
        }
    }
}
