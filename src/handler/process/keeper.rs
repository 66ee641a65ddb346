//! The keeper of one co-process: starts it, waits for its end, and starts it again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    line::read_ready,
    link::{Broken, Link},
    pool::{CoProcess, Pool},
};
use crate::{
    handler::{
        child::{self, Child, Ending, Tail, Take},
        results::LONGEST,
    },
    text::cut,
};

/// The most bytes of one line of standard error in the log, and of its end in an error.
const SHOWN: usize = 4 * 1024;
/// The number of co-processes in a row that end by themselves before their first answer, from which on
/// the keeper waits before the next start. Before that it starts them at once: their messages may be at
/// fault.
const BARREN: u32 = 3;
/// The first of these waits, also after a start that failed.
const BASE: Duration = Duration::from_millis(100);
/// The longest wait before a start.
const CAP: Duration = Duration::from_secs(10);

/// What the keeper of a co-process and those who use it share.
#[derive(Debug)]
pub(super) struct Life {
    /// The co-process must end, because it breaks the protocol or because its message is cancelled.
    pub(super) kill: CancellationToken,
    /// The co-process has had its last message, and its input is closed.
    pub(super) retire: CancellationToken,
    /// It has answered a message.
    has_served: AtomicBool,
    /// Its line has several messages, and any of them may end it.
    has_several: AtomicBool,
    /// How it ended.
    gone: watch::Receiver<Option<String>>,
}

impl Life {
    /// It has answered a message.
    pub(super) fn serves(&self) {
        self.has_served.store(true, Ordering::Relaxed);
    }

    /// It gets a line with so many messages.
    pub(super) fn works_on(&self, messages: usize) {
        self.has_several.store(messages > 1, Ordering::Relaxed);
    }

    pub(super) fn is_over(&self) -> bool {
        self.gone.borrow().is_some() || self.kill.is_cancelled()
    }

    /// Waits for the end of the co-process, and returns how it ended.
    pub(super) async fn over(&self) -> String {
        let mut gone = self.gone.clone();
        let how = gone.wait_for(Option::is_some).await;
        let how = how.ok().and_then(|how| how.clone());
        how.unwrap_or_else(|| "ended".to_owned())
    }
}

/// A co-process that has started.
struct Started {
    link: Link,
    ending: Ending,
    log: Log,
    stderr: tokio::net::unix::pipe::Receiver,
}

/// Keeps one co-process running until the pool closes. `first`: gets the result of the first start.
pub(super) async fn keep(pool: Arc<Pool>, first: oneshot::Sender<Result<(), String>>) {
    let mut first = Some(first);
    let mut tell = |result| {
        if let Some(first) = first.take() {
            // The handler's start may have been given up.
            let _ = first.send(result);
        }
    };
    let mut wait = BASE;
    let mut barren = 0;
    let mut is_failing = false;
    while !pool.closing.is_cancelled() {
        let error = match start(&pool).await {
            Ok(started) => {
                tell(Ok(()));
                if std::mem::take(&mut is_failing) {
                    pool.recovers();
                }
                match serve(&pool, started).await {
                    Served::Well => {
                        (wait, barren) = (BASE, 0);
                        continue;
                    }
                    Served::Nothing { how, had_several } => {
                        // The messages of a line may be at fault. Each stands alone in the end.
                        barren += u32::from(!had_several);
                        if barren < BARREN {
                            continue;
                        }
                        how
                    }
                }
            }
            Err(error) => {
                tell(Err(error.clone()));
                error
            }
        };
        if pool.closing.is_cancelled() {
            return;
        }
        warn!(program = &*pool.name, error, retry = ?wait, "co-process does not work, starting it again");
        if !std::mem::replace(&mut is_failing, true) {
            pool.fails(&error);
        }
        tokio::select! {
            biased;
            () = pool.closing.cancelled() => return,
            () = sleep(wait) => {}
        }
        wait = (wait * 2).min(CAP);
    }
}

/// Starts a co-process, and waits until it is ready.
async fn start(pool: &Pool) -> Result<Started, String> {
    let child = pool.program.start([]);
    let Child {
        stdin,
        stdout,
        stderr,
        mut ending,
    } = child.map_err(|error| format!("failed to start the program: {error}"))?;
    let stdin = stdin.ok_or("the program has no standard input")?;
    let mut link = Link::new(stdin, stdout);
    let mut log = Log::new(pool.name.clone());
    let first = tokio::select! {
        biased;
        first = timeout(pool.terms.start_timeout, link.line(LONGEST)) => first,
        () = pool.closing.cancelled() => return Err("the worker stops".to_owned()),
        () = async {
            child::drain(&stderr, &mut log).await;
            std::future::pending().await
        } => return Err(String::new()),
    };
    let error = match first {
        Ok(Ok(line)) => match read_ready(&line).and_then(|ready| pool.terms.accept(&ready)) {
            Ok(()) => {
                return Ok(Started {
                    link,
                    ending,
                    log,
                    stderr,
                });
            }
            Err(error) => error,
        },
        Ok(Err(Broken::Protocol(error))) => error,
        Ok(Err(Broken::Closed)) => "it ended before it was ready".to_owned(),
        Err(_) => format!("not ready within {:?}", pool.terms.start_timeout),
    };
    drop(link);
    // A program that closed its output usually ends by itself, with an exit code of its own.
    let _ = timeout(pool.terms.kill_after, ending.ended()).await;
    let status = ending.shut_down().await;
    child::rest(&stderr, &mut log);
    let how = status.map_or_else(|error| error.to_string(), child::how);
    Err(with_end(&format!("{error} ({how})"), &log))
}

/// How a co-process did until its end.
enum Served {
    /// It answered, or ended because the worker wanted it.
    Well,
    /// It ended by itself before its first answer.
    Nothing {
        how: String,
        /// Its line had several messages.
        had_several: bool,
    },
}

/// Lends the co-process out until its end.
async fn serve(pool: &Arc<Pool>, started: Started) -> Served {
    let Started {
        link,
        mut ending,
        mut log,
        stderr,
    } = started;
    let (gone, watching) = watch::channel(None);
    let life = Arc::new(Life {
        kill: CancellationToken::new(),
        retire: CancellationToken::new(),
        has_served: AtomicBool::new(false),
        has_several: AtomicBool::new(false),
        gone: watching,
    });
    let process = ending.id();
    info!(program = &*pool.name, process, "co-process is ready");
    pool.put(CoProcess {
        link,
        life: Arc::clone(&life),
        served: 0,
        born: Instant::now(),
    });
    let (status, is_wanted) = {
        let end = async {
            let is_wanted = tokio::select! {
                biased;
                () = ending.ended() => false,
                () = life.kill.cancelled() => true,
                () = life.retire.cancelled() => true,
                () = pool.closing.cancelled() => {
                    pool.forget_idle();
                    true
                }
            };
            if is_wanted && !life.kill.is_cancelled() {
                // Its input is closed, so it ends by itself.
                tokio::select! {
                    biased;
                    _ = timeout(pool.terms.kill_after, ending.ended()) => {}
                    () = life.kill.cancelled() => {}
                }
            }
            (ending.shut_down().await, is_wanted)
        };
        tokio::select! {
            biased;
            ended = end => ended,
            never = async {
                child::drain(&stderr, &mut log).await;
                std::future::pending().await
            } => never,
        }
    };
    child::rest(&stderr, &mut log);
    let how = status.map_or_else(|error| error.to_string(), child::how);
    let how = with_end(&how, &log);
    let has_served = life.has_served.load(Ordering::Relaxed);
    match is_wanted {
        true => info!(program = &*pool.name, process, how, "co-process has ended"),
        false => warn!(
            program = &*pool.name,
            process, how, "co-process ended by itself"
        ),
    }
    gone.send_replace(Some(how.clone()));
    pool.sweep();
    match is_wanted || has_served {
        true => Served::Well,
        false => Served::Nothing {
            how,
            had_several: life.has_several.load(Ordering::Relaxed),
        },
    }
}

/// A text with the end of standard error after it.
fn with_end(text: &str, log: &Log) -> String {
    match log.tail.text().as_str() {
        "" => text.to_owned(),
        end => format!("{text}: {end}"),
    }
}

/// Writes standard error to the worker's log, line by line, and keeps its end.
struct Log {
    program: Arc<str>,
    line: Vec<u8>,
    tail: Tail,
}

impl Log {
    fn new(program: Arc<str>) -> Self {
        Self {
            program,
            line: Vec::new(),
            tail: Tail::most(SHOWN),
        }
    }

    fn write(&mut self) {
        let line = String::from_utf8_lossy(&self.line);
        info!(program = &*self.program, "{}", cut(line.trim_end(), SHOWN));
        self.line.clear();
    }
}

impl Take for Log {
    fn take(&mut self, bytes: &[u8]) {
        self.tail.take(bytes);
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            // Of a longer line the rest is left out.
            let room = SHOWN.saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                self.write();
            }
        }
    }
}
