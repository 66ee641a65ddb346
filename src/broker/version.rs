//! The version of a broker.

use std::{fmt, str::FromStr};

/// The version of RabbitMQ: the first two numbers decide what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The first number.
    pub major: u16,
    /// The second number.
    pub minor: u16,
}

impl Version {
    /// From here on a queue can have a consumer timeout of its own.
    pub(crate) const QUEUE_TIMEOUTS: Self = Self {
        major: 3,
        minor: 12,
    };
    /// From here on quorum queues have a delivery limit of 20 by default.
    pub(crate) const LIMITS: Self = Self { major: 4, minor: 0 };
    /// From here on returning a message does not raise its delivery count (measured).
    pub(crate) const RETURNS_FREELY: Self = Self { major: 4, minor: 3 };
}

impl FromStr for Version {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut numbers = text.split(['.', '-', '+']).map(str::parse);
        let mut next = || numbers.next().and_then(Result::ok).ok_or(());
        Ok(Self {
            major: next()?,
            minor: next()?,
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read() {
        for (text, wanted) in [("3.10.8", (3, 10)), ("4.3.0-rc.1", (4, 3)), ("4.0", (4, 0))] {
            let version: Version = text.parse().unwrap();
            assert_eq!((version.major, version.minor), wanted);
        }
        assert!("four".parse::<Version>().is_err());
    }
}
