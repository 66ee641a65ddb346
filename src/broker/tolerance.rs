//! How many more deliveries of a message its queue tolerates.
//!
//! A quorum queue counts the deliveries of a message that failed: each one whose channel was lost, and
//! before RabbitMQ 4.3 each return (measured). A message that comes back to its queue with more of them
//! than the queue's delivery limit is dead-lettered, or dropped where no dead-letter exchange is set.
//! The count of a copy begins at 0.

use super::{Properties, Version, topology::DeliveryLimit};

/// The failed deliveries that a quorum queue has counted.
const COUNTED: &str = "x-delivery-count";
/// The deliveries, failed or not. Only queues for which a return is not a failure send this header.
const ACQUIRED: &str = "x-acquired-count";

/// How many failed deliveries of a message a queue tolerates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tolerance {
    pub(super) limit: DeliveryLimit,
    pub(super) version: Option<Version>,
}

/// The way on which a message goes back to its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WayBack {
    /// By a nack.
    Nack,
    /// By a copy at the tail of the queue. `spare`: a nack would not yet take the message away.
    Copy { spare: bool },
}

impl Tolerance {
    /// A queue that tolerates everything.
    pub(crate) const ENDLESS: Self = Self {
        limit: DeliveryLimit::None,
        version: None,
    };

    /// The failed deliveries that returns leave for lost channels: a quarter of the limit.
    pub(crate) fn reserve(limit: u64) -> u64 {
        limit.div_ceil(4)
    }

    /// The queue's delivery limit, or the one that is assumed; `None` without limit.
    pub(crate) fn limit(self) -> Option<u64> {
        self.limit.or_default(self.version)
    }

    /// Whether the limit is assumed: the arguments of the queue set none.
    pub(crate) fn is_assumed(self) -> bool {
        self.limit == DeliveryLimit::OfTheRelease
    }

    /// Whether a return counts as a failed delivery, as far as the broker's version tells.
    pub(crate) fn counts_returns(self) -> bool {
        self.version.is_none_or(|it| it < Version::RETURNS_FREELY)
    }

    /// The way back for a message with these properties. A message with an `expiration` goes back as a
    /// copy without it: the broker drops a message that comes back after that time.
    pub(crate) fn way_back(self, properties: &Properties) -> WayBack {
        match self.left(properties) {
            Some((left, limit)) if left <= Self::reserve(limit) && !self.is_free(properties) => {
                WayBack::Copy { spare: left > 0 }
            }
            _ if properties.expires() => WayBack::Copy { spare: true },
            _ => WayBack::Nack,
        }
    }

    /// Whether the message may wait for a handler slot. If lost channels have used up a part of the
    /// reserve, the next ones could take the message away although it never ran.
    pub(crate) fn can_wait(self, properties: &Properties) -> bool {
        self.left(properties)
            .is_none_or(|(left, limit)| left >= Self::reserve(limit))
    }

    /// Whether a return of this message costs nothing. While a cluster is upgraded to 4.3, its queues
    /// still count returns although the node is new: the header tells.
    fn is_free(self, properties: &Properties) -> bool {
        let is_uncounted = || counted(properties) == 0;
        let is_acquired = || properties.header(ACQUIRED).is_some();
        !self.counts_returns() && (is_uncounted() || is_acquired())
    }

    /// How many more failed deliveries the queue tolerates, and its limit.
    fn left(self, properties: &Properties) -> Option<(u64, u64)> {
        let limit = self.limit()?;
        Some((limit.saturating_sub(counted(properties)), limit))
    }
}

/// The failed deliveries that the queue has counted.
fn counted(properties: &Properties) -> u64 {
    let count = properties.header(COUNTED).and_then(|it| it.as_i64());
    u64::try_from(count.unwrap_or(0)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use lapin::{
        BasicProperties,
        types::{AMQPValue, FieldTable},
    };

    use super::*;

    fn tolerance(limit: u64, version: &str) -> Tolerance {
        Tolerance {
            limit: DeliveryLimit::Own(limit),
            version: version.parse().ok(),
        }
    }

    fn message(headers: &[(&str, i64)]) -> Properties {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert((*name).into(), AMQPValue::LongLongInt(*value));
        }
        BasicProperties::default().with_headers(table).into()
    }

    /// The way back at each count from 0 to one beyond the limit: n(ack), c(opy), or C(opy) without
    /// spare.
    fn ways(tolerance: Tolerance, further: &[(&str, i64)]) -> String {
        let limit = tolerance.limit().unwrap_or(3);
        let way = |count| {
            let mut headers = further.to_vec();
            headers.push((COUNTED, i64::try_from(count).unwrap()));
            match tolerance.way_back(&message(&headers)) {
                WayBack::Nack => 'n',
                WayBack::Copy { spare: true } => 'c',
                WayBack::Copy { spare: false } => 'C',
            }
        };
        (0..=limit + 1).map(way).collect()
    }

    #[test]
    fn returns_leave_a_quarter_of_the_limit_for_lost_channels() {
        assert_eq!(ways(tolerance(20, "4.0"), &[]), "nnnnnnnnnnnnnnncccccCC");
        assert_eq!(ways(tolerance(4, "3.10"), &[]), "nnncCC");
        assert_eq!(ways(tolerance(1, "4.2"), &[]), "cCC");
    }

    #[test]
    fn a_return_is_free_from_4_3_on_and_without_a_limit() {
        let acquired = [(ACQUIRED, 30)];
        assert_eq!(ways(tolerance(4, "4.3"), &acquired), "nnnnnn");
        assert_eq!(ways(tolerance(4, "5.0"), &acquired), "nnnnnn");
        assert_eq!(ways(Tolerance::ENDLESS, &[]), "nnnnn");
        assert_eq!(
            ways(tolerance(4, "4.3"), &[]),
            "nnncCC",
            "an upgrade is under way, and the queue still counts returns"
        );
        assert_eq!(
            ways(tolerance(4, "4.0"), &acquired),
            "nnncCC",
            "a publisher wrote the header"
        );
    }

    #[test]
    fn a_release_that_is_not_known_counts_returns_and_has_a_limit() {
        let unknown = Tolerance {
            limit: DeliveryLimit::OfTheRelease,
            version: None,
        };
        assert_eq!(ways(unknown, &[]), ways(tolerance(20, "4.0"), &[]));
    }

    #[test]
    fn a_message_may_wait_until_lost_channels_use_up_the_reserve() {
        for version in ["3.10", "4.0", "4.3"] {
            let can_wait = |count| tolerance(20, version).can_wait(&message(&[(COUNTED, count)]));
            assert!(can_wait(0) && can_wait(15) && !can_wait(16) && !can_wait(99));
        }
        let smallest = tolerance(1, "4.0");
        assert!(smallest.can_wait(&message(&[])), "a copy may wait");
        assert!(!smallest.can_wait(&message(&[(COUNTED, 1)])));
        assert!(Tolerance::ENDLESS.can_wait(&message(&[(COUNTED, 1000)])));
    }

    #[test]
    fn a_count_that_is_no_count_is_0() {
        let tolerance = tolerance(4, "4.0");
        assert_eq!(
            tolerance.way_back(&message(&[(COUNTED, -7)])),
            WayBack::Nack
        );
        assert_eq!(tolerance.way_back(&message(&[])), WayBack::Nack);
    }
}
