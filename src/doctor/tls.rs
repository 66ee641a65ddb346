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

fn files(scene: &Scene<'_>, found: &mut Found) {
    let tls = &scene.settings.broker.tls;
    let mut count = 0;
    let mut look = |at: String, file: Option<&Path>, is_authority: bool| {
        let Some(file) = file else { return };
        count += 1;
        let mut all = certificates::in_file(file);
        // One authority of several may be out of date. Of a chain the first certificate counts.
        all.sort_by_key(|it| is_authority.then_some(std::cmp::Reverse(it.expires)));
        let name = file.display().to_string();
        tell(found, &at, &name, all.first(), "renew the file");
    };
    look(
        "broker.tls.ca_file".to_owned(),
        tls.ca_file.as_deref(),
        true,
    );
    look(
        "broker.tls.cert_file".to_owned(),
        tls.cert_file.as_deref(),
        false,
    );
    for (at, handler) in scene.settings.handlers() {
        if let HandlerSettings::Http(http) = handler {
            look(at.key("ca_file").to_string(), http.ca_file.as_deref(), true);
            look(
                at.key("cert_file").to_string(),
                http.cert_file.as_deref(),
                false,
            );
        }
    }
    if count == 0 {
        found.ok("the settings name no certificate");
    }
}

fn broker(scene: &Scene<'_>, found: &mut Found) {
    let mut shown = 0;
    for place in scene.places.iter().flatten() {
        let first = place.certificates.first();
        shown += usize::from(first.is_some());
        let mend = "renew the certificate at the broker (ssl_options.certfile)";
        tell(found, "broker.url", &place.at, first, mend);
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
        let first = reached.certificates.first();
        shown += usize::from(first.is_some());
        let at = handler.at.key("url").to_string();
        tell(
            found,
            &at,
            "its server",
            first,
            "renew the certificate of the service",
        );
    }
    if shown == 0 {
        found.ok("no service shows a certificate: TLS is not used");
    }
}

fn tell(found: &mut Found, at: &str, whose: &str, first: Option<&Certificate>, mend: &str) {
    let Some(certificate) = first else { return };
    let Certificate {
        subject,
        begins,
        expires,
    } = certificate;
    let now = clock::now();
    let when = rfc3339(*expires);
    let text = |verb: &str| format!("the certificate of {whose} ({subject}) {verb} {when}");
    match left(now, *begins, *expires) {
        Left::Nothing => found.fail(at, text("expired"), mend),
        Left::Little => found.warn(at, text("expires"), mend),
        Left::Enough => found.ok(text("expires")),
    }
}

enum Left {
    Nothing,
    Little,
    Enough,
}

fn left(now: SystemTime, begins: SystemTime, expires: SystemTime) -> Left {
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
        for (pem, grade) in [
            (certificate(365), None),
            (certificate(40), Some("WARN")),
            (certificate(10), Some("FAIL")),
            // An authority of a bundle may be out of date.
            (certificate(10) + &certificate(365), None),
        ] {
            fs::write(file.path(), pem).unwrap();
            let told = found(&start, "certificate-files");
            let first = told.first().and_then(|line| line.split(' ').next());
            assert_eq!(first, grade, "{told:?}");
        }
    }
}
