//! What a check is, and what it finds.

use std::{collections::BTreeSet, fmt};

use serde::Serialize;

use super::scene::Scene;
use crate::text::visible;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// The check found nothing to mend.
    Ok,
    /// The worker can run, but something is likely to do harm.
    Warn,
    /// The worker does not start, does not consume, or cannot keep its promise.
    Fail,
}

/// One result of a check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The name of the check.
    pub check: &'static str,
    /// How bad it is.
    pub grade: Grade,
    /// The setting, queue, exchange or file. Empty if nothing is to be mended.
    pub about: String,
    /// What was found.
    pub found: String,
    /// Why it matters.
    pub why: &'static str,
    /// The command or setting that mends it. Empty if nothing is to be mended.
    pub mend: String,
}

impl fmt::Display for Finding {
    /// One line, for a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            about, found, why, ..
        } = self;
        if !about.is_empty() {
            write!(f, "{about}: ")?;
        }
        write!(f, "{found}: {why}")?;
        match self.mend.as_str() {
            "" => Ok(()),
            mend => write!(f, "; {mend}"),
        }
    }
}

/// A check.
pub(super) struct Check {
    /// Its name in reports.
    pub(super) name: &'static str,
    /// Why its findings matter.
    pub(super) why: &'static str,
    pub(super) needs: Needs,
    pub(super) look: fn(&Scene<'_>, &mut Found),
}

/// What a check needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// The settings, and what this machine says at once: such a check runs at each start.
    Settings,
    /// Whether the broker answers.
    Places,
    /// A connection to the broker.
    Connection,
    /// Whether the handlers' services answer.
    Handlers,
}

/// Collects what a check finds.
#[derive(Default)]
pub(super) struct Found {
    pub(super) rows: Vec<(Grade, String, String, String)>,
}

impl Found {
    /// Says what is well.
    pub(super) fn ok(&mut self, found: impl Into<String>) {
        let none = String::new;
        self.rows.push((Grade::Ok, none(), found.into(), none()));
    }

    pub(super) fn warn(
        &mut self,
        about: impl Into<String>,
        found: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.add(Grade::Warn, about, found, mend);
    }

    pub(super) fn fail(
        &mut self,
        about: impl Into<String>,
        found: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.add(Grade::Fail, about, found, mend);
    }

    pub(super) fn add(
        &mut self,
        grade: Grade,
        about: impl Into<String>,
        found: impl Into<String>,
        mend: impl Into<String>,
    ) {
        self.rows
            .push((grade, about.into(), found.into(), mend.into()));
    }

    /// Whether nothing is to be mended so far.
    pub(super) fn is_well(&self) -> bool {
        self.rows.iter().all(|(grade, ..)| *grade == Grade::Ok)
    }
}

impl Check {
    /// Runs the check. If something is to be mended, the report leaves out what is well. What two consumers
    /// of one queue have in common is said once.
    pub(super) fn run(&self, scene: &Scene<'_>) -> Vec<Finding> {
        let mut found = Found::default();
        (self.look)(scene, &mut found);
        let is_well = found.is_well();
        let rows = found.rows.into_iter();
        let rows = rows.filter(|(grade, ..)| is_well || *grade != Grade::Ok);
        let mut said = BTreeSet::new();
        let rows = rows.filter(|(grade, about, found, _)| {
            *grade == Grade::Ok || said.insert((about.clone(), found.clone()))
        });
        // Brokers, servers and certificates write some of the texts.
        let plain = |text: String| visible(&text).into_owned();
        rows.map(|(grade, about, found, mend)| Finding {
            check: self.name,
            grade,
            about: plain(about),
            found: plain(found),
            why: self.why,
            mend: plain(mend),
        })
        .collect()
    }
}
