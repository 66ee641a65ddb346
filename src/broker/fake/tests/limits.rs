//! Delivery limits, lengths, times to live, policies and permissions.

use super::*;
use crate::broker::fake::{DEFAULT_EXCHANGE, Overflow, Permission, Policy};

/// Returns the only message until it is gone or has been returned 25 times. Its number of returns.
async fn returns_until_gone(release: Release) -> usize {
    let broker = broker(release, quorum());
    send(&broker, &["a"]);
    let mut session = open(&broker, 1).await;
    for count in 0..25 {
        let Some(delivery) = arrived(&mut session).pop() else {
            assert_eq!(broker.dropped().len(), 1);
            return count;
        };
        nack(&session, &[delivery.tag]).await;
    }
    25
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_returned_21_times_is_gone_on_4_0_only() {
    assert_eq!(returns_until_gone(Release::V3).await, 25);
    assert_eq!(returns_until_gone(Release::V40).await, 21);
    assert_eq!(returns_until_gone(Release::V43).await, 25);
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_closes_counts_against_the_limit_on_each_release() {
    for release in RELEASES {
        let arguments = quorum().int("x-delivery-limit", 1).dead_letters_to("dead");
        let broker = broker(release, arguments);
        send(&broker, &["a"]);
        open(&broker, 1).await.close().await;
        assert_eq!(in_queue(&broker, "q"), ["a"]);
        open(&broker, 1).await.close().await;
        assert_eq!(in_queue(&broker, "dead"), ["a"], "{release:?}");
        let dead = &broker.ready("dead")[0];
        assert_eq!(dead.header("x-first-death-reason"), Some("delivery_limit"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_quorum_queue_delivers_returned_messages_first_and_a_classic_one_in_their_place() {
    for (kind, order) in [(Type::Quorum, ["c", "a"]), (Type::Classic, ["a", "c"])] {
        let broker = broker(Release::V43, Arguments::of(kind));
        send(&broker, &["a", "b", "c", "d"]);
        let mut session = open(&broker, 3).await;
        assert_eq!(arrived(&mut session).len(), 3);
        session.cancel().await.unwrap();
        nack(&session, &[3, 1]).await;
        assert_eq!(in_queue(&broker, "q")[..2], order);
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_quorum_queue_refuses_until_it_has_shrunk_to_four_fifths() {
    let arguments = quorum().int("x-max-length", 5);
    let broker = broker(Release::V43, arguments.text("x-overflow", "reject-publish"));
    send(&broker, &["1", "2", "3", "4", "5", "one too many"]);
    let refused = |told| matches!(told, Err(PublishError::Nacked));
    assert!(refused(publish(&broker, b"6").await));
    broker.take("q");
    assert!(refused(publish(&broker, b"6").await));
    broker.take("q");
    assert!(publish(&broker, b"6").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_policy_shortens_the_time_to_live_of_later_messages_and_lets_a_queue_overflow() {
    let broker = broker(Release::V3, quorum().int("x-message-ttl", 8_000));
    let policy = Policy {
        message_ttl: Some(Duration::from_secs(3)),
        max_length: Some(2),
        overflow: Some(Overflow::DropHead),
        ..Policy::default()
    };
    send(&broker, &["before"]);
    broker.set_policy("", policy);
    send(&broker, &["a", "b", "c"]);
    assert_eq!(in_queue(&broker, "q"), ["b", "c"]);
    tokio::time::sleep(Duration::from_millis(3_010)).await;
    assert_eq!(in_queue(&broker, "q"), [""; 0]);
    broker.clear_policy("");
    send(&broker, &["a", "b", "c"]);
    tokio::time::sleep(Duration::from_millis(3_010)).await;
    assert_eq!(in_queue(&broker, "q"), ["a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn a_queue_without_consumers_expires_with_its_messages() {
    let broker = broker(Release::V43, quorum().int("x-expires", 5_000));
    send(&broker, &["a"]);
    let session = open(&broker, 1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    session.close().await;
    assert_eq!(in_queue(&broker, "q"), ["a"]);
    tokio::time::sleep(Duration::from_millis(5_010)).await;
    let depths = broker.depths(vec!["q".to_owned()]).await.unwrap();
    assert_eq!(depths, [("q".to_owned(), None)]);
    assert_eq!(broker.dropped().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_missing_permission_and_a_message_that_is_too_long_are_refused_with_their_codes() {
    let broker = broker(Release::V43, quorum());
    broker.deny(Permission::Read, "q");
    let refused = broker.clone().open(&spec("q", 1), "tag").await.err();
    assert!(matches!(refused, Some(BrokerError::Refused(text)) if text.ends_with("(403)")));
    broker.deny(Permission::Write, DEFAULT_EXCHANGE);
    let refused = publish(&broker, b"a").await.unwrap_err().to_string();
    assert!(refused.ends_with("(403)"), "{refused}");
    broker.allow(Permission::Write, DEFAULT_EXCHANGE);
    broker.set_max_message_size(Some(3));
    let refused = publish(&broker, b"long").await.unwrap_err().to_string();
    assert!(refused.ends_with("(406)"), "{refused}");
    assert!(publish(&broker, b"a").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_queue_with_other_arguments_is_refused_by_the_name_of_the_argument() {
    let broker = broker(Release::V43, quorum());
    let other = quorum().int("x-max-length", 3);
    let found = broker.declare_with("q", other).unwrap_err();
    assert_eq!(
        found[0].to_string(),
        "queue \"q\": x-max-length is not set, wanted '3'"
    );
}
