use super::*;

fn report(received: u64, failed: u64) -> ConsumerReport {
    let mut report = ConsumerReport::default();
    report.ledger.received = received;
    report.counts.succeeded = received - failed;
    report.counts.timed_out = failed;
    report.in_flight = 3;
    report.buffered = 1;
    report
}

fn look(monitor: &Monitor, report: ConsumerReport, durations: &Durations, steps: usize) {
    let now = Now {
        report,
        durations,
        ready: Some(5),
    };
    monitor.add("a", now, steps);
}

#[test]
fn steps_are_differences_and_a_late_look_is_spread_over_its_steps() {
    let monitor = Monitor::default();
    let durations = Durations::default();
    look(&monitor, report(100, 0), &durations, 1);
    assert_eq!(monitor.history("a").received, [0; 0]);
    durations.record(Duration::from_millis(10));
    look(&monitor, report(107, 2), &durations, 1);
    look(&monitor, report(117, 2), &durations, 4);

    let history = monitor.history("a");
    assert_eq!(history.received, [7, 2, 3, 2, 3]);
    assert_eq!(history.succeeded, [5, 2, 3, 2, 3]);
    assert_eq!(history.failed, [2, 0, 0, 0, 0]);
    assert_eq!(history.in_flight, [3; 5]);
    assert_eq!(history.ready, [Some(5); 5]);
    assert!(history.p50_seconds[0].is_some() && history.p95_seconds[4].is_some());
    let Pace {
        rates,
        latency,
        recent,
    } = monitor.pace("a");
    assert_eq!((recent.succeeded, recent.failed), (15, 2));
    assert!((rates.received - 17.0 / 5.0).abs() < 1e-9, "{rates:?}");
    assert!((rates.failed - 2.0 / 5.0).abs() < 1e-9, "{rates:?}");
    assert!(
        latency
            .p99_seconds
            .is_some_and(|p99| (0.009..0.011).contains(&p99))
    );
    assert_eq!(monitor.pace("b"), Pace::default());
}

#[test]
fn percentiles_are_those_of_half_a_minute() {
    let (monitor, durations) = (Monitor::default(), Durations::default());
    look(&monitor, report(0, 0), &durations, 1);
    durations.record(Duration::from_secs(1));
    for received in 1..=40 {
        look(&monitor, report(received, 0), &durations, 1);
    }
    let p50 = monitor.history("a").p50_seconds;
    let known = p50.iter().filter(|p50| p50.is_some()).count();
    assert_eq!((p50.len(), known), (40, SMOOTH));
    assert!(p50[SMOOTH - 1].is_some() && p50[SMOOTH].is_none());
}

#[test]
fn what_is_old_is_forgotten() {
    let monitor = Monitor::default();
    let durations = Durations::default();
    look(&monitor, report(0, 0), &durations, 1);
    durations.record(Duration::from_secs(1));
    for received in 1..=STEPS as u64 + 50 {
        look(&monitor, report(received, 0), &durations, 1);
    }
    let history = monitor.history("a");
    assert_eq!(history.received.len(), STEPS);
    assert_eq!(history.p50_seconds, vec![None; STEPS]);
    let Pace {
        rates,
        latency,
        recent,
    } = monitor.pace("a");
    assert_eq!(recent.succeeded, MINUTE as u64);
    assert!((rates.received - 1.0).abs() < 1e-9);
    assert_eq!(latency.p50_seconds, None);
}

#[tokio::test]
async fn looks_are_a_step_apart_unless_they_are_late() {
    let now = Instant::now();
    let after = |millis| steps_between(now, now + Duration::from_millis(millis));
    assert_eq!(
        [after(20), after(990), after(1400), after(2600)],
        [1, 1, 1, 3]
    );
    assert_eq!(after(3_600_000), STEPS);
}
