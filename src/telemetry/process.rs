//! The metrics `process_*` of Prometheus' conventions, read from `/proc` for each scrape. They are on
//! `/metrics` only: OpenTelemetry has other names for them, and collectors measure processes themselves.

use std::{fmt::Write, fs};

/// The units of times in `/proc`: hundredths of a second on every architecture (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// One metric of this process.
struct Metric {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    /// `None`: `/proc` has no such number, or none that means anything, such as no limit.
    read: fn() -> Option<f64>,
}

const METRICS: [Metric; 7] = [
    Metric {
        name: "process_cpu_seconds_total",
        kind: "counter",
        help: "CPU time that the process has used, in user and system mode.",
        read: cpu_seconds,
    },
    Metric {
        name: "process_open_fds",
        kind: "gauge",
        help: "Open file descriptors. Each connection needs one.",
        read: open_files,
    },
    Metric {
        name: "process_max_fds",
        kind: "gauge",
        help: "The most file descriptors that the process may open (ulimit -n).",
        read: most_files,
    },
    Metric {
        name: "process_resident_memory_bytes",
        kind: "gauge",
        help: "Memory of the process that is in RAM.",
        read: || kilobytes("VmRSS:"),
    },
    Metric {
        name: "process_virtual_memory_bytes",
        kind: "gauge",
        help: "Address space of the process, in RAM or not.",
        read: || kilobytes("VmSize:"),
    },
    Metric {
        name: "process_threads",
        kind: "gauge",
        help: "Threads of the process.",
        read: || status("Threads:"),
    },
    Metric {
        name: "process_start_time_seconds",
        kind: "gauge",
        help: "When the process started, in seconds since 1970.",
        read: started,
    },
];

/// All metrics of this process, in Prometheus' text format.
pub(super) fn text() -> String {
    let mut text = String::new();
    for Metric {
        name,
        kind,
        help,
        read,
    } in METRICS
    {
        if let Some(value) = read() {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
            );
        }
    }
    text
}

/// The number after this word at the beginning of a line in `/proc/self/status`.
fn status(word: &str) -> Option<f64> {
    number_after(&fs::read_to_string("/proc/self/status").ok()?, word)
}

fn kilobytes(word: &str) -> Option<f64> {
    Some(status(word)? * 1024.0)
}

/// The number after this word at the beginning of a line.
fn number_after(text: &str, word: &str) -> Option<f64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(word))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// A field of `/proc/self/stat`, counted from 1 as in proc(5). The second field, the name of the
/// program, may contain spaces.
fn stat(field: usize) -> Option<f64> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, after_name) = text.rsplit_once(')')?;
    after_name
        .split_whitespace()
        .nth(field.checked_sub(3)?)?
        .parse()
        .ok()
}

fn cpu_seconds() -> Option<f64> {
    Some((stat(14)? + stat(15)?) / TICKS_PER_SECOND)
}

fn started() -> Option<f64> {
    let booted = number_after(&fs::read_to_string("/proc/stat").ok()?, "btime")?;
    Some(booted + stat(22)? / TICKS_PER_SECOND)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "there are fewer than 2^53 files"
)]
fn open_files() -> Option<f64> {
    // One of them is the folder itself, which is open while it is read.
    let open = fs::read_dir("/proc/self/fd").ok()?.count();
    Some(open.saturating_sub(1) as f64)
}

fn most_files() -> Option<f64> {
    number_after(
        &fs::read_to_string("/proc/self/limits").ok()?,
        "Max open files",
    )
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    fn value(name: &str) -> f64 {
        number_after(&text(), &format!("{name} ")).unwrap_or_else(|| panic!("no {name}"))
    }

    #[test]
    fn each_metric_has_a_value_that_can_be() {
        assert_eq!(text().matches("# HELP ").count(), METRICS.len());
        // A new process has used less than a hundredth of a second. Reading uses some.
        let has_used_cpu = || value("process_cpu_seconds_total") > 0.0;
        assert!((0..100_000).any(|_| has_used_cpu()));
        assert!(value("process_threads") >= 1.0);
        let (resident, all) = (
            value("process_resident_memory_bytes"),
            value("process_virtual_memory_bytes"),
        );
        assert!(resident > 1e6 && all >= resident, "{resident} of {all}");
        assert!(value("process_open_fds") <= value("process_max_fds"));
        let started = value("process_start_time_seconds");
        let now = crate::clock::now().duration_since(UNIX_EPOCH).unwrap();
        let ago = now.as_secs_f64() - started;
        assert!((-2.0..86_400.0).contains(&ago), "started {ago} s ago");
    }

    #[test]
    fn open_files_are_counted() {
        let before = value("process_open_fds");
        let files: Vec<_> = (0..50)
            .map(|_| fs::File::open("/proc/self/stat").unwrap())
            .collect();
        // Tests beside this one open and close files too, but fewer.
        assert!(value("process_open_fds") >= before + 20.0);
        drop(files);
    }
}
