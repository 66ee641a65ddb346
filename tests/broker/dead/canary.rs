//! A replay that waits for its first letters, with a real worker.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use lapwing::{Failure, handler::Json};
use serde_json::{Value, json};

use super::{DEAD, QUEUE, letters, run};
use crate::support::{DEADLINE, consumer, vhost};

#[tokio::test]
async fn a_replay_goes_on_only_if_its_canaries_succeed() {
    let vhost = vhost().await;
    let is_mended = Arc::new(AtomicBool::new(false));
    let mended = Arc::clone(&is_mended);
    let handle = move |Json(_): Json<Value>| {
        let mended = mended.load(Ordering::SeqCst);
        async move {
            match mended {
                true => Ok(()),
                false => Err(Failure::permanent("test", "the warehouse is closed")),
            }
        }
    };
    let worker = consumer(&vhost, QUEUE).start_with(handle).await;
    for _ in 0..5 {
        vhost.publish(QUEUE, "{}").await;
    }
    vhost.wait_for_counts(DEAD, 5, 0, DEADLINE).await;

    let replay = ["replay", "--all", "--yes", "--canary", "2"];
    let (code, out, err) = run(&vhost, &replay).await;
    assert_eq!(code, Some(3), "{out}{err}");
    for wanted in [
        "replayed 2 letters",
        "0 of 2 canaries succeeded; the other letters stay",
        "failed, is a dead letter again",
        "test: the warehouse is closed",
    ] {
        assert!(out.contains(wanted), "{wanted}: {out}");
    }
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    vhost.wait_for_counts(DEAD, 5, 0, DEADLINE).await;

    is_mended.store(true, Ordering::SeqCst);
    let (code, out, err) = run(&vhost, &[&replay[..], &["--json"]].concat()).await;
    assert_eq!(code, Some(0), "{out}{err}");
    let told: Value = serde_json::from_str(&out).expect("one document");
    assert_eq!(told["replayed"], 5);
    assert_eq!(told["canaries"]["succeeded"], 2);
    assert_eq!(told["canaries"]["failed"], json!([]));
    vhost.wait_for_counts(DEAD, 0, 0, DEADLINE).await;
    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.dead_lettered, ledger.acked), (7, 5), "{ledger:?}");
}

#[tokio::test]
async fn canaries_that_nobody_consumes_are_named_after_the_wait() {
    let vhost = letters(4).await;
    let wait = ["--canary", "2", "--canary-wait", "1s"];
    let arguments = [&["replay", "--all", "--yes"][..], &wait].concat();
    let (code, out, err) = run(&vhost, &arguments).await;
    assert_eq!(code, Some(3), "{out}{err}");
    assert!(
        out.contains("no worker reported an outcome within 1s:"),
        "{out}"
    );
    assert!(out.contains("orders.dead-00001"), "{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    vhost.wait_for_counts(DEAD, 2, 0, DEADLINE).await;
    vhost.wait_for_counts(QUEUE, 2, 0, DEADLINE).await;
}
