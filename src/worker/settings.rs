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

    sections!({ drain: DrainSettings }, |_, _| {});

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
