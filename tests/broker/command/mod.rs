//! The command handler: programs for messages of a real broker.

use std::fs;
use std::path::Path;
use std::time::Duration;

use lapwing::{ConsumerState, Readiness};
use tempfile::TempDir;

use crate::support::{
    Consumers, DEADLINE, PublishSpec, VHost, WorkerProcess, consumer, field, vhost, wait_until,
};

/// A worker with the consumer `q`, whose handler is a shell script. `$OUT` is a file in a folder of
/// the test.
struct Setup {
    vhost: VHost,
    worker: WorkerProcess,
    folder: TempDir,
}

impl Setup {
    async fn new(script: &str, changes: &str) -> Self {
        let vhost = vhost().await;
        let folder = TempDir::new().expect("a temporary folder");
        let out = folder.path().join("out");
        let worker = WorkerProcess::start(&running(&vhost, script, &out, changes).toml());
        worker.wait_for_consumers(&vhost, "q", 1).await;
        Self {
            vhost,
            worker,
            folder,
        }
    }

    fn left(&self) -> String {
        fs::read_to_string(self.folder.path().join("out")).unwrap_or_default()
    }

    async fn wait_for_left(&self, what: &str, accept: impl Fn(&str) -> bool) -> String {
        let look = async || self.left();
        wait_until(what, DEADLINE, look, |left| accept(left)).await
    }
}

fn running(vhost: &VHost, script: &str, out: &Path, changes: &str) -> Consumers {
    let out = out.display();
    let handler = format!(
        "consumers.q.handler = {{ kind = 'command', argv = ['sh', '-c', '''{script}'''], \
         env = {{ OUT = '{out}' }} }}"
    );
    let changes = format!("[consumers.q]\n{changes}");
    consumer(vhost, "q").with(&handler).with(&changes)
}

#[tokio::test]
async fn a_program_decides_by_its_exit_code_and_its_error_is_in_the_dead_letter() {
    let script = "body=$(cat)\n\
                  echo \"$LAPWING_ATTEMPT $body\" >> \"$OUT\"\n\
                  case $body in\n\
                  bad) echo \"cannot take this\" >&2; exit 65;;\n\
                  later) [ \"$LAPWING_ATTEMPT\" = 2 ] || exit 75;;\n\
                  esac";
    let mut setup = Setup::new(script, "retry = { base = '10ms' }").await;
    for body in ["good", "later", "bad"] {
        setup.vhost.publish("q", body).await;
    }
    setup.vhost.wait_for_counts("q.dead", 1, 0, DEADLINE).await;
    setup
        .wait_for_left("all have run", |left| left.lines().count() == 4)
        .await;
    let ledger = setup.worker.drain(DEADLINE).await;
    assert_eq!((ledger.acked, ledger.dead_lettered), (2, 1), "{ledger:?}");

    let mut ran: Vec<_> = setup.left().lines().map(str::to_owned).collect();
    ran.sort();
    assert_eq!(ran, ["1 bad", "1 good", "1 later", "2 later"]);
    let dead = setup.vhost.drain_all("q.dead").await.remove(0);
    assert_eq!(dead.text(), "bad");
    assert_eq!(dead.header("lapwing-reason"), "rejected");
    assert_eq!(
        dead.header("lapwing-error"),
        "exit code 65: cannot take this"
    );
}

#[tokio::test]
async fn a_program_that_finds_its_service_down_stops_the_consumer_until_it_is_back() {
    let script = "[ -e \"$OUT\" ] && exit 0; echo 'no database' >&2; exit 69";
    let vhost = vhost().await;
    let folder = TempDir::new().expect("a temporary folder");
    let out = folder.path().join("out");
    let hasty = "breaker = { probe = '100ms', probe_cap = '500ms' }";
    let worker = running(&vhost, script, &out, hasty).start().await;
    vhost
        .publish_many("q", 30, |n| PublishSpec::of(n.to_string()))
        .await;
    let is_down = |it: &Readiness| it.consumers["q"].state == ConsumerState::ServiceDown;
    worker.until("finds its service down", is_down).await;
    let reason = worker.handle.readiness().consumers["q"].reason.clone();
    let reason = reason.expect("it says why");
    assert!(reason.contains("no database"), "{reason}");

    fs::write(&out, "").expect("the file can be written");
    worker
        .wait_for_report("all are done", "q", |report| report.ledger.acked == 30)
        .await;
    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.acked, ledger.dead_lettered), (30, 0), "{ledger:?}");
}

#[tokio::test]
async fn a_drain_waits_for_a_program_and_ends_it_after_the_grace() {
    let script = "read body; echo \"$body $$\" >> \"$OUT\"\n\
                  case $body in\n\
                  slow) sleep 1; echo done >> \"$OUT\";;\n\
                  hangs) trap 'exit 0' TERM; sleep 1000 & wait;;\n\
                  esac";
    for (body, acked, code) in [("slow\n", 1, 0), ("hangs\n", 0, 4)] {
        let mut setup = Setup::new(script, "").await;
        setup.vhost.publish("q", body).await;
        let began = setup.wait_for_left("it runs", |left| left.ends_with('\n'));
        let began = began.await;
        setup.worker.terminate();
        if code == 4 {
            // A second signal ends the grace.
            setup.worker.wait_for_message("stopping", DEADLINE).await;
            setup.worker.terminate();
        }
        let exit = setup.worker.exited(DEADLINE).await;
        assert_eq!(exit.status.code(), Some(code), "{body}");
        assert_eq!(setup.worker.ledger().acked, acked, "{body}");
        setup
            .vhost
            .wait_for_counts("q", 1 - acked as u32, 0, DEADLINE)
            .await;
        let process = began.split_whitespace().nth(1).expect("it names itself");
        assert!(!Path::new("/proc").join(process).exists(), "{body}");
    }
}

#[tokio::test]
async fn output_of_a_gigabyte_costs_no_memory() {
    let script = "head -c 1000000000 /dev/zero; head -c 1000000000 /dev/zero >&2; exit 65";
    let setup = Setup::new(script, "timeout = '2m'").await;
    setup.vhost.publish("q", "{}").await;
    // A debug build on a busy machine reads two gigabytes slowly.
    let limit = Duration::from_secs(150);
    setup.vhost.wait_for_counts("q.dead", 1, 0, limit).await;
    let line = setup
        .worker
        .wait_for_message("the program wrote", DEADLINE)
        .await;
    let bytes = |name| field(&line, name).as_u64();
    assert_eq!(bytes("stdout_bytes"), Some(1_000_000_000));
    assert_eq!(bytes("stderr_bytes"), Some(1_000_000_000));
    assert!(line.to_string().len() < 100_000);
    let status = format!("/proc/{}/status", setup.worker.pid());
    let status = fs::read_to_string(status).expect("the worker runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| peak.split_whitespace().next());
    let kib: u64 = peak.and_then(|kib| kib.parse().ok()).expect("a number");
    assert!(kib < 200_000, "{kib} KiB");
}

#[tokio::test]
async fn ten_thousand_programs_leave_nothing_behind() {
    const N: usize = 10_000;
    let vhost = vhost().await;
    let changes = "handler = { kind = 'command', argv = ['true'] }\nconcurrency = 8";
    let changes = format!("[consumers.q]\n{changes}");
    let mut worker = WorkerProcess::start(&consumer(&vhost, "q").with(&changes).toml());
    worker.wait_for_consumers(&vhost, "q", 1).await;
    let process = format!("/proc/{}", worker.pid());
    let descriptors = || {
        let all = fs::read_dir(format!("{process}/fd")).expect("the worker runs");
        all.count()
    };
    let before = descriptors();
    vhost
        .publish_many("q", N, |n| PublishSpec::of(n.to_string()))
        .await;
    let limit = Duration::from_secs(300);
    let look = async || vhost.counts("q").await;
    wait_until("all are done", limit, look, |counts| {
        counts.ready + counts.unacked == 0
    })
    .await;
    let after = descriptors();
    assert!(after <= before + 8, "{before} descriptors became {after}");
    let main = format!("{process}/task/{}/children", worker.pid());
    assert!(
        fs::exists(&main).expect("the worker runs"),
        "{main} does not exist: this kernel does not tell the children of a process"
    );
    let children = fs::read_dir(format!("{process}/task")).expect("the worker runs");
    let children = children.flatten().map(|thread| {
        // A thread may end before its file is read.
        let children = fs::read_to_string(thread.path().join("children"));
        children.unwrap_or_default()
    });
    assert_eq!(children.collect::<String>(), "");
    let ledger = worker.drain(limit).await;
    assert_eq!((ledger.acked, ledger.dead_lettered), (N as u64, 0));
}
