//! Retries with exponential backoff: the delay, and the retry queue for it.

mod backoff;
mod ladder;
mod rules;
mod settings;

pub use backoff::exponential_backoff;
pub(crate) use ladder::{Ladder, Rung};
pub use rules::{InvalidStatus, Rule, RuleAction, StatusPattern};
pub use settings::RetrySettings;
