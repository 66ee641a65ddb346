//! Times as other systems write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A time in milliseconds since 1970.
pub(super) fn millis(millis: f64) -> Option<SystemTime> {
    let since = Duration::try_from_secs_f64(millis / 1000.0).ok()?;
    UNIX_EPOCH.checked_add(since)
}

/// A time in ISO 8601, such as `2026-11-27T20:31:04.5+01:00`. Without an offset: UTC.
pub(super) fn iso(text: &str) -> Option<SystemTime> {
    let text = text.trim();
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let zone = rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len());
    let (clock, zone) = rest.split_at(zone);
    let east = offset(zone)?;
    // Written in UTC, but without the offset and with nine digits at most, as the parser wants it.
    let (whole, fraction) = clock
        .trim_end()
        .split_once('.')
        .unwrap_or((clock.trim_end(), ""));
    let whole = match whole.len() {
        5 => format!("{whole}:00"),
        _ => whole.to_owned(),
    };
    let fraction = fraction.get(..9).unwrap_or(fraction);
    let dot = if fraction.is_empty() { "" } else { "." };
    let utc = humantime::parse_rfc3339(&format!("{date}T{whole}{dot}{fraction}Z")).ok()?;
    let by = Duration::from_secs(u64::from(east.unsigned_abs()) * 60);
    let time = match east {
        0.. => utc.checked_sub(by),
        _ => utc.checked_add(by),
    };
    // No message is from before 1970, and headers cannot write such a time.
    time.filter(|time| *time >= UNIX_EPOCH)
}

/// The minutes to the east of Greenwich.
fn offset(zone: &str) -> Option<i32> {
    let zone = zone.trim();
    if matches!(zone, "" | "Z" | "z") {
        return Some(0);
    }
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let digits: String = zone.get(1..)?.chars().filter(|c| *c != ':').collect();
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let (hours, minutes) = match digits.len() {
        2 => (digits.as_str(), "0"),
        4 => digits.split_at(2),
        _ => return None,
    };
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    Some(sign * (hours * 60 + minutes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_read_with_and_without_an_offset() {
        let utc = |text| Some(humantime::parse_rfc3339(text).unwrap());
        let cases = [
            ("2026-11-27T20:31:04Z", "2026-11-27T20:31:04Z"),
            ("2026-11-27T20:31:04", "2026-11-27T20:31:04Z"),
            ("2026-11-27 20:31:04.25", "2026-11-27T20:31:04.25Z"),
            (
                "2026-11-27T20:31:04.123456+00:00",
                "2026-11-27T20:31:04.123456Z",
            ),
            (
                "2026-11-27T20:31:04.1234567Z",
                "2026-11-27T20:31:04.1234567Z",
            ),
            ("2026-11-27T20:31:04+01:30", "2026-11-27T19:01:04Z"),
            ("2026-11-27T20:31-0500", "2026-11-28T01:31:00Z"),
            ("2026-11-27T23:31:04-05", "2026-11-28T04:31:04Z"),
        ];
        for (text, wanted) in cases {
            assert_eq!(iso(text), utc(wanted), "{text}");
        }
        for text in [
            "",
            "2026-11-27",
            "soon",
            "2026-11-27T20:31:04+1",
            "2026-13-01T00:00:00Z",
            "2026-11-27T+€1",
            "2026-11-27T20:31:04+€1",
            "1970-01-01T00:00:00+01:00",
        ] {
            assert_eq!(iso(text), None, "{text}");
        }
    }

    proptest! {
        /// Anybody can publish any text.
        #[test]
        fn any_text_is_a_time_that_can_be_written_or_none(
            start in "(2026-11-27|1970-01-01|9999-12-31)[Tt ]",
            text in "([0-9:.+€Zz -]{0,12}|.{0,12})",
        ) {
            for text in [format!("{start}{text}"), format!("{start}20:31:04{text}"), text] {
                if let Some(time) = iso(&text) {
                    let _ = crate::text::rfc3339(time);
                    let _ = crate::text::rfc3339_micros(time);
                }
            }
        }
    }

    #[test]
    fn a_number_that_is_no_time_is_none() {
        assert_eq!(
            millis(1500.0),
            Some(UNIX_EPOCH + Duration::from_millis(1500))
        );
        for number in [-1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(millis(number), None);
        }
    }
}
