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
