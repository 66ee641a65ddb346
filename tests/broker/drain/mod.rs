//! Graceful shutdown: running handlers finish, messages that have not started return to their
//! queue, and no finished message runs again.

mod acks;
mod grace;
mod process;
mod retries;
mod unreachable;
