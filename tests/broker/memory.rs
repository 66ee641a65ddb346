//! Large messages and the memory that they may take.

use std::time::Duration;

use crate::support::{DEADLINE, PublishSpec, WorkerProcess, consumer, vhost};

#[tokio::test]
async fn two_dozen_messages_of_15_mb_take_less_than_256_mib() {
    const MESSAGES: usize = 24;
    let vhost = vhost().await;
    let settings = "[memory]\nprefetch_bytes = 67108864\n[consumers.q]\nprefetch = 24\n\
                    concurrency = 24\nhandler = { kind = 'command', argv = ['sleep', '3'] }";
    let config = consumer(&vhost, "q").with(settings).toml();
    let mut worker = WorkerProcess::start(&config);
    worker.wait_for_consumers(&vhost, "q", 1).await;
    worker.terminate();
    worker.exited(DEADLINE).await;
    let body = vec![b'x'; 15_000_000];
    let letter = |_| PublishSpec::of(body.clone());
    vhost.publish_many("q", MESSAGES, letter).await;

    let mut worker = WorkerProcess::start(&config);
    let limit = Duration::from_secs(120);
    vhost.wait_for_counts("q", 0, 0, limit).await;

    let peak = worker.peak_memory();
    worker.terminate();
    worker.exited(DEADLINE).await;
    let ledger = worker.ledger();
    assert_eq!((ledger.acked, ledger.duplicates), (24, 0), "{ledger:?}");
    assert!(peak < 256 << 10, "{peak} KiB");
}
