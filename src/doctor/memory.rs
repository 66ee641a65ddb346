//! Whether messages and connections fit this machine.

use super::{
    check::{Check, Found, Needs},
    queues,
    scene::Scene,
};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "memory",
        why: "messages and copies of them may need three times as much, and the kernel then kills the \
              worker",
        needs: Needs::Settings,
        look: memory,
    },
    Check {
        name: "message-sizes",
        why: "a worker that holds more than its machine has is killed, and all it holds runs again",
        needs: Needs::Connection,
        look: message_sizes,
    },
    Check {
        name: "open-files",
        why: "handlers that open connections may fail",
        needs: Needs::Settings,
        look: open_files,
    },
];

/// Messages and copies of them may need so many times their size.
const COPIES: u64 = 3;

fn memory(scene: &Scene<'_>, found: &mut Found) {
    let (budget, limit) = (
        scene.settings.memory.prefetch_bytes,
        scene.around.memory_limit,
    );
    let (Some(budget), Some(limit)) = (budget, limit) else {
        return found.ok(match (budget, limit) {
            (Some(budget), _) => format!("messages may take {budget} bytes"),
            (None, Some(limit)) => {
                format!("messages may take a quarter of the container's memory limit, which is {limit} bytes")
            }
            (None, None) => "the container has no memory limit".to_owned(),
        });
    };
    if budget > limit / COPIES {
        found.warn(
            "memory.prefetch_bytes",
            format!("is {budget}, more than a third of the container's memory limit ({limit})"),
            format!(
                "set memory.prefetch_bytes to {} or less",
                limit / (COPIES + 1)
            ),
        );
    }
    found.ok(format!(
        "{budget} bytes of messages, in a container of {limit}"
    ));
}

/// Takes the mean size of the messages that wait now.
fn message_sizes(scene: &Scene<'_>, found: &mut Found) {
    let is_bounded =
        scene.settings.memory.prefetch_bytes.is_some() || scene.around.memory_limit.is_some();
    let mut held: u64 = 0;
    let mut known = false;
    for (_, consumer, seen) in queues::consumers(scene) {
        let Some((messages, bytes)) = seen.shown.get(&consumer.queue).map(|it| it.holds()) else {
            continue;
        };
        let Some(mean) = bytes.checked_div(messages) else {
            continue;
        };
        known = true;
        let most = consumer.prefetch_bytes.unwrap_or(u64::MAX);
        held = held.saturating_add(mean.saturating_mul(consumer.prefetch.into()).min(most));
    }
    if !known {
        return found
            .ok("no message waits, or broker.management_url is not set: sizes are not known");
    }
    let memory = scene.around.memory.unwrap_or(u64::MAX);
    if !is_bounded && held.saturating_mul(COPIES) > memory {
        return found.warn(
            "memory.prefetch_bytes",
            format!(
                "is not set. By the sizes of the messages that wait now, the consumers may hold {held} \
                 bytes, on a machine with {memory}"
            ),
            format!("set memory.prefetch_bytes to {}, or lower `prefetch`", memory / (COPIES + 1)),
        );
    }
    found.ok(match is_bounded {
        true => format!("the prefetched messages have about {held} bytes; the worker takes fewer if they are too large"),
        false => format!("the prefetched messages have about {held} bytes"),
    });
}

/// Descriptors that a worker needs besides one for each handler: connections to the broker, the admin
/// server's connections, files.
const OTHERS: u64 = 256;

fn open_files(scene: &Scene<'_>, found: &mut Found) {
    let handlers = scene.settings.consumers.values();
    let handlers = handlers.map(|consumer| u64::from(consumer.concurrency));
    let needed = OTHERS + handlers.sum::<u64>();
    match scene.around.open_files {
        Some(limit) if limit < needed => found.warn(
            "ulimit -n",
            format!("the limit of open files is {limit}, and {needed} may be needed"),
            format!("raise the hard limit to {needed} (LimitNOFILE of systemd, ulimit -Hn)"),
        ),
        Some(limit) => found.ok(format!("{limit}, and {needed} may be needed")),
        None => found.ok(format!("no limit is known; {needed} may be needed")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, start};

    #[test]
    fn a_budget_above_a_third_of_the_memory_limit_is_found() {
        let with = |limit| {
            let mut start = start("");
            start.settings.memory.prefetch_bytes = Some(100);
            start.around.memory_limit = Some(limit);
            found(&start, "memory")
        };
        assert_eq!(with(300), [""; 0]);
        assert!(with(299)[0].starts_with("WARN memory.prefetch_bytes: is 100, more than a third"));
        assert!(with(299)[0].ends_with("memory.prefetch_bytes to 74 or less"));
    }

    #[test]
    fn a_low_limit_of_open_files_is_found() {
        let with = |limit| {
            let mut start = start("concurrency = 50");
            start.around.open_files = Some(limit);
            found(&start, "open-files")
        };
        assert_eq!(with(306), [""; 0]);
        assert!(with(305)[0].starts_with("WARN ulimit -n: the limit of open files is 305"));
    }
}
