//! The limit of open file descriptors.

use lapwing::Settings;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Descriptors that a worker needs besides one for each handler: connections to the broker, the admin
/// server's connections, files.
const OTHERS: u64 = 256;

/// Raises the soft limit to the hard limit, as the runtime of Go does. The soft limit is often 1,024,
/// for programs that use `select`. Warns if handlers may need more.
pub(super) fn prepare(settings: &Settings) {
    let limit = raise();
    let handlers = settings.consumers.values();
    let handlers = handlers.map(|consumer| u64::from(consumer.concurrency));
    let needed = OTHERS + handlers.sum::<u64>();
    if let Some(limit) = limit
        && limit < needed
    {
        warn!(
            limit,
            needed,
            "the limit of open files (ulimit -n) is low: handlers that open connections may fail"
        );
    }
}

/// Returns the new soft limit; `None`: there is none.
fn raise() -> Option<u64> {
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
