//! One consumer's figures. Its lane and the paths of its deliveries write them. The admin server,
//! the metrics and the worker's handle read them without asking the lane.

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    ConsumerReport, Counters, Durations, Ledger, Looks, RouteFigures,
    counters::Counter,
    outcomes::{ConsumerOutcomes, Outcomes},
};
use crate::{
    consumer::ConsumerSettings,
    flight::{Flight, Slots},
    lock::lock,
    outcome::{Ending, OutcomeKind},
    policy::{Reason, Settlement},
    retry::Rung,
};

/// Everything a consumer reports about itself, except its state, which others can watch.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) settings: ConsumerSettings,
    pub(crate) slots: Arc<Slots>,
    pub(crate) counters: Counters,
    /// The durations of handler runs.
    pub(crate) durations: Durations,
    /// The looks at the consumer's queue.
    pub(crate) looks: Looks,
    /// The last outcomes, for people.
    pub(crate) outcomes: ConsumerOutcomes,
    /// The consumer's routes, once its lane is made. The last ones are for messages that no route takes.
    routes: OnceLock<Vec<Arc<RouteFigures>>>,
    /// Retries parked, by retry queue.
    parked: Vec<(Rung, Counter)>,
    /// The retry queues that the retry schedule can use.
    scheduled: Vec<Rung>,
    dead_letters: [Counter; Reason::ALL.len()],
    standing: Mutex<Standing>,
    /// The largest number of each end so far: see [`counted`](Self::counted).
    counted: Mutex<Ledger>,
    /// Turns of the consumer's loop.
    turns: AtomicU64,
    /// Whether a handler was registered in code.
    registered: AtomicBool,
    /// Whether an operator has paused the consumer.
    paused: AtomicBool,
    /// Whether the consumer's lane has begun.
    begun: AtomicBool,
}

/// The figures that only the lane's loop knows, as of its last turn.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Standing {
    pub(crate) ledger: Ledger,
    /// Deliveries received and not settled.
    pub(crate) in_flight: usize,
    /// Deliveries in flight that wait for a handler slot.
    pub(crate) buffered: usize,
    /// Deliveries in flight whose retry waits in the worker.
    pub(crate) waiting: usize,
    /// After a drain: deliveries that the drain left unsettled.
    pub(crate) left: u64,
}

impl Figures {
    pub(crate) fn new(name: &str, settings: &ConsumerSettings, outcomes: &Outcomes) -> Self {
        let ladder = settings.ladder();
        Self {
            settings: settings.clone(),
            slots: Arc::new(Slots::new(settings.concurrency.into())),
            counters: Counters::default(),
            durations: Durations::default(),
            looks: Looks::default(),
            outcomes: outcomes.consumer(name),
            routes: OnceLock::new(),
            parked: ladder
                .all()
                .map(|rung| (rung, Counter::default()))
                .collect(),
            scheduled: ladder.rungs().collect(),
            dead_letters: Default::default(),
            standing: Mutex::default(),
            counted: Mutex::default(),
            turns: AtomicU64::new(0),
            registered: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            begun: AtomicBool::new(false),
        }
    }

    /// The lane's loop has turned. Only the lane calls this.
    pub(crate) fn turned(&self, standing: Standing) {
        *lock(&self.standing) = standing;
        let mut counted = lock(&self.counted);
        *counted = counted.largest(standing.ledger);
        drop(counted);
        let turns = self.turns.load(Ordering::Relaxed);
        self.turns.store(turns.wrapping_add(1), Ordering::Relaxed);
    }

    /// A number that changes at each turn of the lane's loop. An idle loop turns every 250 ms.
    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// The consumer's report: counts and running handlers of now, the rest as of the loop's last
    /// turn.
    pub(crate) fn report(&self) -> ConsumerReport {
        let Standing {
            ledger,
            in_flight,
            buffered,
            waiting,
            left,
        } = *lock(&self.standing);
        ConsumerReport {
            in_flight,
            running: self.slots.in_use(),
            buffered,
            waiting,
            ledger,
            counts: self.counters.counts(),
            routes: self.all_routes().map(|route| route.report()).collect(),
            left: usize::try_from(left).unwrap_or(usize::MAX),
        }
    }

    /// The ledger for counters, which must not go down. Acks whose channel is lost before the broker
    /// has shown that it has them become stale in the ledger. Here they stay, until others take their
    /// place.
    pub(crate) fn counted(&self) -> Ledger {
        *lock(&self.counted)
    }

    /// Counts an attempt that ended, and records how long its handler ran, if one ran.
    pub(crate) fn attempt_ended(&self, kind: OutcomeKind, took: Option<Duration>) {
        self.counters.outcome(kind).add_one();
        if let Some(took) = took {
            self.durations.record(took);
        }
    }

    /// The lane is made, with these routes.
    pub(crate) fn set_routes(&self, routes: Vec<Arc<RouteFigures>>) {
        // A consumer has one lane.
        let _ = self.routes.set(routes);
    }

    fn all_routes(&self) -> impl Iterator<Item = &Arc<RouteFigures>> {
        self.routes.get().into_iter().flatten()
    }

    /// Counts an attempt that ended, for the message's route.
    pub(crate) fn attempt_of_route_ended(&self, flight: &Flight, kind: OutcomeKind) {
        self.route_of(flight).inspect(|it| it.attempt_ended(kind));
    }

    /// The figures of the message's route.
    fn route_of(&self, flight: &Flight) -> Option<&Arc<RouteFigures>> {
        let routes = self.routes.get()?;
        let place = flight.route.get().copied().flatten();
        place.map_or(routes.last(), |place| routes.get(place))
    }

    /// Keeps an outcome for people, if it is a failure or few others were kept.
    pub(crate) fn note(&self, flight: &Flight, ending: &Ending, settlement: &Settlement) {
        let rung = |settlement: &Settlement| self.retry_queue(flight, settlement);
        self.outcomes.note(flight, ending, settlement, rung);
    }

    /// The retry queue in which a message waits for its next attempt, if it waits at the broker.
    fn retry_queue(&self, flight: &Flight, settlement: &Settlement) -> Option<String> {
        let stays = |delay| match self.route_of(flight) {
            Some(route) => route.waits_in_worker(delay),
            None => self.settings.retry.waits_in_worker(delay),
        };
        let delay = match settlement {
            Settlement::Retry { after, .. } if stays(*after) => return None,
            Settlement::Retry { after, .. } | Settlement::Defer { after } => *after,
            _ => return None,
        };
        let rungs = self.parked.iter().map(|(rung, _)| rung);
        let fits = rungs.clone().find(|rung| rung.length >= delay);
        Some(fits.or_else(|| rungs.last())?.queue.clone())
    }

    /// Counts a message parked in this retry queue.
    pub(crate) fn parked(&self, queue: &str) {
        let found = self.parked.iter().find(|(rung, _)| rung.queue == queue);
        found.inspect(|(_, counter)| counter.add_one());
    }

    /// Counts a dead letter.
    pub(crate) fn dead_lettered(&self, reason: Reason) {
        self.dead_letters[reason as usize].add_one();
    }

    /// The consumer's retry queues, shortest delay first, and the number of messages parked in
    /// each: those that the schedule can use, and others in which messages were parked.
    pub(crate) fn rungs(&self) -> impl Iterator<Item = (&Rung, u64)> {
        let counted = self.parked.iter().map(|(rung, count)| (rung, count.get()));
        counted.filter(|(rung, count)| *count > 0 || self.scheduled.contains(rung))
    }

    /// Dead letters by reason.
    pub(crate) fn dead_letters(&self) -> impl Iterator<Item = (Reason, u64)> {
        let counts = self.dead_letters.iter().map(Counter::get);
        Reason::ALL.iter().copied().zip(counts)
    }

    /// Lets the consumer begin paused, because a pause outlasts the process before. False if the lane has
    /// begun: then this has no effect.
    pub(crate) fn begin_paused(&self) -> bool {
        let can = !self.begun.load(Ordering::SeqCst);
        if can {
            self.set_paused(true);
        }
        can
    }

    /// The lane begins. Whether it begins paused.
    pub(crate) fn begin(&self) -> bool {
        self.begun.store(true, Ordering::SeqCst);
        self.is_paused()
    }

    /// An operator has paused the consumer or resumed it. Only the lane says so once it has begun.
    pub(crate) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::SeqCst);
    }

    /// Whether an operator has paused the consumer.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    pub(crate) fn set_registered(&self) {
        self.registered.store(true, Ordering::Relaxed);
    }

    /// Whether a handler was registered in code.
    pub(crate) fn is_registered(&self) -> bool {
        self.registered.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> Figures {
        Figures::new("orders", &ConsumerSettings::default(), &Outcomes::default())
    }

    #[test]
    fn a_report_has_the_last_turn_and_the_counts_of_now() {
        let figures = figures();
        let mut standing = Standing {
            in_flight: 3,
            buffered: 2,
            left: 1,
            ..Standing::default()
        };
        standing.ledger.received = 7;
        let before = figures.turns();
        figures.turned(standing);
        figures.attempt_ended(OutcomeKind::TimedOut, None);
        figures.attempt_ended(OutcomeKind::Unroutable, None);
        let _slot = figures.slots.try_take().unwrap();

        let report = figures.report();
        assert_ne!(figures.turns(), before);
        assert_eq!(report.ledger.received, 7);
        assert_eq!((report.in_flight, report.buffered), (3, 2));
        assert_eq!((report.running, report.waiting, report.left), (1, 0, 1));
        let counts = report.counts;
        assert_eq!((counts.attempts, counts.timed_out), (2, 1));
        assert_eq!((counts.unroutable, counts.succeeded), (1, 0));
    }

    #[test]
    fn a_counter_does_not_go_down_with_the_ledger() {
        let figures = figures();
        let turn = |acked, stale| {
            let mut standing = Standing::default();
            (standing.ledger.acked, standing.ledger.stale) = (acked, stale);
            figures.turned(standing);
            let counted = figures.counted();
            (counted.acked, counted.stale)
        };
        assert_eq!(turn(5, 0), (5, 0));
        assert_eq!(turn(3, 2), (5, 2));
        assert_eq!(figures.report().ledger.acked, 3);
        assert_eq!(turn(6, 2), (6, 2));
    }

    #[test]
    fn parked_messages_are_counted_by_rung_and_dead_letters_by_reason() {
        let figures = figures();
        let queue = figures.rungs().nth(1).unwrap().0.queue.clone();
        figures.parked(&queue);
        figures.parked("another queue");
        assert_eq!(figures.rungs().map(|(_, n)| n).sum::<u64>(), 1);
        assert_eq!(figures.rungs().nth(1).unwrap().1, 1);

        for _ in 0..2 {
            figures.dead_lettered(Reason::Decode);
        }
        let counted: Vec<_> = figures.dead_letters().filter(|(_, n)| *n > 0).collect();
        assert_eq!(counted, [(Reason::Decode, 2)]);
    }
}
