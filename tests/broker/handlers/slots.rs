//! Handler slots of handlers that never end: others get them.

use std::future::pending;
use std::sync::{Arc, Condvar, Mutex};

use lapwing::{Context, Worker};

use super::{start, vhost};
use crate::support::{Notes, Proxy, PublishSpec, lane_settings};

const ONE: &str = "[consumers.q]\nconcurrency = 1\ntimeout = '300ms'\ncancel_grace = '100ms'";

/// Blocks threads until it is dropped in the test.
#[derive(Clone, Default)]
struct Block(Arc<(Mutex<bool>, Condvar)>);

impl Block {
    fn pass(&self) {
        let (open, changed) = &*self.0;
        let open = open.lock().expect("no panic");
        drop(changed.wait_while(open, |open| !*open).expect("no panic"));
    }

    fn open(&self) {
        *self.0.0.lock().expect("no panic") = true;
        self.0.1.notify_all();
    }
}

/// Lets the threads go, also when the test fails: its runtime would wait for them.
struct Release(Block);

impl Drop for Release {
    fn drop(&mut self) {
        self.0.open();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_thread_gives_its_slot_after_its_session_is_lost() {
    let vhost = vhost().await;
    let proxy = Proxy::to(&vhost).await;
    let changes = format!("broker.url = '{}'\n{ONE}", proxy.url(&vhost));
    let settings = lane_settings(&vhost, &["q"], &changes);
    let (notes, block) = (Notes::default(), Block::default());
    let release = Release(block.clone());
    let noting = notes.clone();
    let handler = move |context: Context| {
        let first = noting.note(&context) == 1;
        let block = block.clone();
        async move {
            if first {
                block.pass();
            }
        }
    };
    let worker = start(Worker::new(settings).handler("q", handler)).await;
    let id = vhost.publish("q", "x").await;
    notes.wait_for(1).await;

    proxy.cut().await;

    // It is delivered again, and runs.
    let runs = notes.wait_for(2).await;
    assert_eq!(runs[1].id, id);
    let done = |lane: &lapwing::LaneReport| lane.ledger.acked == 1 && lane.in_flight == 0;
    let report = worker.wait_for_report("it is acked", "q", done).await;
    assert_eq!(report.counts.handler_stuck, 1, "{report:?}");
    assert_eq!(report.running, 0, "{report:?}");
    drop(release);
    let late = |lane: &lapwing::LaneReport| lane.counts.stale_settles >= 2;
    let report = worker.wait_for_report("its end was seen", "q", late).await;
    assert_eq!((report.running, report.ledger.acked), (0, 1), "{report:?}");
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_thread_when_it_is_dropped_gives_its_slot() {
    struct Blocking(Block);
    impl Drop for Blocking {
        fn drop(&mut self) {
            self.0.pass();
        }
    }
    let vhost = vhost().await;
    let settings = lane_settings(&vhost, &["q"], ONE);
    let (notes, block) = (Notes::default(), Block::default());
    let release = Release(block.clone());
    let noting = notes.clone();
    let handler = move |context: Context| {
        noting.note(&context);
        let guard = Blocking(block.clone());
        async move {
            if context.message().id() == Some("next") {
                return std::mem::forget(guard);
            }
            let _guard = guard;
            pending::<()>().await;
        }
    };
    let worker = start(Worker::new(settings).handler("q", handler)).await;
    for id in ["first", "next"] {
        vhost.publish_with(PublishSpec::to("q").id(id)).await;
    }

    let next =
        |runs: &[crate::support::in_process::HandlerRun]| runs.iter().any(|run| run.id == "next");
    notes.wait_until("the next one runs", next).await;

    drop(release);
    worker.stop().await;
}
