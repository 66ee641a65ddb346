//! `handler = { kind = "process" }`.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ProcessHandler, pool::Terms};
use crate::{
    config::{DAY, Findings, HOUR, KIND, KeyPath, Secret, Span},
    handler::{
        Handler, HandlerError, HandlerFuture, Reached,
        batch::BatchSettings,
        child::{Environment, Limits, Program, check_environment},
        kind::{Classes, Kind},
    },
    outcome::{Failure, Outcome},
};

/// The handler gives messages to co-processes: programs that it starts before the first message, and
/// that run on. A co-process reads messages from its standard input and writes outcomes to its
/// standard output, as lines of JSON: see [process-protocol.md](process-protocol.md), which also has
/// clients in several languages. Each co-process has one message at a time, or one batch, so that a
/// crash names its message. Its standard error goes to the worker's log, line by line.
///
/// If a co-process ends by itself, the handler retries its message (class `process-exit`) and starts
/// the co-process again at once. The handler waits from 100 ms to 10 s before a start if the co-process
/// has ended without an answer three times in a row, or did not start. If a co-process breaks the
/// protocol, for instance by a line longer than 1 MiB, the handler ends the co-process and retries its
/// message (class `process-protocol`). While no co-process starts, messages are `unavailable` (class
/// `process-start`).
///
/// At the consumer's `timeout`, and when the grace of a drain ends, the handler ends the co-process
/// that has the message: SIGTERM to its process group, and SIGKILL after `kill_after`. A co-process that
/// has a batch goes on with it until no message of the batch waits any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["argv"]))]
pub struct ProcessHandlerSettings {
    /// The program and its arguments. A name without a slash is looked up in the worker's `PATH` at
    /// the start. Required.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(example = ["python3", "handle.py"])]
    pub argv: Vec<String>,
    /// Variables of the co-processes' environment, as a table. Their values never print. Default:
    /// none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, String>", example = example_env())]
    pub env: BTreeMap<String, Secret>,
    /// The names of variables that co-processes get from the worker's environment, if they are set
    /// there. They get no others but those of `env`. Default: `["PATH"]`.
    #[schemars(example = ["PATH", "HOME", "DATABASE_URL"])]
    pub pass_env: Vec<String>,
    /// The directory in which co-processes run. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/srv/orders")]
    pub directory: Option<PathBuf>,
    /// The number of co-processes. Not set: as many as the consumer's `concurrency`, divided by
    /// `batch.size`, and at least two with batches. Fewer: messages wait for a free co-process, and that
    /// counts against their `timeout`. Each route with such a handler has so many of its own, although all
    /// routes share the `concurrency`. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000), example = 4)]
    pub processes: Option<u16>,
    /// How long a co-process may take until it is ready. Too low: a slow start counts as a failure.
    /// Too high: a co-process that hangs is noticed late. At the start of the worker the consumer's
    /// `timeout` is a limit too. Default: `10s`.
    #[serde(with = "Span::<1, HOUR>")]
    pub start_timeout: Duration,
    /// How long a co-process may take to end: after its input is closed, and again after SIGTERM. Too
    /// low: it cannot clean up. Longer than half of the consumer's `cancel_grace`: the worker may stop
    /// before its co-processes. Default: `500ms`.
    #[serde(with = "Span::<0, HOUR>")]
    pub kill_after: Duration,
    /// The most messages of a co-process. After that many it is replaced, which helps against leaks
    /// of memory. Its last batch may pass this number. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), example = 10_000)]
    pub max_messages: Option<u32>,
    /// The longest life of a co-process. It is replaced before the next message. `0s` sets no limit.
    /// Default: `0s`.
    #[serde(with = "Span::<0, { 365 * DAY }>")]
    pub max_lifetime: Duration,
    /// The most memory that each process may write to, in MiB (`RLIMIT_DATA`, which `/bin/sh` sets
    /// before it becomes the program). Too low: the program fails to start, or ends in an odd way.
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), example = 512)]
    pub memory_mib: Option<u32>,
    /// Several messages in one line.
    pub batch: BatchSettings,
}

fn example_env() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([("DATABASE_URL", "postgres://...")])
}

impl Default for ProcessHandlerSettings {
    fn default() -> Self {
        Self {
            argv: Vec::new(),
            env: BTreeMap::new(),
            pass_env: vec!["PATH".to_owned()],
            directory: None,
            processes: None,
            start_timeout: Duration::from_secs(10),
            kill_after: Duration::from_millis(500),
            max_messages: None,
            max_lifetime: Duration::ZERO,
            memory_mib: None,
            batch: BatchSettings::default(),
        }
    }
}

impl ProcessHandlerSettings {
    fn environment(&self) -> Environment {
        Environment {
            set: self.env.clone(),
            passed: self.pass_env.clone(),
        }
    }

    /// The program, or the reason why it cannot run.
    pub(super) fn program(&self) -> Result<Program, String> {
        let limits = Limits {
            memory: self.memory_mib.map(|mib| u64::from(mib) << 20),
            cpu: None,
        };
        let program = Program::find(&self.argv)?
            .within(self.directory.clone())
            .environment(self.environment())
            .limits(limits)
            .grace(self.kill_after);
        Ok(program)
    }

    pub(super) fn terms(&self, concurrency: u16) -> Terms {
        let limit = self.max_lifetime;
        let usual = concurrency / self.batch.size.max(1);
        // Another batch goes on while parts of one are called.
        let usual = usual.max(if self.batch.is_on() { 2 } else { 1 });
        Terms {
            processes: self.processes.unwrap_or(usual).max(1).into(),
            start_timeout: self.start_timeout,
            kill_after: self.kill_after,
            max_messages: self.max_messages.map(u64::from),
            max_lifetime: (!limit.is_zero()).then_some(limit),
            batch: self.batch.is_on(),
        }
    }
}

impl Kind for ProcessHandlerSettings {
    fn make(&self, concurrency: u16) -> Result<Arc<dyn Handler>, HandlerError> {
        Ok(Arc::new(ProcessHandler::new(self, concurrency)?))
    }

    fn reach(&self) -> HandlerFuture<'_, Result<Reached, HandlerError>> {
        Box::pin(async {
            self.program()
                .and_then(|it| it.reach())
                .map_err(HandlerError::new)
        })
    }

    fn batch(&self) -> Option<&BatchSettings> {
        Some(&self.batch)
    }

    fn judge(&self, class: Option<&str>, _: Option<u16>, _: Option<Duration>) -> Option<Outcome> {
        let is_start = class == Some("process-start");
        is_start.then(|| Outcome::Failed(Failure::unavailable("process-start", String::new())))
    }

    fn classes(&self) -> Classes {
        Classes::open(&[
            "decode",
            "process",
            "process-exit",
            "process-protocol",
            "process-start",
            "process-stopped",
            "result",
        ])
    }

    fn check(&self, findings: &mut Findings, path: &KeyPath) {
        if self.argv.first().is_none_or(String::is_empty) {
            let message = "is required by kind \"process\"";
            findings.contradiction(path.key("argv"), [path.key(KIND)], message);
        } else {
            let environment = self.environment();
            let directory = self.directory.as_deref();
            check_environment(findings, path, &self.argv, &environment, directory);
        }
    }
}
