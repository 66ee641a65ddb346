//! Results: what a handler that has succeeded wants published, and what the consumer's settings say
//! about its result.
//!
//! The worker publishes them before it acks the message. Until the broker confirms them, the decision
//! is kept: the delivery stays unsettled, and its handler does not run again.

use std::{pin::pin, sync::atomic::Ordering};

use tokio::time::{Instant, sleep, sleep_until};
use tracing::warn;

use super::{
    Lane, kept,
    republish::{DRAIN_BUDGET, given_up},
};
use crate::{
    broker::{Broker, NewMessage, Publication, PublishError, Written},
    chance,
    flight::{Flight, HandlerResult, inject},
    outcome::{Ending, Failure, Outcome},
};

/// The class of the failure of a handler whose result the broker refuses.
const CLASS: &str = "forward";
/// How many attempts to send a reply may end without an answer of the broker before the last attempt.
/// RabbitMQ 3.10 ends the connection (541, internal error) for a queue of direct reply-to whose name is
/// garbage, and anybody can publish a message with such a `reply-to`.
const LOST: u32 = 2;
/// The beginning of the queues of callers that use RabbitMQ's direct reply-to.
const DIRECT: &str = "amq.rabbitmq.reply-to";

/// What is published, and for whom.
enum Letter {
    /// For a queue that must exist.
    Message(NewMessage),
    /// For the caller of a request, who may be gone.
    Reply(NewMessage),
}

/// The ending of an attempt, after the messages of a handler that succeeded are confirmed.
pub(super) async fn forward<B: Broker>(lane: &Lane<B>, flight: &Flight, ending: Ending) -> Ending {
    if ending != Ending::Handled(Outcome::Succeeded) {
        return ending;
    }
    let letters = letters(lane, flight);
    if letters.is_empty() {
        return ending;
    }
    Box::pin(publish_all(lane, flight, letters, ending)).await
}

/// What the handler and the settings want published.
fn letters<B: Broker>(lane: &Lane<B>, flight: &Flight) -> Vec<Letter> {
    let settings = &lane.settings.forward;
    let content = flight.outbox.take();
    let mut letters: Vec<_> = content.messages.into_iter().map(Letter::Message).collect();
    let message = &flight.message;
    let of_result = |result: HandlerResult, exchange: &str, routing_key: String| NewMessage {
        exchange: exchange.to_owned(),
        routing_key,
        body: result.body,
        message_id: message.id().map(str::to_owned),
        content_type: result.content_type,
        correlation_id: message
            .properties
            .correlation_id()
            .or(message.id())
            .map(str::to_owned),
        ..NewMessage::default()
    };
    let reply_to = message.properties.reply_to();
    let reply_to = reply_to.filter(|name| !name.is_empty());
    let result = content.result;
    let answered = reply_to.is_some() && settings.reply && result.is_some();
    if reply_to.is_some() && !answered && !lane.live.unanswered.swap(true, Ordering::Relaxed) {
        let why = match settings.reply {
            true => "the handler gives no result",
            false => "the consumer's `forward.reply` is false",
        };
        warn!(consumer = %lane.name, id = message.id(), why, "a message asks for a reply that this consumer does not send; logged once");
    }
    let Some(result) = result else { return letters };
    // An empty result says nothing to anybody but a caller, who waits.
    if let Some(key) = settings.key(message)
        && !result.body.is_empty()
    {
        let message = of_result(result.clone(), &settings.exchange, key);
        letters.push(Letter::Message(message));
    }
    if let Some(queue) = reply_to.filter(|_| answered) {
        letters.push(Letter::Reply(of_result(result, "", queue.to_owned())));
    }
    letters
}

/// Publishes all of them. After `publish.budget` the decision counts as kept: the delivery waits, and
/// its handler does not run again.
async fn publish_all<B: Broker>(
    lane: &Lane<B>,
    flight: &Flight,
    letters: Vec<Letter>,
    ending: Ending,
) -> Ending {
    let first = match letters.first() {
        Some(Letter::Message(message) | Letter::Reply(message)) => place(message),
        None => return ending,
    };
    let mut publishing = pin!(async {
        for letter in letters {
            if let Err(failed) = publish(lane, flight, letter).await {
                return failed;
            }
        }
        ending
    });
    tokio::select! {
        // Look at the confirm first: after it the message is published.
        biased;
        ended = &mut publishing => return ended,
        () = given_up(lane) => return Ending::Interrupted,
        () = sleep(lane.publish.budget) => {}
    }
    let _kept = lane.live.kept.keep(flight, &first);
    tokio::select! {
        biased;
        ended = publishing => ended,
        () = given_up(lane) => Ending::Interrupted,
    }
}

/// Where a message goes, for people.
fn place(message: &NewMessage) -> String {
    match message.exchange.as_str() {
        "" => message.routing_key.clone(),
        exchange => format!("{exchange}/{}", message.routing_key),
    }
}

/// Publishes a message or reply again and again, until the broker confirms it. In a drain the worker
/// soon gives up one that fails. The error is the ending of the attempt.
async fn publish<B: Broker>(lane: &Lane<B>, flight: &Flight, letter: Letter) -> Result<(), Ending> {
    let (message, is_reply) = match letter {
        Letter::Message(message) => (message, false),
        Letter::Reply(message) => (message, true),
    };
    let place = place(&message);
    let id = message.message_id.clone();
    let id = id.unwrap_or_else(|| chance::message_id().to_string());
    let mut headers = message.headers.clone();
    if let Some(trace) = flight.attempt_trace() {
        inject(&trace.context, &mut Headers(&mut headers));
    }
    let properties = message.properties(&id, &headers);
    let publication = Publication {
        exchange: &message.exchange,
        routing_key: &message.routing_key,
        body: &message.body,
        properties: Written::New(&properties),
    };
    let kept = &lane.live.kept;
    let mut waits = kept::waits();
    let mut turn = None;
    let mut give_up = None;
    let mut lost = 0;
    while lane.is_current(flight.session) {
        let publishing = lane.watch.publishing(&place, &flight.message);
        let published = lane.publish(&publication).await;
        lane.watch.published(&place, publishing, &published);
        let failed = match published {
            Ok(()) => {
                kept.taken(&place);
                return Ok(());
            }
            Err(PublishError::Returned(error)) if is_reply => {
                // RabbitMQ returns replies to `amq.rabbitmq.reply-to` also if it delivers them.
                if !place.starts_with(DIRECT) {
                    warn!(consumer = %lane.name, id = flight.message.id(), queue = place, error, "nobody takes the reply: its queue is gone");
                }
                return Ok(());
            }
            Err(failed) if failed.is_about_the_message() || is_reply && lost >= LOST => {
                let text = format!("the broker refuses the result for {place}: {failed}");
                let failure = Failure::permanent(CLASS, text);
                return Err(Ending::Handled(Outcome::Failed(failure)));
            }
            Err(failed) => failed,
        };
        lost += u32::from(matches!(failed, PublishError::Unconfirmed(_)));
        let wait = waits.next();
        lane.watch.not_confirmed(flight, &place, &failed, wait);
        kept.failed(&place, &failed, turn.take());
        let over = async {
            lane.drain.cancelled().await;
            let at = *give_up.get_or_insert_with(|| Instant::now() + DRAIN_BUDGET);
            sleep_until(at).await;
        };
        tokio::select! {
            biased;
            () = over => {
                lane.watch.gave_up(flight, &place, &failed);
                return Err(Ending::Interrupted);
            }
            mine = kept.turn(&place, wait) => turn = mine,
        }
    }
    // Without its session the broker delivers the message again. It must not be acked then: the
    // result is not published.
    Err(Ending::Interrupted)
}

/// Headers of a new message.
struct Headers<'a>(&'a mut Vec<(String, String)>);

impl opentelemetry::propagation::Injector for Headers<'_> {
    fn set(&mut self, key: &str, value: String) {
        self.0.retain(|(name, _)| name != key);
        self.0.push((key.to_owned(), value));
    }
}
