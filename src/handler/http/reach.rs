//! Whether the handler's server is there: opens a connection and sends no request.

use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;
use tokio::{net::TcpStream, time::timeout};
use url::{Host, Url};

use super::{HttpHandler, HttpHandlerSettings, files::Files};
use crate::{
    certificates,
    handler::{HandlerError, Reached},
    text::causes,
};

/// Opens a connection to the server, or to the proxy in front of it.
pub(super) async fn reach(settings: &HttpHandlerSettings) -> Result<Reached, HandlerError> {
    let handler = HttpHandler::new(settings)?;
    let service = &handler.service;
    let token = service.token(&*service.connections.present().await).await;
    token.map_err(|failure| HandlerError::new(failure.error))?;
    let failed = |text: String| HandlerError::new(text);
    let reached = |what: String, certificates, is_away| Reached {
        what,
        certificates,
        is_away,
    };
    let url = Url::parse(&settings.url).map_err(|error| failed(error.to_string()))?;
    let limit = settings.connect_timeout;
    let (host, port) = address(&url).ok_or_else(|| failed("the URL has no host".to_owned()))?;
    let uri: hyper::Uri = url
        .as_str()
        .parse()
        .map_err(|_| failed("the URL cannot be read".to_owned()))?;
    let proxy = Matcher::from_env().intercept(&uri);
    if let Some(proxy) = proxy {
        let proxy = proxy.uri();
        let host = proxy.host().unwrap_or_default();
        let usual = match proxy.scheme_str() {
            Some("https") => 443,
            Some(scheme) if scheme.starts_with("socks") => 1080,
            _ => 80,
        };
        let port = proxy.port_u16().unwrap_or(usual);
        return Ok(match connect(host, port, limit).await {
            Ok(()) => {
                let what = format!("the proxy {host}:{port} takes connections");
                reached(what, Vec::new(), false)
            }
            Err(error) => {
                let what = format!("the proxy {host}:{port}: {error}");
                reached(what, Vec::new(), true)
            }
        });
    }
    let away = |error: String| reached(format!("{host}:{port}: {error}"), Vec::new(), true);
    let what = format!("{host}:{port} takes connections");
    if url.scheme() != "https" {
        return Ok(match connect(&host, port, limit).await {
            Ok(()) => reached(what, Vec::new(), false),
            Err(error) => away(error),
        });
    }
    let files = Files::read(settings).map_err(failed)?;
    let config = files.tls(settings.system_authorities);
    let config = config.map_err(|error| failed(causes(error.as_ref())))?;
    let shown = certificates::shown_by(&host, port, Some(config), limit).await;
    match shown {
        Err(error) => Ok(away(error)),
        Ok((_, Some(error))) => Err(failed(format!("{host}:{port}: TLS: {error}"))),
        Ok((shown, None)) => Ok(reached(what, shown, false)),
    }
}

/// The host without brackets, and the port.
fn address(url: &Url) -> Option<(String, u16)> {
    let host = match url.host()? {
        Host::Domain(name) => name.to_owned(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    };
    Some((host, url.port_or_known_default()?))
}

async fn connect(host: &str, port: u16, limit: Duration) -> Result<(), String> {
    match timeout(limit, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn at(url: String) -> HttpHandlerSettings {
        HttpHandlerSettings {
            url,
            connect_timeout: Duration::from_secs(20),
            ..HttpHandlerSettings::default()
        }
    }

    #[tokio::test]
    async fn a_server_that_takes_connections_is_reached_and_another_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let reached = reach(&at(format!("http://{address}/orders"))).await;
        let what = format!("{address} takes connections");
        let reached = reached.unwrap();
        assert_eq!((reached.what, reached.is_away), (what, false));
        // Nothing listens on a socket that is only bound, and nobody else gets its port.
        let bound = tokio::net::TcpSocket::new_v4().unwrap();
        bound.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let address = bound.local_addr().unwrap();
        let reached = reach(&at(format!("http://{address}/orders")))
            .await
            .unwrap();
        assert!(reached.is_away, "{reached:?}");
        assert!(
            reached.what.starts_with(&format!("{address}: ")),
            "{reached:?}"
        );
    }
}
