//! The tool on the model of the broker. Words of a broker that the model cannot say are tested in
//! `tests/broker/dead`.

mod canary;
mod change;
mod import;
mod look;
mod reading;
mod transfer;

use std::{
    ops::ControlFlow,
    time::{Duration, SystemTime},
};

use super::{
    Changed, DeadLettersError, Filter, Letter, Look, Looked, Progress, Replay, Target, desk::Desk,
};
use crate::{
    broker::{
        CopyHeaders, Properties,
        fake::{Arguments, FakeBroker, Release, Type},
    },
    dead_letters::{Copy, Dead, Record},
    message::PastAttempt,
    policy::Reason,
};

const RELEASES: [Release; 3] = [Release::V3, Release::V40, Release::V43];

/// A minute of the past.
fn minute(number: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_000_000 + number * 60)
}

/// The record of a message of `orders` that a worker dead-lettered at this minute.
fn record(error: &str, at: u64) -> Record {
    Record {
        attempts: 8,
        first_seen: minute(at),
        history: vec![PastAttempt {
            at: "2026-11-27T09:00:00.000Z".to_owned(),
            attempt: 8,
            kind: "http".to_owned(),
            error: error.to_owned(),
            worker: "w".to_owned(),
            trace: None,
        }],
        source_exchange: "shop".to_owned(),
        source_routing_key: "order.paid".to_owned(),
        expires_at: None,
        copy: Copy::Dead(Dead {
            reason: Reason::MaxAttempts,
            error: error.to_owned(),
            class: "http".to_owned(),
            fingerprint: crate::text::fingerprint("http", error),
            failed_at: minute(at),
            source_queue: "orders".to_owned(),
            worker: "w".to_owned(),
            crashes: 0,
            replays: 0,
            traceparent: None,
        }),
    }
}

/// Properties of a dead letter.
fn dead(id: &str, record: &Record) -> Properties {
    let headers = CopyHeaders {
        set: record.headers(),
        ..CopyHeaders::default()
    };
    headers.on(&Properties::new(
        id,
        Some("application/json"),
        Some("order"),
        &[],
    ))
}

/// A queue of dead letters as a worker declares it.
fn kept() -> Arguments {
    Arguments::of(Type::Quorum).int("x-delivery-limit", 100_000)
}

/// A broker with the queues `orders` and `orders.dead`.
fn broker(release: Release, dead: Arguments) -> FakeBroker {
    let broker = FakeBroker::new(release);
    assert_eq!(
        broker.declare_with("orders", Arguments::of(Type::Quorum)),
        Ok(())
    );
    assert_eq!(broker.declare_with("orders.dead", dead), Ok(()));
    broker
}

/// Sends letters with the ids `m0`, `m1`, …; each minute one.
fn send(broker: &FakeBroker, count: u64) {
    for number in 0..count {
        let record = record("503 from the warehouse", number);
        let body = format!(
            "{{\"id\":{number},\"place\":{{\"bin\":\"b{}\"}}}}",
            number % 2
        );
        let properties = dead(&format!("m{number}"), &record);
        assert!(broker.send("orders.dead", body.as_bytes(), properties));
    }
}

fn desk(broker: &FakeBroker) -> Desk<FakeBroker> {
    Desk::new(broker.clone(), "orders.dead", None)
}

/// The ids of the messages in a queue, next one first.
fn ids(broker: &FakeBroker, queue: &str) -> Vec<String> {
    let id = |it: crate::broker::fake::Stored| it.properties.message_id().map(str::to_owned);
    broker.ready(queue).into_iter().filter_map(id).collect()
}

fn numbered(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers
        .into_iter()
        .map(|number| format!("m{number}"))
        .collect()
}

/// Lets a command go on.
fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A look at this desk that may fail, and whose report is this.
async fn try_look(
    desk: &Desk<FakeBroker>,
    mut report: impl FnMut(Progress) -> ControlFlow<()> + Send,
) -> Result<Looked, DeadLettersError> {
    super::look::look(desk, &Look::default(), &mut |_: &Letter| {}, &mut report).await
}

async fn look(broker: &FakeBroker, look: &Look) -> (Vec<String>, Looked) {
    let mut seen = Vec::new();
    let mut see = |letter: &Letter| seen.push(letter.summary.id.clone());
    let looked = super::look::look(&desk(broker), look, &mut see, &mut go_on).await;
    (seen, looked.unwrap())
}

/// The only letter of the queue.
async fn only(broker: &FakeBroker) -> Letter {
    let desk = desk(broker);
    let mut walk = super::walk::Walk::begin(&desk, false, &super::walk::plain)
        .await
        .unwrap();
    let mut letters = walk.window(1).await.unwrap();
    // The letter goes back with the channel.
    walk.end().await.unwrap();
    letters.pop().unwrap()
}

fn replay_of(filter: Filter) -> Replay {
    Replay {
        filter,
        target: Target::Source,
        limit: None,
        rate: None,
        force: false,
        canary: None,
        run: "run".to_owned(),
        by: "test".to_owned(),
    }
}

async fn replay(broker: &FakeBroker, replay: &Replay) -> Changed {
    let replayed = super::replay::replay(&desk(broker), replay, &mut go_on).await;
    replayed.unwrap()
}
