//! Whether certificates are about to expire.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use super::{
    check::{Check, Found, Needs},
    scene::Scene,
};
use crate::{
    certificates::{self, Certificate},
    clock,
    config::KeyPath,
    handler::HandlerSettings,
    text::rfc3339,
};

const WHY: &str = "with an expired certificate no connection is made";

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "certificate-files",
        why: WHY,
        needs: Needs::Settings,
        look: files,
    },
    Check {
        name: "broker-certificate",
        why: WHY,
        needs: Needs::Places,
        look: broker,
    },
    Check {
        name: "handler-certificates",
        why: WHY,
        needs: Needs::Handlers,
        look: handlers,
    },
];

/// So long before its end a certificate should have been renewed. One with a short life is renewed in
/// its last quarter.
const SOON: Duration = Duration::from_hours(14 * 24);

/// What the certificates of a file are for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// To trust a server, alone or beside the authorities of the system.
    Authority { is_alone: bool },
    /// To be trusted by a server.
    Own,
}

fn files(scene: &Scene<'_>, found: &mut Found) {
    let settings = &scene.settings.broker.tls;
    let authority = |system: bool| Use::Authority { is_alone: !system };
    let at = KeyPath::of("broker").key("tls");
    let mut files = vec![
        (
            at.key("ca_file"),
            &settings.ca_file,
            authority(settings.system_authorities),
        ),
        (at.key("cert_file"), &settings.cert_file, Use::Own),
    ];
    for (at, handler) in scene.settings.handlers() {
        if let HandlerSettings::Http(http) = handler {
            let system = authority(http.system_authorities);
            files.push((at.key("ca_file"), &http.ca_file, system));
            files.push((at.key("cert_file"), &http.cert_file, Use::Own));
        }
    }
    for (at, file, purpose) in files {
        if let Some(file) = file {
            look_at(found, &at.to_string(), file, purpose);
        }
    }
    if found.rows.is_empty() {
        found.ok("the settings name no certificate");
    }
}

fn look_at(found: &mut Found, at: &str, file: &Path, purpose: Use) {
    let mut all = certificates::in_file(file);
    // One authority of several may be out of date. Of a chain the first certificate counts.
    if purpose != Use::Own {
        all.sort_by_key(|it| std::cmp::Reverse(it.expires));
    }
    let name = file.display().to_string();
    let Some(certificate) = all.first() else {
        let text = format!("{name} cannot be read, or holds no certificate");
        return found.fail(at, text, "name a file with certificates in PEM format");
    };
    let whose = match all.len() {
        1 => name,
        number if purpose != Use::Own => format!("{name}, the last one of {number} to expire"),
        _ => name,
    };
    let is_needed = purpose != Use::Authority { is_alone: false };
    tell(
        found,
        at,
        &whose,
        certificate,
        ("renew the file", is_needed),
    );
}

fn broker(scene: &Scene<'_>, found: &mut Found) {
    let mut shown = 0;
    for place in scene.places.iter().flatten() {
        let Some(first) = place.certificates.first() else {
            continue;
        };
        shown += 1;
        let mend = "renew the certificate at the broker (ssl_options.certfile)";
        tell(found, "broker.url", &place.at, first, (mend, true));
    }
    if shown == 0 {
        found.ok("the broker shows no certificate: TLS is not used");
    }
}

fn handlers(scene: &Scene<'_>, found: &mut Found) {
    let mut shown = 0;
    for handler in &scene.handlers {
        let Some(Ok(reached)) = &handler.reached else {
            continue;
        };
        let Some(first) = reached.certificates.first() else {
            continue;
        };
        shown += 1;
        let at = handler.at.key("url").to_string();
        let mend = "renew the certificate of the service";
        tell(found, &at, "its server", first, (mend, true));
    }
    if shown == 0 {
        found.ok("no service shows a certificate: TLS is not used");
    }
}

/// Tells how long a certificate is valid, with its mend. Without one that is needed no connection is made.
fn tell(
    found: &mut Found,
    at: &str,
    whose: &str,
    certificate: &Certificate,
    (mend, is_needed): (&str, bool),
) {
    let Certificate {
        subject,
        begins,
        expires,
    } = certificate;
    let now = clock::now();
    let when = rfc3339(*expires);
    let text = |verb: &str| format!("the certificate of {whose} ({subject}) {verb} {when}");
    match left(now, *begins, *expires) {
        Left::NotYet => {
            let begins = rfc3339(*begins);
            let text = format!("the certificate of {whose} ({subject}) is valid from {begins} on");
            found.fail(
                at,
                text,
                "correct the clock of this machine, or renew the certificate",
            );
        }
        // The system's authorities may do.
        Left::Nothing if !is_needed => found.warn(at, text("expired"), mend),
        Left::Nothing => found.fail(at, text("expired"), mend),
        Left::Little => found.warn(at, text("expires"), mend),
        Left::Enough => found.ok(text("expires")),
    }
}

enum Left {
    NotYet,
    Nothing,
    Little,
    Enough,
}

fn left(now: SystemTime, begins: SystemTime, expires: SystemTime) -> Left {
    /// Clocks differ a little.
    const APART: Duration = Duration::from_mins(5);
    if begins > now + APART {
        return Left::NotYet;
    }
    let life = expires.duration_since(begins).unwrap_or_default();
    match expires.duration_since(now) {
        Err(_) => Left::Nothing,
        Ok(left) if left < SOON.min(life / 4) => Left::Little,
        Ok(_) => Left::Enough,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{
        super::tests::{found, start},
        *,
    };

    /// A certificate that is valid for this many days from 30 days ago.
    fn certificate(days: u32) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(["rabbit".to_owned()]).unwrap();
        let day = Duration::from_hours(24);
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let begins = since.unwrap() - 30 * day;
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        parameters.not_before = epoch + begins;
        parameters.not_after = epoch + begins + days * day;
        parameters.self_signed(&key).unwrap().pem()
    }

    #[test]
    fn a_certificate_that_expires_soon_or_has_expired_is_found() {
        let file = crate::config::samples::file("");
        let mut start = start("");
        start.settings.broker.tls.ca_file = Some(file.path().to_owned());
        start.settings.broker.tls.system_authorities = false;
        for (pem, grade) in [
            (certificate(365), None),
            (certificate(40), Some("WARN")),
            (certificate(10), Some("FAIL")),
            // An authority of a bundle may be out of date.
            (certificate(10) + &certificate(365), None),
            ("nonsense".to_owned(), Some("FAIL")),
        ] {
            fs::write(file.path(), pem).unwrap();
            let told = found(&start, "certificate-files");
            let first = told.first().and_then(|line| line.split(' ').next());
            assert_eq!(first, grade, "{told:?}");
        }
        // The authorities of the system may do.
        start.settings.broker.tls.system_authorities = true;
        fs::write(file.path(), certificate(10)).unwrap();
        let told = found(&start, "certificate-files");
        assert!(told[0].starts_with("WARN broker.tls.ca_file: "), "{told:?}");
    }
}
