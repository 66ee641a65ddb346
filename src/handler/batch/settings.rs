//! `batch` of a handler.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{Findings, KeyPath, MINUTE, Span};

/// Several messages in one call of the handler, with an outcome for each. Each message keeps its own
/// handler slot, timeout, attempt and settlement. For the kinds `http` and `process`.
///
/// [handlers.md](handlers.md#batches) shows a call, and says what follows if a call fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BatchSettings {
    /// The most messages in one call; at most the consumer's `concurrency`, because each message of a
    /// call holds a handler slot. `1`: each message has a call of its own. Too low: the calls cost more
    /// than the work. Too high: if a call fails, more calls are needed to find the message at fault.
    /// Default: `1`.
    #[schemars(range(min = 1, max = 10_000))]
    pub size: u16,
    /// How long the first message of a batch waits for others. A full batch goes at once, and so does one
    /// that holds all handler slots, or that waits when a drain begins. Must be shorter than the
    /// consumer's `timeout`, which includes this wait. Too low: batches are small. Too high: messages
    /// wait for nothing while the queue is almost empty. Default: `10ms`.
    #[serde(with = "Span::<0, MINUTE>")]
    pub max_wait: Duration,
    /// The most bytes of all bodies in one call, before they are written as JSON. A larger body has a
    /// call of its own. Too low: batches are small. Too high: servers refuse the request (nginx takes
    /// 1 MiB). Default: `524288`.
    #[schemars(range(min = 1))]
    pub max_bytes: u32,
}

impl Default for BatchSettings {
    fn default() -> Self {
        Self {
            size: 1,
            max_wait: Duration::from_millis(10),
            max_bytes: 512 * 1024,
        }
    }
}

impl BatchSettings {
    /// Whether a call can have several messages.
    pub(in crate::handler) fn is_on(&self) -> bool {
        self.size > 1
    }

    /// Adds findings for batches that a consumer with these limits cannot make. `handler`: the keys of
    /// the handler, `consumer`: those of the consumer.
    pub(in crate::handler) fn check(
        &self,
        findings: &mut Findings,
        (handler, consumer): (&KeyPath, &KeyPath),
        concurrency: u16,
        timeout: Duration,
    ) {
        if !self.is_on() {
            return;
        }
        let path = handler.key("batch");
        if self.size > concurrency {
            let message = format!(
                "is {}, must not be above the consumer's `concurrency` ({concurrency}): each message of \
                 a batch holds a handler slot",
                self.size
            );
            findings.contradiction(path.key("size"), [consumer.key("concurrency")], message);
        }
        if self.max_wait >= timeout {
            let message = format!(
                "must be shorter than the consumer's `timeout` ({timeout:?}), which includes this wait"
            );
            findings.contradiction(path.key("max_wait"), [consumer.key("timeout")], message);
        }
    }
}
