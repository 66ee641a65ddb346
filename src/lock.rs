//! The only way to lock a mutex in this crate.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, even after a thread has panicked with the lock: our locked data is consistent after each
/// statement.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
