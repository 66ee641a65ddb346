//! Handlers that block their thread, and messages that arrived together with theirs.

use std::sync::{Arc, Barrier, Condvar, Mutex};
use std::time::Duration;

use lapwing::{Context, state::StateHandle};

use crate::support::{
    Block, DEADLINE, Gate, Notes, PublishSpec, QueueType, consumer, ms, vhost, wait_until, within,
};

/// Declares and fills the queue before the worker starts.
const CONSUMER: &str =
    "[consumers.q]\nprefetch = 40\nconcurrency = 40\ntopology = 'attach'\nqueue_type = 'classic'";

#[expect(
    clippy::disallowed_methods,
    reason = "a handler that keeps its thread is what is tested"
)]
fn keep_thread(time: Duration) {
    std::thread::sleep(time);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_thread_holds_up_none_that_came_with_it() {
    let vhost = vhost().await;
    vhost.declare("q", QueueType::Classic).await;
    let consumer = consumer(&vhost, "q").with(CONSUMER);
    let notes = Notes::default();
    let noting = notes.clone();
    let (block, release) = Block::new();
    let handler = move |context: Context| {
        let (notes, block) = (noting.clone(), block.clone());
        async move {
            match context.message().id() {
                Some("blocking") => block.pass(),
                // These wait first, so that they are tasks of the thread that will be blocked.
                Some("waiting") => tokio::time::sleep(ms(50)).await,
                _ => {}
            }
            notes.note(&context);
        }
    };
    let ids = |n: usize| match n {
        4 => "blocking",
        n if n % 2 == 0 => "waiting",
        _ => "quick",
    };
    vhost
        .publish_many("q", 30, |n| PublishSpec::of("x").id(ids(n)))
        .await;
    let worker = consumer.start_with(handler).await;

    // The handler records its run after it has blocked.
    notes.wait_for(29).await;
    drop(release);
    let runs = notes.wait_for(30).await;
    assert_eq!(runs.last().expect("30 of them").id, "blocking");
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_that_block_in_place_run_all_at_once() {
    const ALL: usize = 20;
    let vhost = vhost().await;
    vhost.declare("q", QueueType::Classic).await;
    let consumer = consumer(&vhost, "q").with(CONSUMER);
    let notes = Notes::default();
    let (noting, met) = (notes.clone(), Arc::new((Mutex::new(0), Condvar::new())));
    let handler = move |context: Context| {
        let (notes, met) = (noting.clone(), Arc::clone(&met));
        async move {
            // Each waits until all have arrived.
            let all_came = tokio::task::block_in_place(|| {
                let (count, changed) = &*met;
                let mut count = count.lock().unwrap();
                *count += 1;
                changed.notify_all();
                let limit = Duration::from_secs(20);
                let (count, _) = changed
                    .wait_timeout_while(count, limit, |count| *count < ALL)
                    .unwrap();
                *count == ALL
            });
            assert!(all_came, "they waited for each other in vain");
            notes.note(&context);
        }
    };
    vhost.publish_many("q", ALL, |_| PublishSpec::of("x")).await;
    let worker = consumer.start_with(handler).await;

    notes.wait_for(ALL).await;

    let done = |consumer: &lapwing::ConsumerReport| consumer.ledger.acked == ALL as u64;
    let report = worker.wait_for_report("all succeeded", "q", done).await;
    assert_eq!(report.counts.panicked, 0);
    worker.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_that_compute_are_spread_over_the_threads() {
    let vhost = vhost().await;
    vhost.declare("q", QueueType::Classic).await;
    let consumer = consumer(&vhost, "q").with(CONSUMER);
    let notes = Notes::default();
    let threads = Arc::new(Mutex::new(std::collections::BTreeMap::new()));
    let (noting, seen) = (notes.clone(), Arc::clone(&threads));
    let handler = move |context: Context| {
        let (notes, seen) = (noting.clone(), Arc::clone(&seen));
        async move {
            keep_thread(ms(20));
            let thread = format!("{:?}", std::thread::current().id());
            *seen.lock().unwrap().entry(thread).or_insert(0) += 1;
            notes.note(&context);
        }
    };
    vhost.publish_many("q", 30, |_| PublishSpec::of("x")).await;
    let worker = consumer.start_with(handler).await;

    notes.wait_for(30).await;

    let threads = threads.lock().unwrap().clone();
    assert!(
        threads.len() == 2 && threads.values().all(|runs| *runs >= 8),
        "{threads:?}"
    );
    worker.drain().await;
}

/// The highest number of tasks in the runtime, until there are this many notes.
async fn most_tasks(notes: &Notes, count: usize) -> usize {
    let metrics = tokio::runtime::Handle::current().metrics();
    let mut most = 0;
    let look = async || {
        most = most.max(metrics.num_alive_tasks());
        notes.runs().len()
    };
    wait_until("all have run", DEADLINE, look, |runs| *runs == count).await;
    most
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_that_keep_all_threads_leave_no_pile_of_tasks() {
    for (time, count) in [(ms(150), 40), (Duration::from_micros(300), 4_000)] {
        let vhost = vhost().await;
        vhost.declare("q", QueueType::Classic).await;
        let consumer = consumer(&vhost, "q").with(CONSUMER);
        let notes = Notes::default();
        let noting = notes.clone();
        let handler = move |context: Context| {
            let notes = noting.clone();
            async move {
                keep_thread(time);
                notes.note(&context);
            }
        };
        vhost
            .publish_many("q", count, |_| PublishSpec::of("x"))
            .await;
        let worker = consumer.start_with(handler).await;

        let most = most_tasks(&notes, count).await;

        assert!(most < 150, "{most} tasks for 40 slots, at {time:?} each");
        worker.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_update_of_the_state_that_takes_long_holds_up_no_consumer() {
    let vhost = vhost().await;
    let consumer = consumer(&vhost, "q").with("[timeouts]\ncall = '5s'");
    let (begun, end) = (Gate::default(), Arc::new(Barrier::new(2)));
    let held = (begun.clone(), Arc::clone(&end));
    let handler = move |state: StateHandle| {
        let (begun, end) = held.clone();
        let update = move |_| {
            begun.open();
            end.wait();
            None
        };
        async move { state.update("k", update).await.map(drop) }
    };
    let worker = consumer.start_with(handler).await;
    vhost.publish("q", "x").await;
    within("the update", begun.passed()).await;

    let report = worker.report("q").await;

    assert_eq!((report.running, report.ledger.acked), (1, 0));
    end.wait();
    let acked = |report: &lapwing::ConsumerReport| report.ledger.acked == 1;
    worker.wait_for_report("it is acked", "q", acked).await;
    worker.drain().await;
}
