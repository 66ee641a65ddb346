//! The queues that a consumer needs, with their arguments.

use std::collections::BTreeMap;

use lapin::types::{AMQPValue, FieldTable};

use crate::{
    broker::{QueueArgument, QueueSpec, QueueType, headers::short},
    retry::Rung,
};

/// A queue as the consumer needs it: durable, not exclusive, not auto-deleted, with these
/// arguments.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::broker) struct QueuePlan {
    pub(in crate::broker) name: String,
    arguments: BTreeMap<String, QueueArgument>,
}

impl From<&QueueArgument> for AMQPValue {
    fn from(argument: &QueueArgument) -> Self {
        match argument {
            QueueArgument::Text(text) => Self::LongString(text.as_str().into()),
            QueueArgument::Int(n) => Self::LongLongInt(*n),
            QueueArgument::Bool(is) => Self::Boolean(*is),
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

    /// The delivery limit of a dead-letter queue. People look at dead letters and put them back,
    /// which RabbitMQ 3.10 and 4.0 count as redeliveries. At 4.x's default limit of 20 the broker
    /// would drop them. -1 (no limit) misbehaves on 3.x.
    pub(in crate::broker) const DEAD_LETTER_LIMIT: i64 = 100_000;

    /// A dead-letter queue.
    pub(super) fn dead_letters(name: &str) -> Self {
        Self::new(name, QueueType::Quorum).int("x-delivery-limit", Self::DEAD_LETTER_LIMIT)
    }

    fn text(mut self, key: &str, value: &str) -> Self {
        let value = QueueArgument::Text(value.to_owned());
        self.arguments.insert(key.to_owned(), value);
        self
    }

    fn int(mut self, key: &str, value: i64) -> Self {
        let value = QueueArgument::Int(value);
        self.arguments.insert(key.to_owned(), value);
        self
    }

    /// Dead-letters to `target` through the default exchange. A quorum queue dead-letters with
    /// confirms (RabbitMQ: at-least-once dead-lettering), which needs `reject-publish` as its
    /// overflow.
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

    /// The value of one argument.
    pub(in crate::broker) fn argument(&self, key: &str) -> Option<&QueueArgument> {
        self.arguments.get(key)
    }

    /// All arguments.
    pub(super) fn arguments(&self) -> &BTreeMap<String, QueueArgument> {
        &self.arguments
    }

    pub(super) fn table(&self) -> FieldTable {
        let mut table = FieldTable::default();
        for (key, value) in &self.arguments {
            table.insert(short(key), value.into());
        }
        table
    }
}

/// All queues of a consumer: its retry queues, its dead-letter queue and its own queue, in the order
/// in which they are declared.
///
/// The consumer's own queue is the last one: publishers and other workers use no other, so the
/// queues before it are unused if it cannot be declared.
pub(in crate::broker) fn plan(spec: &QueueSpec) -> Vec<QueuePlan> {
    let dead = &spec.dead_letter_queue;
    let queue_type = spec.queue_type;
    // A safety net under our own dead-lettering: a message that kills the process again and again
    // still ends in the dead-letter queue.
    let mut work = QueuePlan::new(&spec.queue, queue_type).dead_letters_to(dead, queue_type);
    if queue_type == QueueType::Quorum {
        work = work.int("x-delivery-limit", i64::from(spec.delivery_limit));
    }
    let further = spec.arguments.clone().into_iter();
    work.arguments.extend(further);
    let rungs = spec.ladder.rungs();
    let rungs = rungs.map(|rung| rung_plan(&rung, &spec.queue));
    rungs.chain([QueuePlan::dead_letters(dead), work]).collect()
}

/// The plan of one queue of a consumer, also of a retry queue outside of its schedule.
pub(in crate::broker) fn planned(spec: &QueueSpec, queue: &str) -> Option<QueuePlan> {
    let mut plans = plan(spec).into_iter();
    let others = || {
        let mut rungs = spec.ladder.all();
        let rung = rungs.find(|rung| rung.queue == queue)?;
        Some(rung_plan(&rung, &spec.queue))
    };
    plans.find(|plan| plan.name == queue).or_else(others)
}

/// A retry queue. It has no consumers and no `x-expires`: a queue that expires takes its messages
/// along. A quorum queue, whatever the type of the work queue: a classic queue dead-letters without
/// confirms, and loses each message that expires while the work queue is full or missing.
fn rung_plan(rung: &Rung, work: &str) -> QueuePlan {
    let length = i64::try_from(rung.length.as_millis()).unwrap_or(i64::MAX);
    QueuePlan::new(&rung.queue, QueueType::Quorum)
        .int("x-message-ttl", length)
        .dead_letters_to(work, QueueType::Quorum)
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        broker::Topology,
        retry::{Ladder, RetrySettings},
    };

    /// A consumer of `q` with three retry queues.
    pub(in crate::broker::topology) fn spec(
        topology: Topology,
        queue_type: QueueType,
    ) -> QueueSpec {
        let retry = RetrySettings {
            cap: Duration::from_secs(4),
            ..RetrySettings::default()
        };
        QueueSpec {
            queue: "q".to_owned(),
            prefetch: 64,
            topology,
            queue_type,
            arguments: BTreeMap::new(),
            bindings: Vec::new(),
            dead_letter_queue: "q.dead".to_owned(),
            delivery_limit: 100,
            ladder: Ladder::new("q.retry", &retry),
        }
    }

    fn text(text: &str) -> QueueArgument {
        QueueArgument::Text(text.to_owned())
    }

    #[test]
    fn a_lane_gets_its_queue_a_net_below_and_a_ladder() {
        let mut spec = spec(Topology::Declare, QueueType::Quorum);
        let further = [(
            "x-single-active-consumer".to_owned(),
            QueueArgument::Bool(true),
        )];
        spec.arguments = further.into();
        let names: Vec<_> = plan(&spec).into_iter().map(|plan| plan.name).collect();
        assert_eq!(
            names,
            ["q.retry.1s", "q.retry.2s", "q.retry.4s", "q.dead", "q"]
        );
        let work = &plan(&spec)[4];
        assert_eq!(work.arguments["x-dead-letter-routing-key"], text("q.dead"));
        assert_eq!(work.arguments["x-delivery-limit"], QueueArgument::Int(100));
        assert_eq!(
            work.arguments["x-single-active-consumer"],
            QueueArgument::Bool(true)
        );
    }

    #[test]
    fn the_queues_beside_a_classic_queue_are_quorum_queues() {
        let plans = plan(&spec(Topology::Declare, QueueType::Classic));
        let (work, beside) = plans.split_last().unwrap();
        assert_eq!(work.arguments["x-queue-type"], text("classic"));
        assert!(!work.arguments.contains_key("x-dead-letter-strategy"));
        for plan in beside {
            assert_eq!(plan.arguments["x-queue-type"], text("quorum"), "{plan:?}");
        }
        assert_eq!(
            plans[0].arguments["x-dead-letter-strategy"],
            text("at-least-once")
        );
    }
}
