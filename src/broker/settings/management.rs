//! The address of the management API.

use url::Url;

use crate::config::{Findings, KeyPath};

/// Checks the address of the management API.
pub(super) fn check(findings: &mut Findings, section: &KeyPath, url: Option<&str>) {
    let Some(url) = url else { return };
    let parsed = Url::parse(url).ok();
    let is_http = |url: &Url| matches!(url.scheme(), "http" | "https") && url.has_host();
    let path = section.key("management_url");
    match parsed.filter(is_http) {
        None => findings.add(path, "must be a URL such as http://rabbit:15672"),
        Some(url) if !url.username().is_empty() || url.password().is_some() => {
            findings.add(
                path,
                "must not hold a user: the worker uses the user and the password of the broker's URL",
            );
        }
        Some(url) if url.query().is_some() || url.fragment().is_some() => {
            findings.add(path, "must not hold a query or a fragment");
        }
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        broker::settings::{BrokerSettings, PublishSettings},
        config::samples::{Sample, sections},
    };

    sections!({
        broker: BrokerSettings, publish: PublishSettings
    }, |it, findings| it.broker.check(findings, &it.publish));

    #[test]
    fn the_address_of_the_management_api_is_a_plain_url() {
        for (url, problem) in [
            ("rabbit:15672", "must be a URL such as"),
            ("amqp://rabbit", "must be a URL such as"),
            ("http://guest:s3cret@rabbit:15672", "must not hold a user"),
            ("http://guest@rabbit:15672", "must not hold a user"),
            ("http://rabbit:15672/?x=1", "must not hold a query"),
        ] {
            let text = format!("broker.management_url = \"{url}\"");
            Sections::refused(&[(&text, &format!("broker.management_url: {problem}"))]);
            assert!(!Sections::problems(&text).concat().contains("s3cret"));
        }
        Sections::allowed(&[
            "broker.management_url = \"http://rabbit:15672\"",
            "broker.management_url = \"https://[::1]/rabbit/\"",
        ]);
    }
}
