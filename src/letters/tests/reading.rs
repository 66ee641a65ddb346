use super::*;
use crate::{
    broker::{HeaderValue, fake},
    letters::{Groups, Origin, from_line, to_line},
};

#[tokio::test(start_paused = true)]
async fn a_letter_of_a_worker_tells_its_record() {
    let broker = broker(Release::V43, kept());
    send(&broker, 1);
    let letter = only(&broker).await;
    let summary = &letter.summary;
    assert_eq!(summary.id, "m0");
    assert_eq!(summary.origin, Origin::Lapwing);
    assert_eq!(summary.reason, "max-attempts");
    assert_eq!((summary.attempts, summary.replays), (8, 0));
    assert_eq!(summary.source_queue.as_deref(), Some("orders"));
    assert_eq!(summary.failed_at, Some(minute(0)));
    assert_eq!(letter.history.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_letter_of_the_broker_tells_what_the_broker_did() {
    let broker = FakeBroker::new(Release::V43);
    let work = Arguments::of(Type::Quorum).dead_letters_to("orders.dead");
    let work = work.int("x-message-ttl", 1000);
    assert_eq!(broker.declare_with("orders.dead", kept()), Ok(()));
    assert_eq!(broker.declare_with("orders", work), Ok(()));
    assert!(broker.send("orders", b"slow", Properties::default()));
    tokio::time::sleep(Duration::from_secs(2)).await;

    let letter = only(&broker).await;
    let summary = &letter.summary;
    assert!(summary.id.starts_with("hash:"), "{summary:?}");
    assert_eq!(summary.origin, Origin::Broker);
    assert_eq!(summary.reason, "broker:expired");
    assert_eq!(summary.error, "it expired in orders");
    assert_eq!(summary.source_queue.as_deref(), Some("orders"));
    assert_eq!(summary.source_routing_key.as_deref(), Some("orders"));
    assert!(summary.failed_at.is_some());
    drop(letter);

    let again = look(&broker, &Look::default()).await.0;
    assert_eq!(
        again,
        look(&broker, &Look::default()).await.0,
        "the id stays the same"
    );
    let replayed = replay(&broker, &replay_of(Filter::default())).await;
    assert_eq!(replayed.changed, 1);
    assert_eq!(broker.ready("orders").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_nobody_explains_is_read_too() {
    let broker = broker(Release::V43, kept());
    assert!(broker.send("orders.dead", b"?", Properties::default()));
    let letter = only(&broker).await;
    assert_eq!(letter.summary.origin, Origin::Unknown);
    assert_eq!(letter.summary.reason, "unknown");
    assert_eq!(letter.summary.source_queue, None);
}

#[tokio::test(start_paused = true)]
async fn groups_count_letters_by_cause() {
    let broker = broker(Release::V43, kept());
    send(&broker, 3);
    let other = record("the card was declined", 9);
    assert!(broker.send("orders.dead", b"{}", dead("m9", &other)));
    let mut groups = Groups::default();
    let mut see = |letter: &Letter| groups.add(&letter.summary);
    let desk = desk(&broker);
    let looked = super::super::look::look(&desk, &Look::default(), &mut see, &mut go_on).await;
    assert_eq!(looked.unwrap().seen, 4);
    let [most, least] = &groups.sorted()[..] else {
        panic!("two causes")
    };
    assert_eq!((most.count, most.share), (3, 0.75));
    assert_eq!((most.first, most.last), (Some(minute(0)), Some(minute(2))));
    assert_eq!(most.sample, "m0");
    assert_eq!((least.count, least.sample.as_str()), (1, "m9"));
    assert_eq!(least.error, "the card was declined");
}

#[tokio::test(start_paused = true)]
async fn an_exported_letter_is_imported_as_it_was() {
    let broker = broker(Release::V43, kept());
    let letter = fake::Letter::default()
        .id("m0")
        .content_type("application/octet-stream")
        .correlation_id("c")
        .number("size", -7)
        .list("tags", &["a", "b"]);
    let body = [0xff, 0x00, b'a'];
    let properties = Properties::from(letter);
    assert!(broker.send("orders.dead", &body, properties.clone()));
    let line = to_line(&only(&broker).await);
    broker.purge("orders.dead");

    let archived = from_line(&line).unwrap();
    archived.publish(&desk(&broker)).await.unwrap();

    let stored = broker.ready("orders.dead");
    assert_eq!(stored[0].body, body);
    let headers = |properties: &Properties| -> Vec<(String, String)> {
        let headers = properties.headers();
        headers
            .map(|(name, value)| (name.to_owned(), format!("{value:?}")))
            .collect()
    };
    assert_eq!(headers(&stored[0].properties), headers(&properties));
    assert_eq!(stored[0].properties.correlation_id(), Some("c"));
    assert!(stored[0].is_persistent());
    for broken in ["", "{}", &line.replace("\"lapwing\":1", "\"lapwing\":2")] {
        assert!(from_line(broken).is_err(), "{broken}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_edited_letter_takes_the_place_of_the_one_before() {
    let broker = broker(Release::V43, kept());
    send(&broker, 3);
    let letter = only(&broker).await;
    let edit = crate::letters::Edit {
        id: "m0".to_owned(),
        from: letter.body_hash(),
        body: b"{\"id\":100}".to_vec(),
        by: "kim".to_owned(),
    };
    drop(letter);
    let desk = desk(&broker);
    super::super::edit::edit(&desk, &edit, &mut go_on)
        .await
        .unwrap();
    assert_eq!(ids(&broker, "orders.dead"), numbered([1, 2, 0]));
    let edited = broker.ready("orders.dead").pop().unwrap();
    assert_eq!(edited.body, b"{\"id\":100}");
    let header = |name| edited.properties.header(name).and_then(HeaderValue::as_str);
    assert!(header("lapwing-edited").unwrap().contains("\"by\":\"kim\""));
    assert_eq!(
        header("lapwing-reason"),
        Some("max-attempts"),
        "it is still a dead letter"
    );

    // Somebody else has edited it meanwhile.
    let again = super::super::edit::edit(&desk, &edit, &mut go_on)
        .await
        .unwrap_err();
    assert!(again.to_string().contains("changed meanwhile"), "{again}");
    let gone = crate::letters::Edit {
        id: "m7".to_owned(),
        ..edit
    };
    let gone = super::super::edit::edit(&desk, &gone, &mut go_on)
        .await
        .unwrap_err();
    assert!(gone.to_string().contains("no letter"), "{gone}");
    assert_eq!(ids(&broker, "orders.dead").len(), 3);
}

#[tokio::test(start_paused = true)]
async fn an_edit_that_is_stopped_changes_nothing() {
    let broker = broker(Release::V43, kept());
    send(&broker, 20);
    let edit = crate::letters::Edit {
        id: "m19".to_owned(),
        from: String::new(),
        body: Vec::new(),
        by: "kim".to_owned(),
    };
    let mut stop = |_| ControlFlow::Break(());
    let edited = super::super::edit::edit(&desk(&broker), &edit, &mut stop).await;
    let edited = edited.unwrap();
    assert!(edited.stopped && edited.changed == 0, "{edited:?}");
    assert_eq!(ids(&broker, "orders.dead"), numbered(0..20));
}
