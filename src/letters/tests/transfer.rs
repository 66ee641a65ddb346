use super::{super::transfer, *};
use crate::{
    broker::{QueueSpec, QueueType, Reading, Topology, fake::Confirm},
    retry::{Ladder, RetrySettings},
};

/// The queues of a consumer of this queue.
fn spec(queue: &str) -> QueueSpec {
    QueueSpec {
        queue: queue.to_owned(),
        prefetch: 1,
        topology: Topology::Declare,
        queue_type: QueueType::Quorum,
        arguments: Default::default(),
        bindings: Vec::new(),
        dead_letter_queue: format!("{queue}.dead"),
        delivery_limit: 100,
        ladder: Ladder::new(&format!("{queue}.retry"), &RetrySettings::default()),
    }
}

/// A broker with the queue `old` of this type and the queue `new`.
fn two_queues(release: Release, old: Type) -> FakeBroker {
    let broker = FakeBroker::new(release);
    assert_eq!(broker.declare_with("old", Arguments::of(old)), Ok(()));
    assert_eq!(
        broker.declare_with("new", Arguments::of(Type::Quorum)),
        Ok(())
    );
    broker
}

fn plain(id: &str) -> Properties {
    Properties::new(id, Some("text/plain"), Some("order"), &[])
}

async fn moved(broker: &FakeBroker) -> Changed {
    let transfer = transfer::Transfer {
        from: &spec("old"),
        to: "new",
        rate: None,
    };
    let moved = transfer::transfer(broker, transfer, "test", &mut go_on).await;
    moved.unwrap()
}

#[tokio::test(start_paused = true)]
async fn all_messages_move_in_their_order() {
    for release in RELEASES {
        for old in [Type::Classic, Type::Quorum] {
            let broker = two_queues(release, old);
            for number in 0..300 {
                assert!(broker.send("old", b"body", plain(&format!("m{number}"))));
            }
            let moved = moved(&broker).await;
            assert_eq!((moved.changed, moved.kept()), (300, 0), "{release:?}");
            assert_eq!(ids(&broker, "new"), numbered(0..300), "{release:?}");
            assert!(broker.ready("old").is_empty() && broker.violations().is_empty());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_reads_of_a_moved_message_what_it_would_have_read_before() {
    let broker = two_queues(Release::V40, Type::Classic);
    let publisher = plain("m0").with_every_other();
    let forged = vec![
        ("lapwing-attempts".to_owned(), "7".to_owned()),
        ("tenant".to_owned(), "acme".to_owned()),
    ];
    assert!(broker.send("old", b"\x00\xff", publisher.clone()));
    assert!(broker.send("old", b"", Properties::new("m1", None, None, &forged)));
    moved(&broker).await;

    let stored = broker.ready("new");
    let read = |at: usize| {
        broker
            .believed(&spec("new"), &stored[at].properties)
            .unwrap()
    };
    assert_eq!(stored[0].body, b"\x00\xff");
    assert_eq!(stored[0].properties.priority(), publisher.priority());
    let first = read(0);
    assert_eq!(first.user_id(), publisher.user_id());
    assert_eq!(first.expiration(), publisher.expiration());
    assert_eq!(first.priority(), publisher.priority());
    assert_eq!(first.reply_to(), publisher.reply_to());
    assert_eq!(first.correlation_id(), publisher.correlation_id());
    assert_eq!(first.app_id(), publisher.app_id());
    assert_eq!(first.timestamp(), publisher.timestamp());
    let text = |name| first.header(name).and_then(|it| it.as_str());
    assert_eq!(text("lapwing-source-routing-key"), Some("old"));
    assert_eq!(text("lapwing-source-exchange"), Some(""));
    let second = read(1);
    assert!(second.header("lapwing-attempts").is_none(), "{second:?}");
    assert_eq!(second.header("tenant").unwrap().as_str(), Some("acme"));
}

#[tokio::test(start_paused = true)]
async fn a_retry_keeps_its_past_when_it_moves_again() {
    let broker = two_queues(Release::V43, Type::Quorum);
    let record = Record {
        attempts: 3,
        copy: Copy::GivenBack,
        ..record("503", 1)
    };
    let headers = CopyHeaders {
        set: record.headers(),
        comes_back: true,
        is_named: true,
        ..CopyHeaders::default()
    };
    let retry = headers.on(&plain("m0"));
    assert!(broker.send("old", b"{}", retry.clone()));
    moved(&broker).await;

    let stored = broker.ready("new").pop().unwrap();
    let [was, is] = [("old", &retry), ("new", &stored.properties)]
        .map(|(queue, properties)| broker.believed(&spec(queue), properties).unwrap());
    for (name, value) in was.headers() {
        let same = is.header(name).map(|it| it.to_text());
        assert_eq!(same, Some(value.to_text()), "{name}");
    }
    assert_eq!(is.headers().count(), was.headers().count() + 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_confirmed_before_a_failure_is_not_copied_again() {
    for confirm in [Confirm::Nack, Confirm::Lost] {
        let broker = two_queues(Release::V3, Type::Classic);
        for number in 0..40 {
            assert!(broker.send("old", b"body", plain(&format!("m{number}"))));
        }
        broker.answer_publishes([Confirm::Ack, Confirm::Ack, confirm]);
        let stopped = moved(&broker).await;
        assert!(stopped.stopped && stopped.changed == 2, "{stopped:?}");
        assert_eq!(ids(&broker, "old"), numbered(2..40));
        let why = stopped.kept.keys().find(|why| why.contains("\"m2\""));
        assert!(why.is_some(), "{stopped:?}");

        let again = moved(&broker).await;
        assert_eq!((again.changed, again.kept()), (38, 0));
        let mut arrived = ids(&broker, "new");
        arrived.dedup();
        assert_eq!(arrived, numbered(0..40));
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_another_user_parked_is_not_rewritten() {
    let broker = two_queues(Release::V43, Type::Classic);
    let record = Record {
        attempts: 3,
        copy: Copy::GivenBack,
        ..record("503", 1)
    };
    let headers = CopyHeaders {
        set: record.headers(),
        ..CopyHeaders::default()
    };
    let of_another = headers.on(&plain("m1")).with_user("someone");
    for properties in [plain("m0"), of_another.clone(), plain("m2")] {
        assert!(broker.send("old", b"{}", properties));
    }
    let stopped = moved(&broker).await;
    assert!(stopped.stopped && stopped.changed == 1, "{stopped:?}");
    assert_eq!(ids(&broker, "old"), ["m1", "m2"]);
    assert_eq!(broker.ready("old")[0].properties, of_another);
    let why = stopped.kept.keys().find(|why| why.contains("someone"));
    assert!(why.is_some(), "{stopped:?}");
}

#[tokio::test(start_paused = true)]
async fn a_retry_without_deliveries_left_keeps_its_record_when_it_stays() {
    let limited = Arguments::of(Type::Quorum).int("x-delivery-limit", 1);
    let broker = FakeBroker::new(Release::V40);
    assert_eq!(broker.declare_with("old", limited), Ok(()));
    assert_eq!(
        broker.declare_with("new", Arguments::of(Type::Quorum)),
        Ok(())
    );
    let record = Record {
        attempts: 3,
        copy: Copy::GivenBack,
        ..record("503", 1)
    };
    let headers = CopyHeaders {
        set: record.headers(),
        comes_back: true,
        is_named: true,
        ..CopyHeaders::default()
    };
    assert!(broker.send("old", b"{}", headers.on(&plain("m0"))));
    for _ in 0..2 {
        broker.answer_publishes([Confirm::Nack]);
        let stopped = moved(&broker).await;
        assert_eq!((stopped.changed, stopped.kept()), (0, 1), "{stopped:?}");
    }
    let stored = broker.ready("old").pop().unwrap();
    let is = broker.believed(&spec("old"), &stored.properties).unwrap();
    assert!(is.header("lapwing-attempts").is_some(), "{is:?}");
    assert!(is.header("lapwing-moved-from").is_some(), "it is a copy");
}
