//! The account of all messages of a test: none is lost, and none is in two places unless the worker
//! counted it as a duplicate or could not know of it.

use std::collections::BTreeMap;

use crate::{
    Ledger,
    broker::{HeaderValue, Properties, fake::FakeBroker},
};

/// The header that names a message which has no `message-id`.
pub(super) const TEST_ID: &str = "test-id";

/// What names a message and its copies.
pub(super) fn id(properties: &Properties) -> String {
    let header = properties.header(TEST_ID).and_then(HeaderValue::as_str);
    let id = header.or(properties.message_id());
    id.unwrap_or_default().to_owned()
}

/// Where a message is, after its worker has ended.
#[derive(Debug, Default)]
struct Places {
    /// How often it was published.
    sent: u64,
    /// How often a handler said that it is done.
    done: u64,
    /// How often it is in a queue.
    queued: u64,
    /// How often the test had the broker throw it away.
    dropped: u64,
}

/// Checks the account after the worker has ended.
pub(super) fn check(broker: &FakeBroker, done: &[String], ledger: Ledger) {
    assert_eq!(broker.unacked(), 0, "the worker has left a channel behind");
    let mut messages = BTreeMap::<String, Places>::new();
    let mut at = |id: String, add: fn(&mut Places)| add(messages.entry(id).or_default());
    let sent = broker.sent();
    sent.iter().for_each(|it| at(id(it), |it| it.sent += 1));
    done.iter().for_each(|it| at(it.clone(), |it| it.done += 1));
    let queued = broker.everything();
    let queued = queued.iter().map(|it| id(&it.properties));
    queued.for_each(|it| at(it, |it| it.queued += 1));
    let dropped = broker.dropped();
    let dropped = dropped.iter().map(|it| id(&it.properties));
    dropped.for_each(|it| at(it, |it| it.dropped += 1));

    let mut twice = 0;
    for (id, places) in &messages {
        let found = places.done + places.queued + places.dropped;
        assert!(found >= places.sent, "{id} is lost: {places:?}");
        twice += found - places.sent;
    }
    let known = ledger.duplicates + broker.untold_copies();
    assert!(
        twice <= known,
        "{twice} messages are there twice, {known} may be: {messages:?}"
    );
}
