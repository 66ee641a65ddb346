use std::ops::ControlFlow;

use super::*;
use crate::{
    broker::fake::{Confirm, Fault},
    letters::Match,
};

fn all() -> Look {
    Look::default()
}

fn first(count: usize) -> Look {
    Look {
        limit: Some(count),
        ..Look::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_returns_every_letter_in_its_place() {
    let queues = [
        ("kept", kept()),
        ("no limit of its own", Arguments::of(Type::Quorum)),
        ("classic", Arguments::of(Type::Classic)),
    ];
    for release in RELEASES {
        for (name, arguments) in &queues {
            let broker = broker(release, arguments.clone());
            // More than the first windows hold.
            send(&broker, 150);
            let order = numbered(0..150);
            for (wanted, count) in [(all(), 150), (first(3), 3), (first(100), 100)] {
                let (seen, looked) = look(&broker, &wanted).await;
                assert_eq!(seen, order[..count], "{release:?}, {name}");
                assert_eq!(looked.selected, count as u64);
                assert_eq!(ids(&broker, "orders.dead"), order, "{release:?}, {name}");
            }
            assert_eq!(broker.unacked(), 0);
            assert_eq!(broker.violations(), [""; 0]);
            // The model keeps the order of any number of letters, and 3.10 does not.
            let mut last = 0;
            for nack in broker.commands() {
                assert!(nack.tag - last.min(nack.tag) <= 32, "{nack:?} after {last}");
                last = nack.tag;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn looks_lose_no_letter_however_many_there_are() {
    for release in RELEASES {
        for limit in [None, Some(0), Some(3), Some(20)] {
            let mut arguments = Arguments::of(Type::Quorum);
            if let Some(limit) = limit {
                arguments = arguments.int("x-delivery-limit", limit);
            }
            let broker = broker(release, arguments);
            send(&broker, 5);
            for _ in 0..50 {
                let (seen, _) = look(&broker, &all()).await;
                assert_eq!(seen.len(), 5, "{release:?}, limit {limit:?}");
            }
            let mut left = ids(&broker, "orders.dead");
            left.sort();
            assert_eq!(left, numbered(0..5), "{release:?}, limit {limit:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_the_broker_counts_beyond_its_limit_survives_a_look() {
    // 4.3 carries the count along when it dead-letters, into a queue with the default limit.
    let broker = FakeBroker::new(Release::V43);
    let work = Arguments::of(Type::Quorum).dead_letters_to("orders.dead");
    let work = work.int("x-delivery-limit", 20);
    assert_eq!(
        broker.declare_with("orders.dead", Arguments::of(Type::Quorum)),
        Ok(())
    );
    assert_eq!(broker.declare_with("orders", work), Ok(()));
    assert!(broker.send("orders", b"kills", Properties::new("m0", None, None, &[])));
    for _ in 0..21 {
        use crate::broker::Reading;
        let session = broker.clone().look_into("orders", 1, "tag").await.unwrap();
        broker.fail(Fault::ChannelLost);
        drop(session);
    }
    assert_eq!(ids(&broker, "orders.dead"), ["m0"]);
    for _ in 0..3 {
        let (seen, _) = look(&broker, &all()).await;
        assert_eq!(seen, ["m0"]);
    }
    assert_eq!(ids(&broker, "orders.dead"), ["m0"]);
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_is_short_of_deliveries_is_renewed_when_that_is_asked_for() {
    let limited = Arguments::of(Type::Quorum).int("x-delivery-limit", 6);
    let broker = broker(Release::V40, limited);
    send(&broker, 2);
    let (_, looked) = look(&broker, &all()).await;
    assert_eq!((looked.short, looked.renewed), (0, 0));
    look(&broker, &all()).await;
    let (_, looked) = look(&broker, &all()).await;
    assert_eq!((looked.short, looked.renewed), (2, 0), "four are left");
    let renew = Look {
        renew: true,
        ..all()
    };
    let (_, looked) = look(&broker, &renew).await;
    assert_eq!((looked.short, looked.renewed), (0, 2));
    assert!(
        broker
            .ready("orders.dead")
            .iter()
            .all(|it| it.delivery_count == 0)
    );
    let (seen, _) = look(&broker, &all()).await;
    assert_eq!(seen, numbered(0..2));
}

/// Without a confirm the copy may exist. Each further one would be a duplicate more.
#[tokio::test(start_paused = true)]
async fn a_letter_whose_renewal_is_not_confirmed_stays_and_is_not_copied_again() {
    for (confirm, copies) in [(Confirm::Lost, 1), (Confirm::NeverWritten, 0)] {
        let limited = Arguments::of(Type::Quorum).int("x-delivery-limit", 4);
        let broker = broker(Release::V40, limited);
        send(&broker, 1);
        broker.answer_publishes([confirm; 2]);
        let renew = Look {
            renew: true,
            ..all()
        };
        let (_, looked) = look(&broker, &renew).await;
        assert_eq!((looked.short, looked.renewed), (1, 0), "{confirm:?}");
        assert_eq!(ids(&broker, "orders.dead").len(), 1 + copies, "{confirm:?}");
        let returned = broker.ready("orders.dead").remove(0);
        assert_eq!(returned.delivery_count, 1, "the letter itself");
    }
}

/// The broker throws such a letter away when it goes back. A duplicate is better than no letter.
#[tokio::test(start_paused = true)]
async fn a_letter_without_deliveries_left_is_copied_until_a_copy_is_confirmed() {
    let limited = Arguments::of(Type::Quorum).int("x-delivery-limit", 0);
    let broker = broker(Release::V40, limited);
    send(&broker, 1);
    broker.answer_publishes([Confirm::NeverWritten, Confirm::NeverWritten]);
    let (_, looked) = look(&broker, &all()).await;
    assert_eq!(looked.renewed, 1);
    assert_eq!(ids(&broker, "orders.dead"), ["m0"]);
}

#[tokio::test(start_paused = true)]
async fn a_look_that_is_stopped_returns_what_it_has() {
    let broker = broker(Release::V40, kept());
    send(&broker, 100);
    let looked = try_look(&desk(&broker), |_| ControlFlow::Break(()))
        .await
        .unwrap();
    assert!(looked.stopped && looked.seen < 100, "{looked:?}");
    assert_eq!(ids(&broker, "orders.dead"), numbered(0..100));
}

#[tokio::test(start_paused = true)]
async fn a_look_whose_connection_breaks_fails_and_loses_nothing() {
    let broker = broker(Release::V40, kept());
    send(&broker, 100);
    let mut windows = 0;
    let report = |_| {
        windows += 1;
        if windows == 2 {
            broker.fail(Fault::ConnectionLost);
        }
        ControlFlow::Continue(())
    };
    assert!(try_look(&desk(&broker), report).await.is_err());
    assert_eq!(ids(&broker, "orders.dead"), numbered(0..100));
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_missing_or_empty_or_held_by_another_says_so() {
    let broker = broker(Release::V43, kept().flag("x-single-active-consumer"));
    let (seen, looked) = look(&broker, &all()).await;
    assert_eq!((seen.len(), looked.total), (0, 0));
    let missing = Desk::new(broker.clone(), "nowhere", None);
    let looked = try_look(&missing, go_on).await;
    assert!(matches!(looked, Err(DeadLettersError::NoQueue(queue)) if queue == "nowhere"));

    use crate::broker::Reading;
    let _active = broker
        .clone()
        .look_into("orders.dead", 1, "tag")
        .await
        .unwrap();
    send(&broker, 2);
    let error = try_look(&desk(&broker), go_on).await.unwrap_err();
    assert!(
        matches!(error, DeadLettersError::Silent { ready: 1, .. }),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn each_part_of_a_filter_counts() {
    let broker = broker(Release::V43, kept());
    send(&broker, 6);
    let other = record("the card was declined", 6);
    let sent = broker.send("orders.dead", b"not json", dead("m6", &other));
    assert!(sent);
    let matched = |text: &str| vec![text.parse::<Match>().unwrap()];
    let group = crate::text::fingerprint("http", "the card was declined");
    let filters = [
        (Filter::default(), numbered(0..7)),
        (
            Filter {
                ids: numbered([1, 3, 9]),
                ..Filter::default()
            },
            numbered([1, 3]),
        ),
        (
            Filter {
                groups: vec![group[..6].to_owned()],
                ..Filter::default()
            },
            numbered([6]),
        ),
        (
            Filter {
                groups: vec![String::new()],
                ..Filter::default()
            },
            Vec::new(),
        ),
        (
            Filter {
                reasons: vec!["rejected".to_owned()],
                ..Filter::default()
            },
            Vec::new(),
        ),
        (
            Filter {
                since: Some(minute(2)),
                before: Some(minute(4)),
                ..Filter::default()
            },
            numbered([2, 3]),
        ),
        (
            Filter {
                text: Some("CARD was".to_owned()),
                ..Filter::default()
            },
            numbered([6]),
        ),
        (
            Filter {
                text: Some("attempts".to_owned()),
                ..Filter::default()
            },
            Vec::new(),
        ),
        (
            Filter {
                text: Some("http".to_owned()),
                ..Filter::default()
            },
            Vec::new(),
        ),
        (
            Filter {
                matches: matched("/place/bin=b1"),
                ..Filter::default()
            },
            numbered([1, 3, 5]),
        ),
        (
            Filter {
                matches: matched("/id=4"),
                types: vec!["order".to_owned()],
                ..Filter::default()
            },
            numbered([4]),
        ),
        (
            Filter {
                matches: matched("lapwing-source-queue=orders"),
                ..Filter::default()
            },
            numbered(0..7),
        ),
    ];
    for (filter, wanted) in filters {
        let filter = Look {
            filter: filter.clone(),
            ..all()
        };
        assert_eq!(look(&broker, &filter).await.0, wanted, "{filter:?}");
    }
    assert!("=x".parse::<Match>().is_err() && "x".parse::<Match>().is_err());
}

/// A window is as large as the letters before it allow. Large letters behind many small ones end it early.
#[tokio::test(start_paused = true)]
async fn large_letters_behind_small_ones_are_all_seen_in_their_order() {
    for release in RELEASES {
        let broker = broker(release, kept());
        send(&broker, 300);
        let large = vec![b'x'; 3 * 1024 * 1024];
        for number in 300..310 {
            let record = record("503 from the warehouse", number);
            let properties = dead(&format!("m{number}"), &record);
            assert!(broker.send("orders.dead", &large, properties));
        }
        let (seen, looked) = look(&broker, &all()).await;
        assert_eq!(seen, numbered(0..310), "{release:?}");
        assert_eq!(looked.seen, 310);
        assert_eq!(ids(&broker, "orders.dead"), numbered(0..310), "{release:?}");
    }
}

/// A line of a look keeps no more of an error, so what is dropped by a text has been listed by it.
#[tokio::test(start_paused = true)]
async fn a_search_covers_as_much_of_an_error_as_a_list_shows() {
    let broker = broker(Release::V43, kept());
    let error = format!("{}NEAR {} far", "\u{c4}".repeat(90), "x".repeat(200));
    assert!(broker.send("orders.dead", b"", dead("m0", &record(&error, 0))));
    for (text, found) in [("near", 1), ("\u{e4}near", 1), ("far", 0)] {
        let look_for = Look {
            filter: Filter {
                text: Some(text.to_owned()),
                ..Filter::default()
            },
            ..all()
        };
        assert_eq!(look(&broker, &look_for).await.1.selected, found, "{text}");
    }
}

/// Whoever may publish to the queue writes the header. The name of a group selects by its beginning.
#[tokio::test(start_paused = true)]
async fn no_letter_gives_itself_a_group_that_selects_others() {
    let broker = broker(Release::V43, kept());
    let group = crate::text::fingerprint("http", "503");
    for (number, forged) in ["", &group[..1], "UPPER", &format!("{group}0")]
        .into_iter()
        .enumerate()
    {
        let mut record = record("503", 0);
        if let Copy::Dead(dead) = &mut record.copy {
            dead.fingerprint = forged.to_owned();
        }
        let properties = dead(&format!("m{number}"), &record);
        assert!(broker.send("orders.dead", b"", properties));
    }
    let mut groups = Vec::new();
    let mut see = |letter: &Letter| groups.push(letter.summary.group.clone());
    let looked = super::super::look::look(&desk(&broker), &all(), &mut see, &mut go_on).await;
    assert_eq!(looked.unwrap().selected, 4);
    assert_eq!(groups, vec![group; 4]);
}
