//! Dead letters: messages that cannot succeed, with a record of why.

mod record;

pub(crate) use record::{Copy, Dead, Record, charge, class, dead_lettered, given_back, parked};
