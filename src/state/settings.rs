//! `[state]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The state actor that handlers share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StateSettings {
    /// The number of commands that may wait in the actor's mailbox. Too low: handlers wait for each
    /// other. Too high: a slow actor is noticed late. Default: `1024`.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub mailbox: usize,
}

impl Default for StateSettings {
    fn default() -> Self {
        Self { mailbox: 1024 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::{Sample, sections};

    sections!({ state: StateSettings }, |_, _| {});

    #[test]
    fn the_mailbox_has_a_limit() {
        Sections::refused(&[
            ("state.mailbox = 0", "state.mailbox: is 0, must be 1 to"),
            ("state.mailbox = 1000001", "state.mailbox: is 1000001"),
        ]);
    }
}
