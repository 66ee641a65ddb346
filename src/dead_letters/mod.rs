//! Dead letters: what cannot succeed, with the whole story of why.

mod record;

pub(crate) use record::{charge, class, dead_lettered, parked};
