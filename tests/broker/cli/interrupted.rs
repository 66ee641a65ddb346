//! `lapwing publish` when a signal stops it or the broker blocks it.

use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdin};

use super::publish::{publish, with_queue};
use crate::support::{Broker, DEADLINE, QueueType, VHost, require, wait_until, within};

/// A running command whose standard input is still open.
struct Running {
    child: Child,
    input: ChildStdin,
    told: Lines<BufReader<ChildStderr>>,
}

impl Running {
    fn start(vhost: &VHost, arguments: &[&str]) -> Self {
        let mut command = publish(vhost, arguments);
        // Long enough for a busy broker: the command's own timeout is not tested here.
        command.env("LAPWING__TIMEOUTS__CHECKOUT", "30s");
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        Self {
            input: child.stdin.take().expect("it is piped"),
            told: BufReader::new(child.stderr.take().expect("it is piped")).lines(),
            child,
        }
    }

    /// The next line of its standard error.
    async fn line(&mut self) -> String {
        let line = within("a line", self.told.next_line()).await;
        line.expect("it is text").expect("it says more")
    }

    fn signal(&self, signal: Signal) {
        let pid = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()));
        kill_process(pid.expect("it runs"), signal).expect("it runs");
    }

    /// Its exit, and its further output.
    async fn ended(mut self) -> (ExitStatus, String) {
        let exit = within("the command's end", self.child.wait()).await;
        let mut rest = String::new();
        let mut told = self.told.into_inner();
        told.read_to_string(&mut rest).await.expect("it is text");
        (exit.expect("it is our child"), rest)
    }
}

#[tokio::test]
async fn a_signal_while_it_waits_for_a_line_ends_it_with_the_count() {
    let vhost = with_queue().await;
    for (number, (signal, name)) in [(Signal::INT, "SIGINT"), (Signal::TERM, "SIGTERM")]
        .into_iter()
        .enumerate()
    {
        let mut running = Running::start(&vhost, &["-q", "q"]);
        running.input.write_all(b"1\n2\n").await.expect("it reads");
        let ready = (number as u32 + 1) * 2;
        vhost.wait_for_counts("q", ready, 0, DEADLINE).await;

        running.signal(signal);
        let (exit, told) = running.ended().await;

        let expected = format!("stopped by {name}\n2 confirmed, 0 not confirmed\n");
        assert_eq!((exit.code(), told), (Some(1), expected));
    }
}

#[tokio::test]
async fn a_signal_in_the_middle_of_a_count_leaves_the_rest_out() {
    let vhost = with_queue().await;
    let arguments = ["-q", "q", "-n", "1000000000", "--rate", "50", "5"];
    let running = Running::start(&vhost, &arguments);
    let ready = async || vhost.ready("q").await;
    wait_until("some are in the queue", DEADLINE, ready, |ready| {
        *ready >= 3
    })
    .await;

    running.signal(Signal::INT);
    let (exit, told) = running.ended().await;

    assert_eq!(exit.code(), Some(1), "{told}");
    let held = vhost.drain_all("q").await.len();
    let expected = format!("stopped by SIGINT\n{held} confirmed, 0 not confirmed\n");
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_signal_while_it_connects_ends_it() {
    // Accepts the connection and sends nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let silent = silent.expect("a port is free");
    let address = silent.local_addr().expect("it is bound");
    let mut command = super::lapwing(&["publish", "-q", "q", "5"]);
    command
        .env("LAPWING__BROKER__URL", format!("amqp://{address}"))
        .stderr(Stdio::piped());
    let child = command.spawn().expect("it starts");
    let _held = within("its connection", silent.accept()).await;

    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    kill_process(pid.expect("it runs"), Signal::TERM).expect("it runs");
    let ended = super::ended(within("its end", child.wait_with_output()).await);

    let expected = "stopped by SIGTERM\n0 confirmed, 0 not confirmed\n";
    assert_eq!((ended.code, ended.err.as_str()), (Some(1), expected));
}

#[tokio::test]
async fn own_node_with_a_memory_alarm_is_told_and_waited_for_or_left() {
    let broker = require!(OwnNode, Broker::own("publish-alarm").await);
    let vhost = broker.vhost().await;
    vhost.declare("q", QueueType::Quorum).await;
    const BLOCKED: &str = "the broker has blocked publishing (a memory or disk alarm); waiting";
    let watermark = "set_vm_memory_high_watermark";
    broker.ctl(&[watermark, "0.0000001"]).await;
    // More than the command publishes at a time.
    let mut waits = Running::start(&vhost, &["-q", "q", "-n", "100", "5"]);
    let mut left = Running::start(&vhost, &["-q", "q", "-n", "3", "5"]);
    let mut hurried = Running::start(&vhost, &["-q", "q", "-n", "3", "5"]);
    for running in [&mut waits, &mut left, &mut hurried] {
        assert_eq!(running.line().await, BLOCKED);
    }

    // After a first signal the command waits a little for confirms, after a second one not at all.
    let signalled = Instant::now();
    left.signal(Signal::TERM);
    hurried.signal(Signal::INT);
    assert_eq!(hurried.line().await, "stopped by SIGINT");
    hurried.signal(Signal::TERM);
    let counts = "0 confirmed, 3 not confirmed:\n  3 × no confirm before publishing stopped\n";
    let (exit, told) = hurried.ended().await;
    assert_eq!((exit.code(), told.as_str()), (Some(1), counts));
    let (exit, told) = left.ended().await;
    let counts = format!("stopped by SIGTERM\n{counts}");
    assert_eq!((exit.code(), told), (Some(1), counts));
    let took = signalled.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");

    broker.ctl(&[watermark, "absolute", "2GB"]).await;
    let (exit, told) = waits.ended().await;
    assert_eq!((exit.code(), told.as_str()), (Some(0), "100 confirmed\n"));
}
