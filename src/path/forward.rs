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
    dialect::Answer,
    flight::{Flight, HandlerResult, inject},
    outcome::{Ending, Failure, Outcome},
    retry::RetrySettings,
};

/// The class of the failure of a handler whose result the broker refuses.
const CLASS: &str = "forward";
/// The attempts to send what a message alone decides that may fail before the last one. Anybody can
/// publish a message whose `reply-to` names a full queue. RabbitMQ 3.10 ends the connection (541,
/// internal error) for a queue of direct reply-to whose name is garbage.
const ATTEMPTS: u32 = 2;
/// The longest name of an exchange and the longest routing key, in bytes: short strings of AMQP.
const LONGEST: usize = 255;
/// The broker's reply code for an exchange that does not exist.
const NOT_FOUND: u16 = 404;
/// The beginning of the queues of callers that use RabbitMQ's direct reply-to.
const DIRECT: &str = "amq.rabbitmq.reply-to";

/// What is published, and for whom.
enum Outgoing {
    /// For a queue that must exist.
    Message(NewMessage),
    /// For the caller of a request, who may be gone.
    Reply(NewMessage),
}

/// The ending of an attempt, after the messages of a handler that succeeded are confirmed.
pub(super) async fn forward<B: Broker>(
    lane: &Lane<B>,
    flight: &Flight,
    terms: &RetrySettings,
    ending: Ending,
) -> Ending {
    if !matches!(ending, Ending::Handled(Outcome::Succeeded)) {
        return ending;
    }
    let outgoing = outgoing(lane, flight);
    if outgoing.is_empty() {
        return ending;
    }
    // The service works, however long the broker takes for the results.
    let _worked = lane.worked(flight, terms, &ending);
    Box::pin(publish_all(lane, flight, outgoing, ending)).await
}

/// What the handler and the settings want published.
fn outgoing<B: Broker>(lane: &Lane<B>, flight: &Flight) -> Vec<Outgoing> {
    let settings = &lane.settings.forward;
    let content = flight.outbox.take();
    let mut outgoing: Vec<_> = content
        .messages
        .into_iter()
        .map(Outgoing::Message)
        .collect();
    let message = &flight.message;
    let of_result = |result: HandlerResult, exchange: String, routing_key: String| NewMessage {
        exchange,
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
    let dialect = lane.settings.dialect;
    let is_wanted = dialect.is_none_or(|dialect| dialect.wants_reply(&message.properties));
    let reply_to = reply_to.filter(|name| !name.is_empty() && is_wanted);
    let result = content.result;
    let may_go = |name| settings.may_reply_to(Answer::exchange(dialect, name));
    let is_allowed = reply_to.is_none_or(may_go);
    let answered = reply_to.is_some() && is_allowed && settings.reply && result.is_some();
    if reply_to.is_some() && !answered && !lane.live.unanswered.swap(true, Ordering::Relaxed) {
        let why = match (settings.reply, is_allowed) {
            (false, _) => "the consumer's `forward.reply` is false",
            (true, false) => {
                "its `reply-to` names an exchange that `forward.reply_exchanges` lacks"
            }
            (true, true) => "the handler gives no result",
        };
        warn!(consumer = %lane.name, id = message.id(), why, "a message asks for a reply that this consumer does not send; logged once");
    }
    let Some(result) = result else {
        return outgoing;
    };
    // An empty result says nothing to anybody but a caller, who waits.
    if let Some(key) = settings.key(message)
        && !result.body.is_empty()
    {
        let message = of_result(result.clone(), settings.exchange.clone(), key);
        outgoing.push(Outgoing::Message(message));
    }
    if let Some(queue) = reply_to.filter(|_| answered) {
        let HandlerResult { body, content_type } = result;
        let answer = Answer::new(dialect, queue, message.id(), body, content_type);
        let result = HandlerResult {
            body: answer.body,
            content_type: answer.content_type,
        };
        let reply = of_result(result, answer.exchange, answer.routing_key);
        outgoing.push(Outgoing::Reply(reply));
    }
    outgoing
}

/// The failure of a message whose result cannot be published.
fn refused(why: String) -> Ending {
    Ending::Handled(Outcome::Failed(Failure::permanent(CLASS, why)))
}

/// Publishes all of them. After `publish.budget` the decision counts as kept: the delivery waits, and
/// its handler does not run again.
async fn publish_all<B: Broker>(
    lane: &Lane<B>,
    flight: &Flight,
    outgoing: Vec<Outgoing>,
    ending: Ending,
) -> Ending {
    for Outgoing::Message(message) | Outgoing::Reply(message) in &outgoing {
        if message.exchange.len().max(message.routing_key.len()) > LONGEST {
            let place = place(message);
            return refused(format!(
                "exchange or routing key of the result for {place} is longer than {LONGEST} bytes"
            ));
        }
    }
    let first = match outgoing.first() {
        Some(Outgoing::Message(message) | Outgoing::Reply(message)) => place(message),
        None => return ending,
    };
    let mut publishing = pin!(async {
        for one in outgoing {
            if let Err(failed) = publish(lane, flight, one).await {
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
async fn publish<B: Broker>(lane: &Lane<B>, flight: &Flight, one: Outgoing) -> Result<(), Ending> {
    let (message, is_reply) = match one {
        Outgoing::Message(message) => (message, false),
        Outgoing::Reply(message) => (message, true),
    };
    let place = place(&message);
    // Messages choose reply queues and routing keys, so metrics and spans do not name these.
    let label = match (is_reply, message.exchange.as_str()) {
        (true, _) => "(reply)",
        (false, "") => "(default)",
        (false, exchange) => exchange,
    };
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
    let mut waiting = kept.copy(&place);
    let mut turn = None;
    let mut give_up = None;
    let ends_connections = message.exchange.is_empty() && place.starts_with(DIRECT);
    // The failures for which the message itself may be the reason.
    let mut by_message = 0;
    while lane.has_place(flight).await {
        let publishing = lane.watch.publishing(label, &flight.message);
        let published = lane.publish(&publication).await;
        lane.watch.published(label, publishing, &published);
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
            // Spring's callers name an exchange, which is gone when they are.
            Err(PublishError::Refused { code, text }) if is_reply && code == NOT_FOUND => {
                warn!(consumer = %lane.name, id = flight.message.id(), exchange = message.exchange, error = text, "nobody takes the reply: its exchange is gone");
                return Ok(());
            }
            Err(failed) if failed.is_about_the_message() || by_message >= ATTEMPTS => {
                return Err(refused(format!(
                    "the broker refuses the result for {place}: {failed}"
                )));
            }
            Err(failed) => failed,
        };
        by_message += u32::from(match &failed {
            PublishError::Unconfirmed(_) => ends_connections,
            PublishError::Nacked | PublishError::Refused { .. } => is_reply,
            _ => false,
        });
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
            mine = waiting.turn(wait) => turn = mine,
        }
    }
    // The broker delivers the message again, to another worker or after this one has ended. The message
    // must not be acked here: its result is not published.
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
