//! The number of a session.

use std::{
    fmt,
    num::NonZeroU64,
    str::FromStr,
    sync::atomic::{AtomicU64, Ordering},
};

/// The number of a session. Each session of this process has another number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SessionId(NonZeroU64);

impl SessionId {
    /// A new number for a session that a lane has opened.
    pub(crate) fn next() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let last = LAST.fetch_add(1, Ordering::Relaxed);
        Self(NonZeroU64::MIN.saturating_add(last))
    }
}

/// Where a delivery can be settled: the number of a session, and the delivery tag in that session. If
/// the session ends while the delivery is on its path, and the broker delivers the message again, the
/// lane moves the flight to the place of the new delivery.
#[derive(Debug)]
pub(super) struct Place {
    session: AtomicU64,
    tag: AtomicU64,
}

impl Place {
    pub(super) fn new(SessionId(session): SessionId, tag: u64) -> Self {
        Self {
            session: AtomicU64::new(session.get()),
            tag: AtomicU64::new(tag),
        }
    }

    pub(super) fn session(&self) -> SessionId {
        let number = NonZeroU64::new(self.session.load(Ordering::Acquire));
        SessionId(number.expect("it is set from a SessionId"))
    }

    pub(super) fn tag(&self) -> u64 {
        self.tag.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, SessionId(session): SessionId, tag: u64) {
        self.tag.store(tag, Ordering::Relaxed);
        self.session.store(session.get(), Ordering::Release);
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for SessionId {
    type Err = <NonZeroU64 as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// The current session of a lane, if there is one.
#[derive(Debug, Default)]
pub(crate) struct CurrentSession(
    /// 0 stands for none.
    AtomicU64,
);

impl CurrentSession {
    pub(crate) fn set(&self, session: Option<SessionId>) {
        let number = session.map_or(0, |SessionId(number)| number.get());
        self.0.store(number, Ordering::Release);
    }

    pub(crate) fn is_some(&self) -> bool {
        self.0.load(Ordering::Acquire) != 0
    }

    pub(crate) fn is(&self, SessionId(number): SessionId) -> bool {
        self.0.load(Ordering::Acquire) == number.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_current_until_it_is_lost_or_replaced() {
        let (first, second) = (SessionId::next(), SessionId::next());
        let current = CurrentSession::default();
        assert!(!current.is(first));
        current.set(Some(first));
        assert!(current.is(first) && !current.is(second));
        current.set(Some(second));
        assert!(current.is(second) && !current.is(first));
        current.set(None);
        assert!(!current.is(second));
    }
}
