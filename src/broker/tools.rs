//! What `lapwing topology` asks of the broker, apart from messages: about queues and bindings.

use std::sync::Arc;

use super::{
    BrokerError, QueueSpec, Rabbit,
    connection::Connection,
    topology::{self, Bound, Look, Survey},
};

/// Why the management API did not tell something, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// The settings name no management API.
    NoManagement,
    /// It did not answer, or refused.
    Failed(String),
}

impl std::fmt::Display for Unknown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoManagement => f.write_str("broker.management_url is not set"),
            Self::Failed(why) => write!(f, "broker.management_url: {why}"),
        }
    }
}

/// The bindings of a queue, as the management API lists them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Bindings {
    /// Bindings that AMQP can make again.
    pub(crate) clear: Vec<Bound>,
    /// Bindings whose arguments have types that the API does not show.
    pub(crate) unclear: Vec<Bound>,
}

impl Rabbit {
    fn open_connection(&self) -> Result<Arc<Connection>, BrokerError> {
        let connection = self.consuming().current();
        connection.ok_or_else(|| BrokerError::Lost("not connected".to_owned()))
    }

    /// Runs requests about queues.
    async fn looking<T>(
        &self,
        requests: impl AsyncFnOnce(&mut Look<'_>) -> Result<T, BrokerError>,
    ) -> Result<T, BrokerError> {
        let connection = self.open_connection()?;
        let mut look = Look::new(&connection, self.timeouts().declare);
        let answer = requests(&mut look).await?;
        look.close().await;
        Ok(answer)
    }

    /// The virtual host of the connection.
    pub(crate) fn vhost(&self) -> Result<String, BrokerError> {
        Ok(self.open_connection()?.vhost.clone())
    }

    /// The user of the connection, as far as it is known.
    pub(crate) fn user(&self) -> Option<String> {
        self.open_connection().ok()?.trust().user()
    }

    /// What exists of a consumer's queues and exchanges. Creates nothing.
    pub(crate) async fn survey(&self, spec: &QueueSpec) -> Result<Survey, BrokerError> {
        let connection = self.open_connection()?;
        topology::survey(&connection, spec, self.timeouts().declare).await
    }

    /// Declares or compares the queues of consumers, as a worker does at its start.
    pub(crate) async fn ensure(&self, specs: &[QueueSpec]) -> Result<(), BrokerError> {
        let connection = self.open_connection()?;
        topology::ensure_all(&connection, specs, self.timeouts().declare).await
    }

    /// The ready messages and the consumers of a queue; `None` if there is no such queue.
    pub(crate) async fn counts(&self, queue: &str) -> Result<Option<(u32, u32)>, BrokerError> {
        self.looking(async |look| look.counts(queue).await).await
    }

    /// Whether a queue is a quorum queue; `None` if the broker does not let us find out.
    pub(crate) async fn is_quorum(&self, queue: &str) -> Result<Option<bool>, BrokerError> {
        self.looking(async |look| look.is_quorum(queue).await).await
    }

    /// Binds one queue, and then unbinds the other. A message that is published in between comes to
    /// both.
    pub(crate) async fn rebind(
        &self,
        bound: &Bound,
        from: &str,
        to: &str,
    ) -> Result<(), BrokerError> {
        self.looking(async |look| {
            look.bind(to, bound).await?;
            look.unbind(from, bound).await
        })
        .await
    }

    /// Deletes a classic queue without ready messages and consumers. The inner error is the broker's
    /// reason why it stays.
    pub(crate) async fn delete_idle(&self, queue: &str) -> Result<Result<(), String>, BrokerError> {
        self.looking(async |look| look.delete_idle(queue).await)
            .await
    }

    /// The bindings of a queue.
    pub(crate) async fn bindings(&self, queue: &str) -> Result<Bindings, Unknown> {
        let connection = self.open_connection().map_err(failed)?;
        let management = connection.management().ok_or(Unknown::NoManagement)?;
        let mut bindings = Bindings::default();
        for bound in management.bindings(queue).await.map_err(failed)? {
            match bound {
                Ok(bound) => bindings.clear.push(bound),
                Err(bound) => bindings.unclear.push(bound),
            }
        }
        Ok(bindings)
    }

    /// The deliveries of a classic queue that are not settled.
    pub(crate) async fn unsettled(&self, queue: &str) -> Result<u64, Unknown> {
        let connection = self.open_connection().map_err(failed)?;
        let management = connection.management().ok_or(Unknown::NoManagement)?;
        let unsettled = management.unsettled(queue).await.map_err(failed)?;
        unsettled.ok_or_else(|| Unknown::Failed("does not list the queue".to_owned()))
    }

    /// The queues that dead-letter to a queue by their arguments.
    pub(crate) async fn returning_to(&self, queue: &str) -> Result<Vec<String>, Unknown> {
        let connection = self.open_connection().map_err(failed)?;
        let management = connection.management().ok_or(Unknown::NoManagement)?;
        management.returning_to(queue).await.map_err(failed)
    }
}

fn failed(error: impl std::fmt::Display) -> Unknown {
    Unknown::Failed(error.to_string())
}
