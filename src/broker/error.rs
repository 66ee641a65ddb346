//! Errors between the worker and the broker.

use std::time::Duration;

use lapin::ErrorKind;

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
                match is_refusal(refusal.get_id()) {
                    true => Self::Refused(text),
                    false => Self::Lost(text),
                }
            }
            _ => Self::Lost(error.to_string()),
        }
    }
}

/// Whether the broker refuses for a reason that does not go away by waiting. This goes by the reply
/// code, because lapin calls access-refused a soft error: 402 invalid path, 403 access refused, 404
/// not found, 406 precondition failed, 530 not allowed.
pub(super) fn is_refusal(code: u16) -> bool {
    matches!(code, 402 | 403 | 530)
}

/// The AMQP reply code of an error, if the broker sent one.
pub(super) fn reply_code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        ErrorKind::ProtocolError(refusal) => Some(refusal.get_id()),
        _ => None,
    }
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
