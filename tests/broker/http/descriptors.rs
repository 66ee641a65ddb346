//! A worker whose file descriptors run out.

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::support::{
    DEADLINE, HttpHandler, PublishSpec, Reply, WorkerProcess, consumer, ms, vhost,
};

#[tokio::test]
async fn messages_are_not_charged_for_descriptors_that_run_out() {
    const MESSAGES: usize = 300;
    let vhost = vhost().await;
    let server = HttpHandler::answering(|_| Reply::ok().after(ms(20))).await;
    let many = "[consumers.q]\nprefetch = 100\nconcurrency = 100\n\
                breaker = { probe = '100ms', probe_cap = '500ms' }\n\
                retry = { base = '100ms', cap = '1s' }";
    let config = consumer(&vhost, "q").http(&server).with(many).toml();
    let mut worker = WorkerProcess::start(&config);
    worker.wait_for_consumers(&vhost, "q", 1).await;
    let open = std::fs::read_dir(format!("/proc/{}/fd", worker.pid()));
    let few = open.expect("it runs").count() as u64 + 8;
    let pid = Pid::from_raw(worker.pid().cast_signed());
    let limit = Rlimit {
        current: Some(few),
        ..getrlimit(Resource::Nofile)
    };
    prlimit(pid, Resource::Nofile, limit).expect("the process is ours");
    let id = |index: usize| PublishSpec::of("x").id(&index.to_string());
    let ids = vhost.publish_many("q", MESSAGES, id).await;

    server.wait_for_success(&ids).await;

    let log = worker.log();
    let says = |line: &serde_json::Value| line.to_string().contains("Too many open files");
    assert!(log.iter().any(says), "the test has made it happen");
    let ledger = worker.drain(DEADLINE).await;
    assert_eq!((ledger.acked, ledger.dead_lettered), (300, 0), "{ledger:?}");
    let seen = server.seen();
    let attempts = seen.exchanges.iter().map(|it| it.request.attempt());
    let most = attempts.max().expect("there are some");
    assert!(most <= 3, "{most} attempts, of 20");
}
