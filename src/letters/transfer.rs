//! Moving all messages of a work queue to another queue, in their order.
//!
//! Each copy is confirmed before its message is acked. The copy keeps what a worker would read of the
//! message: bytes, properties, headers, and where the publisher sent it. A message of another user is
//! believed no more after the move than before.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::time::{Duration, Instant};
use tracing::{info, warn};

use super::{
    Changed, DeadLettersError, Filter, Letter,
    change::{Change, Report, change},
    desk::Desk,
};
use crate::broker::{
    Broker, CopyHeaders, Header, Properties, Publication, QueueSpec, Reading, Written,
    headers::names,
};

/// A move of messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer<'a> {
    /// The queue that the messages leave, with its retry queues.
    pub(crate) from: &'a QueueSpec,
    /// The queue that they come to.
    pub(crate) to: &'a str,
    /// The most messages per second; `None`: as fast as the broker confirms them.
    pub(crate) rate: Option<f64>,
}

/// How long a slow move may hold a message, in seconds, as far as its rate decides.
const HELD: f64 = 10.0;

/// A move under way.
struct Moving<'a, B> {
    transfer: Transfer<'a>,
    broker: &'a B,
    all: Filter,
    began: Instant,
    sent: AtomicU64,
}

impl<B: Reading> Moving<'_, B> {
    async fn publish(&self, letters: &[Letter]) -> Result<(), String> {
        let Transfer { from, to, .. } = self.transfer;
        let believed = |letter: &Letter| self.broker.believed(from, letter.properties());
        let believed: Option<Vec<Properties>> = letters.iter().map(believed).collect();
        let believed = believed.ok_or_else(|| "not connected".to_owned())?;
        let publications = letters.iter().zip(&believed).map(|(letter, properties)| {
            let headers = headers(&from.queue, letter, properties);
            Publication {
                exchange: "",
                routing_key: to,
                body: letter.body(),
                properties: Written::Copy(properties, headers),
            }
        });
        let publications: Vec<_> = publications.collect();
        let published = self.broker.publish_in_order(&publications).await;
        let sent = letters.len() as u64;
        self.sent.fetch_add(sent, Ordering::Relaxed);
        published.map_err(|error| error.to_string())
    }
}

/// The headers of the copy of a message that a worker would read as `properties`.
fn headers(from: &str, letter: &Letter, properties: &Properties) -> CopyHeaders {
    let mut set = vec![(names::MOVED_FROM, Header::Text(from.to_owned()))];
    for (name, arrived) in [
        (names::SOURCE_EXCHANGE, letter.exchange()),
        (names::SOURCE_ROUTING_KEY, letter.routing_key()),
    ] {
        if properties.header(name).is_none() {
            set.push((name, Header::Text(arrived.to_owned())));
        }
    }
    // A retry that came back has its expiration in a header, and does not expire at the broker.
    let is_own = properties.header(names::ORIGINAL_EXPIRATION).is_none();
    let expiration = properties.expiration().filter(|_| is_own);
    CopyHeaders {
        expiration: expiration.and_then(|it| it.parse().ok()),
        set,
        comes_back: true,
        is_named: true,
        keeps_priority: true,
        ..CopyHeaders::default()
    }
}

impl<B: Reading> Change for Moving<'_, B> {
    fn filter(&self) -> &Filter {
        &self.all
    }

    fn batch(&self) -> usize {
        let rate = self.transfer.rate.map(f64::ceil);
        rate.map_or(usize::MAX, |rate| (rate as usize).max(1))
    }

    /// What is held does not reach the workers of the queue.
    fn window(&self) -> usize {
        let held = self.transfer.rate.map(|rate| rate * HELD);
        held.map_or(usize::MAX, |held| (held as usize).max(1))
    }

    fn due(&self) -> Option<Instant> {
        let rate = self.transfer.rate?;
        let sent = self.sent.load(Ordering::Relaxed);
        Some(self.began + Duration::from_secs_f64(sent as f64 / rate))
    }

    fn succeed<'a>(&'a self, letter: &'a Letter) -> BoxFuture<'a, Result<(), String>> {
        self.publish(std::slice::from_ref(letter)).boxed()
    }

    /// All copies of a batch or none, so that a failure does not change the order.
    fn succeed_all<'a>(&'a self, letters: &'a [Letter]) -> BoxFuture<'a, Vec<Result<(), String>>> {
        let publishing = async {
            let published = self.publish(letters).await;
            letters.iter().map(|_| published.clone()).collect()
        };
        publishing.boxed()
    }
}

/// Moves the messages that are ready.
pub(crate) async fn transfer<B: Broker + Reading>(
    broker: &B,
    transfer: Transfer<'_>,
    by: &str,
    report: Report<'_>,
) -> Result<Changed, DeadLettersError> {
    let desk = Desk::new(broker.clone(), &transfer.from.queue, None);
    let moving = Moving {
        transfer,
        broker,
        all: Filter::default(),
        began: Instant::now(),
        sent: AtomicU64::new(0),
    };
    let moved = change(&desk, &moving, report).await;
    let (from, to) = (&transfer.from.queue, transfer.to);
    match &moved {
        Ok(it) => info!(
            from,
            to,
            by,
            moved = it.changed,
            kept = it.kept(),
            "moved messages"
        ),
        Err(error) => warn!(from, to, by, %error, "moving messages ended early"),
    }
    moved
}
