//! Sample settings for tests: refused ones and allowed ones.

use std::io::Write;

use tempfile::NamedTempFile;

use super::{Problem, Root, from_toml};

/// The settings of one test: some sections, and their checks.
macro_rules! sections {
    ({ $($field:ident: $type:ty),+ $(,)? }, $check:expr) => {
        #[derive(Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        struct Sections {
            $($field: $type,)+
        }

        impl crate::config::Checked for Sections {
            fn check(&self, findings: &mut crate::config::Findings) {
                let check: fn(&Self, &mut crate::config::Findings) = $check;
                check(self, findings);
            }
        }
    };
}
pub(crate) use sections;

/// The questions that tests ask about settings.
pub(crate) trait Sample: Root {
    /// The problems of this text, without their sources.
    fn problems(text: &str) -> Vec<String> {
        let Err(error) = from_toml::<Self>(text) else {
            return Vec::new();
        };
        let problems = error.problems.iter();
        problems
            .map(|Problem { path, message, .. }| format!("{path}: {message}"))
            .collect()
    }

    /// Asserts that each text has exactly one problem, which begins with the given words.
    #[track_caller]
    fn refused(cases: &[(&str, &str)]) {
        for (text, beginning) in cases {
            match Self::problems(text).as_slice() {
                [only] if only.starts_with(beginning) => {}
                found => panic!("{text}\nwanted: {beginning}\nfound: {found:#?}"),
            }
        }
    }

    #[track_caller]
    fn allowed(cases: &[&str]) {
        for text in cases {
            assert_eq!(Self::problems(text), [""; 0], "{text}");
        }
    }
}

impl<T: Root> Sample for T {}

pub(crate) fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// PEM blocks without a real certificate or key.
pub(crate) const CERTIFICATE: &str =
    "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
pub(crate) const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
