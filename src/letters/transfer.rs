//! Moving all messages of a work queue to another queue, in their order.
//!
//! Each copy is confirmed before its message is acked. The copy keeps what a worker would read of the
//! message: bytes, properties, headers, and where the publisher sent it. A message of another user is
//! believed no more after the move than before. The copy of a retry that a user parked whom this command
//! does not believe would lose its record, so the move ends there.

use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::time::{Duration, Instant};
use tracing::{info, warn};

use super::{
    Changed, DeadLettersError, Filter, Letter,
    change::{Change, Report, change},
    desk::Desk,
    walk::{Copied, plain},
};
use crate::{
    broker::{
        Broker, CopyHeaders, Header, Properties, Publication, PublishError, QueueSpec, Reading,
        Written, headers::names,
    },
    text::cut,
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
    /// The copy of a message.
    fn copy_of(&self, letter: &Letter) -> Result<(Properties, CopyHeaders), String> {
        let from = self.transfer.from;
        let properties = letter.properties();
        if let Some(user) = self.broker.stranger(properties) {
            // The copy would name this command's user, so all workers would believe it or none.
            return Err(format!(
                "the user {:?} parked it, and its record would be lost: run this as that user, or add \
                 the user to broker.trusted_users",
                cut(&user, 100)
            ));
        }
        let believed = self.broker.believed(from, properties);
        let believed = believed.ok_or_else(|| "not connected".to_owned())?;
        let headers = headers(&from.queue, letter, &believed);
        Ok((believed, headers))
    }

    /// Publishes copies in their order. Returns how many of them, from the first one on, the broker has
    /// for sure, and why it is not all.
    async fn publish(&self, letters: &[Letter]) -> (usize, Result<(), String>) {
        let mut copies = Vec::with_capacity(letters.len());
        let mut refused = Ok(());
        for letter in letters {
            match self.copy_of(letter) {
                Ok(copy) => copies.push(copy),
                Err(why) => {
                    refused = Err(why);
                    break;
                }
            }
        }
        let publications = letters
            .iter()
            .zip(&copies)
            .map(|(letter, copy)| Publication {
                exchange: "",
                routing_key: self.transfer.to,
                body: letter.body(),
                properties: Written::Copy(&copy.0, copy.1.clone()),
            });
        let publications: Vec<_> = publications.collect();
        let (mut sure, mut published) = self.broker.publish_in_order(&publications).await;
        if sure < publications.len() && matches!(published, Err(PublishError::Refused { .. })) {
            // One of them is refused, and nobody knows which. Publishing one by one finds it, and takes
            // all before it, so the next run does not copy them again.
            published = Ok(());
            while published.is_ok() && sure < publications.len() {
                let one = &publications[sure..=sure];
                let (count, outcome) = self.broker.publish_in_order(one).await;
                (sure, published) = (sure + count, outcome);
            }
        }
        self.sent.fetch_add(sure as u64, Ordering::Relaxed);
        let published = published.map_err(|error| error.to_string());
        (sure, published.and(refused))
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

    fn keeps_order(&self) -> bool {
        true
    }

    /// The copy is the one that a move makes, so a retry keeps its record.
    fn copy(&self, letter: &Letter) -> Copied {
        match self.copy_of(letter) {
            Ok((properties, headers)) => (properties, Some(headers)),
            Err(_) => plain(letter),
        }
    }

    fn succeed<'a>(&'a self, letter: &'a Letter) -> BoxFuture<'a, Result<(), String>> {
        let published = self.publish(std::slice::from_ref(letter));
        published.map(|(_, outcome)| outcome).boxed()
    }

    fn succeed_all<'a>(&'a self, letters: &'a [Letter]) -> BoxFuture<'a, Vec<Result<(), String>>> {
        let publishing = async {
            let (sure, outcome) = self.publish(letters).await;
            let result = |(number, letter): (usize, &Letter)| match &outcome {
                Err(why) if number == sure => Err(format!("message {}: {why}", id(letter))),
                Err(_) if number > sure => Err("it waits behind a message that stays".to_owned()),
                _ => Ok(()),
            };
            letters.iter().enumerate().map(result).collect()
        };
        publishing.boxed()
    }
}

/// The id of a message, for people.
fn id(letter: &Letter) -> String {
    let id = letter.properties().message_id();
    id.map_or_else(
        || "without id".to_owned(),
        |id| format!("{:?}", cut(id, 100)),
    )
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
