//! The last outcomes of each consumer, for people: every failure, and a few of the others.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering},
    },
    time::SystemTime,
};

use super::{OutcomeRecord, acks::Acks};
use crate::{
    flight::Flight,
    lock::lock,
    outcome::{Ending, OutcomeKind},
    policy::{Settlement, SettlementKind},
};

/// The most failures kept for each consumer.
const FAILURES: usize = 500;
/// The most other outcomes kept for each consumer.
const OTHERS: usize = 100;
/// The most other outcomes kept in a second.
const TOKENS: u32 = 5;
/// Ticks of a lane in a second.
const TICKS: u32 = 4;

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
            acks: Acks::default(),
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
    acks: Acks,
}

impl ConsumerOutcomes {
    /// The lane's timer has ticked, as it does every 250 ms.
    pub(crate) fn tick(&self) {
        let ticks = self.ticks.fetch_add(1, Ordering::Relaxed);
        if ticks % TICKS == TICKS - 1 {
            self.tokens.store(TOKENS, Ordering::Relaxed);
        }
        self.acks.tick();
    }

    /// Which messages the consumer has acked.
    pub(crate) fn acks(&self) -> &Acks {
        &self.acks
    }

    fn has_token(&self) -> bool {
        let one_less = |tokens: u32| tokens.checked_sub(1);
        self.tokens.load(Ordering::Relaxed) > 0
            && self
                .tokens
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
                .is_ok()
    }

    /// Keeps every failure, a few of the other outcomes each second, and the id of each message that is acked.
    /// `rung` gives the retry queue for a delay.
    pub(crate) fn note(
        &self,
        flight: &Flight,
        ending: &Ending,
        settlement: &Settlement,
        rung: impl FnOnce(&Settlement) -> Option<String>,
    ) {
        if settlement.kind() == SettlementKind::Ack
            && let Some(id) = flight.message.id()
        {
            self.acks.note(id);
        }
        if !ending.kind().is_routine() || self.has_token() {
            let mut record = OutcomeRecord::of(&self.consumer, flight, ending, settlement);
            record.retry_queue = rung(settlement);
            self.all.keep(record);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
}
