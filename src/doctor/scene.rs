//! What the checks look at: settings, machine, broker and handlers.

use std::{collections::BTreeMap, fs, time::Duration};

use crate::{
    broker::{Access, BrokerError, QueueShown, SurveyedQueue, Version},
    certificates::Certificate,
    config::KeyPath,
    handler::{HandlerError, HandlerSettings, Reached},
    settings::Settings,
    worker,
};

/// Reads a variable of the environment.
pub type Variable = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// What a worker would meet on this machine.
pub struct Surroundings {
    /// Reads a variable of the environment.
    pub variable: Variable,
    /// The memory limit of the container, in bytes; `None`: there is none.
    pub memory_limit: Option<u64>,
    /// The memory of the machine, in bytes, if it is known.
    pub memory: Option<u64>,
    /// The most open files that the worker may have; `None`: no limit is known.
    pub open_files: Option<u64>,
    /// The time between SIGTERM and SIGKILL (`terminationGracePeriodSeconds` of a pod), by default as
    /// `LAPWING_POD_GRACE` says; `None`: it is not known.
    pub pod_grace: Option<Duration>,
}

impl Surroundings {
    /// This machine and this environment.
    #[must_use]
    pub fn here() -> Self {
        Self {
            variable: Box::new(|name| std::env::var(name).ok()),
            memory_limit: worker::memory_limit(),
            memory: memory(),
            open_files: None,
            pod_grace: pod_grace(),
        }
    }
}

/// The grace of the pod, which nothing but this variable shows to a process.
fn pod_grace() -> Option<Duration> {
    let text = std::env::var("LAPWING_POD_GRACE").ok()?;
    humantime::parse_duration(&text).ok()
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").finish_non_exhaustive()
    }
}

/// The memory of the machine: `MemTotal` of `/proc/meminfo`.
fn memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Everything that checks look at. A check reads only what it [needs](super::check::Needs).
pub(super) struct Scene<'a> {
    pub(super) settings: &'a Settings,
    pub(super) around: &'a Surroundings,
    /// What the broker's URLs lead to.
    pub(super) places: Result<Vec<PlaceSeen>, String>,
    /// What was seen over a connection; the default without one.
    pub(super) broker: BrokerSeen,
    pub(super) handlers: Vec<HandlerSeen>,
    /// The inboxes in databases: the setting, and whether the table is there.
    pub(super) inboxes: Vec<(KeyPath, Result<Reached, HandlerError>)>,
}

impl<'a> Scene<'a> {
    /// What is known without asking anybody.
    pub(super) fn at_start(settings: &'a Settings, around: &'a Surroundings) -> Self {
        Self {
            settings,
            around,
            places: Ok(Vec::new()),
            broker: BrokerSeen::default(),
            handlers: Vec::new(),
            inboxes: Vec::new(),
        }
    }
}

/// What one of the broker's URLs leads to.
#[derive(Debug)]
pub(super) struct PlaceSeen {
    /// Host and port.
    pub(super) at: String,
    pub(super) user: String,
    pub(super) vhost: String,
    pub(super) connected: Result<Option<Version>, BrokerError>,
    /// The certificates that the broker shows.
    pub(super) certificates: Vec<Certificate>,
}

/// What a connection shows.
#[derive(Debug, Default)]
pub(super) struct BrokerSeen {
    pub(super) version: Option<Version>,
    pub(super) user: String,
    pub(super) vhost: String,
    /// Whether the user may publish retries and dead letters.
    pub(super) publish: Option<Access>,
    /// Why the management API does not tell; `None`: it does, or nobody asked.
    pub(super) management: Option<String>,
    pub(super) consumers: BTreeMap<String, ConsumerSeen>,
}

/// What the broker shows of a consumer.
#[derive(Clone, Debug, Default)]
pub(super) struct ConsumerSeen {
    pub(super) queues: Vec<SurveyedQueue>,
    /// What the management API shows, by queue.
    pub(super) shown: BTreeMap<String, QueueShown>,
    /// Whether the user may consume the queue.
    pub(super) consume: Option<Access>,
    /// The exchanges of the bindings.
    pub(super) bindings: Vec<ExchangeSeen>,
    /// Where results go.
    pub(super) forward: Option<TargetSeen>,
    /// Where the broker itself sends dead letters of the queue. `None`: it drops them, or the queue
    /// does not show it.
    pub(super) dead_letters: Option<TargetSeen>,
}

/// An exchange of a binding.
#[derive(Clone, Debug)]
pub(super) struct ExchangeSeen {
    pub(super) exchange: String,
    /// Whether the worker needs it, and it does not exist.
    pub(super) is_missing: bool,
    pub(super) bind: Access,
}

/// An exchange and a key to which messages go.
#[derive(Clone, Debug)]
pub(super) struct TargetSeen {
    /// Empty: the default exchange.
    pub(super) exchange: String,
    /// The queue, if the default exchange leads to one.
    pub(super) queue: Option<String>,
    /// Whether the exchange or the queue exists; `None`: the broker does not tell.
    pub(super) exists: Option<bool>,
    /// Whether the exchange leads to any queue; `None`: nobody knows.
    pub(super) routes: Option<bool>,
    /// Whether the user may publish there; `None`: the broker itself does.
    pub(super) publish: Option<Access>,
}

/// A handler, and whether what it needs is there.
#[derive(Debug)]
pub(super) struct HandlerSeen {
    /// The setting: `consumers.orders.handler`.
    pub(super) at: KeyPath,
    pub(super) settings: HandlerSettings,
    /// `None`: the handler is registered in code.
    pub(super) reached: Option<Result<Reached, HandlerError>>,
}
