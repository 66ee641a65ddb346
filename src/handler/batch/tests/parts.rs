//! Calls that fail as a whole, and the calls for parts of their batches.

use super::*;

#[tokio::test(start_paused = true)]
async fn one_bad_message_among_64_is_found_and_its_neighbours_succeed_once() {
    let service = with_bad(&[37], Act::Fail(broken()));
    let handler = batching(&service, 64);
    let mut paths = Paths::default();
    paths.start_many(&handler, 64);
    let found = paths.others_succeed(&["037"]).await;
    assert_eq!(found, [Some(Outcome::Failed(broken()))]);
    assert_eq!(
        service.done(),
        names((0..64).filter(|number| *number != 37))
    );
    let mut sizes = service.sizes();
    sizes.sort_unstable();
    assert_eq!(sizes, [1, 1, 2, 2, 4, 4, 8, 8, 16, 16, 32, 32, 64]);
}

#[tokio::test(start_paused = true)]
async fn several_bad_messages_are_found_wherever_they_stand() {
    for bad in [&[0, 63][..], &[0, 1], &[31, 32], &[5, 6, 7, 40]] {
        let service = with_bad(bad, Act::Fail(broken()));
        let handler = batching(&service, 64);
        let mut paths = Paths::default();
        paths.start_many(&handler, 64);
        let bodies = names(bad.iter().copied());
        let bodies: Vec<_> = bodies.iter().map(String::as_str).collect();
        let found = paths.others_succeed(&bodies).await;
        assert_eq!(found, vec![Some(Outcome::Failed(broken())); bad.len()]);
        let good = (0..64).filter(|number| !bad.contains(number));
        assert_eq!(service.done(), names(good), "{bad:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_every_call_gets_less_than_two_calls_for_each_message() {
    let service = Service::new(|_| Act::Fail(broken()));
    let handler = batching(&service, 50);
    let mut paths = Paths::default();
    paths.start_many(&handler, 50);
    for (body, outcome) in paths.outcomes().await {
        assert_eq!(outcome, Some(Outcome::Failed(broken())), "{body}");
    }
    assert_eq!(service.calls().len(), 99);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_down_is_asked_once_for_all() {
    let down = Failure::unavailable("test", "down");
    let service = Service::new({
        let down = down.clone();
        move |_| Act::Fail(down.clone())
    });
    let handler = batching(&service, 64);
    let mut paths = Paths::default();
    paths.start_many(&handler, 64);
    for (body, outcome) in paths.outcomes().await {
        assert_eq!(outcome, Some(Outcome::Failed(down.clone())), "{body}");
    }
    assert_eq!(service.sizes(), [64]);
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_answers_for_the_service_is_asked_for_two_messages_alone() {
    let down = Failure::unavailable("test", "bad gateway").status(502);
    let service = Service::new({
        let down = down.clone();
        move |_| Act::Fail(down.clone())
    });
    let handler = batching(&service, 64);
    let mut paths = Paths::default();
    paths.start_many(&handler, 64);
    for (body, outcome) in paths.outcomes().await {
        assert_eq!(outcome, Some(Outcome::Failed(down.clone())), "{body}");
    }
    assert_eq!(service.calls()[1..], [names([0]), names([63])]);

    // A message that ends its server gets the failure, and no other does.
    for bad in [&[0][..], &[37], &[63]] {
        let service = with_bad(bad, Act::Fail(down.clone()));
        let handler = batching(&service, 64);
        let mut paths = Paths::default();
        paths.start_many(&handler, 64);
        let found = paths.others_succeed(&[&name(bad[0])]).await;
        assert_eq!(found, [Some(Outcome::Failed(down.clone()))]);
        let good = (0..64).filter(|number| !bad.contains(number));
        assert_eq!(service.done(), names(good), "{bad:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_names_a_time_is_left_alone_and_no_message_is_charged() {
    let later = Failure::retryable("test", "busy").retry_after(Duration::from_secs(30));
    let service = with_bad(&[5], Act::Fail(later));
    let handler = batching(&service, 8);
    let mut paths = Paths::default();
    paths.start_many(&handler, 8);
    for (body, outcome) in paths.outcomes().await {
        let Some(Outcome::Failed(failure)) = outcome else {
            panic!("{body}: {outcome:?}");
        };
        assert!(failure.unavailable && failure.retry_after.is_some());
    }
    assert_eq!(service.sizes(), [8]);
}

#[tokio::test(start_paused = true)]
async fn the_parts_of_a_batch_are_called_one_after_the_other() {
    let service = with_bad(&[5], Act::After(MAX_WAIT, Box::new(Act::Fail(broken()))));
    let handler = batching(&service, 16);
    let mut paths = Paths::default();
    paths.start_many(&handler, 16);
    paths.others_succeed(&["005"]).await;
    assert_eq!(service.most_open(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_with_little_time_left_is_not_in_the_call_of_later_ones() {
    let service = with_bad(&[2], Act::Hang);
    service.close();
    let handler = batching(&service, 4);
    let mut paths = Paths::default();
    paths.start(&handler, 0, &name(0));
    tokio::time::sleep(TIMEOUT.mul_f64(0.75)).await;
    for number in 1..4 {
        paths.start(&handler, number, &name(number));
    }
    tokio::time::sleep(MAX_WAIT * 2).await;
    service.open();
    paths.others_succeed(&["002"]).await;
    assert_eq!(service.calls()[..2], [names([0]), names(1..4)]);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_makes_calls_hang_is_found_before_its_time_is_over() {
    let service = with_bad(&[20], Act::Hang);
    let handler = batching(&service, 64);
    let mut paths = Paths::default();
    let began = Instant::now();
    paths.start_many(&handler, 64);
    let found = paths.others_succeed(&["020"]).await;
    assert_eq!(found, [None]);
    assert!(began.elapsed() < TIMEOUT + MAX_WAIT);
    assert_eq!(
        service.done(),
        names((0..64).filter(|number| *number != 20))
    );
    assert_eq!(service.sizes().len(), 13);
    // The last call ends when its message has left.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(service.dropped(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_call_has_half_of_the_time_and_a_message_alone_has_all_of_it() {
    for (messages, takes, calls) in [
        (4, TIMEOUT.mul_f64(0.45), vec![4]),
        (4, TIMEOUT.mul_f64(0.55), vec![4, 2, 2, 1, 1, 1, 1]),
        (1, TIMEOUT.mul_f64(0.95), vec![1]),
    ] {
        let service =
            Service::new(move |_| Act::After(takes, Box::new(Act::All(Outcome::Succeeded))));
        let handler = batching(&service, 4);
        let mut paths = Paths::default();
        paths.start_many(&handler, messages);
        paths.outcomes().await;
        assert_eq!(service.sizes(), calls, "{takes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_left_is_in_no_half() {
    let fails = Act::After(Duration::from_secs(1), Box::new(Act::Fail(broken())));
    let service = with_bad(&[0], fails);
    let handler = batching(&service, 4);
    let mut paths = Paths::default();
    paths.start_many(&handler, 4);
    service.has_begun(1).await;
    // The messages that are left were not alone in the call, so they are not charged with it.
    for left in ["001", "002", "003"] {
        paths.leaves(left).await;
    }
    service.has_begun(2).await;
    let found = paths.others_succeed(&["000"]).await;
    assert_eq!(found, [Some(Outcome::Failed(broken()))]);
    assert_eq!(service.calls(), [names(0..4), names([0])]);
}
