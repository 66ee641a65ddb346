//! A key that a run has taken, and how the end of the run is noted.

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::oneshot, time::timeout};
use tracing::warn;

use super::{Epoch, Inbox};
use crate::{handler::Context, lock::lock};

/// The longest wait for the release of a key. Its message waits for its retry meanwhile.
pub(super) const RELEASE: Duration = Duration::from_secs(1);
/// The wait before a run's end is noted again.
const NOTE_AGAIN: Duration = Duration::from_millis(500);

/// A key that a run has taken. Unless the run has [ended](Self::end), its end is that it was dropped:
/// then the key is released.
///
/// `None`: the end is noted.
pub(super) struct Lease(Option<(Arc<Inbox>, String, Epoch)>);

impl Lease {
    pub(super) fn of(inbox: Arc<Inbox>, key: String, epoch: Epoch) -> Self {
        Self(Some((inbox, key, epoch)))
    }

    /// The run has ended. If the caller is dropped meanwhile, the end is noted all the same: the effect
    /// has happened. This waits for the first try only, and no longer than the run may take: the store
    /// may be gone, and that must not make a failure of a success.
    pub(super) async fn end(mut self, is_done: bool, context: &Context) {
        let Some(tried) = self.note(is_done) else {
            return;
        };
        if is_done {
            let cancellation = context.cancellation();
            tokio::select! {
                biased;
                // A try that panicked has told so.
                _ = tried => {}
                _ = cancellation.cancelled() => {}
            }
        } else {
            let _ = timeout(RELEASE, tried).await;
        }
    }

    /// Notes the end. That a message is done is noted again and again until the store takes it, also
    /// after the end of the lease: unless another run has taken the key, it is still true. Until then
    /// this worker knows it. A key that is not released is free when its lease is over.
    ///
    /// What it returns ends with the first try.
    fn note(&mut self, is_done: bool) -> Option<oneshot::Receiver<()>> {
        let (inbox, key, epoch) = self.0.take()?;
        let runtime = Handle::try_current().ok()?;
        let notes = inbox.notes.clone();
        if is_done {
            lock(&inbox.done).insert(key.clone());
        }
        let (tried, first) = oneshot::channel();
        let note = async move {
            let mut tried = Some(tried);
            loop {
                match inbox.note(&key, epoch, is_done).await {
                    Ok(true) => break,
                    Ok(false) => {
                        warn!(%key, "another run has taken the message while this run went on: it may be done twice");
                        break;
                    }
                    Err(error) if !is_done => {
                        warn!(%key, %error, "failed to release a message in the inbox: it waits until its lease is over");
                        return;
                    }
                    Err(error) if tried.is_some() => {
                        warn!(%key, %error, "failed to note in the inbox that a message is done: trying again until the store takes it");
                    }
                    Err(_) => {}
                }
                // The receiver sees its end.
                drop(tried.take());
                tokio::time::sleep(NOTE_AGAIN).await;
            }
            if is_done {
                lock(&inbox.done).remove(&key);
            }
        };
        notes.spawn_on(note, &runtime);
        Some(first)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.note(false);
    }
}
