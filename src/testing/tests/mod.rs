//! Whole workers on the broker in memory, under paused time.

mod account;
mod bodies;
mod dead_letters;
mod kit;
mod outcomes;
mod retries;
mod returns;
