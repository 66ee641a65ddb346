//! Tests of whole workers on the broker in memory, with paused time.

mod kit;
mod lifecycle;
mod outcomes;
mod returns;
