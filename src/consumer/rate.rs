//! The setting `rate` of a consumer: so many attempts in a time.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The most attempts of a consumer in a time, written `100/s`, `30/m` or `1000/h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    attempts: u32,
    per: Per,
}

/// The time for which a [`Rate`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Per {
    Second,
    Minute,
    Hour,
}

impl Per {
    fn time(self) -> Duration {
        match self {
            Self::Second => Duration::from_secs(1),
            Self::Minute => Duration::from_mins(1),
            Self::Hour => Duration::from_hours(1),
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Self::Second => "s",
            Self::Minute => "m",
            Self::Hour => "h",
        }
    }
}

impl Rate {
    /// So many attempts in a second. `None` for 0, and for more than a million.
    #[must_use]
    pub fn in_a_second(attempts: u32) -> Option<Self> {
        let per = Per::Second;
        matches!(attempts, 1..=MOST).then_some(Self { attempts, per })
    }

    /// The time from the start of one attempt to the start of the next, if they are evenly spread.
    #[must_use]
    pub fn interval(self) -> Duration {
        self.per.time() / self.attempts
    }
}

/// The error for a text that is not a [`Rate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {EXPECTED}")]
pub struct InvalidRate;

/// The texts that the schema accepts as a rate.
pub(super) const PATTERN: &str = "^[0-9]+ */ *(s|m|h)$";

const EXPECTED: &str = "a rate from 1 to 1000000 in a second, minute or hour, such as \"100/s\", \
                        \"30/m\" or \"1000/h\"";

/// The most attempts in a time.
const MOST: u32 = 1_000_000;

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        let (attempts, unit) = text.split_once('/').ok_or(InvalidRate)?;
        let all = [Per::Second, Per::Minute, Per::Hour];
        let per = all.into_iter().find(|per| per.unit() == unit.trim());
        match (attempts.trim().parse(), per) {
            (Ok(attempts @ 1..=MOST), Some(per)) => Ok(Self { attempts, per }),
            _ => Err(InvalidRate),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.attempts, self.per.unit())
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Written)
    }
}

struct Written;

impl de::Visitor<'_> for Written {
    type Value = Rate;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Rate, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_reads_back_as_it_prints_and_has_its_interval() {
        for (text, millis) in [("100/s", 10), ("30/m", 2_000), ("3600/h", 1_000)] {
            let rate: Rate = text.parse().unwrap();
            assert_eq!(rate.to_string(), text);
            assert_eq!(rate.interval(), Duration::from_millis(millis));
        }
        assert_eq!("5 / m".parse::<Rate>(), "5/m".parse());
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        let texts = [
            "",
            "100",
            "/s",
            "0/s",
            "-1/s",
            "1.5/s",
            "100/d",
            "100/ms",
            "1000001/s",
        ];
        for text in texts {
            assert_eq!(text.parse::<Rate>(), Err(InvalidRate), "{text}");
        }
    }
}
