//! Whole workers under deterministic simulation: time, randomness, lines and broker come from one seed,
//! so that every failure can be played again. See docs/simulation.md.

mod finish;
mod handling;
mod panics;
mod play;
mod process;
mod scenario;
mod script;
mod search;
mod session;
mod shrink;
mod stage;
mod wire;
mod world;
