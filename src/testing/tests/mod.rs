//! Whole workers on the broker in memory, under paused time.

mod kit;
mod lifecycle;
mod outcomes;
mod returns;
