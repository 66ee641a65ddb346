//! The limit of open file descriptors.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard limit, as the runtime of Go does. The soft limit is often 1,024,
/// for programs that use `select`. Returns the new soft limit; `None`: there is none.
pub(super) fn raise() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(_) => current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_of_open_files_becomes_the_hard_limit() {
        let before = getrlimit(Resource::Nofile);
        let maximum = before.maximum.unwrap_or(1 << 20);
        let lower = Rlimit {
            current: Some(maximum - 1),
            ..before
        };
        setrlimit(Resource::Nofile, lower).unwrap();
        assert_eq!(raise(), before.maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }
}
