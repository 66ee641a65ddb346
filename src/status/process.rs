//! Counts of the whole process.

use std::sync::atomic::{AtomicU64, Ordering};

static ADMIN_REFUSED: AtomicU64 = AtomicU64::new(0);

/// The requests that the admin server has refused.
pub(crate) fn admin_refused() -> u64 {
    ADMIN_REFUSED.load(Ordering::Relaxed)
}

/// The admin server has refused a request.
pub(crate) fn note_admin_refused() {
    ADMIN_REFUSED.fetch_add(1, Ordering::Relaxed);
}
