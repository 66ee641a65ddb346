//! A program that runs in a process group of its own: its start, its pipes and its end.
//!
//! The program is the leader of its group. When it has ended, the rest of the group is killed, so
//! that nothing that it started stays behind. Until then the leader stays a zombie: the system gives
//! its id to no other process, and a signal to the group reaches nobody else.

mod output;
mod program;
#[cfg(test)]
pub(super) mod tests;

use std::{
    io,
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    process::ExitStatus,
    time::Duration,
};

use nix::sys::signal::Signal as Named;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions, kill_process_group, pidfd_open,
    waitid, waitpgid,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::unix::pipe,
    runtime::Handle,
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;

pub(super) use output::{Kept, Tail, Take, drain, rest};
pub(super) use program::{Environment, Limits, PREFIX, Program, check_environment};

/// A program that runs, with its pipes.
pub(super) struct Child {
    pub(super) stdin: Option<pipe::Sender>,
    pub(super) stdout: pipe::Receiver,
    pub(super) stderr: pipe::Receiver,
    pub(super) ending: Ending,
}

/// The end of a running program. If this is dropped before the program has ended, a task ends the
/// program: SIGTERM to its group, and SIGKILL after the grace.
pub(super) struct Ending {
    /// `None` once the program has ended.
    leader: Option<Leader>,
    grace: Duration,
    /// The tasks that end programs.
    ends: TaskTracker,
}

impl Ending {
    /// The program's process id, which is also the id of its group.
    pub(super) fn id(&self) -> Option<u32> {
        self.leader.as_ref().map(|leader| leader.process.id())
    }

    /// Waits until the program has ended.
    pub(super) async fn ended(&self) {
        if let Some(leader) = &self.leader {
            leader.ended().await;
        }
    }

    /// Kills what is left of the group, and returns the status of a program that has ended.
    pub(super) fn reap(&mut self) -> io::Result<ExitStatus> {
        let Some(leader) = self.leader.take() else {
            return Err(io::Error::other("the program's status was taken before"));
        };
        let group = leader.group;
        let status = leader.reap();
        if has_orphans(group) {
            self.ends.spawn(reap_orphans(group));
        }
        status
    }

    /// Ends the program: SIGTERM to its group, and SIGKILL after the grace.
    pub(super) async fn shut_down(&mut self) -> io::Result<ExitStatus> {
        if let Some(leader) = &self.leader {
            leader.shut_down(self.grace).await;
        }
        self.reap()
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        // Without a runtime the leader's destructor kills the program at once.
        if let (Some(leader), Ok(runtime)) = (self.leader.take(), Handle::try_current()) {
            let grace = self.grace;
            let end = async move {
                leader.shut_down(grace).await;
                let group = leader.group;
                let _ = leader.reap();
                reap_orphans(group).await;
            };
            self.ends.spawn_on(end, &runtime);
        }
    }
}

/// The leader of the group.
struct Leader {
    process: std::process::Child,
    group: Pid,
    exit: Exit,
    is_reaped: bool,
}

/// How the worker sees that a program has ended.
enum Exit {
    /// A descriptor that is readable from then on.
    Descriptor(AsyncFd<OwnedFd>),
    /// There is no such descriptor: an old kernel, a sandbox, or no descriptor is free. The worker
    /// looks again and again.
    Polled,
}

impl Exit {
    #[expect(
        deprecated,
        reason = "its successor is unsafe, and this crate forbids that; an OwnedFd stays valid"
    )]
    fn of(process: Pid) -> Self {
        let watched = pidfd_open(process, PidfdFlags::NONBLOCK)
            .or_else(|_| pidfd_open(process, PidfdFlags::empty()))
            .map_err(io::Error::from)
            .and_then(|fd| AsyncFd::with_interest(fd, Interest::READABLE));
        watched.map_or(Self::Polled, Self::Descriptor)
    }
}

impl Leader {
    fn new(process: std::process::Child) -> Self {
        let group = Pid::from_child(&process);
        Self {
            process,
            group,
            exit: Exit::of(group),
            is_reaped: false,
        }
    }

    async fn ended(&self) {
        match &self.exit {
            Exit::Descriptor(watched) => {
                if watched.readable().await.is_err() {
                    self.polled().await;
                }
            }
            Exit::Polled => self.polled().await,
        }
    }

    async fn polled(&self) {
        const LONGEST: Duration = Duration::from_millis(50);
        let mut wait = Duration::from_millis(1);
        while self.runs() {
            sleep(wait).await;
            wait = (wait * 2).min(LONGEST);
        }
    }

    fn runs(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        matches!(waitid(WaitId::Pid(self.group), options), Ok(None))
    }

    async fn shut_down(&self, grace: Duration) {
        self.signal(Signal::TERM);
        // Either the program ends, or SIGKILL ends it.
        let _ = timeout(grace, self.ended()).await;
        self.signal(Signal::KILL);
        self.ended().await;
    }

    /// Sends a signal to the group. An error means that nobody is left to get it.
    fn signal(&self, signal: Signal) {
        let _ = kill_process_group(self.group, signal);
    }

    fn reap(mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::KILL);
        self.is_reaped = true;
        self.process.wait()
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if !self.is_reaped {
            self.signal(Signal::KILL);
            // The runtime ends, and with it this process. Its zombies end with it.
            let _ = self.process.try_wait();
        }
    }
}

/// Whether this process has children in a group whose leader was reaped. It has if it is process 1,
/// as in a container: then it inherits what a program leaves behind.
fn has_orphans(group: Pid) -> bool {
    while let Ok(found) = waitpgid(group, WaitOptions::NOHANG) {
        if found.is_none() {
            return true;
        }
    }
    false
}

/// Reaps the killed children of a group.
async fn reap_orphans(group: Pid) {
    const LIMIT: Duration = Duration::from_secs(5);
    const WAIT: Duration = Duration::from_millis(5);
    let reaped = async {
        while has_orphans(group) {
            sleep(WAIT).await;
        }
    };
    // A process that does not die at SIGKILL waits for a device.
    let _ = timeout(LIMIT, reaped).await;
}

/// How a program ended, for people: `exit code 1`, `killed by SIGSEGV`.
pub(super) fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(number)) => {
            let name = Named::try_from(number).map(Named::as_str);
            match name {
                Ok(name) => format!("killed by {name}"),
                Err(_) => format!("killed by signal {number}"),
            }
        }
        (None, None) => "ended".to_owned(),
    }
}
