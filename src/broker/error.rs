//! Errors between the worker and the broker.

use std::time::Duration;

use lapin::{ErrorKind, protocol::AMQPError};

use super::topology::{Difference, joined};

/// Why a connection, a channel or a subscription failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// The settings cannot work: a URL or a file cannot be read.
    #[error("{0}")]
    Settings(String),
    /// The broker refused us for a reason that does not go away by waiting: credentials, virtual
    /// host, permissions.
    #[error("refused by the broker: {0}")]
    Refused(String),
    /// Queues or exchanges at the broker differ from the settings.
    #[error("{}", joined(.0))]
    Topology(Vec<Difference>),
    /// A step did not end within its deadline.
    #[error("{step} took longer than {limit:?}")]
    TimedOut {
        /// The step that took too long.
        step: &'static str,
        /// The deadline.
        limit: Duration,
    },
    /// The network, the broker or the channel failed. A later attempt may succeed.
    #[error("{0}")]
    Lost(String),
}

impl BrokerError {
    /// Whether somebody has to change something before an attempt can succeed.
    #[must_use]
    pub fn needs_people(&self) -> bool {
        matches!(
            self,
            Self::Settings(_) | Self::Refused(_) | Self::Topology(_)
        )
    }
}

impl From<lapin::Error> for BrokerError {
    fn from(error: lapin::Error) -> Self {
        match error.kind() {
            ErrorKind::ProtocolError(refusal) => {
                let text = format!("{} ({})", refusal.get_message(), refusal.get_id());
                match is_refusal(refusal) {
                    true => Self::Refused(text),
                    false => Self::Lost(text),
                }
            }
            _ => Self::Lost(error.to_string()),
        }
    }
}

/// Whether the broker refuses for a reason that does not go away by waiting. This goes by the reply
/// code, because lapin calls access-refused a soft error: 402 invalid path, 403 access refused, 530 not
/// allowed. A queue with an exclusive consumer is also 403, until that consumer ends.
pub(super) fn is_refusal(refusal: &AMQPError) -> bool {
    let is_taken = refusal.get_message().as_str().ends_with("in exclusive use");
    matches!(refusal.get_id(), 402 | 403 | 530) && !is_taken
}

/// The AMQP reply code of an error, if the broker sent one.
pub(super) fn reply_code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(refusal) => Some(refusal.get_id()),
        _ => None,
    }
}

/// Whether the broker says that there is no such `kind` of object, `queue` or `exchange`. The reply code
/// alone does not say so. The broker also answers 404 about a classic queue whose node is down
/// (`NOT_FOUND - home node '…' of durable queue '…' … is down or inaccessible`), whose process is stopped,
/// or that does not answer in time (RabbitMQ 3.10 to 4.3, `rabbit_amqqueue`). Such a queue exists.
pub(super) fn says_there_is_no(kind: &str, error: &lapin::Error) -> bool {
    let ErrorKind::ProtocolError(refusal) = error.kind() else {
        return false;
    };
    let text = refusal.get_message().as_str();
    let none = text.strip_prefix("NOT_FOUND - no ");
    refusal.get_id() == 404 && none.is_some_and(|rest| rest.starts_with(kind))
}

/// Runs a lapin call under a deadline.
pub(super) async fn within<T>(
    limit: Duration,
    step: &'static str,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(BrokerError::TimedOut { step, limit }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::protocol::{AMQPErrorKind, AMQPSoftError};

    fn refused(with: AMQPSoftError, text: &str) -> lapin::Error {
        let kind = AMQPErrorKind::Soft(with);
        ErrorKind::ProtocolError(AMQPError::new(kind, text.into())).into()
    }

    fn not_found(text: &str) -> lapin::Error {
        refused(AMQPSoftError::NOTFOUND, text)
    }

    #[test]
    fn an_exclusive_consumer_ends_by_itself() {
        let needs_people =
            |text| BrokerError::from(refused(AMQPSoftError::ACCESSREFUSED, text)).needs_people();
        assert!(!needs_people(
            "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use"
        ));
        assert!(needs_people(
            "ACCESS_REFUSED - read access to queue 'q' in vhost '/' refused for user 'u'"
        ));
    }

    #[test]
    fn a_queue_that_is_down_is_not_one_that_does_not_exist() {
        let absent = not_found("NOT_FOUND - no queue 'q' in vhost '/'");
        assert!(says_there_is_no("queue", &absent));
        assert!(!says_there_is_no("exchange", &absent));
        let absent = not_found("NOT_FOUND - no exchange 'x' in vhost '/'");
        assert!(says_there_is_no("exchange", &absent));
        for text in [
            "NOT_FOUND - home node 'rabbit@b' of durable queue 'q' in vhost '/' is down or inaccessible",
            "NOT_FOUND - queue 'no queue' in vhost '/' process is stopped by supervisor",
            "NOT_FOUND - failed to perform operation on queue 'q' in vhost '/' due to timeout",
        ] {
            assert!(!says_there_is_no("queue", &not_found(text)), "{text}");
        }
    }
}
