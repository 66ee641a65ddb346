//! Tests of the breaker alone.

use super::{outage::LONGEST_WAIT, *};

const SECOND: Duration = Duration::from_secs(1);

/// A breaker, with a clock of its own.
struct Bench {
    breaker: Breaker,
    now: Instant,
    served: u64,
    /// Attempts of other routes that ended well.
    elsewhere: u64,
    routes_go_on: bool,
    next: u64,
}

impl Bench {
    fn new() -> Self {
        Self {
            breaker: Breaker::new(BreakerSettings::default()),
            now: Instant::now(),
            served: 0,
            elsewhere: 0,
            routes_go_on: false,
            next: 0,
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    /// An attempt of this message began now and ends at once.
    fn end_of(&mut self, message: u64, sign: Sign, retry_after: Option<Duration>) -> Verdict {
        self.end_since(self.now, message, sign, retry_after)
    }

    fn end_since(
        &mut self,
        started: Instant,
        message: u64,
        sign: Sign,
        retry_after: Option<Duration>,
    ) -> Verdict {
        self.served += u64::from(sign == Sign::Well);
        self.breaker.note(&Evidence {
            sign,
            message,
            started,
            now: self.now,
            served: self.served,
            route: (self.elsewhere > 0).then_some(0),
            served_by_route: self.served - self.elsewhere,
            routes_go_on: self.routes_go_on,
            retry_after,
            error: "connection refused",
        })
    }

    /// Attempts of new messages end so, one after the other.
    fn ends(&mut self, count: usize, sign: Sign) -> Vec<Verdict> {
        let end = |_| {
            self.next += 1;
            self.end_of(1_000 + self.next, sign, None)
        };
        (0..count).map(end).collect()
    }

    /// Other messages end well, which a calm breaker is not told.
    fn others_are_served(&mut self) {
        self.served += 1;
    }

    fn another_route_is_served(&mut self) {
        self.served += 1;
        self.elsewhere += 1;
    }

    fn stance(&mut self) -> Stance {
        self.breaker.stance(self.now)
    }

    /// The time until the next probe.
    fn waits(&mut self) -> (Duration, bool) {
        match self.stance() {
            Stance::Wait { until, let_go } => (until - self.now, let_go),
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the next probe, which ends so.
    fn probe(&mut self, sign: Sign) {
        let (wait, _) = self.waits();
        self.pass(wait);
        assert!(matches!(self.stance(), Stance::Probe { .. }));
        self.ends(1, sign);
    }

    fn down() -> Self {
        let mut bench = Self::new();
        bench.ends(5, Sign::Unavailable);
        assert!(bench.breaker.is_open());
        bench
    }
}

const EXCUSED: Verdict = Verdict::Excused { times: 1 };

#[test]
fn several_messages_in_a_row_that_are_answered_as_unavailable_stop_the_lane() {
    for sign in [Sign::Unavailable, Sign::Limited, Sign::TimedOut] {
        let mut bench = Bench::new();
        bench.ends(4, sign);
        assert!(!bench.breaker.is_open(), "{sign:?}");
        bench.others_are_served();
        bench.ends(4, sign);
        assert_eq!(bench.stance(), Stance::Open, "{sign:?}");
        bench.ends(1, sign);
        assert_eq!(bench.waits(), (SECOND, false), "{sign:?}");
    }
}

#[test]
fn one_message_alone_never_stops_the_lane_and_another_failure_ends_the_row() {
    let mut bench = Bench::new();
    for _ in 0..100 {
        bench.end_of(1, Sign::Unavailable, None);
    }
    assert!(bench.breaker.is_calm());
    bench.ends(3, Sign::Unavailable);
    bench.ends(1, Sign::Answered);
    bench.ends(4, Sign::Unavailable);
    assert!(!bench.breaker.is_open());
}

#[test]
fn an_unavailable_end_is_charged_only_if_others_succeeded_since_the_last_one() {
    let mut bench = Bench::new();
    let end = |bench: &mut Bench| bench.end_of(1, Sign::Unavailable, None);
    assert_eq!(end(&mut bench), EXCUSED);
    assert_eq!(end(&mut bench), Verdict::Excused { times: 2 });
    bench.others_are_served();
    assert_eq!(end(&mut bench), Verdict::Usual);
    assert_eq!(end(&mut bench), Verdict::Excused { times: 4 });
    bench.others_are_served();
    assert_eq!(
        bench.end_of(1, Sign::Limited, None),
        Verdict::Excused { times: 5 },
        "a limit is never the message's fault"
    );
}

#[test]
fn successes_of_another_route_keep_the_lane_open_but_say_nothing_about_the_message() {
    let mut bench = Bench::new();
    for times in 1..100 {
        bench.another_route_is_served();
        let verdict = bench.end_of(1, Sign::Unavailable, None);
        assert_eq!(verdict, Verdict::Excused { times });
        bench.ends(9, Sign::Unavailable);
        bench.pass(SECOND * 9);
    }
    assert!(!bench.breaker.is_open());
    bench.pass(SECOND);
    bench.ends(1, Sign::Unavailable);
    assert!(bench.breaker.is_open(), "none was served for 10 s");
}

#[test]
fn a_lane_stays_open_for_a_route_that_is_rarely_used() {
    let mut bench = Bench::new();
    bench.another_route_is_served();
    bench.routes_go_on = true;
    for sign in [Sign::Unavailable, Sign::Rejected] {
        bench.pass(Duration::from_hours(1));
        bench.ends(100, sign);
        assert!(!bench.breaker.is_open(), "{sign:?}");
    }
    bench.routes_go_on = false;
    bench.ends(1, Sign::Rejected);
    assert!(bench.breaker.is_open());
    // It was under way when the lane stopped.
    bench.routes_go_on = true;
    bench.ends(1, Sign::Well);
    assert!(!bench.breaker.is_open());
}

#[test]
fn a_time_out_is_charged_while_the_service_works_and_not_while_it_is_down() {
    let mut bench = Bench::new();
    assert_eq!(bench.ends(4, Sign::TimedOut), [Verdict::Usual; 4]);
    assert_eq!(bench.ends(2, Sign::TimedOut), [EXCUSED; 2]);
}

#[test]
fn probes_come_after_twice_the_wait_each_time_up_to_the_cap() {
    let mut bench = Bench::down();
    let mut waits = Vec::new();
    for _ in 0..6 {
        waits.push(bench.waits().0.as_secs());
        bench.probe(Sign::Unavailable);
    }
    assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
    assert_eq!(bench.waits(), (10 * SECOND, true), "it has let go");
    let reason = bench.breaker.reason(bench.now, false).unwrap();
    assert_eq!(reason, "connection refused; 6 probes, next in 10 s");
}

#[test]
fn one_probe_runs_at_a_time() {
    let mut bench = Bench::down();
    bench.pass(SECOND);
    assert_eq!(bench.stance(), Stance::Probe { let_go: false });
    bench.pass(60 * SECOND);
    assert_eq!(bench.stance(), Stance::Probe { let_go: false });
    let reason = bench.breaker.reason(bench.now, false).unwrap();
    assert!(reason.contains("1 probe, one runs"), "{reason}");
}

#[test]
fn any_answer_to_a_probe_ends_the_outage_and_the_lane_starts_slowly() {
    for sign in [Sign::Well, Sign::Answered, Sign::Rejected] {
        let mut bench = Bench::down();
        bench.probe(Sign::Unavailable);
        bench.probe(sign);
        assert_eq!(bench.stance(), Stance::Open, "{sign:?}");
        assert_eq!(
            (bench.breaker.window(), bench.breaker.is_calm()),
            (1, false)
        );
        bench.ends(2, Sign::Well);
        bench.breaker.slots(4);
        assert_eq!(bench.breaker.window(), 3);
        bench.ends(1, Sign::Well);
        bench.breaker.slots(4);
        assert!(bench.breaker.is_calm());
        assert_eq!(bench.breaker.window(), usize::MAX);
    }
}

#[test]
fn attempts_that_began_before_the_outage_are_no_probes_but_a_success_brings_the_next_one() {
    let mut bench = Bench::new();
    let before = bench.now;
    bench.pass(SECOND);
    bench.ends(5, Sign::Unavailable);
    bench.pass(SECOND / 2);
    bench.end_since(before, 1, Sign::Unavailable, None);
    bench.end_since(before, 2, Sign::Answered, None);
    assert_eq!(bench.waits(), (SECOND / 2, false));
    bench.end_since(before, 3, Sign::Well, None);
    assert_eq!(bench.stance(), Stance::Probe { let_go: false });
}

#[test]
fn a_service_that_fails_again_during_the_slow_start_is_asked_no_more_often() {
    let mut bench = Bench::down();
    for _ in 0..3 {
        bench.probe(Sign::Unavailable);
    }
    bench.probe(Sign::Well);
    bench.ends(5, Sign::Unavailable);
    assert_eq!(bench.waits(), (8 * SECOND, false));
}

#[test]
fn the_lane_waits_as_long_as_the_service_asks_and_lets_go_if_that_is_long() {
    let mut bench = Bench::new();
    bench.ends(4, Sign::Unavailable);
    bench.end_of(1, Sign::Unavailable, Some(20 * SECOND));
    assert_eq!(bench.waits(), (20 * SECOND, true));
    bench.pass(20 * SECOND);
    assert_eq!(bench.stance(), Stance::Probe { let_go: true });
    bench.end_of(2, Sign::Limited, Some(90 * SECOND));
    assert_eq!(bench.waits(), (90 * SECOND, true));
    bench.pass(90 * SECOND);
    bench.stance();
    let day = Duration::from_hours(24);
    bench.end_of(3, Sign::Unavailable, Some(day));
    assert_eq!(bench.waits().0, LONGEST_WAIT);
}

#[test]
fn a_storm_of_permanent_failures_holds_the_lane_and_spares_the_rest() {
    let mut bench = Bench::new();
    assert_eq!(bench.ends(49, Sign::Rejected), [Verdict::Usual; 49]);
    bench.others_are_served();
    assert_eq!(bench.ends(49, Sign::Rejected), [Verdict::Usual; 49]);
    assert!(bench.breaker.is_calm());
    assert_eq!(bench.ends(3, Sign::Rejected), [EXCUSED; 3]);
    let reason = bench.breaker.reason(bench.now, false).unwrap();
    assert!(
        reason.starts_with("50 messages in a row failed for good"),
        "{reason}"
    );
    bench.probe(Sign::Rejected);
    assert_eq!(bench.waits(), (2 * SECOND, true));
    bench.probe(Sign::Answered);
    assert_eq!(bench.stance(), Stance::Open);
    assert_eq!(bench.ends(1, Sign::Rejected), [Verdict::Usual]);
}

#[test]
fn what_says_nothing_about_the_service_changes_nothing() {
    let mut bench = Bench::new();
    bench.ends(4, Sign::Unavailable);
    assert_eq!(bench.ends(9, Sign::Nothing), [Verdict::Usual; 9]);
    bench.ends(1, Sign::Unavailable);
    assert!(bench.breaker.is_open());
    bench.pass(SECOND);
    bench.stance();
    bench.ends(1, Sign::Nothing);
    assert_eq!(bench.stance(), Stance::Probe { let_go: false });
}

#[test]
fn a_breaker_that_is_off_never_stops_the_lane_but_excuses() {
    let settings = BreakerSettings {
        enabled: false,
        ..BreakerSettings::default()
    };
    let mut bench = Bench::new();
    bench.breaker = Breaker::new(settings);
    assert_eq!(bench.ends(9, Sign::Unavailable), [EXCUSED; 9]);
    assert_eq!(bench.ends(99, Sign::Rejected), [Verdict::Usual; 99]);
    assert!(bench.breaker.is_calm());

    bench.breaker = Breaker::new(BreakerSettings {
        storms: false,
        ..BreakerSettings::default()
    });
    bench.ends(99, Sign::Rejected);
    assert!(bench.breaker.is_calm());
    bench.ends(5, Sign::Unavailable);
    assert!(bench.breaker.is_open());
}

/// A breaker of a lane with this many slots.
fn with_slots(slots: usize) -> Bench {
    let mut bench = Bench::new();
    bench.breaker.slots(slots);
    bench
}

#[test]
fn refusals_beside_successes_lower_the_window_once_for_all_that_ran_together() {
    let mut bench = with_slots(32);
    bench.ends(1, Sign::Unavailable);
    assert_eq!(
        bench.breaker.window(),
        usize::MAX,
        "one may be at fault itself"
    );
    bench.ends(3, Sign::Unavailable);
    assert_eq!(bench.breaker.window(), 24);
    bench.pass(SECOND);
    bench.others_are_served();
    bench.ends(1, Sign::Unavailable);
    assert_eq!(bench.breaker.window(), 24);
    bench.ends(1, Sign::Limited);
    assert_eq!(bench.breaker.window(), 18);
}

#[test]
fn the_window_grows_slowly_at_first_and_then_by_one_in_each_round() {
    let mut bench = with_slots(8);
    bench.ends(2, Sign::Unavailable);
    assert_eq!(bench.breaker.window(), 6);
    let rounds = |bench: &mut Bench| {
        let before = bench.breaker.window();
        let grows = |served: &usize| {
            bench.ends(1, Sign::Well);
            bench.breaker.window() > before || *served > 1_000
        };
        (1..).find(grows).unwrap() / before
    };
    assert_eq!([rounds(&mut bench), rounds(&mut bench)], [8, 4]);
    bench.breaker.slots(8);
    assert!(bench.breaker.is_calm());
}

#[test]
fn a_limit_is_asked_about_again_soon_and_the_lane_keeps_its_messages_for_a_while() {
    let mut bench = Bench::new();
    bench.ends(5, Sign::Limited);
    for _ in 0..8 {
        bench.probe(Sign::Limited);
        assert_eq!(bench.waits(), (SECOND, false));
    }
    bench.probe(Sign::Limited);
    bench.probe(Sign::Limited);
    assert_eq!(bench.waits(), (2 * SECOND, true));
}

#[test]
fn after_an_outage_that_was_followed_by_successes_the_wait_is_short_again() {
    let mut bench = Bench::down();
    for _ in 0..3 {
        bench.probe(Sign::Unavailable);
    }
    bench.probe(Sign::Well);
    bench.ends(5, Sign::Well);
    bench.ends(5, Sign::Unavailable);
    assert_eq!(bench.waits(), (SECOND, false));
}

#[test]
fn an_operator_can_start_the_lane_anew() {
    let mut bench = Bench::down();
    bench.probe(Sign::Unavailable);
    bench.breaker.reset();
    assert!(bench.breaker.is_calm());
    assert_eq!(bench.stance(), Stance::Open);
    bench.ends(5, Sign::Unavailable);
    assert_eq!(bench.waits(), (SECOND, false));
}
