//! Tests of whole workers on the broker in memory, with paused time.

mod account;
mod acks;
mod anything;
mod bodies;
mod concurrency;
mod copies;
mod dead_letters;
mod drain;
mod faults;
mod in_flight;
mod kept;
mod kit;
mod lifecycle;
mod limits;
mod outcomes;
mod places;
mod proof;
mod publishing;
mod redelivered;
mod retries;
mod returns;
mod running;
mod scene;
mod service;
mod states;
mod waits;
