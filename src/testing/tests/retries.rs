//! The time and the place at which a message waits for its next attempt.

use std::time::Duration;

use super::kit::{Handling, Kit, Step, near};
use crate::{Failure, Ledger, broker::fake::Letter, clock, text::rfc3339};

fn after(delay: Duration) -> Step {
    Step::FailWith(Failure::retryable("test", "later").retry_after(delay))
}

fn seconds(seconds: u64) -> Step {
    after(Duration::from_secs(seconds))
}

#[tokio::test(start_paused = true)]
async fn a_short_delay_waits_in_the_worker() {
    let handling = Handling::new([Step::Fail], Step::Succeed);
    let kit = Kit::start("retry = { base = '999ms', jitter = 0 }", handling.clone()).await;
    kit.publish();
    kit.finished().await;
    near(&handling.gaps(), &[999]);
    assert_eq!(kit.report().await.counts.inline_retries, 1);
    let expected = Ledger {
        received: 1,
        acked: 1,
        ..Ledger::default()
    };
    assert_eq!(kit.drain().await.unwrap().ledger(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_delay_that_is_not_short_is_parked() {
    let handling = Handling::new([Step::Fail], Step::Succeed);
    let kit = Kit::start("retry = { base = '1s', jitter = 0 }", handling.clone()).await;
    let id = kit.publish();
    kit.until_in("orders.retry.1s", 1).await;
    let parked = kit.only("orders.retry.1s");
    assert_eq!(parked.properties.message_id(), Some(id.as_str()));
    assert_eq!(parked.expiration(), Some(Duration::from_secs(1)));
    assert_eq!(parked.number("lapwing-attempts"), Some(1));
    assert_eq!(parked.header("lapwing-source-exchange"), Some(""));
    assert_eq!(parked.header("lapwing-source-routing-key"), Some("orders"));
    for name in ["lapwing-first-seen", "lapwing-history"] {
        assert!(parked.header(name).is_some(), "{name}");
    }
    let time = |name| humantime::parse_rfc3339(parked.header(name).unwrap()).unwrap();
    let waits = time("lapwing-not-before").duration_since(time("lapwing-parked-at"));
    near(&[waits.unwrap().as_millis() + 1], &[1_000]);
    kit.finished().await;
    near(&handling.gaps(), &[1_000]);
    assert_eq!(kit.report().await.counts.inline_retries, 0);
    let expected = Ledger {
        received: 2,
        parked: 1,
        acked: 1,
        ..Ledger::default()
    };
    assert_eq!(kit.drain().await.unwrap().ledger(), expected);
}

#[tokio::test(start_paused = true)]
async fn delays_double_over_both_places_up_to_the_cap() {
    let handling = Handling::new([], Step::Fail);
    let kit = Kit::start(
        "retry = { jitter = 0, cap = '10s', max_attempts = 8 }",
        handling.clone(),
    )
    .await;
    kit.publish();
    kit.finished().await;
    let wanted = [500, 1_000, 2_000, 4_000, 8_000, 10_000, 10_000];
    near(&handling.gaps(), &wanted);
    assert_eq!(handling.attempts(), [1, 2, 3, 4, 5, 6, 7, 8]);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn jitter_spreads_what_failed_together() {
    let handling = Handling::new(std::iter::repeat_n(Step::Fail, 20), Step::Succeed);
    let kit = Kit::start("retry = { base = '100s', jitter = 0.5 }", handling.clone()).await;
    kit.publish_many(20);
    kit.finished().await;
    let runs = handling.runs();
    let first = runs[0].at;
    let mut waits: Vec<_> = runs[20..].iter().map(|run| run.at - first).collect();
    assert!(waits.iter().all(|wait| wait.as_secs() >= 50), "{waits:?}");
    // A message may wait longer, for an older message in the same retry queue.
    assert!(waits.iter().all(|wait| wait.as_secs() <= 128), "{waits:?}");
    waits.dedup();
    assert!(waits.len() > 1, "{waits:?}");
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_delay_goes_to_the_smallest_rung_that_is_not_shorter() {
    for (delay, rung) in [(1, "1s"), (2, "2s"), (3, "4s"), (4, "4s"), (5, "8s")] {
        let handling = Handling::new([seconds(delay)], Step::Succeed);
        let kit = Kit::start("", handling.clone()).await;
        kit.publish();
        let rung = format!("orders.retry.{rung}");
        kit.until_in(&rung, 1).await;
        let stay = kit.only(&rung).expiration();
        assert_eq!(stay, Some(Duration::from_secs(delay)));
        kit.finished().await;
        near(&handling.gaps(), &[u128::from(delay) * 1_000]);
        kit.drain().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_behind_a_longer_one_is_late_but_less_than_twice() {
    let handling = Handling::new(
        [seconds(4), after(Duration::from_millis(2_100))],
        Step::Succeed,
    );
    let kit = Kit::start("", handling.clone()).await;
    let ids = kit.publish_many(2);
    kit.finished().await;
    let runs = handling.runs();
    let wait = |id: &String| {
        let mut runs = runs.iter().filter(|run| run.id == *id);
        let (first, second) = (runs.next().unwrap(), runs.next().unwrap());
        (second.at - first.at).as_millis()
    };
    near(&[wait(&ids[0]), wait(&ids[1])], &[4_000, 4_000]);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_handlers_own_delay_lengthens_the_computed_one_up_to_the_age() {
    let delays = [
        after(Duration::ZERO),
        after(Duration::from_millis(700)),
        seconds(3),
        seconds(3_600),
    ];
    let handling = Handling::new(delays, Step::Succeed);
    let settings = "retry = { base = '1s', jitter = 0, cap = '5s', max_age = '30m' }";
    let kit = Kit::start(settings, handling.clone()).await;
    kit.publish();
    kit.finished().await;
    let gaps = handling.gaps();
    near(&gaps[..3], &[1_000, 2_000, 4_000]);
    // An hour is beyond the age, so the last attempt is at half an hour. It takes many stays in the
    // longest retry queue.
    let last: u128 = gaps.iter().sum();
    assert!((1_800_000..1_810_000).contains(&last), "{gaps:?}");
    assert_eq!(handling.attempts(), [1, 2, 3, 4, 5]);
    kit.drain().await.unwrap();
}

/// Runs one message whose handler fails with this failure, under these rules. Returns the number of
/// attempts and the reason of the dead letter.
async fn under_rules(rules: &str, step: Step) -> (Vec<u32>, Option<String>) {
    let settings = format!("retry = {{ max_attempts = 2, rules = [{rules}] }}\ntimeout = '1s'");
    let handling = Handling::new([], step);
    let kit = Kit::start(&settings, handling.clone()).await;
    kit.publish();
    kit.finished().await;
    let reason = kit.dead().header("lapwing-reason").map(str::to_owned);
    kit.drain().await.unwrap();
    (handling.attempts(), reason)
}

#[tokio::test(start_paused = true)]
async fn a_rule_dead_letters_what_the_handler_calls_retryable() {
    let rule = "{ class = 'http', action = 'dead-letter' }";
    let http = Failure::retryable("http", "down").status(503);
    let (attempts, reason) = under_rules(rule, Step::FailWith(http)).await;
    assert_eq!((attempts, reason.as_deref()), (vec![1], Some("rejected")));
    let (attempts, reason) = under_rules(rule, Step::Fail).await;
    let expected = (vec![1, 2], Some("max-attempts"));
    assert_eq!((attempts, reason.as_deref()), expected, "another class");
}

#[tokio::test(start_paused = true)]
async fn a_rule_retries_what_the_handler_calls_permanent() {
    let rules = "{ status = 409, action = 'retry' }, { status = '4xx', action = 'dead-letter' }";
    let status = |status| Step::FailWith(Failure::permanent("http", "no").status(status));
    let (attempts, reason) = under_rules(rules, status(409)).await;
    let expected = (vec![1, 2], Some("max-attempts"));
    assert_eq!((attempts, reason.as_deref()), expected);
    let (attempts, _) = under_rules(rules, status(410)).await;
    assert_eq!(attempts, [1]);
}

#[tokio::test(start_paused = true)]
async fn rules_know_timeouts_and_panics_by_their_class() {
    for (class, step) in [("timeout", Step::Hang), ("panic", Step::Panic)] {
        let rule = format!("{{ class = '{class}', action = 'dead-letter' }}");
        let (attempts, reason) = under_rules(&rule, step).await;
        assert_eq!((attempts, reason.as_deref()), (vec![1], Some("rejected")));
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_place_in_the_worker_the_shortest_delay_is_parked() {
    for settings in [
        "retry = { base = '10ms', jitter = 0, inline_below = '0s' }",
        "prefetch = 1\nconcurrency = 1\nretry = { base = '10ms', jitter = 0 }",
    ] {
        let handling = Handling::new([Step::Fail], Step::Succeed);
        let kit = Kit::start(settings, handling.clone()).await;
        kit.publish();
        kit.until_in("orders.retry.1s", 1).await;
        let stay = kit.only("orders.retry.1s").expiration();
        assert_eq!(stay, Some(Duration::from_millis(10)));
        kit.finished().await;
        near(&handling.gaps(), &[10]);
        kit.drain().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn half_of_the_prefetch_waits_in_the_worker_and_more_is_parked() {
    let settings = "prefetch = 8\nconcurrency = 8\nretry = { base = '500ms', jitter = 0 }";
    let handling = Handling::new(std::iter::repeat_n(Step::Fail, 7), Step::Succeed);
    let kit = Kit::start(settings, handling.clone()).await;
    kit.publish_many(7);
    kit.until_in("orders.retry.1s", 3).await;
    let report = kit.report().await;
    assert_eq!((report.waiting, report.counts.inline_retries), (4, 4));
    kit.finished().await;
    let runs = handling.runs();
    let waits = runs[7..]
        .iter()
        .map(|run| (run.at - runs[0].at).as_millis());
    near(&waits.collect::<Vec<_>>(), &[500; 7]);
    let ledger = kit.drain().await.unwrap().ledger();
    assert_eq!((ledger.received, ledger.parked, ledger.acked), (10, 3, 7));
}

#[tokio::test(start_paused = true)]
async fn a_place_in_the_worker_is_free_again_after_the_delay() {
    let settings = "prefetch = 2\nconcurrency = 2\nretry = { base = '500ms', factor = 1 }";
    let handling = Handling::new(std::iter::repeat_n(Step::Fail, 6), Step::Succeed);
    let kit = Kit::start(settings, handling.clone()).await;
    kit.publish();
    kit.finished().await;
    assert_eq!(handling.attempts(), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(kit.report().await.counts.inline_retries, 6);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_delay_beyond_the_longest_rung_is_parked_again_until_it_is_over() {
    let snooze = Step::Snooze(Duration::from_secs(30));
    let handling = Handling::new([snooze], Step::FailForGood);
    let kit = Kit::start("retry.cap = '4s'", handling.clone()).await;
    kit.publish();
    kit.until_in("orders.retry.4s", 1).await;
    let parked = kit.only("orders.retry.4s");
    assert_eq!(parked.expiration(), Some(Duration::from_secs(4)));
    let not_before = parked.header("lapwing-not-before").unwrap().to_owned();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let parked = kit.only("orders.retry.4s");
    let again = parked.header("lapwing-not-before").unwrap();
    let [before, after] = [&not_before, again].map(|it| humantime::parse_rfc3339(it).unwrap());
    let moved = after.duration_since(before).unwrap_or_default();
    assert!(moved < Duration::from_millis(100), "{moved:?}");
    kit.finished().await;
    assert_eq!(handling.attempts(), [1, 1]);
    let gap = handling.gaps()[0];
    assert!((30_000..31_200).contains(&gap), "{gap}");
    assert_eq!(kit.dead().header("lapwing-not-before"), None);
    assert_eq!(kit.report().await.counts.attempts, 2);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_retry_queue_outside_of_the_schedule_is_declared_when_a_message_needs_it() {
    let snooze = Step::Snooze(Duration::from_secs(30));
    let handling = Handling::new([Step::Fail, snooze], Step::Succeed);
    let kit = Kit::start("retry.delays = ['5s', '2m']", handling.clone()).await;
    kit.publish();
    kit.until_in("orders.retry.8s", 1).await;
    kit.until_in("orders.retry.32s", 1).await;
    kit.finished().await;
    assert_eq!(handling.attempts(), [1, 2, 2]);
    let gaps = handling.gaps();
    assert!((5_000..5_200).contains(&gaps[0]), "{gaps:?}");
    assert!((30_000..30_500).contains(&gaps[1]), "{gaps:?}");
    assert_eq!(kit.report().await.counts.publish_failures, 1);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_early_is_parked_without_a_handler_or_a_charge() {
    let handling = Handling::new([Step::Hang], Step::Succeed);
    let settings = "concurrency = 1\ntimeout = '1h'\nretry.inline_below = '1s'";
    let kit = Kit::start(settings, handling.clone()).await;
    let start = tokio::time::Instant::now();
    let not_before = rfc3339(clock::now() + Duration::from_secs(3));
    let letter = Letter::default()
        .id("early")
        .parked()
        .number("lapwing-attempts", 2);
    kit.send(letter.header("lapwing-not-before", &not_before), b"");
    kit.until_in("orders.retry.4s", 1).await;
    let parked = kit.only("orders.retry.4s");
    assert_eq!(parked.number("lapwing-attempts"), Some(2));
    assert!(handling.runs().is_empty());
    handling.has_run(1).await;
    let run = &handling.runs()[0];
    let waited = (run.at - start).as_millis();
    assert!((2_990..3_020).contains(&waited), "{waited}");
    assert_eq!(run.attempt, 3);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_time_has_come_runs_at_once() {
    let handling = Handling::new([], Step::Succeed);
    let kit = Kit::start("", handling.clone()).await;
    for (id, time) in [("past", "2020-01-01T00:00:00Z"), ("no time", "tomorrow")] {
        let letter = Letter::default().id(id).parked();
        kit.send(letter.header("lapwing-not-before", time), b"");
    }
    kit.finished().await;
    let ledger = kit.drain().await.unwrap().ledger();
    assert_eq!((ledger.received, ledger.acked), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn the_headers_of_a_retry_are_taken_within_their_range() {
    let handling = Handling::new([], Step::Succeed);
    let kit = Kit::start("", handling.clone()).await;
    let attempts = "lapwing-attempts";
    let letter = |id| Letter::default().id(id).parked();
    kit.send(letter("six").number(attempts, 6), b"");
    kit.send(letter("negative").number(attempts, -6), b"");
    kit.send(letter("text").header(attempts, "6"), b"");
    kit.send(letter("huge").number(attempts, i64::MAX), b"");
    let future = rfc3339(clock::now() + Duration::from_hours(1));
    kit.send(letter("future").header("lapwing-first-seen", &future), b"");
    kit.send(letter("history").header("lapwing-history", "[{]"), b"");
    kit.finished().await;
    assert_eq!(handling.attempts(), [7, 1, 1, u32::MAX, 1, 1]);
    kit.drain().await.unwrap();
}
