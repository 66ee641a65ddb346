//! The worker as a separate process, as it runs, stops and crashes in production.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use lapwing::Ledger;
use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::vhost::VHost;
use super::wait::{DEADLINE, wait_until};
use super::worker_log;

/// The time that the log may stay open after the process has ended: a child of the worker may hold
/// it.
const LOG_END: Duration = Duration::from_secs(2);

/// A running worker. Killed when dropped; a test that fails prints the end of its log.
#[derive(Debug)]
pub struct WorkerProcess {
    child: Child,
    pid: Pid,
    log: watch::Receiver<Vec<Value>>,
    readers: Vec<JoinHandle<()>>,
    /// When the last signal was sent.
    signalled: Option<Instant>,
    /// Holds the configuration file.
    folder: TempDir,
}

/// The end of a worker.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    /// How it ended.
    pub status: ExitStatus,
    /// The time from the last signal to the end; without a signal, from the start of the wait.
    pub took: Duration,
}

impl WorkerProcess {
    /// `lapwing run` with this configuration file, in a folder of its own.
    pub fn start(config: &str) -> Self {
        Self::start_with(config, |_| {})
    }

    /// The same, with its admin server: the configuration says where.
    pub fn start_with_admin(config: &str) -> Self {
        Self::start_with(config, |command| {
            command.env_remove("LAPWING__ADMIN__LISTEN");
        })
    }

    /// The same, with arguments or environment that `adjust` adds.
    ///
    /// The worker does not get the caller's `LAPWING__` variables. Its admin server is off, because
    /// many workers run at the same time: see [`Self::start_with_admin`].
    pub fn start_with(config: &str, adjust: impl FnOnce(&mut Command)) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let file = folder.path().join("lapwing.toml");
        std::fs::write(&file, config).expect("a temporary file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_lapwing"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LAPWING__") {
                command.env_remove(name);
            }
        }
        command
            .arg("run")
            .arg("--config")
            .arg(&file)
            .env("LAPWING__LOG__FORMAT", "json")
            .env("LAPWING__ADMIN__LISTEN", "off");
        adjust(&mut command);
        Self::spawn(command, folder)
    }

    /// Starts any program instead of the worker. `folder` is deleted when this value is dropped.
    pub fn spawn(mut command: Command, folder: TempDir) -> Self {
        command
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("starting {:?}: {error}", command.as_std()));
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let sender = watch::Sender::new(Vec::new());
        let log = sender.subscribe();
        let stderr = child.stderr.take().expect("it is piped");
        let stdout = child.stdout.take().expect("it is piped");
        let readers = vec![
            tokio::spawn(read(stderr, sender.clone())),
            tokio::spawn(read(stdout, sender)),
        ];
        Self {
            child,
            pid: pid.expect("a child that was not waited for has an id"),
            log,
            readers,
            signalled: None,
            folder,
        }
    }

    /// The folder it runs in, which holds its configuration file.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its process id, until [`Self::exited`] has returned.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().cast_unsigned()
    }

    /// The most memory that it has had, in KiB (`VmHWM`).
    pub fn peak_memory(&self) -> u64 {
        let status = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(status).expect("the worker runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|peak| peak.split_whitespace().next());
        peak.and_then(|kib| kib.parse().ok()).expect("a number")
    }

    /// The lines of its log up to now. A line that is not JSON becomes a string.
    pub fn log(&self) -> Vec<Value> {
        self.log.borrow().clone()
    }

    /// The first line of the log, from its beginning, for which `accept` returns true.
    ///
    /// Panics at the deadline, and at once when the log ends without such a line.
    pub async fn wait_for(
        &self,
        what: &str,
        deadline: Duration,
        accept: impl Fn(&Value) -> bool,
    ) -> Value {
        let mut log = self.log.clone();
        let found = log.wait_for(|lines| lines.iter().any(&accept));
        match tokio::time::timeout(deadline, found).await {
            Ok(Ok(lines)) => lines
                .iter()
                .find(|line| accept(line))
                .cloned()
                .expect("found above"),
            Ok(Err(_)) => panic!("the worker's log ended without {what}; {}", self.tail()),
            Err(_) => panic!(
                "waited {deadline:?} for {what} in the worker's log; {}",
                self.tail()
            ),
        }
    }

    /// The first line with this message.
    pub async fn wait_for_message(&self, message: &str, deadline: Duration) -> Value {
        let is_it = |line: &Value| worker_log::message(line) == message;
        self.wait_for(&format!("a line {message:?}"), deadline, is_it)
            .await
    }

    /// Waits until this many lines have this message, and returns them.
    pub async fn wait_for_messages(&self, message: &str, n: usize) -> Vec<Value> {
        let is_it = |line: &&Value| worker_log::message(line) == message;
        let mut log = self.log.clone();
        let enough = log.wait_for(|lines| lines.iter().filter(is_it).count() >= n);
        match tokio::time::timeout(DEADLINE, enough).await {
            Ok(Ok(lines)) => lines.iter().filter(is_it).cloned().collect(),
            ended => panic!(
                "{n} lines {message:?} did not come: {}; {}",
                ended.map_or("the time is over", |_| "the log has ended"),
                self.tail()
            ),
        }
    }

    /// Waits until this many consumers are on the queue, this worker's among them.
    ///
    /// Panics with the worker's log if the worker ends instead.
    pub async fn wait_for_consumers(&self, vhost: &VHost, queue: &str, n: u32) {
        let what = format!("queue {queue} has {n} consumers");
        let look = async || {
            let ended = self.log.has_changed().is_err();
            assert!(!ended, "the worker ended before {what}; {}", self.tail());
            vhost.consumers(queue).await
        };
        wait_until(&what, DEADLINE, look, |seen| *seen == n).await;
    }

    /// SIGTERM: drain and exit.
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
    }

    /// SIGINT: what a terminal sends.
    pub fn interrupt(&mut self) {
        self.signal(Signal::INT);
    }

    /// SIGKILL: looks like a crash to every other process.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) {
        self.signalled = Some(Instant::now());
        rustix::process::kill_process(self.pid, signal)
            .unwrap_or_else(|error| panic!("signalling the worker: {error}; {}", self.tail()));
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it is our child").is_none()
    }

    /// Waits for its end. After this the log is complete.
    pub async fn exited(&mut self, deadline: Duration) -> Exit {
        let since = self.signalled.unwrap_or_else(Instant::now);
        let status = match tokio::time::timeout(deadline, self.child.wait()).await {
            Ok(status) => status.expect("it is our child"),
            Err(_) => panic!("waited {deadline:?} for the worker's exit; {}", self.tail()),
        };
        let took = since.elapsed();
        for reader in self.readers.drain(..) {
            let _open = tokio::time::timeout(LOG_END, reader).await;
        }
        Exit { status, took }
    }

    /// The ledger in its last line. The worker must have exited.
    pub fn ledger(&self) -> Ledger {
        let lines = self.log.borrow();
        lines
            .last()
            .and_then(worker_log::ledger)
            .unwrap_or_else(|| panic!("the last line is no ledger; {}", worker_log::tail(&lines)))
    }

    /// Sends SIGTERM. The worker must exit within `deadline` with code 0. Returns its ledger, which
    /// must add up.
    pub async fn drain(&mut self, deadline: Duration) -> Ledger {
        self.terminate();
        let exit = self.exited(deadline).await;
        assert!(
            exit.status.success(),
            "the worker exited with {}; {}",
            exit.status,
            self.tail()
        );
        let ledger = self.ledger();
        worker_log::assert_adds_up(&ledger);
        ledger
    }

    fn tail(&self) -> String {
        worker_log::tail(&self.log.borrow())
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("worker {}: {}", self.pid(), self.tail());
        }
    }
}

/// Reads lines to the end of the stream.
async fn read(stream: impl AsyncRead + Unpin, log: watch::Sender<Vec<Value>>) {
    let mut lines = BufReader::new(stream).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let text = String::from_utf8_lossy(&line).into_owned();
        let line = serde_json::from_str(&text).unwrap_or(Value::String(text));
        log.send_modify(|lines| lines.push(line));
    }
}
