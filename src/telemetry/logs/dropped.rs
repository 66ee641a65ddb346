//! Counts the log lines that were dropped because standard error was not read fast enough, and says so
//! in the log.

use std::{
    io::Write,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking};
use tracing_subscriber::fmt::MakeWriter;

use super::LogFormat;
use crate::{clock, lock::lock, text::rfc3339_micros};

/// The counter of the process's log.
static COUNTER: OnceLock<ErrorCounter> = OnceLock::new();

/// The log lines of this process that were dropped.
pub(in crate::telemetry) fn lines_dropped() -> u64 {
    COUNTER
        .get()
        .map_or(0, |counter| counter.dropped_lines() as u64)
}

/// A writer that writes a line about dropped lines before the next one that it has room for.
#[derive(Clone)]
pub(super) struct SaysDropped {
    writer: NonBlocking,
    counter: ErrorCounter,
    format: LogFormat,
    told: Arc<AtomicUsize>,
    told_at: Arc<Mutex<Option<Instant>>>,
}

impl SaysDropped {
    pub(super) fn new(writer: NonBlocking, format: LogFormat) -> Self {
        let counter = writer.error_counter();
        // A process has one log. Only tests have several.
        let _ = COUNTER.set(counter.clone());
        Self {
            writer,
            counter,
            format,
            told: Arc::default(),
            told_at: Arc::default(),
        }
    }

    /// Says how many lines were dropped since the last time, at most once a second.
    fn tell(&self, dropped: usize) {
        const PERIOD: Duration = Duration::from_secs(1);
        let mut told_at = lock(&self.told_at);
        if told_at.is_some_and(|at| at.elapsed() < PERIOD) {
            return;
        }
        let lines = dropped - self.told.load(Ordering::Relaxed).min(dropped);
        let now = rfc3339_micros(clock::now());
        let text = "log lines were dropped, because standard error is read too slowly";
        let line = match self.format {
            LogFormat::Text => format!("{now}  WARN {text} lines={lines}\n"),
            LogFormat::Json => {
                format!(
                    r#"{{"timestamp":"{now}","level":"WARN","message":"{text}","lines":{lines},"target":"lapwing::telemetry"}}"#
                ) + "\n"
            }
        };
        // The writer takes every line, and counts those that it drops.
        let _ = self.writer.clone().write_all(line.as_bytes());
        if self.counter.dropped_lines() == dropped {
            self.told.store(dropped, Ordering::Relaxed);
            *told_at = Some(Instant::now());
        }
    }
}

impl<'a> MakeWriter<'a> for SaysDropped {
    type Writer = NonBlocking;

    fn make_writer(&'a self) -> NonBlocking {
        let dropped = self.counter.dropped_lines();
        if dropped > self.told.load(Ordering::Relaxed) {
            self.tell(dropped);
        }
        self.writer.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::mpsc::{Receiver, Sender, channel},
    };

    use tracing_appender::non_blocking::NonBlockingBuilder;

    use super::*;

    /// Writes a line each time that the test lets it.
    struct Slow {
        lets: Receiver<()>,
        written: Sender<String>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.lets.recv().is_ok() {
                let line = String::from_utf8_lossy(bytes).into_owned();
                // The test may have ended.
                let _ = self.written.send(line);
            }
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_log_says_how_many_lines_it_dropped() {
        let ((lets, waits), (written, lines)) = (channel(), channel());
        let slow = Slow {
            lets: waits,
            written,
        };
        let builder = NonBlockingBuilder::default().buffered_lines_limit(4);
        let (writer, guard) = builder.finish(slow);
        let log = SaysDropped::new(writer, LogFormat::Text);
        for number in 0..20 {
            let mut writer = log.make_writer();
            writer
                .write_all(format!("line {number}\n").as_bytes())
                .unwrap();
        }
        let dropped = log.counter.dropped_lines();
        assert!(dropped >= 14, "{dropped}");
        // The line about dropped lines needs room as each other line does. There are several such lines if the
        // writer was slow to take the first line.
        let mut told = 0;
        while told < dropped {
            lets.send(()).unwrap();
            let line = lines.recv().unwrap();
            if line.contains(" WARN log lines were dropped") {
                let count = line.trim_end().rsplit_once("lines=").unwrap().1;
                told += count.parse::<usize>().unwrap();
            }
            drop(log.make_writer());
        }
        assert_eq!(told, log.counter.dropped_lines());
        drop((lets, guard));
    }
}
