//! The model of the broker, by subject. What random scripts compare with RabbitMQ is not repeated
//! here, except where the worker's promise rests on it.

mod limits;
mod links;
mod timeouts;

use std::{collections::BTreeMap, time::Duration};

use super::{Arguments, FakeBroker, FakeSession, Release, Type};
use crate::{
    broker::{
        Acks, Broker, BrokerError, Delivery, Properties, Publication, PublishError, QueueSpec,
        QueueType, Returns, Session, Topology, Written,
    },
    retry::{Ladder, RetrySettings},
};

const RELEASES: [Release; 3] = [Release::V3, Release::V40, Release::V43];

fn spec(queue: &str, prefetch: u16) -> QueueSpec {
    let retry = RetrySettings {
        cap: Duration::from_secs(1),
        ..RetrySettings::default()
    };
    QueueSpec {
        queue: queue.to_owned(),
        prefetch,
        topology: Topology::Attach,
        queue_type: QueueType::Quorum,
        arguments: BTreeMap::new(),
        bindings: Vec::new(),
        ladder: Ladder::new("q.retry", &retry),
        dead_letter_queue: "dead".to_owned(),
        delivery_limit: 100,
    }
}

/// A broker with the queue `q`, which dead-letters to `dead` if the arguments say so.
fn broker(release: Release, arguments: Arguments) -> FakeBroker {
    let broker = FakeBroker::new(release);
    let dead = Arguments::of(Type::Quorum).int("x-delivery-limit", 100_000);
    assert_eq!(broker.declare_with("dead", dead), Ok(()));
    assert_eq!(broker.declare_with("q", arguments), Ok(()));
    broker
}

fn quorum() -> Arguments {
    Arguments::of(Type::Quorum)
}

fn send(broker: &FakeBroker, bodies: &[&str]) {
    for body in bodies {
        assert!(broker.send("q", body.as_bytes(), Properties::default()));
    }
}

async fn open(broker: &FakeBroker, prefetch: u16) -> FakeSession {
    let mut broker = broker.clone();
    let opened = broker.open(&spec("q", prefetch), "tag").await;
    opened.unwrap()
}

async fn publish(broker: &FakeBroker, body: &[u8]) -> Result<(), PublishError> {
    let properties = Properties::default();
    let publication = Publication {
        exchange: "",
        routing_key: "q",
        body,
        properties: Written::New(&properties),
    };
    broker.publish(&publication).await
}

/// The deliveries that have arrived.
fn arrived(session: &mut FakeSession) -> Vec<Delivery> {
    let next = || session.try_next()?.ok();
    std::iter::from_fn(next).collect()
}

fn bodies_of(deliveries: &[Delivery]) -> Vec<String> {
    let text = |it: &Delivery| String::from_utf8_lossy(&it.body).into_owned();
    deliveries.iter().map(text).collect()
}

fn in_queue(broker: &FakeBroker, queue: &str) -> Vec<String> {
    let ready = broker.ready(queue);
    let text = |body: &Vec<u8>| String::from_utf8_lossy(body).into_owned();
    ready.iter().map(|stored| text(&stored.body)).collect()
}

async fn ack(session: &FakeSession, tags: &[u64]) -> Result<(), BrokerError> {
    let acks = Acks {
        through: None,
        singles: tags.to_vec(),
    };
    session.ack(acks).await.1
}

async fn nack(session: &FakeSession, tags: &[u64]) {
    let (_, given) = session.give_back(Returns::Single(tags.to_vec())).await;
    given.unwrap();
}
