//! Graceful shutdown: what is running finishes, what is not goes back, and nothing that is done is
//! done again.

mod acks;
mod grace;
mod process;
mod retries;
mod unreachable;
