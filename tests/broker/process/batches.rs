//! Batches: one line for several messages of a real broker.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{client, running};
use crate::support::{Consumers, DEADLINE, PublishSpec, VHost, WorkerProcess, vhost, wait_until};

/// A consumer whose co-processes get batches.
fn batching(vhost: &VHost, argv: &[String], size: u16) -> Consumers {
    let changes = format!(
        "prefetch = 128\nconcurrency = 64\nretry = {{ base = '10ms', max_attempts = 2 }}\n\
         [consumers.q.handler]\nprocesses = 2\nbatch = {{ size = {size}, max_wait = '20ms' }}"
    );
    running(vhost, argv, &changes)
}

#[tokio::test]
async fn the_client_in_python_takes_batches() {
    let vhost = vhost().await;
    let argv = ["python3".to_owned(), client("client.py")];
    let mut worker = WorkerProcess::start(&batching(&vhost, &argv, 32).toml());
    worker.wait_for_consumers(&vhost, "q", 1).await;
    let make = |n| match n % 100 {
        7 => PublishSpec::of("{\"cents\":-1}"),
        8 => PublishSpec::of("\u{ff}\n no JSON"),
        9 => PublishSpec::of([0xff, 0, 0xfe]),
        // A list has no prices: the handler raises an error, and the message is retried.
        10 => PublishSpec::of("[]"),
        _ => PublishSpec::of(format!("{{\"cents\":{n},\"text\":\"a\\nb\u{1f426}\"}}")),
    };
    vhost.publish_many("q", 500, make).await;
    vhost.wait_for_counts("q.dead", 20, 0, DEADLINE).await;
    vhost.wait_for_counts("q", 0, 0, DEADLINE).await;
    let ledger = worker.drain(DEADLINE).await;
    assert_eq!((ledger.acked, ledger.dead_lettered), (480, 20));
    let mut reasons = BTreeMap::<String, usize>::new();
    for letter in vhost.drain_all("q.dead").await {
        let reason = letter.header("lapwing-reason").as_str().unwrap_or_default();
        let error = letter.header("lapwing-error").as_str().unwrap_or_default();
        let error = error.split([':', ' ']).next().unwrap_or_default();
        *reasons.entry(format!("{reason} {error}")).or_default() += 1;
    }
    let count = |reason: &str| reasons.get(reason).copied().unwrap_or_default();
    assert_eq!(count("rejected negative"), 5, "{reasons:?}");
    assert_eq!(count("max-attempts 'list'"), 5, "{reasons:?}");
}

/// A client that writes its process id and each body to a file, and does `work` with a line.
struct Writing {
    folder: TempDir,
    argv: Vec<String>,
}

impl Writing {
    fn new(work: &str) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let script = folder.path().join("client.py");
        let text = format!(
            "import json, os, signal, sys, time\n\
             def note(text):\n    \
                 with open({:?}, 'a') as file: file.write(f'{{os.getpid()}} {{text}}\\n')\n\
             print('{{\"ready\":1,\"batch\":true}}', flush=True)\n\
             for line in sys.stdin:\n    \
                 line = json.loads(line)\n    \
                 bodies = [message['body'] for message in line['messages']]\n    \
                 note(' '.join(bodies))\n    \
                 {work}\n    \
                 outcomes = [{{'id': message['id'], 'outcome': 'succeeded'}} for message in line['messages']]\n    \
                 print(json.dumps({{'id': line['id'], 'outcomes': outcomes}}), flush=True)\n",
            Self::out(folder.path()).display().to_string()
        );
        fs::write(&script, text).expect("the file can be written");
        let argv = vec!["python3".to_owned(), script.display().to_string()];
        Self { folder, argv }
    }

    fn out(folder: &Path) -> PathBuf {
        folder.join("out")
    }

    /// The process and the bodies of each line.
    fn left(&self) -> Vec<(i32, Vec<String>)> {
        let left = fs::read_to_string(Self::out(self.folder.path())).unwrap_or_default();
        let lines = left.lines().filter_map(|line| line.split_once(' '));
        let words = |text: &str| text.split(' ').map(str::to_owned).collect();
        lines
            .map(|(process, bodies)| (process.parse().expect("an id"), words(bodies)))
            .collect()
    }

    async fn wait_for(&self, lines: usize) -> Vec<(i32, Vec<String>)> {
        let look = async || self.left();
        wait_until("it has begun", DEADLINE, look, |left| left.len() >= lines).await
    }

    /// The different bodies that have come.
    fn bodies(&self) -> Vec<String> {
        let mut bodies: Vec<_> = self.left().into_iter().flat_map(|(_, it)| it).collect();
        bodies.sort();
        bodies.dedup();
        bodies
    }
}

#[tokio::test]
async fn co_processes_that_are_killed_cost_no_message_of_their_batches() {
    const N: usize = 400;
    let vhost = vhost().await;
    let client = Writing::new("time.sleep(0.02)");
    let config = batching(&vhost, &client.argv, 8).toml();
    let config = config.replace("max_attempts = 2", "max_attempts = 8");
    let mut worker = WorkerProcess::start(&config);
    worker.wait_for_consumers(&vhost, "q", 1).await;
    vhost
        .publish_many("q", N, |n| PublishSpec::of(n.to_string()))
        .await;
    for seen in [4, 12, 20, 28] {
        let left = client.wait_for(seen).await;
        let process = Pid::from_raw(left[left.len() - 1].0).expect("an id");
        // It may have ended already, for another reason.
        let _ = kill_process(process, Signal::KILL);
    }
    vhost.wait_for_counts("q", 0, 0, DEADLINE).await;
    let ledger = worker.drain(DEADLINE).await;
    assert_eq!((ledger.acked, ledger.dead_lettered), (N as u64, 0));
    assert_eq!((ledger.parked, ledger.stale), (0, 0), "{ledger:?}");
    assert_eq!(
        client.bodies().len(),
        N,
        "each message reached a co-process"
    );
}

#[tokio::test]
async fn a_message_that_breaks_its_co_process_takes_no_neighbour_along() {
    let kinds = [
        ("os._exit(3)", "process-exit"),
        ("print('garbage', flush=True)", "process-protocol"),
        (
            "print('{\"id\":', end='', flush=True); os._exit(0)",
            "process-exit",
        ),
        (
            "[sys.stdout.write(' ' * 2**20) for _ in range(1024)]; time.sleep(1000)",
            "process-protocol",
        ),
    ];
    for (bad, class) in kinds {
        let vhost = vhost().await;
        let client = Writing::new(&format!("if 'bad' in bodies: {bad}"));
        let config = batching(&vhost, &client.argv, 32).toml();
        let config = config.replace("max_attempts = 2", "max_attempts = 1");
        let mut worker = WorkerProcess::start(&config);
        worker.wait_for_consumers(&vhost, "q", 1).await;
        let make = |n: usize| {
            PublishSpec::of(if n == 40 {
                "bad".to_owned()
            } else {
                n.to_string()
            })
        };
        vhost.publish_many("q", 100, make).await;
        vhost.wait_for_counts("q.dead", 1, 0, DEADLINE).await;
        vhost.wait_for_counts("q", 0, 0, DEADLINE).await;
        let peak = worker.peak_memory();
        let ledger = worker.drain(DEADLINE).await;
        assert_eq!((ledger.acked, ledger.dead_lettered), (99, 1), "{bad}");
        let dead = vhost.drain_all("q.dead").await;
        assert_eq!(dead[0].text(), "bad");
        assert_eq!(dead[0].header("lapwing-error-kind"), class, "{bad}");
        assert!(peak < 200 << 10, "{bad}: {peak} KiB");
    }
}

#[tokio::test]
async fn a_drain_waits_for_the_batch_of_a_co_process() {
    let vhost = vhost().await;
    let client = Writing::new("time.sleep(2)");
    let mut worker = WorkerProcess::start(&batching(&vhost, &client.argv, 32).toml());
    worker.wait_for_consumers(&vhost, "q", 1).await;
    vhost
        .publish_many("q", 10, |n| PublishSpec::of(n.to_string()))
        .await;
    client.wait_for(1).await;
    worker.terminate();
    let exit = worker.exited(DEADLINE).await;
    assert_eq!(exit.status.code(), Some(0));
    let ledger = worker.ledger();
    assert!(ledger.acked > 0, "{ledger:?}");
    assert_eq!(ledger.acked + ledger.returned, 10, "{ledger:?}");
    vhost
        .wait_for_counts("q", ledger.returned as u32, 0, DEADLINE)
        .await;
}

#[tokio::test]
async fn a_client_that_takes_no_batches_keeps_the_worker_from_starting() {
    let vhost = vhost().await;
    let argv = ["ruby".to_owned(), client("client.rb")];
    let mut worker = WorkerProcess::start(&batching(&vhost, &argv, 32).toml());
    let exit = worker.exited(DEADLINE).await;
    assert_eq!(exit.status.code(), Some(78));
    let said = worker.log();
    let says = |line: &serde_json::Value| line.to_string().contains("takes single messages");
    assert!(said.iter().any(says), "{said:?}");
}
