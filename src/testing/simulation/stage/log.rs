//! The log of a run: a time line that a person can read, the same for the same seed, byte for byte.

use std::fmt;

/// Whose doing an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// Publishers, operators, faults.
    World,
    Broker,
    /// A worker process.
    Worker(usize),
}

/// What happened, oldest first. Texts are filled in only when somebody reads them.
#[derive(Debug, Default)]
pub(crate) struct Log {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    at: u128,
    who: Who,
    text: &'static str,
    m: usize,
    a: usize,
    b: usize,
    more: Option<Box<str>>,
}

impl Log {
    pub(super) fn note(
        &mut self,
        at: u128,
        who: Who,
        text: &'static str,
        m: usize,
        a: usize,
        b: usize,
    ) {
        self.entries.push(Entry {
            at,
            who,
            text,
            m,
            a,
            b,
            more: None,
        });
    }

    /// Adds words to the last entry.
    pub(crate) fn add(&mut self, more: impl Into<Box<str>>) {
        if let Some(last) = self.entries.last_mut() {
            last.more = Some(more.into());
        }
    }

    pub(super) fn failed(&mut self, at: u128, property: &'static str, text: &str) {
        self.note(at, Who::World, "BROKEN:", 0, 0, 0);
        self.add(format!("{property}: {text}"));
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.entries
            .iter()
            .try_for_each(|entry| writeln!(f, "{entry}"))
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, millis) = (self.at / 1000, self.at % 1000);
        write!(f, "{seconds:5}.{millis:03} s  ")?;
        match self.who {
            Who::World => write!(f, "            ")?,
            Who::Broker => write!(f, "broker      ")?,
            Who::Worker(number) => write!(f, "worker {number:<5}")?,
        }
        let text = self.text.replace("{m}", &self.m.to_string());
        let text = text.replace("{a}", &self.a.to_string());
        write!(f, "{}", text.replace("{b}", &self.b.to_string()))?;
        match &self.more {
            Some(more) => write!(f, " {more}"),
            None => Ok(()),
        }
    }
}
