//! Replays that wait for their first letters.

use serde_json::json;

use super::*;
use crate::{
    broker::fake::{Confirm, Fault, Stored},
    letters::{Canaries, Canary},
};

const REPORTS: &str = "lapwing-canary.run";

fn with_canaries(letters: usize) -> Replay {
    Replay {
        canary: Some(Canary {
            letters,
            wait: Duration::from_secs(60),
        }),
        ..replay_of(Filter::default())
    }
}

/// The canaries among the messages of `orders`, once there are this many.
async fn sent(broker: &FakeBroker, count: usize) -> Vec<Stored> {
    broker.until(|it| it.ready("orders").len() == count).await;
    let stored = broker.ready("orders");
    let is_canary = |it: &Stored| it.header("lapwing-canary").is_some();
    stored.into_iter().filter(is_canary).collect()
}

/// Reports this outcome of a canary, as a worker does.
fn report(broker: &FakeBroker, canary: &Stored, outcome: &str) {
    let named = CopyHeaders {
        is_named: true,
        ..CopyHeaders::default()
    };
    let properties = named.on(&Properties::new("r", None, None, &[]));
    report_as(broker, canary, outcome, properties);
}

fn report_as(broker: &FakeBroker, canary: &Stored, outcome: &str, properties: Properties) {
    let (queue, number) = canary
        .header("lapwing-canary")
        .unwrap()
        .rsplit_once(' ')
        .unwrap();
    let number: u64 = number.parse().unwrap();
    let report = json!({
        "number": number, "outcome": outcome, "settlement": "retry", "error": "test: failed", "worker": "w",
    });
    let body = report.to_string();
    assert!(broker.send(queue, body.as_bytes(), properties));
}

/// Each consumer of the target queue sees the name of the queue for reports.
#[tokio::test(start_paused = true)]
async fn a_report_that_no_worker_vouches_for_is_not_believed() {
    let broker = broker(Release::V43, kept());
    send(&broker, 3);
    let worker = async {
        let canaries = sent(&broker, 1).await;
        let nobody = Properties::new("r", None, None, &[]);
        // More than are under way at a time.
        for _ in 0..500 {
            report_as(&broker, &canaries[0], "succeeded", nobody.clone());
        }
        report(&broker, &canaries[0], "failed");
    };
    let wanted = with_canaries(1);
    let (replayed, ()) = tokio::join!(replay(&broker, &wanted), worker);
    assert_eq!(replayed.changed, 1);
    let canaries = replayed.canaries.unwrap();
    assert_eq!((canaries.succeeded, canaries.failed.len()), (0, 1));
    assert!(canaries.ended);
    assert_eq!(ids(&broker, "orders.dead"), numbered(1..3));
}

#[tokio::test(start_paused = true)]
async fn a_replay_goes_on_when_its_canaries_have_succeeded() {
    for release in RELEASES {
        let broker = broker(release, kept());
        send(&broker, 5);
        let worker = async {
            let canaries = sent(&broker, 2).await;
            assert_eq!(ids(&broker, "orders.dead"), numbered(2..5));
            assert_eq!(canaries.len(), 2);
            for canary in canaries {
                report(&broker, &canary, "succeeded");
            }
        };
        let wanted = with_canaries(2);
        let (replayed, ()) = tokio::join!(replay(&broker, &wanted), worker);
        assert_eq!((replayed.changed, replayed.kept()), (5, 0));
        // A letter that is read twice counts once.
        assert_eq!((replayed.looked.selected, replayed.looked.seen), (5, 5));
        let canaries = replayed.canaries.unwrap();
        assert_eq!((canaries.sent, canaries.succeeded), (2, 2));
        assert!(!canaries.ended);
        assert_eq!(ids(&broker, "orders"), numbered(0..5));
        // The others are no canaries.
        assert_eq!(sent(&broker, 5).await.len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_canary_that_fails_keeps_the_other_letters_where_they_are() {
    let broker = broker(Release::V40, kept());
    send(&broker, 5);
    let worker = async {
        let canaries = sent(&broker, 3).await;
        report(&broker, &canaries[0], "succeeded");
        report(&broker, &canaries[1], "timed-out");
        // A message that is delivered again is reported again: the first outcome counts.
        report(&broker, &canaries[1], "succeeded");
        let other = Properties::new("other", None, None, &[]);
        assert!(broker.send(REPORTS, b"no report", other.clone()));
        assert!(broker.send(REPORTS, br#"{"number":99}"#, other));
        report(&broker, &canaries[2], "succeeded");
    };
    let wanted = with_canaries(3);
    let (replayed, ()) = tokio::join!(replay(&broker, &wanted), worker);
    assert_eq!(replayed.changed, 3);
    let canaries = replayed.canaries.unwrap();
    assert_eq!((canaries.sent, canaries.succeeded), (3, 2));
    let [failed] = &canaries.failed[..] else {
        panic!("{canaries:?}")
    };
    assert_eq!(
        (failed.id.as_str(), failed.outcome.as_str()),
        ("m1", "timed-out")
    );
    assert!(canaries.silent.is_empty() && canaries.lost.is_none());
    assert_eq!(ids(&broker, "orders.dead"), numbered(3..5));
}

#[tokio::test(start_paused = true)]
async fn a_canary_without_a_report_ends_the_replay_after_its_time() {
    let broker = broker(Release::V43, kept());
    send(&broker, 4);
    let worker = async {
        let canaries = sent(&broker, 2).await;
        report(&broker, &canaries[1], "succeeded");
    };
    let began = tokio::time::Instant::now();
    let wanted = with_canaries(2);
    let (replayed, ()) = tokio::join!(replay(&broker, &wanted), worker);
    assert!((60..70).contains(&began.elapsed().as_secs()));
    let canaries = replayed.canaries.unwrap();
    assert_eq!((canaries.sent, canaries.succeeded), (2, 1));
    assert_eq!(canaries.silent, ["m0"]);
    assert_eq!(ids(&broker, "orders.dead"), numbered(2..4));
}

#[tokio::test(start_paused = true)]
async fn a_wait_whose_connection_breaks_says_so() {
    let broker = broker(Release::V43, kept());
    send(&broker, 4);
    let worker = async {
        sent(&broker, 2).await;
        // The replay has returned its other letters, and reads the reports.
        tokio::time::sleep(Duration::from_secs(5)).await;
        broker.fail(Fault::ConnectionLost);
    };
    let wanted = with_canaries(2);
    let (replayed, ()) = tokio::join!(replay(&broker, &wanted), worker);
    let canaries = replayed.canaries.unwrap();
    assert!(canaries.lost.is_some(), "{canaries:?}");
    assert_eq!(canaries.silent, numbered(0..2));
    assert_eq!(ids(&broker, "orders.dead"), numbered(2..4));
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_canaries_can_be_stopped_and_shows_how_far_it_is() {
    let broker = broker(Release::V43, kept());
    send(&broker, 4);
    let mut seen = None;
    let mut watch = |progress: Progress| {
        seen = progress.canaries.or(seen);
        match progress.canaries {
            Some(waiting) if waiting.known == 1 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    };
    let desk = desk(&broker);
    let wanted = with_canaries(2);
    let replaying = super::super::replay::replay(&desk, &wanted, &mut watch);
    let worker = async {
        let canaries = sent(&broker, 2).await;
        report(&broker, &canaries[0], "succeeded");
    };
    let (replayed, ()) = tokio::join!(replaying, worker);
    let replayed = replayed.unwrap();
    assert!(replayed.stopped && replayed.changed == 2, "{replayed:?}");
    let seen = seen.unwrap();
    assert_eq!((seen.sent, seen.known, seen.succeeded), (2, 1, 1));
    assert_eq!(ids(&broker, "orders.dead"), numbered(2..4));
}

#[tokio::test(start_paused = true)]
async fn fewer_letters_than_canaries_are_all_canaries() {
    let broker = broker(Release::V43, kept());
    let replayed = replay(&broker, &with_canaries(3)).await;
    assert_eq!(replayed.canaries, Some(Canaries::default()));
    send(&broker, 2);
    let worker = async {
        for canary in sent(&broker, 2).await {
            report(&broker, &canary, "succeeded");
        }
    };
    let limited = Replay {
        limit: Some(2),
        ..with_canaries(3)
    };
    let (replayed, ()) = tokio::join!(replay(&broker, &limited), worker);
    assert_eq!(replayed.changed, 2);
    assert!(replayed.canaries.unwrap().all_succeeded());
}

#[tokio::test(start_paused = true)]
async fn a_canary_whose_copy_is_not_confirmed_ends_the_replay() {
    let broker = broker(Release::V43, kept());
    send(&broker, 4);
    broker.answer_publishes([Confirm::Ack, Confirm::Lost]);
    let worker = async {
        for canary in sent(&broker, 3).await {
            report(&broker, &canary, "succeeded");
        }
    };
    let wanted = with_canaries(2);
    let (replayed, ()) = tokio::join!(replay(&broker, &wanted), worker);
    assert_eq!((replayed.changed, replayed.kept()), (2, 1));
    let canaries = replayed.canaries.unwrap();
    assert!(canaries.all_succeeded() && canaries.ended, "{canaries:?}");
    assert_eq!(ids(&broker, "orders.dead"), numbered([1, 3]));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_replayed_without_a_queue_for_the_reports() {
    let broker = broker(Release::V43, kept());
    send(&broker, 2);
    broker.fail(Fault::ConnectionLost);
    let replayed =
        super::super::replay::replay(&desk(&broker), &with_canaries(1), &mut go_on).await;
    assert!(matches!(replayed, Err(DeadLettersError::NoReports(_))));
    assert_eq!(ids(&broker, "orders.dead"), numbered(0..2));
    assert!(broker.ready("orders").is_empty());
}
