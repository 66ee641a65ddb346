//! Whole workers on the broker in memory, under paused time.

mod acks;
mod anything;
mod drain;
mod faults;
mod kit;
mod lifecycle;
mod limits;
mod outcomes;
mod places;
mod returns;
mod scene;
mod states;
mod waits;
