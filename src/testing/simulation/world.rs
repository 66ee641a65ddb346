//! The settings of a simulated worker.

use std::time::Duration;

use super::script::World;
use crate::{
    breaker::BreakerSettings,
    broker::{PublishSettings, ReconnectSettings},
    consumer::{AckSettings, ConsumerSettings, Rate},
    retry::RetrySettings,
    worker::{DrainSettings, WorkerSettings},
};

impl World {
    /// The settings of each worker.
    pub(super) fn settings(&self) -> WorkerSettings {
        let millis = Duration::from_millis;
        let mut settings = WorkerSettings {
            publish: PublishSettings {
                budget: millis(self.budget),
                hold: millis(self.hold),
                ..PublishSettings::default()
            },
            drain: DrainSettings {
                grace: millis(self.grace),
                ..DrainSettings::default()
            },
            ..WorkerSettings::default()
        };
        settings.broker.reconnect = ReconnectSettings {
            base: millis(100),
            cap: millis(3000),
        };
        for lane in 0..self.lanes {
            let name = format!("q{lane}");
            let consumer = ConsumerSettings {
                queue: name.clone(),
                concurrency: self.concurrency,
                prefetch: self.prefetch,
                timeout: millis(self.timeout),
                cancel_grace: millis(self.cancel_grace),
                delivery_limit: self.delivery_limit,
                ack: AckSettings {
                    batch: self.ack_batch,
                    delay: millis(self.ack_delay),
                },
                retry: RetrySettings {
                    max_attempts: self.max_attempts,
                    base: millis(self.retry_base),
                    cap: millis(8000),
                    inline_below: millis(self.inline_below),
                    ..RetrySettings::default()
                },
                breaker: BreakerSettings {
                    enabled: self.breaker,
                    ..BreakerSettings::default()
                },
                rate: Rate::in_a_second(self.rate),
                ..ConsumerSettings::default()
            };
            settings.consumers.insert(name, consumer);
        }
        settings
    }
}
