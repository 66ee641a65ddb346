//! What the broker does by itself after a time.

use super::*;

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_consumer_timeout_closes_the_channel_before_4_3() {
    for release in [Release::V3, Release::V40] {
        let broker = broker(release, quorum());
        broker.set_consumer_timeout(Some(LIMIT));
        send(&broker, &["a"]);
        let mut session = open(&broker, 1).await;
        assert_eq!(arrived(&mut session).len(), 1);
        let lost = session.next().await;
        assert!(matches!(lost, Some(Err(BrokerError::Lost(text))) if text.contains("timed out")));
        assert_eq!(in_queue(&broker, "q"), ["a"]);
        assert_eq!(broker.ready("q")[0].delivery_count, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_ack_revives_the_cancelled_consumer_of_4_3_and_its_deliveries_go_to_nobody() {
    let broker = broker(Release::V43, quorum());
    broker.set_consumer_timeout(Some(LIMIT));
    send(&broker, &["a"]);
    let mut session = open(&broker, 1).await;
    assert_eq!(arrived(&mut session).len(), 1);
    assert!(session.next().await.is_none());
    assert!(session.is_usable());
    assert_eq!(broker.ready("q")[0].delivery_count, 0);
    session.subscribe_again(&spec("q", 1)).await.unwrap();
    session.resume(());
    let again = arrived(&mut session);
    assert_eq!(bodies_of(&again), ["a"]);

    ack(&session, &[1]).await.unwrap();
    send(&broker, &["to the ghost"]);
    ack(&session, &[again[0].tag]).await.unwrap();
    send(&broker, &["b"]);
    let seen = arrived(&mut session);
    assert_eq!(bodies_of(&seen), ["b"]);
    assert_eq!(seen[0].tag, again[0].tag + 2, "a tag is missing");
}

#[tokio::test(start_paused = true)]
async fn a_quorum_queue_keeps_a_dead_letter_and_publishes_it_again_after_three_minutes() {
    let arguments = quorum().int("x-message-ttl", 8_000);
    let arguments = arguments.dead_letters_to("later").at_least_once();
    let broker = broker(Release::V43, arguments);
    send(&broker, &["a"]);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(in_queue(&broker, "q"), [""; 0]);
    assert_eq!(broker.everything().len(), 1);
    broker.declare("later");
    tokio::time::sleep(Duration::from_secs(177)).await;
    assert_eq!(in_queue(&broker, "later"), [""; 0]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(in_queue(&broker, "later"), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_classic_queue_loses_a_dead_letter_whose_target_is_missing() {
    let arguments = Arguments::of(Type::Classic).int("x-message-ttl", 8_000);
    let broker = broker(Release::V43, arguments.dead_letters_to("later"));
    send(&broker, &["a"]);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(broker.everything().len(), 0);
    assert_eq!(broker.dropped().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_high_priority_blocks_the_expiration_of_lower_ones_on_4_0_only() {
    for (release, left) in [(Release::V40, 2), (Release::V43, 1)] {
        let broker = broker(release, quorum());
        let high = crate::broker::fake::Letter::default().transient(9);
        assert!(broker.send("q", b"high", high.into()));
        let low = crate::broker::fake::Letter::default().expiration("100");
        assert!(broker.send("q", b"low", low.into()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(broker.ready("q").len(), left, "{release:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_consumer_takes_over_when_the_single_active_one_ends() {
    let broker = broker(Release::V43, quorum().flag("x-single-active-consumer"));
    let mut first = open(&broker, 1).await;
    let mut second = open(&broker, 1).await;
    send(&broker, &["a", "b"]);
    assert_eq!(bodies_of(&arrived(&mut first)), ["a"]);
    assert_eq!(arrived(&mut second).len(), 0);
    ack(&first, &[1]).await.unwrap();
    assert_eq!(bodies_of(&arrived(&mut first)), ["b"]);
    first.close().await;
    let taken = arrived(&mut second);
    assert_eq!(bodies_of(&taken), ["b"]);
    assert!(taken[0].redelivered);
}
