//! The last outcomes of each consumer, for people: every failure, and a few of the others.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::{
    clock, dead_letters,
    flight::Flight,
    lock::lock,
    outcome::{Ending, OutcomeKind},
    policy::{Settlement, SettlementKind},
    text::{as_rfc3339, cut, fingerprint},
};

/// The most failures kept for each consumer.
const FAILURES: usize = 500;
/// The most other outcomes kept for each consumer.
const OTHERS: usize = 100;
/// The most other outcomes kept in a second.
const TOKENS: u32 = 5;
/// Ticks of a lane in a second.
const TICKS: u32 = 4;
/// The most bytes kept of an error's text.
const ERROR_ROOM: usize = 500;

/// The outcome of one handler run, and the settlement that followed.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Outcome)]
#[non_exhaustive]
pub struct OutcomeRecord {
    /// The number of the outcome, in the order in which the worker kept them.
    pub seq: u64,
    /// When the run ended.
    #[serde(serialize_with = "as_rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: SystemTime,
    /// The consumer.
    pub consumer: String,
    /// The message's `message-id` property.
    pub id: Option<String>,
    /// The message's `type` property.
    #[serde(rename = "type")]
    pub message_type: Option<String>,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The kind of outcome.
    pub kind: OutcomeKind,
    /// The settlement. A retry or dead letter that cannot be published is returned later.
    pub settlement: SettlementKind,
    /// The delay before the next attempt, if there is one.
    #[serde(rename = "retry_seconds", serialize_with = "as_seconds")]
    #[schema(value_type = Option<f64>)]
    pub retry: Option<Duration>,
    /// Why the message was dead-lettered, if it was.
    pub reason: Option<&'static str>,
    /// The failure's class.
    pub class: Option<String>,
    /// The failure's status, such as the status of an HTTP response.
    pub status: Option<u16>,
    /// The failure's text, or why the message was dropped; at most 500 bytes.
    pub error: Option<String>,
    /// The cause of a failure, as `lapwing dead groups` names it: a hash of its class and its text.
    /// Failures that differ only in numbers and ids have the same cause.
    pub cause: Option<String>,
    /// The retry queue in which the next attempt waits, if it waits at the broker.
    pub retry_queue: Option<String>,
    /// When the worker received the delivery.
    #[serde(serialize_with = "as_rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub received_at: SystemTime,
    /// How long the message was at the broker before this delivery: since it was parked, or since it was
    /// published if this is its first delivery. Nothing if the message does not say so.
    #[serde(rename = "queued_seconds", serialize_with = "as_seconds")]
    #[schema(value_type = Option<f64>)]
    pub queued: Option<Duration>,
    /// How long the handler ran; nothing if no handler ran.
    #[serde(rename = "handling_seconds", serialize_with = "as_seconds")]
    #[schema(value_type = Option<f64>)]
    pub handling: Option<Duration>,
    /// The id of the trace that the message belongs to.
    pub trace_id: Option<String>,
}

fn as_seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(serializer)
}

/// The last outcomes of a worker. All clones share one store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcomes(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    last: u64,
    consumers: BTreeMap<String, Rings>,
}

/// The last outcomes of one consumer. Failures and others have a ring each, so that neither pushes
/// the other out.
#[derive(Debug, Default)]
struct Rings {
    failures: VecDeque<Arc<OutcomeRecord>>,
    /// Failures have been pushed out of `failures`.
    is_cut: bool,
    others: VecDeque<Arc<OutcomeRecord>>,
}

impl Outcomes {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        lock(&self.0)
    }

    /// The part of the store to which one consumer adds its outcomes.
    pub(crate) fn consumer(&self, name: &str) -> ConsumerOutcomes {
        ConsumerOutcomes {
            all: self.clone(),
            consumer: name.into(),
            tokens: AtomicU32::new(TOKENS),
            ticks: AtomicU32::new(0),
        }
    }

    /// The number of the last outcome.
    pub(crate) fn last(&self) -> u64 {
        self.lock().last
    }

    /// The outcomes after number `after`, newest first, at most `most`.
    pub(crate) fn after(
        &self,
        after: u64,
        consumer: Option<&str>,
        kind: Option<OutcomeKind>,
        most: usize,
    ) -> Vec<Arc<OutcomeRecord>> {
        // A ring has its outcomes in their order.
        let is_new = |record: &&Arc<OutcomeRecord>| record.seq > after;
        let wanted = |record: &&Arc<OutcomeRecord>| kind.is_none_or(|kind| record.kind == kind);
        let mut found = Vec::new();
        {
            let kept = self.lock();
            let consumers = kept.consumers.iter();
            for (_, rings) in
                consumers.filter(|(name, _)| consumer.is_none_or(|consumer| consumer == *name))
            {
                for ring in [&rings.failures, &rings.others] {
                    let new = ring.iter().rev().take_while(is_new);
                    found.extend(new.filter(wanted).take(most).cloned());
                }
            }
        }
        found.sort_unstable_by_key(|record| std::cmp::Reverse(record.seq));
        found.truncate(most);
        found
    }

    /// The time since which the store has all failures, of one consumer or of all; `None` if it has all since
    /// the worker started.
    pub(crate) fn complete_since(&self, consumer: Option<&str>) -> Option<SystemTime> {
        let kept = self.lock();
        let consumers = kept.consumers.iter();
        let wanted =
            consumers.filter(|(name, _)| consumer.is_none_or(|consumer| consumer == *name));
        let cut = wanted.filter(|(_, rings)| rings.is_cut);
        cut.filter_map(|(_, rings)| Some(rings.failures.front()?.at))
            .max()
    }

    fn keep(&self, mut record: OutcomeRecord) {
        let is_routine = record.kind.is_routine();
        let mut kept = self.lock();
        kept.last += 1;
        record.seq = kept.last;
        if !kept.consumers.contains_key(&record.consumer) {
            kept.consumers
                .insert(record.consumer.clone(), Rings::default());
        }
        let Some(rings) = kept.consumers.get_mut(&record.consumer) else {
            return;
        };
        let (ring, most) = if is_routine {
            (&mut rings.others, OTHERS)
        } else {
            (&mut rings.failures, FAILURES)
        };
        let spare = (ring.len() + 1).saturating_sub(most);
        ring.drain(..spare);
        ring.push_back(Arc::new(record));
        rings.is_cut |= spare > 0 && !is_routine;
    }
}

/// A consumer's part of [`Outcomes`].
#[derive(Debug)]
pub(crate) struct ConsumerOutcomes {
    all: Outcomes,
    consumer: Box<str>,
    /// How many more outcomes other than failures may be kept in this second. At zero, each outcome
    /// costs a single atomic load.
    tokens: AtomicU32,
    ticks: AtomicU32,
}

impl ConsumerOutcomes {
    /// The lane's timer has ticked, as it does every 250 ms.
    pub(crate) fn tick(&self) {
        let ticks = self.ticks.fetch_add(1, Ordering::Relaxed);
        if ticks % TICKS == TICKS - 1 {
            self.tokens.store(TOKENS, Ordering::Relaxed);
        }
    }

    fn has_token(&self) -> bool {
        let one_less = |tokens: u32| tokens.checked_sub(1);
        self.tokens.load(Ordering::Relaxed) > 0
            && self
                .tokens
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
                .is_ok()
    }

    /// Keeps every failure, and a few of the other outcomes each second. `rung` gives the retry queue for a
    /// delay.
    pub(crate) fn note(
        &self,
        flight: &Flight,
        ending: &Ending,
        settlement: &Settlement,
        rung: impl FnOnce(&Settlement) -> Option<String>,
    ) {
        if !ending.kind().is_routine() || self.has_token() {
            let mut record = record(&self.consumer, flight, ending, settlement);
            record.retry_queue = rung(settlement);
            self.all.keep(record);
        }
    }
}

fn record(
    consumer: &str,
    flight: &Flight,
    ending: &Ending,
    settlement: &Settlement,
) -> OutcomeRecord {
    let failure = ending.failure();
    let error = failure.as_ref().map(|failure| failure.error.as_str());
    let error = error.or_else(|| ending.drop_reason());
    OutcomeRecord {
        seq: 0,
        at: clock::now(),
        consumer: consumer.to_owned(),
        id: flight.message.id().map(str::to_owned),
        message_type: flight.message.message_type().map(str::to_owned),
        attempt: flight.attempt(),
        kind: ending.kind(),
        settlement: settlement.kind(),
        retry: match settlement {
            Settlement::Retry { after, .. } | Settlement::Defer { after } => Some(*after),
            _ => None,
        },
        reason: match settlement {
            Settlement::DeadLetter { reason } => Some(reason.name()),
            _ => None,
        },
        class: failure
            .as_ref()
            .map(|failure| dead_letters::class(failure).to_owned()),
        status: failure.as_ref().and_then(|failure| failure.status),
        error: error.map(|error| cut(error, ERROR_ROOM).to_owned()),
        cause: failure
            .as_ref()
            .map(|failure| fingerprint(&failure.class, &failure.error)),
        retry_queue: None,
        received_at: flight.received_at(),
        queued: flight.queued(),
        handling: flight.handled_for(),
        trace_id: flight.trace_id(),
    }
}

#[cfg(test)]
impl OutcomeRecord {
    /// A record for tests.
    pub(crate) fn sample(kind: OutcomeKind, settlement: SettlementKind) -> Self {
        Self {
            seq: 0,
            at: SystemTime::UNIX_EPOCH,
            consumer: "orders".to_owned(),
            id: None,
            message_type: None,
            attempt: 1,
            kind,
            settlement,
            retry: Some(Duration::from_millis(1500)),
            reason: None,
            class: None,
            status: None,
            error: None,
            cause: None,
            retry_queue: None,
            received_at: SystemTime::UNIX_EPOCH,
            queued: None,
            handling: None,
            trace_id: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(consumer: &str, kind: OutcomeKind) -> OutcomeRecord {
        let mut record = OutcomeRecord::sample(kind, SettlementKind::Ack);
        consumer.clone_into(&mut record.consumer);
        record
    }

    #[test]
    fn a_flood_of_one_kind_or_consumer_pushes_out_no_other() {
        let outcomes = Outcomes::default();
        outcomes.keep(kept("a", OutcomeKind::Succeeded));
        outcomes.keep(kept("b", OutcomeKind::Failed));
        for _ in 0..2 * FAILURES {
            outcomes.keep(kept("a", OutcomeKind::TimedOut));
        }
        let all = outcomes.after(0, None, None, 10_000);
        assert_eq!(all.len(), FAILURES + 2);
        let seqs: Vec<_> = all.iter().map(|record| record.seq).collect();
        assert!(seqs.is_sorted_by(|a, b| a > b), "newest first");
        assert_eq!(seqs[0], outcomes.last());
        assert_eq!(seqs[FAILURES..], [2, 1]);
        assert_eq!(outcomes.after(0, Some("b"), None, 9).len(), 1);
        let succeeded = Some(OutcomeKind::Succeeded);
        assert_eq!(outcomes.after(0, None, succeeded, 9).len(), 1);
        assert_eq!(outcomes.after(seqs[3], None, None, 9).len(), 3);
        assert_eq!(outcomes.after(0, None, None, 7).len(), 7);
    }

    #[test]
    fn the_store_says_since_when_it_has_all_failures() {
        let outcomes = Outcomes::default();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let keep = |consumer: &str, kind, seconds| {
            let mut record = kept(consumer, kind);
            record.at = at(seconds);
            outcomes.keep(record);
        };
        for seconds in 0..FAILURES as u64 {
            keep("a", OutcomeKind::Failed, seconds);
            keep("b", OutcomeKind::Succeeded, seconds);
        }
        assert_eq!(outcomes.complete_since(None), None);
        keep("a", OutcomeKind::Failed, 1000);
        assert_eq!(outcomes.complete_since(None), Some(at(1)));
        assert_eq!(outcomes.complete_since(Some("a")), Some(at(1)));
        assert_eq!(outcomes.complete_since(Some("b")), None);
    }

    #[test]
    fn tokens_let_a_few_through_each_second() {
        let consumer = Outcomes::default().consumer("a");
        let through = || (0..100).filter(|_| consumer.has_token()).count();
        assert_eq!(through(), TOKENS as usize);
        for _ in 0..3 {
            for _ in 1..TICKS {
                consumer.tick();
            }
            assert_eq!(through(), 0, "the second is not over");
            consumer.tick();
            assert_eq!(through(), TOKENS as usize);
        }
    }

    #[test]
    fn times_are_rfc_3339_and_durations_seconds() {
        let json = serde_json::to_value(kept("a", OutcomeKind::TimedOut)).unwrap();
        assert_eq!(json["at"], "1970-01-01T00:00:00.000Z");
        assert_eq!(json["retry_seconds"], 1.5);
        assert_eq!(json["kind"], "timed-out");
        assert!(json["handling_seconds"].is_null());
    }
}
