//! Dead letters: messages that cannot succeed, with a record of why.

mod canary;
mod record;

pub(crate) use canary::{Canary, CanaryReport, QUEUES_OF_REPORTS};
pub(crate) use record::{Copy, Dead, Record, charge, class, dead_lettered, given_back, parked};
