//! The queues of a lane: declaring them, or comparing what exists with what is wanted.

use std::{collections::BTreeMap, time::Duration};

use lapin::{
    Channel,
    options::{QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use super::{
    connection::Connection,
    error::{BrokerError, reply_code},
    headers::short,
};
use crate::{
    backoff::{Ladder, Rung},
    config::{ConsumerSettings, QueueType, Topology},
};

/// A queue as a lane wants it: durable, not exclusive, not auto-deleted, with these arguments.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct QueuePlan {
    pub(crate) name: String,
    arguments: BTreeMap<&'static str, Argument>,
}

#[derive(Clone, Debug, PartialEq)]
enum Argument {
    Text(String),
    Int(i64),
    /// None that we set, but what exists may have some.
    Bool(bool),
}

impl From<&Argument> for AMQPValue {
    fn from(argument: &Argument) -> Self {
        match argument {
            Argument::Text(text) => Self::LongString(text.as_str().into()),
            Argument::Int(n) => Self::LongLongInt(*n),
            Argument::Bool(is) => Self::Boolean(*is),
        }
    }
}

impl QueuePlan {
    fn new(name: &str, queue_type: QueueType) -> Self {
        let name = name.to_owned();
        let queue_type = match queue_type {
            QueueType::Quorum => "quorum",
            QueueType::Classic => "classic",
        };
        let arguments = BTreeMap::new();
        Self { name, arguments }.text("x-queue-type", queue_type)
    }

    fn text(mut self, key: &'static str, value: &str) -> Self {
        self.arguments.insert(key, Argument::Text(value.to_owned()));
        self
    }

    fn int(mut self, key: &'static str, value: i64) -> Self {
        self.arguments.insert(key, Argument::Int(value));
        self
    }

    /// Dead-letters to `target` through the default exchange. A quorum queue does so with
    /// confirms, which needs `reject-publish` as its overflow (RabbitMQ: at-least-once
    /// dead-lettering).
    fn dead_letters_to(self, target: &str, queue_type: QueueType) -> Self {
        let plan = self
            .text("x-dead-letter-exchange", "")
            .text("x-dead-letter-routing-key", target);
        match queue_type {
            QueueType::Classic => plan,
            QueueType::Quorum => plan
                .text("x-dead-letter-strategy", "at-least-once")
                .text("x-overflow", "reject-publish"),
        }
    }

    fn table(&self) -> FieldTable {
        let mut table = FieldTable::default();
        for (key, value) in &self.arguments {
            table.insert(short(key), value.into());
        }
        table
    }
}

/// Everything a lane needs at the broker: its queue, its rungs and its dead-letter queue.
pub(crate) fn plan(consumer: &ConsumerSettings) -> Vec<QueuePlan> {
    let dead = consumer.dead_letter_queue();
    let queue_type = consumer.queue_type;
    // The net under our own dead-lettering: what kills the process again and again still ends
    // in the dead-letter queue.
    let mut work = QueuePlan::new(&consumer.queue, queue_type).dead_letters_to(&dead, queue_type);
    if queue_type == QueueType::Quorum {
        work = work.int("x-delivery-limit", i64::from(consumer.delivery_limit));
    }
    let ladder = Ladder::new(&consumer.queue, consumer.retry.cap);
    let rungs = ladder
        .rungs()
        .map(|rung| rung_plan(&rung, &consumer.queue, queue_type));
    // Dead letters are looked at and put back, which counts as redelivery on 3.10 and 4.0; at the
    // default limit of 20 (4.x) the broker would drop them. -1 misbehaves on 3.x.
    let dead = QueuePlan::new(&dead, QueueType::Quorum).int("x-delivery-limit", 100_000);
    [dead, work].into_iter().chain(rungs).collect()
}

/// A delay queue. No consumers, and no `x-expires`: a queue that expires takes its messages along.
fn rung_plan(rung: &Rung, work: &str, queue_type: QueueType) -> QueuePlan {
    let length = i64::try_from(rung.length.as_millis()).unwrap_or(i64::MAX);
    QueuePlan::new(&rung.queue, queue_type)
        .int("x-message-ttl", length)
        .dead_letters_to(work, queue_type)
}

/// Brings the broker and the plan together, as `topology` says.
///
/// # Errors
/// [`BrokerError::Topology`] names each queue that differs, each argument, what it has and what
/// was wanted.
pub(crate) async fn ensure(
    connection: &Connection,
    consumer: &ConsumerSettings,
    limit: Duration,
) -> Result<(), BrokerError> {
    if consumer.topology == Topology::None {
        return Ok(());
    }
    let mut found = Vec::new();
    for plan in plan(consumer) {
        found.extend(compare(connection, &plan, consumer.topology, limit).await?);
    }
    if !found.is_empty() {
        return Err(BrokerError::Topology(found.join("; ")));
    }
    if consumer.topology == Topology::Declare {
        bind(connection, consumer, limit).await?;
    }
    Ok(())
}

/// Declares a rung that has gone missing. The others are left alone.
pub(crate) async fn restore(
    connection: &Connection,
    consumer: &ConsumerSettings,
    queue: &str,
    limit: Duration,
) -> Result<(), BrokerError> {
    let missing = plan(consumer).into_iter().find(|plan| plan.name == queue);
    let Some(plan) = missing else { return Ok(()) };
    let found = compare(connection, &plan, Topology::Declare, limit).await?;
    if found.is_empty() {
        return Ok(());
    }
    Err(BrokerError::Topology(found.join("; ")))
}

async fn bind(
    connection: &Connection,
    consumer: &ConsumerSettings,
    limit: Duration,
) -> Result<(), BrokerError> {
    if consumer.bindings.is_empty() {
        return Ok(());
    }
    let channel = connection.channel(limit).await?;
    for binding in &consumer.bindings {
        let bind = channel.queue_bind(
            short(&consumer.queue),
            short(&binding.exchange),
            short(&binding.routing_key),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        let Err(error) = request(limit, "binding a queue", bind).await? else {
            continue;
        };
        if reply_code(&error) == Some(404) {
            let text = format!("exchange {:?} does not exist", binding.exchange);
            return Err(BrokerError::Topology(text));
        }
        return Err(error.into());
    }
    close(&channel, limit).await;
    Ok(())
}

/// What differs between the queue and its plan, a text each; declares it if it may and must.
///
/// AMQP cannot ask for a queue's arguments, but a declaration that differs is refused with the
/// first difference. So the plan is bent to what was found and tried again until it fits. Each
/// refusal closes the channel, which is why each try has its own.
async fn compare(
    connection: &Connection,
    plan: &QueuePlan,
    topology: Topology,
    limit: Duration,
) -> Result<Vec<String>, BrokerError> {
    if topology == Topology::Verify && !exists(connection, &plan.name, limit).await? {
        return Ok(vec![format!("queue {:?} does not exist", plan.name)]);
    }
    let mut found: Vec<String> = Vec::new();
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
        let Some(difference) = Difference::parse(&error.to_string()) else {
            found.push(format!("queue {:?}: {error}", plan.name));
            return Ok(found);
        };
        // Where both sides have a value the broker leaves out the type, which it tells when the
        // argument is tried without a value. What is not known then cannot be bent.
        if last.as_ref() != Some(&difference.argument) {
            found.push(format!("queue {:?}: {difference}", plan.name));
        } else if difference.value.is_none() {
            return Ok(found);
        }
        let Some(bent) = difference.bend(&table) else {
            return Ok(found);
        };
        table = bent;
        last = Some(difference.argument);
    }
}

async fn exists(
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
    match request(limit, "looking for a queue", declare).await? {
        Ok(_) => {
            close(&channel, limit).await;
            Ok(true)
        }
        Err(error) if reply_code(&error) == Some(404) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A request under a deadline, with the broker's refusal apart.
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
    // A channel that does not close goes with its connection.
    let _ = tokio::time::timeout(limit, channel.close(200, "done".into())).await;
}

/// What a refused declaration says: `inequivalent arg 'x-max-length' for queue 'q' in vhost '/':
/// received none but current is the value '5' of type 'long'` (RabbitMQ, `rabbit_misc`).
///
/// Such a text has at most 255 bytes, and what does not fit is cut: with long names, the values.
#[derive(Debug, PartialEq)]
struct Difference {
    argument: String,
    /// What it is and what was wanted; `None` where the text is cut.
    values: Option<(String, String)>,
    /// The current value, to bend the plan to; `None` where the argument is not set or not known.
    value: Option<Argument>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let argument = &self.argument;
        match &self.values {
            Some((has, wanted)) => write!(f, "{argument} is {has}, wanted {wanted}"),
            None => write!(
                f,
                "{argument} is not what was wanted (with names as long as these, the broker's \
                 answer does not hold what it is)"
            ),
        }
    }
}

impl Difference {
    fn parse(text: &str) -> Option<Self> {
        let (_, text) = text.split_once("inequivalent arg '")?;
        let (argument, text) = text.split_once('\'')?;
        let argument = argument.to_owned();
        let cut = text.ends_with("...");
        let values = text
            .split_once("received ")
            .and_then(|(_, text)| text.split_once(" but current is "));
        let Some((wanted, has)) = values.filter(|_| !cut) else {
            return cut.then_some(Self {
                argument,
                values: None,
                value: None,
            });
        };
        let has = has.split(" (").next().unwrap_or(has);
        Some(Self {
            argument,
            values: Some((describe(has), describe(wanted))),
            value: parse_value(has),
        })
    }

    /// The table with this argument as it is at the broker; `None` where that cannot be said in
    /// arguments.
    fn bend(&self, table: &FieldTable) -> Option<FieldTable> {
        if !self.argument.starts_with("x-") {
            return None;
        }
        let mut inner = table.inner().clone();
        match &self.value {
            Some(value) => {
                inner.insert(short(&self.argument), value.into());
            }
            None if inner.contains_key(self.argument.as_str()) => {
                inner.remove(self.argument.as_str());
            }
            None => return None,
        }
        Some(FieldTable::from(inner))
    }
}

/// `the value '5' of type 'long'` as `'5'`; `none` as `not set`.
fn describe(text: &str) -> String {
    match quoted(text) {
        Some((value, _)) => format!("'{value}'"),
        None if text == "none" => "not set".to_owned(),
        None => text.to_owned(),
    }
}

fn quoted(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix("the value '")?;
    let (value, kind) = text.rsplit_once("' of type '")?;
    Some((value, kind.split('\'').next()?))
}

fn parse_value(text: &str) -> Option<Argument> {
    let (value, kind) = quoted(text)?;
    match kind {
        "longstr" => Some(Argument::Text(value.to_owned())),
        "bool" => value.parse().ok().map(Argument::Bool),
        _ => value.parse().ok().map(Argument::Int),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_gets_its_queue_a_net_below_and_a_ladder() {
        let mut consumer = ConsumerSettings {
            queue: "q".to_owned(),
            ..ConsumerSettings::default()
        };
        consumer.retry.cap = Duration::from_secs(4);
        let names: Vec<_> = plan(&consumer).into_iter().map(|plan| plan.name).collect();
        assert_eq!(
            names,
            ["q.dead", "q", "q.retry.1s", "q.retry.2s", "q.retry.4s"]
        );
        let work = &plan(&consumer)[1];
        assert_eq!(
            work.arguments["x-dead-letter-routing-key"],
            Argument::Text("q.dead".into())
        );
        assert_eq!(work.arguments["x-delivery-limit"], Argument::Int(100));
        consumer.queue_type = QueueType::Classic;
        let classic = plan(&consumer);
        assert_eq!(
            classic[2].arguments["x-queue-type"],
            Argument::Text("classic".into())
        );
        assert!(!classic[2].arguments.contains_key("x-dead-letter-strategy"));
        assert_eq!(
            classic[0].arguments["x-queue-type"],
            Argument::Text("quorum".into())
        );
    }

    #[test]
    fn differences_are_read_from_the_brokers_refusals() {
        let parse = |text: &str| Difference::parse(text).unwrap();
        let more = parse(
            "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost '/': \
             received none but current is the value '5' of type 'long'",
        );
        assert_eq!(more.to_string(), "x-max-length is '5', wanted not set");
        assert_eq!(more.value, Some(Argument::Int(5)));
        let less = parse(
            "inequivalent arg 'x-dead-letter-routing-key' for queue 'q' in vhost '/': received the \
             value 'q.dead' of type 'longstr' but current is none",
        );
        assert_eq!(
            less.to_string(),
            "x-dead-letter-routing-key is not set, wanted 'q.dead'"
        );
        let single = parse(
            "inequivalent arg 'x-single-active-consumer' for queue 'q' in vhost '/': received none \
             but current is the value 'true' of type 'bool'",
        );
        assert_eq!(single.value, Some(Argument::Bool(true)));
        let cut = parse(
            "PRECONDITION_FAILED - inequivalent arg 'x-overflow' for queue 'q' in vhost 'long': \
             received the value 'reject-publish' of type 'longstr' but curren...",
        );
        assert!(
            cut.to_string()
                .starts_with("x-overflow is not what was wanted"),
            "{cut}"
        );
        assert_eq!(cut.value, None);
        let durable = parse(
            "inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' but current is \
             'false'",
        );
        assert_eq!(durable.to_string(), "durable is 'false', wanted 'true'");
        assert_eq!(durable.bend(&FieldTable::default()), None);
    }
}
