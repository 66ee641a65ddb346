//! The connections of a command, and what it does without moving messages.

use std::{collections::BTreeMap, sync::Arc};

use super::plan::{ConsumerPlan, Facts, Plan};
use crate::{
    broker::{
        BrokerError, BrokerSettings, Links, QueueSpec, Rabbit, TimeoutSettings, Topology, Unknown,
    },
    consumer::ConsumerSettings,
};

/// The consumers of the settings, by name.
pub(super) type Consumers = BTreeMap<String, ConsumerSettings>;

/// The most channels on which a command publishes.
const CHANNELS: usize = 2;

/// Queues and bindings at a broker.
pub struct TopologyDesk {
    pub(super) broker: Rabbit,
    links: Links,
    timeouts: Arc<TimeoutSettings>,
}

impl TopologyDesk {
    /// Connects.
    ///
    /// # Errors
    /// When the first attempt to connect fails.
    pub async fn connect(
        broker: &BrokerSettings,
        timeouts: &TimeoutSettings,
    ) -> Result<Self, BrokerError> {
        let timeouts = Arc::new(timeouts.clone());
        let name = format!("{} topology", broker.name);
        let links = Links::start(&Arc::new(broker.clone()), &timeouts, &name);
        if let Err(error) = links.connected().await {
            links.close(timeouts.close).await;
            return Err(error);
        }
        Ok(Self {
            broker: links.broker(CHANNELS, &timeouts),
            links,
            timeouts,
        })
    }

    /// The virtual host of the connection.
    ///
    /// # Errors
    /// When the connection is lost.
    pub fn vhost(&self) -> Result<String, BrokerError> {
        self.broker.vhost()
    }

    /// Compares what exists with what these consumers want. Creates nothing.
    ///
    /// # Errors
    /// When the broker cannot be asked. A queue at which the user may not look is no error.
    pub async fn plan(&self, consumers: &Consumers) -> Result<Plan, BrokerError> {
        let mut plans: Vec<ConsumerPlan> = Vec::new();
        for (name, consumer) in consumers {
            let spec = consumer.queue_spec();
            let facts = Facts {
                consumer: name,
                survey: self.broker.survey(&spec).await?,
                bindings: self.bindings(&spec).await,
                vhost: self.broker.vhost()?,
                user: self.broker.user(),
            };
            plans.push(ConsumerPlan::new(&spec, &facts));
        }
        Ok(Plan::new(plans))
    }

    /// The bindings of the work queue, if the settings have some to compare.
    async fn bindings(&self, spec: &QueueSpec) -> Result<Vec<super::Bound>, Unknown> {
        if spec.bindings.is_empty() || spec.topology == Topology::None {
            return Ok(Vec::new());
        }
        Ok(self.broker.bindings(&spec.queue).await?.clear)
    }

    /// Makes what [`plan`](Self::plan) shows, as a worker does at its start. All checks come first.
    ///
    /// # Errors
    /// When something exists that differs from the settings: then nothing is created. When the broker
    /// refuses a request that makes something, or the connection is lost: then queues may stay that this
    /// call has created.
    pub async fn apply(&self, consumers: &Consumers) -> Result<(), BrokerError> {
        let specs: Vec<_> = consumers
            .values()
            .map(ConsumerSettings::queue_spec)
            .collect();
        self.broker.ensure(&specs).await
    }

    /// Closes the connections.
    pub async fn close(self) {
        self.links.close(self.timeouts.close).await;
    }
}
