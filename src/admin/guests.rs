//! The guests of the admin server: its open connections. When there are too many, the server closes the
//! one that has been without a request for the longest time. So silent connections never keep a probe
//! out.

use std::{
    fs::File,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use hyper::header::{CONTENT_TYPE, HeaderMap};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::lock::lock;

/// One open connection.
#[derive(Debug)]
pub(super) struct Guest {
    /// Requests under way, and event streams.
    busy: AtomicUsize,
    /// When its last request came; before the first one, when it connected.
    since: Mutex<Instant>,
    leave: CancellationToken,
}

/// The open connections.
#[derive(Debug, Default)]
pub(super) struct Guests(Vec<Arc<Guest>>);

impl Guests {
    /// Admits a connection. If there are `most` already, the idlest one has to leave.
    pub(super) fn admit(&mut self, most: usize) -> Arc<Guest> {
        self.0.retain(|guest| Arc::strong_count(guest) > 1);
        if self.0.len() >= most {
            self.evict();
        }
        let guest = Arc::new(Guest {
            busy: AtomicUsize::new(0),
            since: Mutex::new(Instant::now()),
            leave: CancellationToken::new(),
        });
        self.0.push(Arc::clone(&guest));
        guest
    }

    /// The connection leaves that has been without a request for the longest time. Connections with a
    /// request under way come last.
    pub(super) fn evict(&mut self) {
        self.0.retain(|guest| Arc::strong_count(guest) > 1);
        let idleness = |guest: &Arc<Guest>| {
            let busy = guest.busy.load(Ordering::Relaxed) > 0;
            (busy, *lock(&guest.since))
        };
        let idlest = (0..self.0.len()).min_by_key(|place| idleness(&self.0[*place]));
        if let Some(idlest) = idlest {
            self.0.swap_remove(idlest).leave.cancel();
        }
    }
}

impl Guest {
    /// Waits until the connection has to leave.
    pub(super) async fn evicted(&self) {
        self.leave.cancelled().await;
    }

    /// A request has come.
    pub(super) fn is_asked(self: &Arc<Self>) -> Busy {
        *lock(&self.since) = Instant::now();
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(Some(Arc::clone(self)))
    }
}

/// Marks a guest as busy until this is dropped.
#[derive(Debug)]
pub(super) struct Busy(Option<Arc<Guest>>);

impl Busy {
    /// The response has begun. A stream of events goes on until its connection ends. So does an export, or
    /// its connection soon has no request and is closed.
    pub(super) fn until_end_of(mut self, response: Option<&HeaderMap>) {
        let kind = response.and_then(|headers| headers.get(CONTENT_TYPE));
        let kind = kind.and_then(|kind| kind.to_str().ok());
        let goes_on = |kind: &str| {
            kind.starts_with("text/event-stream") || kind.starts_with("application/x-ndjson")
        };
        if kind.is_some_and(goes_on) {
            self.0 = None;
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(guest) = &self.0 {
            guest.busy.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A file descriptor for the time when the process has no other: with it one connection can be accepted.
#[derive(Debug, Default)]
pub(super) struct Reserve(Option<File>);

impl Reserve {
    /// Takes a descriptor, if there is none in reserve and the process has one.
    pub(super) fn keep(&mut self) {
        if self.0.is_none() {
            self.0 = File::open("/dev/null").ok();
        }
    }

    /// Gives the descriptor up; false if there is none.
    pub(super) fn give_up(&mut self) -> bool {
        self.0.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn has_left(guest: &Guest) -> bool {
        guest.leave.is_cancelled()
    }

    #[tokio::test(start_paused = true)]
    async fn the_guest_without_a_request_for_the_longest_time_leaves() {
        let mut guests = Guests::default();
        let mut admitted = Vec::new();
        for _ in 0..3 {
            admitted.push(guests.admit(3));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        drop(admitted[0].is_asked());
        let _stays = admitted[1].is_asked();
        let _new = guests.admit(3);
        assert_eq!(
            [0, 1, 2].map(|n| has_left(&admitted[n])),
            [false, false, true]
        );
        guests.evict();
        assert!(has_left(&admitted[0]), "the one with a request stays");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_of_events_or_an_export_is_a_request_that_does_not_end() {
        for kind in ["text/event-stream", "application/x-ndjson"] {
            let mut guests = Guests::default();
            let streams = guests.admit(2);
            let headers = [(CONTENT_TYPE, kind.parse().unwrap())];
            streams
                .is_asked()
                .until_end_of(Some(&headers.into_iter().collect()));
            tokio::time::advance(Duration::from_secs(1)).await;
            let silent = guests.admit(2);
            let _new = guests.admit(2);
            assert_eq!((has_left(&streams), has_left(&silent)), (false, true));
        }
    }

    #[test]
    fn guests_that_have_gone_take_no_place() {
        let mut guests = Guests::default();
        let stays = guests.admit(2);
        drop(guests.admit(2));
        let _new = guests.admit(2);
        assert!(!has_left(&stays));
    }

    #[test]
    fn a_reserve_is_given_up_once() {
        let mut reserve = Reserve::default();
        assert!(!reserve.give_up());
        reserve.keep();
        assert!(reserve.give_up());
        assert!(!reserve.give_up());
    }
}
