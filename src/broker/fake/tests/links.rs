//! What is on its way when a connection, a channel or a leader is lost.

use super::*;
use crate::broker::fake::Fault;

const LATENCY: Duration = Duration::from_millis(5);

#[tokio::test(start_paused = true)]
async fn of_the_acks_on_their_way_the_broker_applies_the_first_ones_as_decided() {
    for applied in 0..=3 {
        let broker = broker(Release::V43, quorum());
        send(&broker, &["a", "b", "c"]);
        let mut session = open(&broker, 3).await;
        assert_eq!(arrived(&mut session).len(), 3);
        broker.set_latency(LATENCY);
        let mut left = applied;
        broker.decide_with(move || {
            left -= 1;
            left >= 0
        });
        ack(&session, &[1, 2, 3]).await.unwrap();
        assert_eq!(broker.unacked(), 3);
        broker.fail(Fault::ConnectionLost);
        let back = ["a", "b", "c"];
        assert_eq!(in_queue(&broker, "q"), back[applied as usize..]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_closes_at_once_loses_all_acks_but_32_on_a_quorum_queue() {
    for (kind, lost) in [(Type::Quorum, 68), (Type::Classic, 0)] {
        let broker = broker(Release::V3, Arguments::of(kind));
        send(&broker, &["a"; 100]);
        let mut session = open(&broker, 0).await;
        let tags: Vec<_> = arrived(&mut session).iter().map(|it| it.tag).collect();
        broker.set_latency(LATENCY);
        ack(&session, &tags).await.unwrap();
        session.close().await;
        assert_eq!(broker.ready("q").len(), lost);
    }
}

#[tokio::test(start_paused = true)]
async fn acks_for_a_queue_without_a_leader_are_lost_with_their_channel() {
    let broker = broker(Release::V43, quorum());
    send(&broker, &["a", "b"]);
    let session = open(&broker, 2).await;
    broker.fail(Fault::LeaderLost("q".to_owned()));
    ack(&session, &[1, 2]).await.unwrap();
    session.close().await;
    broker.elect("q");
    assert_eq!(in_queue(&broker, "q"), ["a", "b"]);

    let session = open(&broker, 2).await;
    broker.fail(Fault::LeaderLost("q".to_owned()));
    ack(&session, &[1, 2]).await.unwrap();
    broker.elect("q");
    session.close().await;
    assert_eq!(in_queue(&broker, "q"), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_publish_to_a_queue_without_a_leader_is_confirmed_when_there_is_one() {
    let broker = broker(Release::V43, quorum());
    broker.fail(Fault::LeaderLost("q".to_owned()));
    let publishing = tokio::spawn({
        let broker = broker.clone();
        async move { publish(&broker, b"a").await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!publishing.is_finished());
    broker.elect("q");
    assert!(publishing.await.unwrap().is_ok());
    assert_eq!(in_queue(&broker, "q"), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_takes_too_long_on_a_slow_link_costs_the_connection() {
    let broker = broker(Release::V43, quorum());
    broker.set_bandwidth(Some(1_000));
    let began = tokio::time::Instant::now();
    assert!(publish(&broker, &[0; 2_000]).await.is_ok());
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    let refused = publish(&broker, &[0; 20_000]).await;
    assert!(matches!(refused, Err(PublishError::Unconfirmed(_))));
    let down = publish(&broker, b"a").await;
    assert!(matches!(down, Err(PublishError::NoChannel(_))));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(publish(&broker, b"a").await.is_ok());
    assert_eq!(broker.ready("q").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_takes_the_sessions_of_its_worker_only() {
    let broker = broker(Release::V43, quorum());
    let other = broker.another_worker();
    let ours = [open(&broker, 1).await, open(&broker, 1).await];
    let theirs = open(&other, 1).await;
    ours[0].kill();
    assert!(!ours[1].is_usable());
    assert!(theirs.is_usable());
    broker.fail(Fault::PublishingLost);
    assert!(publish(&broker, b"a").await.is_err());
    assert!(publish(&other, b"a").await.is_ok());
}
