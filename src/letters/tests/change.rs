use std::collections::BTreeSet;

use tokio::time::Instant;

use super::*;
use crate::broker::fake::{Confirm, Fault};

fn only_ids(ids: impl IntoIterator<Item = u64>) -> Filter {
    Filter {
        ids: numbered(ids),
        ..Filter::default()
    }
}

async fn dropped(broker: &FakeBroker, filter: &Filter) -> u64 {
    drop_some(broker, filter, None).await
}

async fn drop_some(broker: &FakeBroker, filter: &Filter, limit: Option<usize>) -> u64 {
    let desk = desk(broker);
    let dropped = super::super::change::drop(&desk, filter, limit, "test", &mut go_on).await;
    dropped.unwrap().changed
}

/// Publishers give ids, and may give the same one twice.
#[tokio::test(start_paused = true)]
async fn of_letters_with_the_same_id_one_is_named_by_its_body() {
    let broker = broker(Release::V43, kept());
    let properties = dead("order-1", &record("503", 0));
    for body in ["first", "second", "second"] {
        assert!(broker.send("orders.dead", body.as_bytes(), properties.clone()));
    }
    let mut filter = Filter {
        ids: vec!["order-1".to_owned()],
        body_hash: Some("of another body".to_owned()),
        ..Filter::default()
    };
    assert_eq!(dropped(&broker, &filter).await, 0);
    filter.body_hash = Some(Letter::sample("order-1", b"second").body_hash());
    assert_eq!(drop_some(&broker, &filter, Some(1)).await, 1);
    let left = broker.ready("orders.dead");
    let bodies: Vec<_> = left.iter().map(|it| &it.body[..]).collect();
    assert_eq!(bodies, [b"first".as_slice(), b"second".as_slice()]);
}

/// Whoever shows letters hears which are gone while the change runs, and also if it fails later.
#[tokio::test(start_paused = true)]
async fn each_letter_that_leaves_its_queue_is_told_also_before_an_error() {
    let broker = broker(Release::V43, kept());
    send(&broker, 120);
    let gone = std::sync::Arc::<std::sync::Mutex<Vec<String>>>::default();
    let told = std::sync::Arc::clone(&gone);
    let mut desk = desk(&broker);
    desk.gone = Some(Box::new(move |mut ids| {
        told.lock().unwrap().append(&mut ids);
    }));
    let mut report = |progress: Progress| {
        if progress.changed >= 50 {
            broker.fail(Fault::ConnectionLost);
        }
        ControlFlow::Continue(())
    };
    let all = Filter::default();
    let failed = super::super::change::drop(&desk, &all, None, "test", &mut report).await;
    assert!(failed.is_err(), "{failed:?}");
    let gone = gone.lock().unwrap();
    assert!(gone.len() >= 40, "{}", gone.len());
    assert_eq!(*gone, numbered(0..gone.len() as u64));
}

#[tokio::test(start_paused = true)]
async fn a_replayed_letter_begins_anew() {
    for release in RELEASES {
        let broker = broker(release, kept());
        send(&broker, 1);
        let replayed = replay(&broker, &replay_of(Filter::default())).await;
        assert_eq!((replayed.changed, replayed.kept()), (1, 0));
        assert!(broker.ready("orders.dead").is_empty());
        let stored = broker.ready("orders").pop().unwrap();
        assert_eq!(stored.properties.message_id(), Some("m0"));
        for gone in [
            "attempts",
            "first-seen",
            "history",
            "error",
            "failed-at",
            "fingerprint",
        ] {
            let header = stored.properties.header(&format!("lapwing-{gone}"));
            assert!(header.is_none(), "{gone} {header:?}");
        }
        assert_eq!(stored.number("lapwing-replays"), Some(1));
        assert_eq!(stored.header("lapwing-replay"), Some("run"));
        assert_eq!(stored.properties.message_type(), Some("order"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_of_some_letters_leaves_the_others_in_their_order() {
    for release in RELEASES {
        for arguments in [
            kept(),
            Arguments::of(Type::Quorum),
            Arguments::of(Type::Classic),
        ] {
            let broker = broker(release, arguments);
            send(&broker, 200);
            let odd = Filter {
                matches: vec!["/place/bin=b1".parse().unwrap()],
                ..Filter::default()
            };
            let replayed = replay(&broker, &replay_of(odd)).await;
            assert_eq!((replayed.changed, replayed.looked.seen), (100, 200));
            let even = (0..200).filter(|number| number % 2 == 0);
            assert_eq!(ids(&broker, "orders.dead"), numbered(even), "{release:?}");
            let at_source = BTreeSet::from_iter(ids(&broker, "orders"));
            assert_eq!(at_source.len(), 100);

            let limited = Replay {
                limit: Some(3),
                ..replay_of(Filter::default())
            };
            assert_eq!(replay(&broker, &limited).await.changed, 3);
            let left = (6..200).filter(|number| number % 2 == 0);
            assert_eq!(ids(&broker, "orders.dead"), numbered(left), "{release:?}");
            let old = Filter {
                before: Some(minute(10)),
                ..Filter::default()
            };
            assert_eq!(dropped(&broker, &old).await, 2);
            let left = (10..200).filter(|number| number % 2 == 0);
            assert_eq!(ids(&broker, "orders.dead"), numbered(left), "{release:?}");
            assert_eq!(broker.unacked(), 0);
            assert_eq!(broker.violations(), [""; 0]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_goes_round_is_replayed_three_times() {
    let broker = broker(Release::V43, kept());
    for (number, replays) in [(0, 2), (1, 3)] {
        let mut record = record("503", number);
        if let Copy::Dead(dead) = &mut record.copy {
            dead.replays = replays;
        }
        let properties = dead(&format!("m{number}"), &record);
        assert!(broker.send("orders.dead", b"{}", properties));
    }
    let replayed = replay(&broker, &replay_of(Filter::default())).await;
    assert_eq!((replayed.changed, replayed.kept()), (1, 1));
    assert!(
        replayed.kept.keys().all(|why| why.contains("--force")),
        "{replayed:?}"
    );
    assert_eq!(ids(&broker, "orders.dead"), ["m1"]);
    let forced = Replay {
        force: true,
        ..replay_of(Filter::default())
    };
    assert_eq!(replay(&broker, &forced).await.changed, 1);
    let last = broker.ready("orders").pop().unwrap();
    assert_eq!(last.number("lapwing-replays"), Some(4));
}

#[tokio::test(start_paused = true)]
async fn a_letter_whose_copy_is_not_confirmed_stays() {
    for confirm in [
        Confirm::Nack,
        Confirm::Return,
        Confirm::NeverWritten,
        Confirm::Lost,
    ] {
        let broker = broker(Release::V43, kept());
        send(&broker, 3);
        broker.answer_publishes([Confirm::Ack, confirm]);
        let replayed = replay(&broker, &replay_of(Filter::default())).await;
        assert_eq!((replayed.changed, replayed.kept()), (2, 1), "{confirm:?}");
        assert_eq!(ids(&broker, "orders.dead"), ["m1"], "{confirm:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_replay_to_a_missing_queue_stops_at_the_first_batch() {
    let broker = broker(Release::V43, kept());
    send(&broker, 300);
    let nowhere = Replay {
        target: Target::Queue("nowhere".to_owned()),
        ..replay_of(Filter::default())
    };
    let replayed = replay(&broker, &nowhere).await;
    assert!(replayed.stopped && replayed.changed == 0, "{replayed:?}");
    assert!(replayed.kept() < 300);
    assert!(
        replayed.kept.contains_key("there is no queue \"nowhere\""),
        "{replayed:?}"
    );
    assert_eq!(ids(&broker, "orders.dead"), numbered(0..300));
}

#[tokio::test(start_paused = true)]
async fn a_replay_keeps_its_rate() {
    let broker = broker(Release::V43, kept());
    send(&broker, 50);
    let slow = Replay {
        rate: Some(10.0),
        ..replay_of(Filter::default())
    };
    let began = Instant::now();
    assert_eq!(replay(&broker, &slow).await.changed, 50);
    let took = began.elapsed().as_secs_f64();
    assert!((4.8..6.0).contains(&took), "{took} s");
}

/// The broker takes letters back that wait for their acks for longer than its consumer timeout.
#[tokio::test(start_paused = true)]
async fn a_slow_replay_holds_no_letter_beyond_the_consumer_timeout() {
    let broker = broker(Release::V43, kept());
    send(&broker, 400);
    broker.set_consumer_timeout(Some(Duration::from_secs(30 * 60)));
    let slow = Replay {
        rate: Some(0.1),
        ..replay_of(Filter::default())
    };
    assert_eq!(replay(&broker, &slow).await.changed, 400);
    assert!(broker.ready("orders.dead").is_empty());
    assert_eq!(broker.ready("orders").len(), 400);
}

#[tokio::test(start_paused = true)]
async fn a_slow_replay_can_be_stopped_while_it_waits() {
    let broker = broker(Release::V43, kept());
    send(&broker, 3);
    let slow = Replay {
        rate: Some(0.001),
        ..replay_of(Filter::default())
    };
    let began = Instant::now();
    let mut report = |_| match began.elapsed() < Duration::from_secs(10) {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    };
    let replayed = super::super::replay::replay(&desk(&broker), &slow, &mut report).await;
    let replayed = replayed.unwrap();
    assert!(replayed.stopped && replayed.changed == 1, "{replayed:?}");
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(ids(&broker, "orders.dead"), numbered(1..3));
}

/// A queue without a leader keeps the acks for later, and its channel throws them away when it closes.
#[tokio::test(start_paused = true)]
async fn a_change_ends_when_the_queue_has_applied_its_acks() {
    let broker = broker(Release::V43, kept());
    send(&broker, 5);
    let mut report = |_| {
        broker.fail(Fault::LeaderLost("orders.dead".to_owned()));
        ControlFlow::Continue(())
    };
    let electing = broker.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(2)).await;
        electing.elect("orders.dead");
    });
    let all = Filter::default();
    let dropped = super::super::change::drop(&desk(&broker), &all, None, "test", &mut report).await;
    assert_eq!(dropped.unwrap().changed, 5);
    broker.elect("orders.dead");
    assert_eq!(ids(&broker, "orders.dead"), [""; 0]);
}

/// Kills a replay at each of many moments: the future is dropped, and then the broker notices that
/// the connections are gone.
#[tokio::test(start_paused = true)]
async fn a_replay_that_is_killed_loses_nothing_and_doubles_at_most_a_batch() {
    for release in [Release::V3, Release::V43] {
        for filter in [
            Filter::default(),
            only_ids((0..200).filter(|it| it % 3 != 0)),
        ] {
            for moment in (1..40).step_by(6) {
                let broker = broker(release, kept());
                send(&broker, 200);
                broker.set_latency(Duration::from_millis(2));
                broker.answer_publishes(
                    (0..200).map(|number| Confirm::AckAfter(Duration::from_millis(number % 5))),
                );
                let killed = Duration::from_millis(moment);
                let replaying = replay_of(filter.clone());
                let ended = tokio::time::timeout(killed, replay(&broker, &replaying)).await;
                broker.fail(Fault::ConnectionLost);
                broker.fail(Fault::PublishingLost);
                tokio::time::sleep(Duration::from_secs(60)).await;

                let left = ids(&broker, "orders.dead");
                let mut all: Vec<_> = left.into_iter().chain(ids(&broker, "orders")).collect();
                let copies = all.len();
                all.sort();
                all.dedup();
                assert_eq!(
                    all.len(),
                    200,
                    "{release:?} at {moment} ms: letters are lost"
                );
                let twice = copies - 200;
                assert!(
                    twice <= 100,
                    "{release:?} at {moment} ms: {twice} are there twice"
                );
                if let Ok(replayed) = ended {
                    assert_eq!(twice, 0, "{replayed:?}");
                }
            }
        }
    }
}
