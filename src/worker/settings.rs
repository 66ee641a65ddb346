//! `[drain]`, and the settings of a worker as a whole.

use std::{collections::BTreeMap, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    broker::{BrokerSettings, PublishSettings, TimeoutSettings},
    config::{Checked, DAY, Findings, MINUTE, Span},
    consumer::{self, ConsumerSettings},
    state::StateSettings,
};

/// What the worker does between SIGTERM and its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DrainSettings {
    /// How long running handlers may take to finish. After this time the worker cancels them and
    /// returns their messages to the queue; no attempt is charged. `0s` cancels at once. Too low:
    /// work is done twice. Too high: Kubernetes, which kills after 30 s by default, kills the
    /// process before the worker has settled its messages. Default: `25s`.
    #[serde(with = "Span::<0, DAY>")]
    pub grace: Duration,
    /// The longest time that the worker waits for the queue to show that it has the last acks,
    /// before it closes the channel. Too low: a quorum queue throws away acks that it has not
    /// applied, and finished messages run again; the exit code is 3. Too high: if the queue has no
    /// leader, an exit takes this much longer. Default: `5s`.
    #[serde(with = "Span::<1, MINUTE>")]
    pub settle: Duration,
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(25),
            settle: Duration::from_secs(5),
        }
    }
}

/// How much memory messages may take.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MemorySettings {
    /// The most bytes of messages that the worker holds at once, shared equally by the consumers. A
    /// handler and a retry may each need as much again for a copy. Too low: consumers hold few
    /// messages, and handlers wait for the broker. Too high: large messages need more memory than
    /// there is. Without it: a quarter of the memory limit of the container (cgroup), if there is one.
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    #[schemars(example = &67_108_864)]
    pub prefetch_bytes: Option<u64>,
}

impl MemorySettings {
    /// Gives each consumer its share, unless it has a lower budget of its own.
    pub(super) fn share(&self, consumers: &mut BTreeMap<String, ConsumerSettings>) {
        let Some(budget) = self.prefetch_bytes else {
            return;
        };
        let share = (budget / consumers.len().max(1) as u64).max(1);
        for consumer in consumers.values_mut() {
            let own = consumer.prefetch_bytes.unwrap_or(share);
            consumer.prefetch_bytes = Some(own.min(share));
        }
    }
}

/// The part of the settings that a [`Worker`](crate::Worker) uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerSettings {
    /// Where the broker is and how to reach it.
    pub broker: BrokerSettings,
    /// How retries and dead letters are published.
    pub publish: PublishSettings,
    /// How the worker stops.
    pub drain: DrainSettings,
    /// The deadline of every wait that could hang, apart from handlers.
    pub timeouts: TimeoutSettings,
    /// How much memory messages may take.
    pub memory: MemorySettings,
    /// The state actor that handlers share.
    pub state: StateSettings,
    /// The consumers, by name.
    pub consumers: BTreeMap<String, ConsumerSettings>,
}

impl Checked for WorkerSettings {
    fn check(&self, findings: &mut Findings) {
        self.broker.check(findings, &self.publish);
        consumer::check(findings, &self.consumers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::{Sample, sections};

    sections!({ drain: DrainSettings, memory: MemorySettings }, |_, _| {});

    #[test]
    fn a_budget_of_zero_is_refused() {
        Sections::refused(&[(
            "memory.prefetch_bytes = 0",
            "memory.prefetch_bytes: must be at least 1",
        )]);
    }

    #[test]
    fn consumers_share_the_budget_equally_and_may_have_less() {
        let memory = MemorySettings {
            prefetch_bytes: Some(100),
        };
        let own = |prefetch_bytes| ConsumerSettings {
            prefetch_bytes,
            ..ConsumerSettings::default()
        };
        let names = ["a", "b", "c"].map(str::to_owned);
        let mut consumers =
            BTreeMap::from_iter(names.into_iter().zip([None, Some(5), Some(90)].map(own)));
        memory.share(&mut consumers);
        let shares: Vec<_> = consumers.values().map(|it| it.prefetch_bytes).collect();
        assert_eq!(shares, [Some(33), Some(5), Some(33)]);
    }

    #[test]
    fn drain_settings_keep_their_ranges() {
        Sections::refused(&[
            (
                "drain.grace = \"25h\"",
                "drain.grace: is 1day 1h, must be 0s to 1day",
            ),
            (
                "drain.settle = \"0s\"",
                "drain.settle: is 0s, must be 1ms to 1m",
            ),
        ]);
        Sections::allowed(&["drain.grace = \"0s\""]);
    }
}
