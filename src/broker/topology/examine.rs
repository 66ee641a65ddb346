//! What the doctor sees of the queues of a consumer. Creates nothing.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Difference,
    look::{Found, Look},
    plan::{QueuePlan, plan},
};
use crate::broker::{QueueArgument, QueueSpec, connection::Connection, error::BrokerError};

/// What a queue is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The consumer's own queue.
    Work,
    /// The dead-letter queue.
    DeadLetters,
    /// A retry queue of this length.
    Retry(Duration),
}

/// One queue, as the broker shows it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct QueueSeen {
    pub(crate) queue: String,
    pub(crate) role: Role,
    pub(crate) state: QueueState,
    /// Its arguments, as far as the broker shows them.
    pub(crate) arguments: Option<BTreeMap<String, String>>,
    /// The broker's text, if the user may not configure the queue.
    pub(crate) refused: Option<String>,
}

/// How a queue is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum QueueState {
    /// As a worker declares it.
    AsPlanned,
    /// It differs in this from the queue that a worker declares.
    Differs(Vec<Difference>),
    /// There is no such queue.
    Missing,
    /// It exists; its arguments cannot be seen.
    Exists,
    /// The broker does not tell, with the reason.
    Unknown(String),
}

/// Looks at each queue of a consumer.
pub(crate) async fn examine(
    connection: &Connection,
    spec: &QueueSpec,
    limit: Duration,
) -> Vec<QueueSeen> {
    let mut look = Look::new(connection, limit);
    let mut seen = Vec::new();
    for plan in plan(spec) {
        let (state, refused) = state(&mut look, &plan).await;
        seen.push(QueueSeen {
            role: role(spec, &plan.name),
            arguments: arguments(&plan, &state),
            queue: plan.name,
            state,
            refused,
        });
    }
    look.close().await;
    seen
}

fn role(spec: &QueueSpec, queue: &str) -> Role {
    let rung = || spec.ladder.rungs().find(|rung| rung.queue == queue);
    match queue {
        _ if queue == spec.queue => Role::Work,
        _ if queue == spec.dead_letter_queue => Role::DeadLetters,
        _ => Role::Retry(rung().map_or(Duration::ZERO, |rung| rung.length)),
    }
}

/// The arguments of a queue: the planned ones, but for the differences.
fn arguments(plan: &QueuePlan, state: &QueueState) -> Option<BTreeMap<String, String>> {
    let differences = match state {
        QueueState::AsPlanned => &[][..],
        QueueState::Differs(differences) => differences.as_slice(),
        QueueState::Missing | QueueState::Exists | QueueState::Unknown(_) => return None,
    };
    let planned = plan.arguments().iter().map(|(name, value)| {
        let value = match value {
            QueueArgument::Text(text) => text.clone(),
            QueueArgument::Int(number) => number.to_string(),
            QueueArgument::Bool(is) => is.to_string(),
        };
        (name.clone(), value)
    });
    let mut known: BTreeMap<_, _> = planned.collect();
    for difference in differences {
        match difference {
            Difference::Argument {
                argument,
                values: Some(values),
                ..
            } => match &values.has {
                Some(has) => drop(known.insert(argument.clone(), has.clone())),
                None => drop(known.remove(argument)),
            },
            // The comparison ended here.
            _ => return None,
        }
    }
    Some(known)
}

async fn state(look: &mut Look<'_>, plan: &QueuePlan) -> (QueueState, Option<String>) {
    let unknown = |error: BrokerError| QueueState::Unknown(error.to_string());
    match look.compare(plan).await {
        Ok(Found::Same) => (QueueState::AsPlanned, None),
        Ok(Found::Missing) => (QueueState::Missing, None),
        Ok(Found::Differs(differences)) => (QueueState::Differs(differences), None),
        Err(BrokerError::Refused(text)) => {
            let state = match look.queue_exists(&plan.name).await {
                Ok(Some(true)) => QueueState::Exists,
                Ok(Some(false)) => QueueState::Missing,
                Ok(None) => QueueState::Unknown("the user may not look at the queue".to_owned()),
                Err(error) => unknown(error),
            };
            (state, Some(text))
        }
        Err(error) => (unknown(error), None),
    }
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
