//! `lapwing health`

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use lapwing::settings::{AdminSettings, Listen};

use super::{ConfigFile, EXIT_CONFIG, say};

/// The longest that the whole request may take.
const LIMIT: Duration = Duration::from_secs(2);
/// The most bytes of an answer that are read.
const ROOM: u64 = 64 * 1024;

#[derive(Args)]
pub(super) struct Health {
    #[command(flatten)]
    file: ConfigFile,
    /// Check readiness instead of liveness
    #[arg(long)]
    ready: bool,
    /// Check the worker whose probes are at this address, instead of the worker on this machine
    #[arg(long, value_name = "HOST:PORT")]
    at: Option<String>,
    /// Succeed, and say so, if the name in --at has no address: a headless Service of Kubernetes has none
    /// while no worker runs
    #[arg(long, requires = "at")]
    if_any: bool,
}

impl Health {
    /// Asks the worker of this configuration on this machine, or the worker at `--at`. The exit code is
    /// 0 if the worker is healthy, 1 if it is not or does not answer, and 78 if the configuration has no
    /// address to ask.
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let address = match &self.at {
            Some(at) => match resolve(at) {
                Err(error) if self.if_any && names_a_port(at) => {
                    say(format_args!(
                        "lapwing: no worker runs at {at}, so none was asked ({error})"
                    ));
                    return Ok(ExitCode::SUCCESS);
                }
                resolved => Some(resolved.with_context(|| at.clone())?),
            },
            None => {
                let file = self.file.config.as_deref();
                address(AdminSettings::addresses(file, |name| {
                    std::env::var(name).ok()
                }))
            }
        };
        let Some(address) = address else {
            say("lapwing: no address to ask: admin.listen and admin.probes are off or have port 0");
            return Ok(ExitCode::from(EXIT_CONFIG));
        };
        let path = match self.ready {
            true => "/readyz",
            false => "/livez",
        };
        let (status, body) =
            ask(address, path).with_context(|| format!("http://{address}{path}"))?;
        if status == 200 {
            return Ok(ExitCode::SUCCESS);
        }
        say(format_args!(
            "lapwing: http://{address}{path}: {status}: {body}"
        ));
        Ok(ExitCode::FAILURE)
    }
}

/// Whether the text ends with a port. Without one it has no address, whatever runs there.
fn names_a_port(at: &str) -> bool {
    let port = at.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
    matches!(port, Some(Ok(_)))
}

/// The first address of a host and a port.
fn resolve(at: &str) -> anyhow::Result<SocketAddr> {
    let mut addresses = at.to_socket_addrs()?;
    addresses.next().context("has no address")
}

/// The address to ask from this machine. `None` if the server is off, or if its port is 0: then only
/// the worker's log has the real port.
fn address((listen, probes): (Listen, Listen)) -> Option<SocketAddr> {
    let addresses = [probes.address(), listen.address()];
    addresses.into_iter().find_map(local)
}

/// How this machine reaches a server that listens at this address.
pub(super) fn local(address: Option<SocketAddr>) -> Option<SocketAddr> {
    let mut address = address.filter(|address| address.port() != 0)?;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Some(address)
}

/// The status and body of the answer.
fn ask(address: SocketAddr, path: &str) -> anyhow::Result<(u16, String)> {
    let until = Instant::now() + LIMIT;
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_write_timeout(Some(LIMIT))?;
    // With HTTP/1.0 the server closes the connection after the answer, and does not send it in chunks.
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut stream = stream.take(ROOM);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "no answer within {LIMIT:?}");
        stream.get_ref().set_read_timeout(Some(left))?;
        let mut piece = [0; 4096];
        match stream.read(&mut piece).context("no answer")? {
            0 => break,
            length => answer.extend_from_slice(&piece[..length]),
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("the answer is not HTTP");
    };
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Ok((
        status.context("the answer is not HTTP")?,
        body.trim().to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use lapwing::Settings;

    use super::*;

    #[test]
    fn a_worker_elsewhere_is_found_by_name_and_port() {
        assert_eq!(resolve("127.0.0.1:9091").unwrap().port(), 9091);
        assert!(resolve("localhost:9091").unwrap().ip().is_loopback());
        assert!(resolve("localhost").is_err() && !names_a_port("localhost"));
        assert!(names_a_port("nowhere.invalid:9091"));
    }

    #[test]
    fn the_local_address_of_the_probes_is_asked() {
        let of = |text: &str| {
            let AdminSettings { listen, probes, .. } = Settings::from_toml(text).unwrap().admin;
            address((listen, probes)).map(|address| address.to_string())
        };
        for (text, wanted) in [
            ("", Some("127.0.0.1:8672")),
            ("admin.listen = 'off'", None),
            ("admin.listen = '127.0.0.1:0'", None),
            ("admin.listen = '0.0.0.0:80'", Some("127.0.0.1:80")),
            ("admin.probes = '[::]:81'", Some("[::1]:81")),
            ("admin.probes = '10.0.0.1:81'", Some("10.0.0.1:81")),
            (
                "admin.listen = 'off'\nadmin.probes = '0.0.0.0:82'",
                Some("127.0.0.1:82"),
            ),
        ] {
            assert_eq!(of(text).as_deref(), wanted, "{text}");
        }
    }
}
