//! Reads settings strictly: defaults, then a file, then the environment. Reports every problem at
//! once.
//!
//! This module knows no particular setting. A type that it reads brings its defaults by `Default`,
//! its keys, ranges and texts by `JsonSchema`, and its other checks by [`Checked`].

mod findings;
mod layers;
mod load;
mod overrides;
mod problem;
mod read;
mod recover;
mod schema;
mod secret;
mod span;
mod suggest;

#[cfg(test)]
pub(crate) mod samples;

pub(crate) use findings::{Checked, Findings};
pub use load::environment;
pub use overrides::Overrides;
pub use problem::{ConfigError, Problem, Source};
pub use secret::Secret;

pub(crate) use findings::{NAME_BYTES, validate};
#[cfg(test)]
pub(crate) use load::Root;
pub(crate) use load::{from_toml, load, load_unvalidated};
pub(crate) use problem::KeyPath;
pub(crate) use read::nearest;
pub(crate) use recover::text_in;
pub(crate) use schema::{KIND, for_tools};
#[cfg(test)]
pub(crate) use schema::{meaning, range, words};
pub(crate) use secret::{redact, serialize_redacted};
pub(crate) use span::{DAY, HOUR, MINUTE, SECOND, Span, SpanOrOff, Spans};
