//! Plays a script on the model and on RabbitMQ, and compares what the worker sees.

use std::{collections::BTreeMap, time::Duration};

use lapin::{BasicProperties, types::AMQPValue};
use tokio::time::Instant;

use super::{
    lane::{Lane, SOON, Told, failure, same, shown},
    real::Real,
    script::{Letter, Script, Step, acks, returns},
};
use crate::{
    broker::{
        Acks, Broker, Properties, Publication, PublishError, QueueSpec, QueueType, Session,
        Topology, Written,
        fake::{Arguments, FakeBroker},
        headers::short,
    },
    retry::{Ladder, RetrySettings},
};

/// The time between two looks at the depth of a queue.
const LOOK: Duration = Duration::from_millis(2);

/// Both brokers, with the sessions that are open.
pub(super) struct Stage<'a> {
    model: FakeBroker,
    real: &'a mut Real,
    lanes: Vec<Lane>,
    prefix: String,
    published: u32,
}

impl<'a> Stage<'a> {
    pub(super) fn new(model: FakeBroker, real: &'a mut Real) -> Self {
        Self {
            model,
            real,
            lanes: Vec::new(),
            prefix: String::new(),
            published: 0,
        }
    }

    fn name(&self, dead: bool) -> String {
        let name = if dead { "dead" } else { "work" };
        format!("{}.{name}", self.prefix)
    }

    /// Plays the script, and looks at the end at all messages that are left.
    pub(super) async fn play(mut self, script: &Script) -> Told {
        self.prefix.clone_from(&script.prefix);
        for dead in [true, false] {
            self.real.delete(&self.name(dead)).await?;
            self.declare(dead, arguments(script, dead)).await?;
        }
        let told = self.steps(script).await;
        for dead in [true, false] {
            self.real.delete(&self.name(dead)).await?;
        }
        told
    }

    async fn steps(&mut self, script: &Script) -> Told {
        for (number, step) in script.steps.iter().enumerate() {
            let told = match self.step(script, step).await {
                Ok(()) => self.compare().await,
                told => told,
            };
            told.map_err(|told| format!("step {number} {step:?}: {told}"))?;
        }
        self.rest()
            .await
            .map_err(|told| format!("the rest: {told}"))
    }

    /// Closes all sessions, and consumes what is left in the queues.
    async fn rest(&mut self) -> Told {
        while let Some(lane) = self.lanes.pop() {
            lane.model.close().await;
            lane.real.close().await;
            self.compare().await?;
        }
        for dead in [true, false] {
            self.open(dead, 0).await?;
            self.compare().await?;
        }
        for lane in self.lanes.drain(..) {
            lane.real.close().await;
        }
        Ok(())
    }

    async fn step(&mut self, script: &Script, step: &Step) -> Told {
        match step {
            Step::Publish { queue, letter } => self.publish(*queue, letter).await,
            Step::Open { prefetch, dead } => self.open(*dead, *prefetch).await,
            Step::Ack { .. } | Step::Return { .. } | Step::AckUnknown { .. } => {
                self.settle(step).await
            }
            Step::Cancel { .. }
            | Step::SubscribeAgain { .. }
            | Step::Close { .. }
            | Step::Kill { .. } => self.session(step).await,
            Step::Delete { dead } => {
                let name = self.name(*dead);
                self.model.lock().delete(&name);
                self.real.delete(&name).await
            }
            Step::Declare { dead, other } => {
                let mut wanted = arguments(script, *dead).clone();
                if *other {
                    wanted = wanted.int("x-max-length", 77);
                }
                self.declare(*dead, &wanted).await
            }
            Step::Purge { dead } => {
                let name = self.name(*dead);
                same(self.model.purge(&name), self.real.purge(&name).await?)
            }
            Step::Take { dead } => self.take(script, *dead).await,
        }
    }

    async fn publish(&mut self, queue: usize, letter: &Letter) -> Told {
        self.published += 1;
        let body = self.published.to_string();
        let name = match queue {
            0 => self.name(false),
            1 => self.name(true),
            _ => format!("{}.missing", self.prefix),
        };
        let properties = properties(letter);
        let publication = || Publication {
            exchange: "",
            routing_key: &name,
            body: body.as_bytes(),
            properties: Written::New(&properties),
        };
        let ours = self.model.publish(&publication()).await;
        let theirs = self.real.broker.publish(&publication()).await;
        let class = |told: Result<(), PublishError>| told.map_err(|error| error.class());
        same(class(ours), class(theirs))
    }

    async fn open(&mut self, dead: bool, prefetch: u16) -> Told {
        let spec = spec(&self.name(dead), prefetch);
        let tag = format!("lane {}", self.lanes.len());
        let model = self.model.open(&spec, &tag).await;
        let real = self.real.broker.open(&spec, &tag).await;
        match (model, real) {
            (Ok(model), Ok(real)) => {
                self.lanes.push(Lane {
                    model,
                    real,
                    prefetch,
                    queue: spec.queue,
                    tags: Vec::new(),
                });
                Ok(())
            }
            (model, real) => same(failure(model.err()), failure(real.err())),
        }
    }

    async fn settle(&mut self, step: &Step) -> Told {
        let (Step::Ack { session, .. }
        | Step::Return { session, .. }
        | Step::AckUnknown { session }) = step
        else {
            return Ok(());
        };
        let count = self.lanes.len().max(1);
        let Some(lane) = self.lanes.get_mut(session % count) else {
            return Ok(());
        };
        match step {
            Step::Ack {
                through, singles, ..
            } => {
                let Some(acks) = acks(&lane.tags, *through, singles) else {
                    return Ok(());
                };
                let is_left = |tag: &u64| Some(*tag) > acks.through && !acks.singles.contains(tag);
                lane.tags.retain(is_left);
                lane.ack(acks).await
            }
            Step::Return {
                deliveries,
                multiple,
                ..
            } => {
                let Some(returns) = returns(&lane.tags, deliveries, *multiple) else {
                    return Ok(());
                };
                lane.tags.retain(|tag| !returns.tags().contains(tag));
                let (_, ours) = lane.model.give_back(returns.clone()).await;
                let (_, theirs) = lane.real.give_back(returns).await;
                lane.real.barrier(lane.prefetch).await;
                same(failure(ours.err()), failure(theirs.err()))
            }
            _ => {
                lane.ack(Acks {
                    through: None,
                    singles: vec![9_999],
                })
                .await
            }
        }
    }

    async fn session(&mut self, step: &Step) -> Told {
        let (Step::Cancel { session }
        | Step::SubscribeAgain { session, .. }
        | Step::Close { session }
        | Step::Kill { session }) = step
        else {
            return Ok(());
        };
        if self.lanes.is_empty() {
            return Ok(());
        }
        let at = session % self.lanes.len();
        match step {
            Step::Cancel { .. } if self.lanes[at].model.is_subscribed() => {
                let lane = &mut self.lanes[at];
                let (ours, theirs) = (lane.model.cancel().await, lane.real.cancel().await);
                same(failure(ours.err()), failure(theirs.err()))
            }
            Step::SubscribeAgain { prefetch, .. } if !self.lanes[at].model.is_subscribed() => {
                let lane = &mut self.lanes[at];
                let spec = spec(&lane.queue, *prefetch);
                let ours = lane.model.subscribe_again(&spec).await;
                let theirs = lane.real.subscribe_again(&spec).await;
                match (ours, theirs) {
                    (Ok(()), Ok(subscription)) => {
                        lane.model.resume(());
                        lane.real.resume(subscription);
                        Ok(())
                    }
                    (ours, theirs) => {
                        self.lanes.remove(at);
                        same(failure(ours.err()), failure(theirs.err()))
                    }
                }
            }
            Step::Close { .. } => {
                let lane = self.lanes.remove(at);
                lane.model.close().await;
                lane.real.close().await;
                Ok(())
            }
            Step::Kill { .. } => self.kill(at).await,
            _ => Ok(()),
        }
    }

    /// Ends the connection of a session. Closes the other sessions before: when several die at once,
    /// chance decides whether a queue still delivers to one of them what another one had.
    async fn kill(&mut self, at: usize) -> Told {
        let lane = self.lanes.remove(at);
        while let Some(other) = self.lanes.pop() {
            other.model.close().await;
            other.real.close().await;
            self.compare_depths().await?;
        }
        lane.model.kill();
        lane.real.kill();
        let until = Instant::now() + SOON;
        while self.real.broker.is_up() {
            if Instant::now() > until {
                return Err("the connection lives on".to_owned());
            }
            tokio::time::sleep(LOOK).await;
        }
        self.real.broker.up().await;
        Ok(())
    }

    async fn declare(&mut self, dead: bool, wanted: &Arguments) -> Told {
        let name = self.name(dead);
        let ours = self.model.declare_with(&name, wanted.clone());
        let theirs = self.real.declare(&name, wanted).await?;
        match (ours, theirs) {
            (Err(found), Some(text)) => {
                let is_named = found.iter().any(|difference| {
                    let shown = format!("{difference:?}");
                    text.split('\'')
                        .nth(1)
                        .is_some_and(|name| shown.contains(name))
                });
                if is_named {
                    return Ok(());
                }
                Err(format!("model {found:?}, RabbitMQ {text}"))
            }
            (ours, theirs) => same(ours.is_ok(), theirs.is_none()),
        }
    }

    async fn take(&mut self, script: &Script, dead: bool) -> Told {
        if arguments(script, dead).is_single_active() {
            // RabbitMQ does not let a client take single messages from such a queue.
            return Ok(());
        }
        let name = self.name(dead);
        let ours = self.model.take(&name);
        let ours = ours.map(|it| {
            let properties = it.delivered_properties();
            shown(it.redelivered, &properties, &it.body)
        });
        let theirs = self.real.take(&name).await?;
        let theirs = theirs.map(|it| shown(it.redelivered, &it.properties, &it.body));
        same(ours, theirs)
    }

    /// Compares the events of all lanes, and the depths of the queues.
    async fn compare(&mut self) -> Told {
        let mut at = 0;
        while let Some(lane) = self.lanes.get_mut(at) {
            let told = lane.compare().await;
            if told.map_err(|told| format!("lane {at}: {told}"))? {
                at += 1;
            } else {
                self.lanes.remove(at);
            }
        }
        self.compare_depths().await
    }

    async fn compare_depths(&mut self) -> Told {
        let queues = vec![self.name(false), self.name(true)];
        let until = Instant::now() + SOON;
        loop {
            let ours = self.model.depths(queues.clone()).await;
            let theirs = self.real.broker.depths(queues.clone()).await;
            let (ours, theirs) = (ours.ok(), theirs.ok());
            if ours == theirs {
                return Ok(());
            }
            if Instant::now() > until {
                return same(ours, theirs);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn properties(letter: &Letter) -> Properties {
    let mut properties = BasicProperties::default();
    if letter.expires {
        properties = properties.with_expiration(short("0"));
    }
    if let Some(priority) = letter.priority {
        properties = properties.with_priority(priority);
    }
    let mut headers = lapin::types::FieldTable::default();
    if let Some(count) = letter.count {
        let count = AMQPValue::LongLongInt(count.into());
        headers.insert(short("x-delivery-count"), count);
    }
    properties.with_headers(headers).into()
}

fn arguments(script: &Script, dead: bool) -> &Arguments {
    if dead { &script.dead } else { &script.work }
}

/// A consumer that needs no other queue, and leaves its own as it is.
fn spec(queue: &str, prefetch: u16) -> QueueSpec {
    let never = RetrySettings {
        max_attempts: 1,
        ..RetrySettings::default()
    };
    QueueSpec {
        queue: queue.to_owned(),
        prefetch,
        topology: Topology::None,
        queue_type: QueueType::Quorum,
        arguments: BTreeMap::new(),
        bindings: Vec::new(),
        ladder: Ladder::new("", &never),
        dead_letter_queue: queue.to_owned(),
        delivery_limit: 1,
    }
}
