use tokio::time::advance;

use super::*;

const STEP: Duration = Duration::from_secs(5);

async fn look(looks: &Looks, ready: u32, limit: Option<Limit>) {
    looks.add(Look {
        ready: Ok(ready),
        dead_letters: Ok(7),
        limit,
        received: 0,
        is_subscribed: false,
        every: STEP,
    });
    advance(STEP).await;
}

async fn looks(counts: impl IntoIterator<Item = u32>, limit: Option<Limit>) -> Looks {
    let looks = Looks::default();
    for count in counts {
        look(&looks, count, limit).await;
    }
    looks
}

const BUSY: Option<Limit> = Some(Limit::Concurrency);

#[tokio::test(start_paused = true)]
async fn a_queue_that_grows_while_all_slots_are_busy_is_at_its_limit() {
    let looks = looks((0..13).map(|n| 100 + 10 * n), BUSY).await;
    let backlog = looks.backlog();
    assert_eq!((backlog.load, backlog.limit), (Load::AtLimit, BUSY));
    assert_eq!((backlog.ready, backlog.growth), (Some(220), Some(2.0)));
    assert_eq!(backlog.drain_seconds, None);
    assert_eq!(backlog.dead_letters, Some(7));
    // A slot that is free for a moment changes nothing, and one that stays free does.
    for free in 1..=3 {
        look(&looks, 220 + 10 * free, None).await;
        let load = looks.backlog().load;
        assert_eq!(load == Load::AtLimit, free <= 2, "{free}");
    }
    assert_eq!(looks.backlog().load, Load::Growing);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_shrinks_says_when_it_is_empty() {
    let looks = looks((0..7).map(|n| 1000 - 50 * n), BUSY).await;
    let backlog = looks.backlog();
    assert_eq!((backlog.load, backlog.limit), (Load::KeepingUp, None));
    assert_eq!(backlog.growth, Some(-10.0));
    assert_eq!(backlog.drain_seconds, Some(70.0));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_that_stays_the_same_keeps_its_state() {
    let looks = looks((0..13).map(|n| 1000 + 10 * n), BUSY).await;
    for count in [1121, 1117, 1125, 1119, 1120, 1118, 1123, 1120, 1121, 1119] {
        look(&looks, count, BUSY).await;
        assert_eq!(looks.backlog().load, Load::AtLimit);
    }
    for _ in 0..12 {
        look(&looks, 1000, BUSY).await;
    }
    assert_eq!(looks.backlog().load, Load::KeepingUp);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_empty_from_time_to_time_does_not_grow() {
    let looks = looks([0, 3, 9, 0, 4, 12, 30, 40], BUSY).await;
    assert_eq!(looks.backlog().load, Load::KeepingUp);
}

#[tokio::test(start_paused = true)]
async fn what_was_before_the_queue_was_empty_does_not_count() {
    let looks = looks([5, 0, 0, 0, 0, 0, 0], None).await;
    assert_eq!(looks.backlog().load, Load::KeepingUp);
    for count in 1..=6 {
        assert_ne!(looks.backlog().load, Load::AtLimit, "{count}");
        look(&looks, 10 * count, BUSY).await;
    }
    assert_eq!(looks.backlog().load, Load::AtLimit);
}

#[tokio::test(start_paused = true)]
async fn too_few_looks_and_looks_that_fail_say_nothing() {
    assert_eq!(Looks::default().backlog(), Backlog::default());
    let looks = looks([1, 20, 300, 4000, 50_000], BUSY).await;
    let backlog = looks.backlog();
    assert_eq!((backlog.load, backlog.growth), (Load::Unknown, None));
    assert_eq!(backlog.ready, Some(50_000));
    looks.add(Look {
        ready: Err("no access".to_owned()),
        dead_letters: Ok(1),
        limit: BUSY,
        received: 0,
        is_subscribed: true,
        every: STEP,
    });
    let backlog = looks.backlog();
    assert_eq!((backlog.load, backlog.ready), (Load::Unknown, None));
    assert_eq!(backlog.oldest_seconds, None);
    assert_eq!(backlog.error.as_deref(), Some("no access"));
    assert_eq!(backlog.dead_letters, Some(1));
}

#[tokio::test(start_paused = true)]
async fn the_oldest_is_as_old_as_what_is_known() {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let _set = clock::Set::to(time);
    let looks = looks([9], None).await;
    assert_eq!(looks.backlog().oldest_seconds, None, "nothing is known");
    look(&looks, 0, None).await;
    let backlog = looks.backlog();
    assert_eq!(
        (backlog.oldest_seconds, backlog.oldest_from),
        (Some(0.0), None)
    );
    look(&looks, 9, None).await;
    let oldest = |looks: &Looks| {
        let backlog = looks.backlog();
        (backlog.oldest_seconds, backlog.oldest_from)
    };
    let empty = Some(OldestFrom::EmptyQueue);
    assert_eq!(oldest(&looks), (Some(10.0), empty));
    // Published after the queue was empty, 3 s ago.
    looks.published(time + Duration::from_secs(12));
    let timestamp = Some(OldestFrom::Timestamp);
    assert_eq!(oldest(&looks), (Some(3.0), timestamp));
    // A publisher whose clock is ahead tells nothing.
    looks.published(time + Duration::from_secs(3600));
    assert_eq!(oldest(&looks), (Some(10.0), empty));
    // A message from long before the queue was empty says nothing.
    looks.published(time - Duration::from_secs(3600));
    assert_eq!(oldest(&looks), (Some(10.0), empty));
}

#[tokio::test(start_paused = true)]
async fn a_short_queue_that_goes_up_and_down_does_not_grow() {
    let looks = Looks::default();
    for count in [3, 30, 9, 21, 4, 28, 14, 5, 19, 30, 3, 25, 8, 12, 29, 6] {
        look(&looks, count, BUSY).await;
        assert_ne!(looks.backlog().load, Load::AtLimit, "{count}");
    }
    assert_eq!(looks.backlog().load, Load::KeepingUp);
}

#[tokio::test(start_paused = true)]
async fn a_count_that_is_never_made_again_is_unknown() {
    let looks = looks((0..13).map(|n| 100 + 10 * n), BUSY).await;
    assert_eq!(looks.is_at_limit(), Some(true));
    advance(STEP * STALE).await;
    let backlog = looks.backlog();
    assert_eq!((backlog.load, backlog.ready), (Load::Unknown, None));
    assert!(backlog.error.is_some() && backlog.counted_at.is_some());
    assert_eq!(looks.is_at_limit(), None);
}

/// A queue that grows, and a free consumer which receives so many messages between two looks.
async fn free(received: u64, is_subscribed: bool) -> Looks {
    let looks = Looks::default();
    for n in 0..13 {
        looks.add(Look {
            ready: Ok(100 + 10 * u32::try_from(n).unwrap()),
            dead_letters: Ok(0),
            limit: None,
            received: received * n,
            is_subscribed,
            every: STEP,
        });
        advance(STEP).await;
    }
    looks
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_gets_nothing_says_nothing_of_its_limit() {
    // Another worker is the single active consumer.
    let standby = free(0, true).await;
    assert_eq!(standby.backlog().load, Load::Unknown);
    assert_eq!(standby.is_at_limit(), None);
    let paused = free(0, false).await;
    assert_eq!(paused.backlog().load, Load::Growing);
    assert_eq!(paused.is_at_limit(), None);
    let behind = free(1, true).await;
    assert_eq!(behind.backlog().load, Load::Growing);
    assert_eq!(behind.is_at_limit(), Some(false));
}
