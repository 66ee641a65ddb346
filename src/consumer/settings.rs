//! `[consumers.NAME]`.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ForwardSettings,
    rate::{PATTERN, Rate},
    routes::{ROUTE_BY, RouteBy, RouteSettings, Unrouted},
};
use crate::{
    breaker::BreakerSettings,
    broker::{Binding, QueueArgument, QueueSpec, QueueType, Topology, argument_is_ours},
    config::{Findings, HOUR, KeyPath, SECOND, Span, SpanOrOff},
    decode::{BodySettings, Decode},
    dialect::Dialect,
    handler::{HandlerSettings, InboxSettings, InboxTable},
    retry::{Ladder, RetrySettings},
};

/// A consumer: a queue, its limits, its retry policy and its handler. Choose a name of lower-case
/// letters, digits and single underscores between them, which begins with a letter, so that each key
/// has its environment variable. Two consumers may share a queue when their `topology`, `queue_type`,
/// `arguments`, `bindings`, `retry_queue_prefix`, `dead_letter_queue`, `delivery_limit` and `retry`
/// are the same. No queue may be the dead-letter queue or a retry queue of another one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["queue"]))]
pub struct ConsumerSettings {
    /// The queue to consume. Its name has at most 255 bytes together with the suffixes of its retry
    /// queues (`.retry.16384s`) and of its dead-letter queue (`.dead`), and does not begin with
    /// `amq.`. Streams, auto-delete queues and queues that are not durable are refused. Required.
    #[schemars(example = &"orders")]
    pub queue: String,
    /// What the worker does about the queue, its retry queues and its dead-letter queue at the start
    /// and after each reconnect. Default: `declare`.
    pub topology: Topology,
    /// The type of the queue. Retry queues and the dead-letter queue are always quorum queues.
    /// Default: `quorum`.
    pub queue_type: QueueType,
    /// Further arguments of the queue, with `topology` `declare` or `verify`: for instance
    /// `x-single-active-consumer`, `x-max-length` or, for a classic queue, `x-max-priority`. The
    /// arguments of an existing queue cannot be changed: the worker refuses to start if they differ.
    /// Default: none.
    #[schemars(example = BTreeMap::from([("x-single-active-consumer", true)]))]
    pub arguments: BTreeMap<String, QueueArgument>,
    /// Bindings of the queue to exchanges that exist. Without a binding, the default exchange
    /// reaches the queue by its name. Only with `topology = "declare"` the worker declares the
    /// bindings. AMQP 0-9-1 has no request to check a binding, so `verify` and `attach` only check
    /// that each exchange exists. Default: `[]`.
    #[schemars(example = [Binding { exchange: "shop".to_owned(), routing_key: "order.*".to_owned() }])]
    pub bindings: Vec<Binding>,
    /// The beginning of the names of the retry queues. With `orders.retry` they are
    /// `orders.retry.1s`, `orders.retry.2s` and so on. Without it: the queue's name with `.retry`,
    /// or with `.retry.quorum` where `queue_type` is `classic`. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"orders.retry")]
    pub retry_queue_prefix: Option<String>,
    /// The queue for messages that cannot succeed. Without it: the queue's name with `.dead`.
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"orders.dead")]
    pub dead_letter_queue: Option<String>,
    /// The safety net for messages that crash the worker: after this many redeliveries of a message
    /// in a quorum queue, RabbitMQ dead-letters it by itself, without Lapwing's error headers. Returned
    /// messages do not come that far: near the limit they go back as copies at the tail of the queue.
    /// With `attach` and `none` the arguments of the queue count instead, and RabbitMQ's default of 20
    /// from 4.0 on. Too low: returned messages lose their place sooner. Too high: a message crashes the
    /// worker this many times. Default: `100`.
    #[schemars(range(min = 1))]
    pub delivery_limit: u32,
    /// The number of unsettled messages that the broker may hand to this consumer. Too low: handlers
    /// wait for the broker. Too high: the worker needs more memory, holds messages that other replicas
    /// could run, and the last of them may wait longer than the broker's consumer timeout: `lapwing
    /// config check` warns where `prefetch / concurrency × timeout` reaches 30 minutes. Default: `64`.
    #[schemars(range(min = 1))]
    pub prefetch: u16,
    /// The most bytes of messages that this consumer holds at once. The worker learns the sizes of the
    /// messages and lowers the consumer's prefetch by them; a message larger than this comes alone.
    /// Too low: the worker holds few messages, and handlers wait for the broker. Too high: large
    /// messages need more memory than there is. Without it: the consumer's share of
    /// `memory.prefetch_bytes`, which is also the most. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    #[schemars(example = &67_108_864)]
    pub prefetch_bytes: Option<u64>,
    /// The number of handlers that run at once; at most `prefetch`. Too low: the queue grows. Too
    /// high: the services that handlers call are overloaded. Default: `32`.
    #[schemars(range(min = 1))]
    pub concurrency: u16,
    /// The most attempts that one worker starts for this consumer in a second, minute or hour, retries
    /// included: `100/s`, `30/m` or `1000/h`. For a service with a known limit; several workers share the limit only if
    /// each has its part of it. Too low: the queue grows. Too high: the service refuses what is above
    /// its limit. Without it: no limit but `concurrency`. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("pattern" = PATTERN), example = "100/s")]
    pub rate: Option<Rate>,
    /// With `rate`: how many attempts may start at once after a quiet time. Too low: messages that
    /// come together wait although the service has room. Too high: the service gets this many at
    /// once. Default: `1`.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: u32,
    /// How long the consumer gets no message before the worker counts the messages of its queue. If the
    /// queue has some, and none comes within 5 s, the worker takes a new channel. After a channel that
    /// brought no message the worker waits twice as long, up to an hour. It does not count if `arguments`
    /// give the queue a single active consumer. Too low: the worker asks the broker often. Too high:
    /// messages wait this long behind a channel that stands still. Default: `1m`.
    #[serde(with = "Span::<SECOND, HOUR>")]
    pub idle_check: Duration,
    /// How often the worker counts the messages that wait in the queue and in the dead-letter queue, for
    /// the console, `lapwing status` and metrics. RabbitMQ 4.3 tells the count only to a user with a
    /// permission on the queue, be it to configure, write or read. `off`: the worker does not count. Each
    /// worker counts for itself, by two requests to the broker each time: 20 consumers in 50 workers ask 200
    /// times a second. A worker counts for at most 20 consumers a second: with more than 200 consumers it
    /// counts less often than every 10 s. Too low: the workers ask the broker often. Too high: it takes long to see that a queue grows. Default: `10s`.
    #[serde(with = "SpanOrOff::<SECOND, HOUR>")]
    pub backlog_check: Option<Duration>,
    /// How long one attempt of a handler may take. Keep it well below the broker's consumer timeout
    /// (30 minutes by default); `lapwing config check` warns from 30 minutes on. Too low: slow work
    /// times out, and its retries time out too. Too high: a hung handler keeps its slot for this
    /// time, and a timeout above `drain.grace` lets a stop of the worker cancel handlers: `lapwing
    /// config check` warns of that too. Default: `20s`.
    #[serde(with = "Span::<1, { 12 * HOUR }>")]
    pub timeout: Duration,
    /// How long a handler may take to stop after the worker cancelled it; then the worker drops it.
    /// Too low: the handler cannot clean up. Too high: drains and timeouts take longer. Default:
    /// `1s`.
    #[serde(with = "Span::<0, HOUR>")]
    pub cancel_grace: Duration,
    /// How the worker reads bodies, once they are unpacked. Default: `auto`.
    pub decode: Decode,
    /// What happens to bodies before the handler.
    pub body: BodySettings,
    /// What runs for each message.
    pub handler: HandlerSettings,
    /// The system that writes the messages. The worker then reads what AMQP has no property for as that
    /// system writes it, and fills in the properties `type`, `message-id` and `content-type` where a
    /// message lacks them: [dialects.md](dialects.md). Without it: the messages are taken as they are.
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Dialect", example = &"celery")]
    pub dialect: Option<Dialect>,
    /// Where the kind of a message is read, which decides its route: `type` (the property),
    /// `routing-key`, `header:NAME`, `body:/JSON/POINTER` (text in a JSON body), or `cloudevents` (the
    /// type of a CloudEvent, in a header or in the body). Default: `type`.
    #[schemars(with = "String", extend("pattern" = ROUTE_BY))]
    pub route_by: RouteBy,
    /// Handlers for messages of one kind each: a table for each route. Messages that no route takes go
    /// to `handler`. Default: none.
    #[schemars(extend("x-routes" = true))]
    pub routes: BTreeMap<String, RouteSettings>,
    /// What happens to a message that neither a route nor `handler` takes. Default: `dead-letter`.
    pub unrouted: Unrouted,
    /// How acks are sent.
    pub ack: AckSettings,
    /// What happens after a failure.
    pub retry: RetrySettings,
    /// What happens when the service behind the handler is down.
    pub breaker: BreakerSettings,
    /// Where the results of the handler are published.
    pub forward: ForwardSettings,
    /// What is remembered of messages that are done.
    pub idempotency: InboxSettings,
}

impl Default for ConsumerSettings {
    fn default() -> Self {
        Self {
            queue: String::new(),
            topology: Topology::Declare,
            queue_type: QueueType::Quorum,
            arguments: BTreeMap::new(),
            bindings: Vec::new(),
            retry_queue_prefix: None,
            dead_letter_queue: None,
            delivery_limit: 100,
            prefetch: 64,
            prefetch_bytes: None,
            concurrency: 32,
            rate: None,
            burst: 1,
            idle_check: Duration::from_mins(1),
            backlog_check: Some(Duration::from_secs(10)),
            timeout: Duration::from_secs(20),
            cancel_grace: Duration::from_secs(1),
            decode: Decode::Auto,
            body: BodySettings::default(),
            handler: HandlerSettings::default(),
            dialect: None,
            route_by: RouteBy::default(),
            routes: BTreeMap::new(),
            unrouted: Unrouted::default(),
            ack: AckSettings::default(),
            retry: RetrySettings::default(),
            breaker: BreakerSettings::default(),
            forward: ForwardSettings::default(),
            idempotency: InboxSettings::default(),
        }
    }
}

impl ConsumerSettings {
    /// The dead-letter queue's name.
    #[must_use]
    pub fn dead_letter_queue(&self) -> String {
        self.dead_letter_queue
            .clone()
            .unwrap_or_else(|| format!("{}.dead", self.queue))
    }

    /// The beginning of the names of the retry queues.
    ///
    /// Earlier versions gave a classic queue classic retry queues, with the names that a quorum
    /// queue's retry queues have. A queue cannot change its type. So those of a classic queue have
    /// other names now, and those that an earlier version made empty by themselves.
    #[must_use]
    pub fn retry_queue_prefix(&self) -> String {
        self.retry_queue_prefix
            .clone()
            .unwrap_or_else(|| match self.queue_type {
                QueueType::Quorum => format!("{}.retry", self.queue),
                QueueType::Classic => format!("{}.retry.quorum", self.queue),
            })
    }

    /// The queues of this consumer, for the broker.
    #[must_use]
    pub fn queue_spec(&self) -> QueueSpec {
        QueueSpec {
            queue: self.queue.clone(),
            prefetch: self.prefetch,
            topology: self.topology,
            queue_type: self.queue_type,
            arguments: self.arguments.clone(),
            bindings: self.bindings.clone(),
            dead_letter_queue: self.dead_letter_queue(),
            delivery_limit: self.delivery_limit,
            ladder: self.ladder(),
        }
    }

    /// What a worker assumes about the delivery limit of a queue that is used as it is, for people.
    pub(crate) fn assumed_limit(&self) -> Option<&'static str> {
        let is_as_it_is = matches!(self.topology, Topology::Attach | Topology::None);
        is_as_it_is.then_some(
            "delivery limit: that of the queue's arguments; if they set none, 20 from RabbitMQ 4.0 on. \
             The worker reads the limit of a policy only by broker.management_url",
        )
    }

    /// The retry queues of this consumer and of its routes.
    pub(crate) fn ladder(&self) -> Ladder {
        let prefix = self.retry_queue_prefix();
        let of = |retry: &RetrySettings| match self.topology.creates() {
            true => Ladder::new(&prefix, retry),
            false => Ladder::fixed(&prefix, retry),
        };
        let routes = self.route_retries();
        routes.fold(of(&self.retry), |all, retry| all.and(of(&retry)))
    }

    /// The tables that the inbox of this consumer needs, if it is kept in PostgreSQL.
    #[must_use]
    pub fn inbox_tables(&self) -> Vec<InboxTable> {
        InboxTable::of(&self.idempotency, self.handlers())
    }

    fn handlers(&self) -> impl Iterator<Item = &HandlerSettings> {
        let routes = self.routes.values().map(|route| &route.handler);
        std::iter::once(&self.handler).chain(routes)
    }

    pub(super) fn check(&self, findings: &mut Findings, name: &str) {
        let section = section(name);
        if !is_name(name) {
            let message = "a consumer's name must have only lower-case letters, digits and \
                           single underscores between them, and begin with a letter, so that each \
                           of its settings has an environment variable";
            findings.add(section.clone(), message);
        }
        let (prefetch, concurrency) = (self.prefetch, self.concurrency);
        if concurrency > prefetch {
            let message = format!("is {concurrency}, must not be above `prefetch` ({prefetch})");
            let others = [section.key("prefetch")];
            findings.contradiction(section.key("concurrency"), others, message);
        }
        if self.burst != 1 && self.rate.is_none() {
            let others = [section.key("rate")];
            findings.contradiction(section.key("burst"), others, "needs `rate` too");
        }
        for (index, binding) in self.bindings.iter().enumerate() {
            binding.check(findings, &section.key("bindings").index(index));
        }
        self.check_arguments(findings, &section);
        let decode = (self.decode, section.key("decode"));
        self.body.check(findings, &section.key("body"), decode);
        self.retry.check(findings, &section.key("retry"));
        self.breaker.check(findings, &section.key("breaker"));
        let forward = section.key("forward");
        self.forward.check(findings, &forward, &self.queue);
        let idempotency = section.key("idempotency");
        self.idempotency.check(
            findings,
            &idempotency,
            self.handlers(),
            self.forward.wants_results(),
        );
        self.handler.check(findings, &section.key("handler"));
        self.check_routes(findings, &section);
        self.check_batches(findings, &section, concurrency);
    }

    fn check_arguments(&self, findings: &mut Findings, section: &KeyPath) {
        let at_arguments = section.key("arguments");
        let is_used = matches!(self.topology, Topology::Declare | Topology::Verify);
        if !self.arguments.is_empty() && !is_used {
            let message = "has no effect: with this `topology` the worker leaves the queue's \
                           arguments as they are";
            let others = [section.key("topology")];
            findings.contradiction(at_arguments, others, message);
            return;
        }
        for argument in self.arguments.keys() {
            let path = at_arguments.key(argument);
            findings.name(path.clone(), argument);
            if let Some(why) = argument_is_ours(argument, self.queue_type) {
                findings.add(path, why);
            }
        }
    }
}

pub(super) fn section(name: &str) -> KeyPath {
    KeyPath::of("consumers").key(name)
}

/// The names that [`is_name`] accepts, for the schema.
pub(crate) const NAME_PATTERN: &str = "^[a-z][a-z0-9]*(_[a-z0-9]+)*$";

/// Two underscores would end the name in `LAPWING__CONSUMERS__NAME__KEY`.
fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('_')
        && !name.contains("__")
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// The worker sends acks together: one `multiple` ack for neighbouring messages that are finished.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AckSettings {
    /// The number of finished messages at which the worker sends an ack at once. Lower: more ack
    /// frames, and more work for worker and broker. Higher: after a crash, more finished messages
    /// are delivered again. Default: `64`.
    #[schemars(range(min = 1))]
    pub batch: u16,
    /// The longest time that a finished message waits for its ack. Lower: more ack frames, as for
    /// `batch`. Higher: finished messages fill the prefetch, and after a crash more of them are
    /// delivered again. Default: `2ms`.
    #[serde(with = "Span::<0, SECOND>")]
    pub delay: Duration,
}

impl Default for AckSettings {
    fn default() -> Self {
        Self {
            batch: 64,
            delay: Duration::from_millis(2),
        }
    }
}

#[cfg(test)]
mod tests;
