//! What types cannot say: ranges, names, and settings that contradict one another. Every check
//! runs, so that all that is wrong is listed at once.

mod admin;
mod broker;
mod consumer;
mod handler;
mod pem;
mod process;
mod queues;
mod urls;

use std::{fmt::Display, fs::File, io::Read, ops::RangeInclusive, path::Path, time::Duration};

use humantime::format_duration;

use super::{
    HandlerKind, Settings,
    problem::{ConfigError, KeyPath, Problem, Source},
};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// AMQP 0-9-1 sends names as a byte of length and as many bytes of text.
const NAME_BYTES: usize = 255;

/// From here on a run outlives RabbitMQ's default `consumer_timeout`.
const BROKER_CONSUMER_TIMEOUT: Duration = Duration::from_mins(30);

impl Settings {
    /// Check what the settings mean: for settings made or changed in code. [`Settings::load`] and
    /// [`Settings::from_toml`] have done so. Looks whether the files exist that are named.
    ///
    /// # Errors
    /// Lists every value out of its range and every contradiction.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let findings = self.findings().into_iter();
        ConfigError::check(
            findings
                .map(|finding| finding.problem(Source::Code))
                .collect(),
        )
    }

    /// Check that there is something to consume: for `lapwing run`.
    ///
    /// # Errors
    /// When no consumer is set.
    pub fn require_consumers(&self) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        if self.consumers.is_empty() {
            problems.push(Problem {
                path: "consumers".to_owned(),
                source: Source::Default,
                message: "at least one is required, such as [consumers.orders] with its queue"
                    .to_owned(),
            });
        }
        ConfigError::check(problems)
    }

    /// Check that every consumer names a handler, where none can be registered in code: for
    /// `lapwing run`.
    ///
    /// # Errors
    /// Names the consumers that would run nothing.
    pub fn require_handlers(&self) -> Result<(), ConfigError> {
        let without = self.consumers.iter().filter(|(_, consumer)| {
            consumer.handler.kind == HandlerKind::None && consumer.types.is_empty()
        });
        let problems = without.map(|(name, _)| Problem {
            path: KeyPath::of("consumers")
                .key(name)
                .key("handler")
                .to_string(),
            source: Source::Default,
            message: "is required, such as { kind = \"log\" }, or types with a handler each"
                .to_owned(),
        });
        ConfigError::check(problems.collect())
    }

    /// What is allowed but likely to hurt.
    #[must_use]
    pub fn warnings(&self) -> Vec<Problem> {
        let consumers = self.consumers.iter();
        let long = consumers.filter(|(_, consumer)| consumer.timeout >= BROKER_CONSUMER_TIMEOUT);
        let long = long.map(|(name, _)| Problem {
            path: KeyPath::of("consumers")
                .key(name)
                .key("timeout")
                .to_string(),
            source: Source::Code,
            message: "is not below the broker's default consumer timeout (30min): raise that too, \
                      or long runs lose their channel and are delivered again"
                .to_owned(),
        });
        admin::warning(&self.admin)
            .into_iter()
            .chain(long)
            .collect()
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        let mut findings = Findings::default();
        broker::check(&mut findings, &self.broker, &self.publish);
        admin::check(&mut findings, &self.admin);
        process::check(&mut findings, self);
        for (name, consumer) in &self.consumers {
            consumer::check(&mut findings, name, consumer);
        }
        queues::check(&mut findings, &self.consumers);
        findings.0
    }
}

/// Something wrong with what the settings mean.
#[derive(Debug)]
pub(super) struct Finding {
    path: KeyPath,
    /// The other keys that take part in a contradiction.
    others: Vec<KeyPath>,
    message: String,
}

impl Finding {
    /// The keys that take part, the one that is to blame first.
    pub(super) fn paths(&self) -> impl Iterator<Item = &KeyPath> {
        std::iter::once(&self.path).chain(&self.others)
    }

    /// The same, with the keys named otherwise.
    pub(super) fn at(self, place: impl Fn(&KeyPath) -> KeyPath) -> Self {
        Self {
            path: place(&self.path),
            others: self.others.iter().map(&place).collect(),
            message: self.message,
        }
    }

    /// Whether the key takes part.
    pub(super) fn is_about(&self, key: &KeyPath) -> bool {
        self.paths().any(|path| path.overlaps(key))
    }

    pub(super) fn problem(&self, source: Source) -> Problem {
        Problem {
            path: self.path.to_string(),
            source,
            message: self.message.clone(),
        }
    }
}

/// Collects findings.
#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, path: KeyPath, message: impl Into<String>) {
        self.contradiction(path, [], message);
    }

    /// The value at `path` does not fit those at `others`.
    fn contradiction(
        &mut self,
        path: KeyPath,
        others: impl IntoIterator<Item = KeyPath>,
        message: impl Into<String>,
    ) {
        self.0.push(Finding {
            path,
            others: others.into_iter().collect(),
            message: message.into(),
        });
    }

    fn number<T: PartialOrd + Display>(
        &mut self,
        path: KeyPath,
        value: &T,
        range: RangeInclusive<T>,
    ) {
        if !range.contains(value) {
            let (low, high) = range.into_inner();
            self.add(path, format!("is {value}, must be {low} to {high}"));
        }
    }

    fn duration(&mut self, path: KeyPath, value: Duration, range: RangeInclusive<Duration>) {
        if !range.contains(&value) {
            let (low, high) = range.into_inner();
            let [value, low, high] = [value, low, high].map(format_duration);
            self.add(path, format!("is {value}, must be {low} to {high}"));
        }
    }

    /// A name that goes to the broker.
    fn name(&mut self, path: KeyPath, name: &str) {
        if name.is_empty() {
            self.add(path, "must not be empty");
        } else if name.len() > NAME_BYTES {
            let length = name.len();
            self.add(
                path,
                format!("has {length} bytes, must have at most {NAME_BYTES}"),
            );
        } else if name.chars().any(char::is_control) {
            self.add(path, "must not hold control characters");
        }
    }

    /// The text of a file that is read again at each connect; none, and a finding, where it
    /// cannot be read or is empty.
    fn text_file(&mut self, path: &KeyPath, file: &Path) -> Option<String> {
        let mut text = String::new();
        match File::open(file).and_then(|mut open| open.read_to_string(&mut text)) {
            Err(error) => {
                self.add(
                    path.clone(),
                    format!("cannot read {}: {error}", file.display()),
                );
                None
            }
            Ok(_) if text.trim().is_empty() => {
                self.add(path.clone(), format!("{} is empty", file.display()));
                None
            }
            Ok(_) => Some(text),
        }
    }
}

#[cfg(test)]
mod tests;
