//! The delivery limit of a queue.

use std::time::Duration;

use super::{
    Difference,
    look::{Found, Look},
    plan::QueuePlan,
};
use crate::broker::{
    QueueSpec, QueueType, Topology, Version, connection::Connection, error::BrokerError,
};

/// What the arguments of a queue say about its delivery limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeliveryLimit {
    /// Nothing: the limit is that of the release.
    OfTheRelease,
    /// The queue counts no deliveries, or has no limit.
    None,
    /// This many.
    Own(u64),
}

impl DeliveryLimit {
    /// The limit of quorum queues of 4.0 and later that have none of their own.
    const RELEASE: u64 = 20;

    /// The limit that is in force on this release; `None` without limit. A release that is not known
    /// counts as one with a limit.
    pub(crate) fn or_default(self, version: Option<Version>) -> Option<u64> {
        match self {
            Self::Own(limit) => Some(limit),
            Self::None => None,
            Self::OfTheRelease => {
                let has_limit = version.is_none_or(|it| it >= Version::LIMITS);
                has_limit.then_some(Self::RELEASE)
            }
        }
    }

    /// The limit of a consumer's queue that the worker has declared, or compared with the settings;
    /// `None` for a queue that is used as it is.
    pub(crate) fn of(spec: &QueueSpec) -> Option<Self> {
        match (spec.topology, spec.queue_type) {
            (Topology::Attach | Topology::None, _) => None,
            (_, QueueType::Classic) => Some(Self::None),
            (_, QueueType::Quorum) => Some(Self::Own(spec.delivery_limit.into())),
        }
    }

    /// Reads the limit from the differences between the queue and one with [`Self::KEPT`].
    fn read(differences: &[Difference]) -> Self {
        let has = |wanted: &str| {
            differences.iter().find_map(|difference| match difference {
                Difference::Argument {
                    argument, values, ..
                } if argument == wanted => Some(values.as_ref()?.has.clone()),
                _ => None,
            })
        };
        if has("x-queue-type").flatten().as_deref() == Some("classic") {
            return Self::None;
        }
        match has("x-delivery-limit") {
            Some(Some(limit)) => limit.parse().map_or(Self::None, Self::Own),
            _ => Self::OfTheRelease,
        }
    }
}

/// The delivery limit of a consumer's queue. Asks the broker where the settings do not say it.
pub(crate) async fn consumed_limit(
    connection: &Connection,
    spec: &QueueSpec,
    limit: Duration,
) -> Result<DeliveryLimit, BrokerError> {
    match DeliveryLimit::of(spec) {
        Some(known) => Ok(known),
        None => delivery_limit(connection, &spec.queue, limit).await,
    }
}

/// Asks the broker for the delivery limit of a queue. Creates nothing.
pub(crate) async fn delivery_limit(
    connection: &Connection,
    queue: &str,
    limit: Duration,
) -> Result<DeliveryLimit, BrokerError> {
    let mut look = Look::new(connection, limit);
    let plan = QueuePlan::dead_letters(queue);
    let found = match look.compare(&plan).await {
        Ok(Found::Same) => DeliveryLimit::Own(QueuePlan::DEAD_LETTER_LIMIT.unsigned_abs()),
        Ok(Found::Differs(differences)) => DeliveryLimit::read(&differences),
        // The user may not declare the queue, or the queue is missing: reading it will tell.
        Ok(Found::Missing) | Err(BrokerError::Refused(_)) => DeliveryLimit::OfTheRelease,
        Err(error) => return Err(error),
    };
    look.close().await;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Values;

    fn argument(argument: &str, has: Option<&str>) -> Difference {
        Difference::Argument {
            queue: "q".to_owned(),
            argument: argument.to_owned(),
            values: Some(Values {
                has: has.map(str::to_owned),
                wanted: None,
            }),
        }
    }

    #[test]
    fn the_limit_is_the_queues_own_or_that_of_the_release() {
        let of = |differences: &[Difference]| DeliveryLimit::read(differences);
        let own = argument("x-delivery-limit", Some("5"));
        assert_eq!(of(&[own]), DeliveryLimit::Own(5));
        let endless = argument("x-delivery-limit", Some("-1"));
        assert_eq!(of(&[endless]), DeliveryLimit::None);
        let classic = argument("x-queue-type", Some("classic"));
        assert_eq!(of(&[classic]), DeliveryLimit::None);
        let unset = argument("x-delivery-limit", None);
        assert_eq!(of(&[unset]), DeliveryLimit::OfTheRelease);

        let version = |text: &str| text.parse().ok();
        let release = DeliveryLimit::OfTheRelease;
        assert_eq!(release.or_default(version("3.10")), None);
        assert_eq!(release.or_default(version("4.0")), Some(20));
        assert_eq!(release.or_default(None), Some(20));
        assert_eq!(DeliveryLimit::Own(5).or_default(version("3.10")), Some(5));
    }
}
