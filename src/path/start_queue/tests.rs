use super::*;
use futures_util::FutureExt;

/// A queue with these deliveries, and the time at which they were put there.
fn queue(runs: std::ops::Range<u32>) -> (StartQueue<u32>, Instant) {
    queue_with(usize::MAX >> 3, runs)
}

/// The delivery that a runner takes. Its slot is given back at once.
fn take(starts: &StartQueue<u32>, first: bool, now: Instant) -> Option<u32> {
    let (delivery, _slot) = starts.take(first, now)?;
    Some(delivery)
}

/// As [`queue`], with this number of slots.
fn queue_with(slots: usize, runs: std::ops::Range<u32>) -> (StartQueue<u32>, Instant) {
    let (starts, now) = (
        StartQueue::new(Arc::new(Slots::new(slots)), None),
        Instant::now(),
    );
    assert!(
        starts.put(&mut runs.collect(), now),
        "nobody is there to take them"
    );
    (starts, now)
}

#[test]
fn a_slot_that_comes_free_is_taken_by_the_path_that_had_it_or_by_a_runner_for_it() {
    let (starts, now) = queue_with(2, 0..5);
    let (delivery, first) = starts.take(true, now).unwrap();
    assert_eq!(delivery, 0);
    assert!(starts.leave());
    let (delivery, second) = starts.take(true, now).unwrap();
    assert_eq!(delivery, 1);
    assert!(!starts.leave(), "no slot is free");
    assert!(!starts.put(&mut vec![5], now));
    assert_eq!(starts.missing(now + SLOW), 0);
    assert!(starts.look_at(now).is_none());

    drop(first);
    starts.join();
    let (delivery, _third) = starts.take(false, now).unwrap();
    assert_eq!(delivery, 2, "from path to path");
    assert!(!starts.leave());

    drop(second);
    assert!(starts.look_at(now).is_some());
    assert!(starts.pass_on(), "its path goes on without it");
    assert!(!starts.pass_on(), "one comes for it");
    let (delivery, _fourth) = starts.take(true, now).unwrap();
    assert_eq!(delivery, 3);
    assert!(starts.take(false, now).is_none());
    assert_eq!(starts.waiting(), 2);
}

#[test]
fn nothing_starts_while_the_gate_is_closed_and_what_is_withdrawn_never_does() {
    let (starts, now) = queue(0..3);
    assert_eq!(take(&starts, true, now), Some(0));
    starts.hold(true);
    assert_eq!(take(&starts, false, now), None);
    assert!(!starts.put(&mut vec![3], now + SLOW));
    assert_eq!(starts.missing(now + SLOW), 0);
    starts.hold(false);
    assert_eq!(starts.missing(now + SLOW), 1);
    assert_eq!(take(&starts, true, now), Some(1));
    assert_eq!(starts.withdraw(), [2, 3]);
    assert_eq!(take(&starts, false, now), None);
}

#[test]
fn while_first_attempts_are_suspended_each_is_admitted_alone() {
    let (starts, now) = queue(0..3);
    starts.suspend(true);
    assert_eq!(take(&starts, true, now), None);
    assert_eq!(starts.missing(now + SLOW), 0);
    starts.admit();
    starts.admit();
    assert!(starts.has_admitted());
    assert_eq!(starts.missing(now + SLOW), 1);
    assert_eq!(take(&starts, true, now), Some(0));
    assert!(!starts.has_admitted());
    assert_eq!(take(&starts, false, now), None);
    starts.admit();
    starts.hold(true);
    assert_eq!(starts.missing(now + SLOW), 0, "held as well");
    starts.hold(false);
    starts.suspend(false);
    assert!(!starts.has_admitted());
    starts.admit();
    assert_eq!(starts.missing(now + SLOW), 1);
    assert_eq!(take(&starts, true, now), Some(1));
    assert_eq!(take(&starts, false, now), Some(2));
}

#[test]
fn one_runner_takes_all_in_order_and_what_comes_meanwhile() {
    let (starts, now) = queue(0..2);
    assert_eq!(take(&starts, true, now), Some(0));
    assert!(!starts.put(&mut vec![2], now));
    assert_eq!(take(&starts, false, now), Some(1));
    assert_eq!(take(&starts, false, now), Some(2));
    assert_eq!(take(&starts, false, now), None);
    assert!(starts.put(&mut vec![3], now), "it has gone");
}

#[test]
fn a_runner_that_stays_with_its_path_is_replaced_where_others_wait() {
    let (starts, now) = queue(0..2);
    assert_eq!(take(&starts, true, now), Some(0));
    assert!(starts.leave());
    assert_eq!(take(&starts, true, now), Some(1));
    assert!(!starts.leave());
    assert!(starts.put(&mut vec![2], now));
    starts.join();
    assert_eq!(take(&starts, false, now), Some(2));
    assert_eq!(take(&starts, false, now), None);
    assert_eq!(take(&starts, true, now), None);
    assert!(starts.put(&mut vec![3], now), "both have gone");
}

#[test]
fn what_arrives_behind_a_handler_that_keeps_its_thread_brings_its_own_runner() {
    let (starts, now) = queue(0..1);
    assert_eq!(take(&starts, true, now), Some(0));
    assert!(!starts.put(&mut vec![1], now + SLOW / 2));
    assert!(starts.put(&mut vec![2], now + SLOW));
}

#[test]
fn runners_are_added_while_none_takes_anything_up_to_one_for_each_that_waits() {
    let (starts, now) = queue(0..10);
    assert_eq!(starts.missing(now), 0, "it has just been asked for");
    let later = now + SLOW;
    let added: Vec<_> = (0..6).map(|_| starts.missing(later)).collect();
    assert_eq!(added, [1, 2, 4, 2, 0, 0], "beside the first one");
    assert_eq!(take(&starts, true, later), Some(0));
    assert_eq!(starts.missing(later), 0);
    assert_eq!(starts.missing(later + SLOW), 0, "nine wait for nine");
}

#[test]
fn a_slow_runner_becomes_two_where_there_is_work_for_two() {
    let (starts, now) = queue(0..3);
    assert_eq!(take(&starts, true, now), Some(0));
    assert!(!starts.split(SLOW / 2));
    assert!(starts.split(SLOW));
    assert_eq!(take(&starts, true, now), Some(1));
    assert!(!starts.split(SLOW), "one is left, and another runner comes");
}

/// Plays the handlers' runtime, with runners as its tasks, oldest first, and a lane that always has
/// more to start.
#[test]
fn runners_do_not_pile_up_while_slow_handlers_have_a_backlog() {
    const BACKLOG: u32 = 30;
    let (starts, mut now) = queue(0..BACKLOG);
    let mut first = VecDeque::from([true]);
    for next in BACKLOG..10_000 {
        now += SLOW;
        first.extend((0..starts.missing(now)).map(|_| true));
        let runner = first.pop_front().expect("one is left");
        if take(&starts, runner, now).is_some() {
            now += SLOW;
            first.extend(starts.put(&mut vec![next], now).then_some(true));
            match (next % 3 == 0, starts.split(SLOW)) {
                (_, true) => first.extend([true, true]),
                (true, false) if starts.leave() => first.push_back(true),
                (true, false) => {}
                (false, false) => first.push_front(false),
            }
        }
        let tasks = first.len();
        assert!(tasks <= BACKLOG as usize + 2, "{tasks} at {next}");
    }
}

#[test]
fn first_and_further_attempts_get_slots_in_turn() {
    let (starts, now) = queue_with(1, 0..3);
    let (delivery, mut slot) = starts.take(true, now).unwrap();
    assert_eq!(delivery, 0);
    let mut paths = [(); 2].map(|()| Box::pin(starts.retake()));
    for path in &mut paths {
        assert!(path.now_or_never().is_none(), "no slot is free");
    }

    for (path, next) in paths.iter_mut().zip([1, 2]) {
        drop(slot);
        let (delivery, first_attempt) = starts.take(false, now).unwrap();
        assert_eq!(delivery, next);
        drop(first_attempt);
        assert!(starts.take(false, now).is_none());
        slot = path.now_or_never().expect("it has the slot");
        assert!(!starts.pass_on(), "no other is free");
        starts.join();
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_lets_first_and_further_attempts_start_one_after_the_other() {
    let interval = Duration::from_millis(100);
    let now = Instant::now();
    let rate = RateLimit::new(interval, 2, now);
    let starts = StartQueue::new(Arc::new(Slots::new(9)), Some(rate));
    assert!(starts.put(&mut vec![0, 1, 2, 3], now));
    assert_eq!(take(&starts, true, now), Some(0));
    assert_eq!(take(&starts, false, now), Some(1));
    assert_eq!(take(&starts, false, now), None);
    assert_eq!(starts.missing(now + SLOW), 0);
    let opens = starts.look_at(now).unwrap();
    assert_eq!(opens - now, interval);

    let mut further = std::pin::pin!(starts.retake());
    assert!((&mut further).now_or_never().is_none());
    tokio::time::sleep_until(opens).await;
    assert_eq!(starts.missing(opens + SLOW), 1);
    assert_eq!(take(&starts, true, opens), None, "the rate allowed one");
    assert!((&mut further).now_or_never().is_some());
    tokio::time::sleep(interval).await;
    assert_eq!(starts.missing(opens + SLOW), 1);
    assert_eq!(take(&starts, true, opens), Some(2));
    drop(starts.withdraw());
    assert_eq!(starts.look_at(opens), None, "nothing waits");
    tokio::time::sleep(interval).await;
    assert!(starts.retake().now_or_never().is_some());
    assert!(starts.retake().now_or_never().is_none());
}
