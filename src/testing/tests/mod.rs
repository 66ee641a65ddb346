//! Whole workers on the broker in memory, under paused time.

mod account;
mod bodies;
mod concurrency;
mod copies;
mod dead_letters;
mod holds;
mod in_flight;
mod kit;
mod lifecycle;
mod outcomes;
mod publishing;
mod retries;
mod returns;
mod running;
