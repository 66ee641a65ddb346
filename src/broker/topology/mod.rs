//! The queues of a consumer: declares them, or compares the existing ones with the settings.

mod difference;
mod plan;

use std::{collections::BTreeSet, time::Duration};

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};

use super::{
    Binding, QueueSpec, Topology,
    connection::Connection,
    error::{BrokerError, reply_code},
    headers::short,
};
use difference::Refusal;
pub(super) use difference::joined;
pub use difference::{Difference, Values};
pub(super) use plan::{Argument, QueuePlan, plan, planned};

/// Declares or compares the queues of `spec`, as its `topology` says.
///
/// # Errors
/// [`BrokerError::Topology`] names each queue that differs, each argument, its value and the wanted
/// value. With `verify` it also names each exchange of a binding that does not exist.
pub(crate) async fn ensure(
    connection: &Connection,
    spec: &QueueSpec,
    limit: Duration,
) -> Result<(), BrokerError> {
    if spec.topology == Topology::None {
        return Ok(());
    }
    let mut found = Vec::new();
    for plan in plan(spec) {
        found.extend(compare(connection, &plan, spec.topology, limit).await?);
    }
    if spec.topology == Topology::Verify {
        found.extend(missing_exchanges(connection, &spec.bindings, limit).await?);
    }
    if !found.is_empty() {
        return Err(BrokerError::Topology(found));
    }
    if spec.topology == Topology::Declare {
        bind(connection, spec, limit).await?;
    }
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
    let Some(plan) = planned(spec, queue) else {
        return Ok(());
    };
    let found = compare(connection, &plan, Topology::Declare, limit).await?;
    if found.is_empty() {
        return Ok(());
    }
    Err(BrokerError::Topology(found))
}

async fn bind(
    connection: &Connection,
    spec: &QueueSpec,
    limit: Duration,
) -> Result<(), BrokerError> {
    if spec.bindings.is_empty() {
        return Ok(());
    }
    let channel = connection.channel(limit).await?;
    for binding in &spec.bindings {
        let bind = channel.queue_bind(
            short(&spec.queue),
            short(&binding.exchange),
            short(&binding.routing_key),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        let Err(error) = request(limit, "binding a queue", bind).await? else {
            continue;
        };
        if reply_code(&error) == Some(404) {
            let exchange = binding.exchange.clone();
            return Err(BrokerError::Topology(vec![Difference::NoExchange {
                exchange,
            }]));
        }
        return Err(error.into());
    }
    close(&channel, limit).await;
    Ok(())
}

/// The differences between the queue and its plan. Declares the queue if it is missing and
/// `topology` allows it.
///
/// AMQP has no request for a queue's arguments, but the broker refuses a declaration that differs
/// and names the first difference. So this function changes the plan to the value found and tries
/// again until the declaration fits. Each refusal closes the channel, so each try has a channel of
/// its own.
async fn compare(
    connection: &Connection,
    plan: &QueuePlan,
    topology: Topology,
    limit: Duration,
) -> Result<Vec<Difference>, BrokerError> {
    let queue = || plan.name.clone();
    if topology == Topology::Verify && !queue_exists(connection, &plan.name, limit).await? {
        return Ok(vec![Difference::NoQueue { queue: queue() }]);
    }
    let mut found = Vec::new();
    let mut last = None;
    let mut table = plan.table();
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    loop {
        let channel = connection.channel(limit).await?;
        let declare = channel.queue_declare(short(&plan.name), options, table.clone());
        let error = match request(limit, "declaring a queue", declare).await? {
            Ok(_) => {
                close(&channel, limit).await;
                return Ok(found);
            }
            Err(error) => error,
        };
        if reply_code(&error) != Some(406) {
            return Err(error.into());
        }
        let text = error.to_string();
        let Some(refusal) = Refusal::parse(&text) else {
            let queue = queue();
            found.push(Difference::Refused { queue, text });
            return Ok(found);
        };
        // When both sides have a value, the broker leaves out the type. It gives the type when the
        // next try leaves the argument out. If the value is still not known then, the plan cannot
        // be changed to it.
        if last.as_ref() != Some(&refusal.argument) {
            found.push(Difference::Argument {
                queue: queue(),
                argument: refusal.argument.clone(),
                values: refusal.values.clone(),
            });
        } else if refusal.value.is_none() {
            return Ok(found);
        }
        let Some(bent) = refusal.bend(&table) else {
            return Ok(found);
        };
        table = bent;
        last = Some(refusal.argument);
    }
}

async fn queue_exists(
    connection: &Connection,
    queue: &str,
    limit: Duration,
) -> Result<bool, BrokerError> {
    let channel = connection.channel(limit).await?;
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let declare = channel.queue_declare(short(queue), passive, FieldTable::default());
    is_there(&channel, limit, "looking for a queue", declare).await
}

/// The exchanges that the bindings name and that do not exist. AMQP has no request for a binding
/// itself.
async fn missing_exchanges(
    connection: &Connection,
    bindings: &[Binding],
    limit: Duration,
) -> Result<Vec<Difference>, BrokerError> {
    let exchanges: BTreeSet<&str> = bindings
        .iter()
        .map(|binding| binding.exchange.as_str())
        .collect();
    let mut missing = Vec::new();
    for exchange in exchanges {
        if !exchange_exists(connection, exchange, limit).await? {
            let exchange = exchange.to_owned();
            missing.push(Difference::NoExchange { exchange });
        }
    }
    Ok(missing)
}

async fn exchange_exists(
    connection: &Connection,
    exchange: &str,
    limit: Duration,
) -> Result<bool, BrokerError> {
    let channel = connection.channel(limit).await?;
    let passive = ExchangeDeclareOptions {
        passive: true,
        ..ExchangeDeclareOptions::default()
    };
    // For a passive declaration the broker checks the name only.
    let declare = channel.exchange_declare(
        short(exchange),
        ExchangeKind::Direct,
        passive,
        FieldTable::default(),
    );
    is_there(&channel, limit, "looking for an exchange", declare).await
}

/// Whether the broker has the object that `look` declares passively.
async fn is_there<T>(
    channel: &Channel,
    limit: Duration,
    step: &'static str,
    look: impl Future<Output = lapin::Result<T>>,
) -> Result<bool, BrokerError> {
    match request(limit, step, look).await? {
        Ok(_) => {
            close(channel, limit).await;
            Ok(true)
        }
        Err(error) if reply_code(&error) == Some(404) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Sends a request under a deadline. Returns a refusal by the broker apart from other errors.
async fn request<T>(
    limit: Duration,
    step: &'static str,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<lapin::Result<T>, BrokerError> {
    tokio::time::timeout(limit, call)
        .await
        .map_err(|_| BrokerError::TimedOut { step, limit })
}

async fn close(channel: &Channel, limit: Duration) {
    // If closing the channel fails, the channel ends with its connection.
    let _ = tokio::time::timeout(limit, channel.close(200, "done".into())).await;
}
