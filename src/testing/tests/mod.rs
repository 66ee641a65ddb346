//! Whole workers on the broker in memory, under paused time.

mod acks;
mod kit;
mod outcomes;
mod places;
mod returns;
mod scene;
mod states;
mod waits;
