//! The process handler: co-processes for messages of a real broker, and the clients of
//! `examples/process`.

mod batches;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::{
    Consumers, DEADLINE, PublishSpec, VHost, WorkerProcess, consumer, vhost, wait_until,
};

/// The file of a client.
fn client(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/process");
    folder.join(name).display().to_string()
}

/// The clients, with the programs that run them. The client in Go is compiled into the folder.
fn clients(folder: &Path) -> Vec<Vec<String>> {
    let compiled = folder.join("client-go").display().to_string();
    let arguments = ["build", "-o", &compiled, &client("client.go")].map(str::to_owned);
    let cache = folder.join("cache");
    let built = Command::new("go")
        .args(arguments)
        .env("GOCACHE", cache)
        .env("GOFLAGS", "-mod=mod")
        .env("GOTOOLCHAIN", "local")
        .output();
    let built = built.unwrap_or_else(|error| panic!("go: {error}: run scripts/runtimes install"));
    let error = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "{error}");
    let interpreted = [
        ("python3", "client.py"),
        ("node", "client.js"),
        ("ruby", "client.rb"),
        ("php", "client.php"),
    ];
    let interpreted = interpreted.map(|(program, name)| vec![program.to_owned(), client(name)]);
    interpreted.into_iter().chain([vec![compiled]]).collect()
}

fn running(vhost: &VHost, argv: &[String], changes: &str) -> Consumers {
    let handler = format!(
        "consumers.q.handler = {{ kind = 'process', argv = {argv:?}, start_timeout = '1m' }}"
    );
    let changes = format!("[consumers.q]\ntimeout = '1m'\n{changes}");
    consumer(vhost, "q").with(&handler).with(&changes)
}

#[tokio::test]
async fn the_clients_of_all_languages_do_as_the_protocol_says() {
    let folder = TempDir::new().expect("a temporary folder");
    for argv in clients(folder.path()) {
        let vhost = vhost().await;
        let config = running(&vhost, &argv, "concurrency = 2").toml();
        let mut worker = WorkerProcess::start(&config);
        worker.wait_for_consumers(&vhost, "q", 1).await;
        let make = |n| PublishSpec::of(format!("{{\"cents\":{n},\"text\":\"a\\nb\u{1f426}\"}}"));
        vhost.publish_many("q", 50, make).await;
        for body in [&b"{\"cents\":-1}"[..], b"no JSON\n", b"\xff\0\xfe"] {
            vhost.publish("q", body).await;
        }
        vhost.wait_for_counts("q.dead", 3, 0, DEADLINE).await;
        vhost.wait_for_counts("q", 0, 0, DEADLINE).await;
        let ledger = worker.drain(DEADLINE).await;
        assert_eq!((ledger.acked, ledger.dead_lettered), (50, 3), "{argv:?}");
        let dead = vhost.drain_all("q.dead").await;
        let errors: Vec<_> = dead.iter().map(|it| it.header("lapwing-error")).collect();
        assert!(errors.contains(&&"negative price".into()), "{errors:?}");

        let check = Command::new(env!("CARGO_BIN_EXE_lapwing"))
            .args(["process", "check", "--"])
            .args(&argv)
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&check.stderr);
        assert!(check.status.success(), "{argv:?}: {said}");
        let points = match argv.iter().any(|it| it.ends_with(".py")) {
            // It takes batches.
            true => 12,
            false => 9,
        };
        assert_eq!(said.matches("ok ").count(), points, "{said}");
    }
}

#[tokio::test]
async fn a_program_that_does_not_speak_the_protocol_is_told_why() {
    let check = Command::new(env!("CARGO_BIN_EXE_lapwing"))
        .args(["process", "check", "--", "sh", "-c", "echo hello; cat"])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&check.stderr);
    assert_eq!(check.status.code(), Some(1), "{said}");
    assert!(
        said.contains("FAILED") && said.contains("\"hello\""),
        "{said}"
    );
}

/// A client that writes its process id and each body to `$OUT`.
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
             print('{{\"ready\":1}}', flush=True)\n\
             for line in sys.stdin:\n    \
                 message = json.loads(line)\n    \
                 note(message['body'])\n    \
                 {work}\n    \
                 print(json.dumps({{'id': message['id'], 'outcome': 'succeeded'}}), flush=True)\n",
            Self::out(folder.path()).display().to_string()
        );
        fs::write(&script, text).expect("the file can be written");
        let argv = vec!["python3".to_owned(), script.display().to_string()];
        Self { folder, argv }
    }

    fn out(folder: &Path) -> PathBuf {
        folder.join("out")
    }

    fn left(&self) -> Vec<(i32, String)> {
        let left = fs::read_to_string(Self::out(self.folder.path())).unwrap_or_default();
        let lines = left.lines().filter_map(|line| line.split_once(' '));
        lines
            .map(|(process, body)| (process.parse().expect("an id"), body.to_owned()))
            .collect()
    }

    async fn wait_for(&self, lines: usize) -> Vec<(i32, String)> {
        let look = async || self.left();
        wait_until("it has begun", DEADLINE, look, |left| left.len() >= lines).await
    }
}

#[tokio::test]
async fn co_processes_that_are_killed_cost_no_message() {
    const N: usize = 300;
    let vhost = vhost().await;
    let client = Writing::new("time.sleep(0.005)");
    let changes = "concurrency = 3\nretry = { base = '10ms' }";
    let mut worker = WorkerProcess::start(&running(&vhost, &client.argv, changes).toml());
    worker.wait_for_consumers(&vhost, "q", 1).await;
    vhost
        .publish_many("q", N, |n| PublishSpec::of(n.to_string()))
        .await;
    for seen in [20, 80, 140, 200] {
        let left = client.wait_for(seen).await;
        let process = Pid::from_raw(left[left.len() - 1].0).expect("an id");
        // It may have ended already, for another reason.
        let _ = kill_process(process, Signal::KILL);
    }
    vhost.wait_for_counts("q", 0, 0, DEADLINE).await;
    let ledger = worker.drain(DEADLINE).await;
    assert_eq!((ledger.acked, ledger.dead_lettered), (N as u64, 0));
    assert_eq!((ledger.parked, ledger.stale), (0, 0), "{ledger:?}");
    let mut bodies: Vec<_> = client.left().into_iter().map(|(_, body)| body).collect();
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), N, "each message reached a co-process");
}

#[tokio::test]
async fn a_drain_waits_for_a_co_process_and_ends_it_after_the_grace() {
    let hangs = "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)";
    for (work, acked, code) in [("time.sleep(1)", 1, 0), (hangs, 0, 4)] {
        let vhost = vhost().await;
        let client = Writing::new(work);
        let config = running(&vhost, &client.argv, "concurrency = 1").toml();
        let mut worker = WorkerProcess::start(&config);
        worker.wait_for_consumers(&vhost, "q", 1).await;
        vhost.publish("q", "x").await;
        let (process, _) = client.wait_for(1).await[0].clone();
        worker.terminate();
        if code == 4 {
            // A second signal ends the grace.
            worker.wait_for_message("stopping", DEADLINE).await;
            worker.terminate();
        }
        let exit = worker.exited(DEADLINE).await;
        assert_eq!(exit.status.code(), Some(code), "{work}");
        assert_eq!(worker.ledger().acked, acked, "{work}");
        vhost
            .wait_for_counts("q", 1 - acked as u32, 0, DEADLINE)
            .await;
        let process = Path::new("/proc").join(process.to_string());
        assert!(!process.exists(), "{work}");
    }
}
