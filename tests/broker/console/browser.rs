//! A headless Chromium, driven by chromedriver.

use std::process::Stdio;

use axum::http::Method;
use fantoccini::actions::{InputSource, KeyAction, KeyActions};
use fantoccini::wd::{Capabilities, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use url::{ParseError, Url};

use crate::support::{DEADLINE, wait_until, within};

/// The code of a key in WebDriver.
pub(super) const ENTER: char = '\u{e007}';
pub(super) const ESCAPE: char = '\u{e00c}';
pub(super) const TAB: char = '\u{e004}';

/// A browser for one test, with its own profile.
///
/// The browser ends even if the test fails before [`Browser::end`]: it is connected to chromedriver
/// by a pipe, and dropping this value kills chromedriver.
#[derive(Debug)]
pub(super) struct Browser {
    client: Client,
    _driver: Child,
    _profile: TempDir,
}

impl Browser {
    /// A browser without a page: window of 1280 by 800, light colour scheme.
    pub(super) async fn start() -> Self {
        install().await;
        let profile = tempfile::tempdir().expect("a temporary folder");
        let (driver, address) = driver(&profile).await;
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities(&profile));
        let client = within("starting the browser", builder.connect(&address)).await;
        let browser = Self {
            client: client.expect("the browser starts"),
            _driver: driver,
            _profile: profile,
        };
        browser.look(1280, 800, "light").await;
        browser
    }

    /// Opens a page, and waits until the page has loaded.
    pub(super) async fn open(&self, url: &str) {
        within("loading the page", self.client.goto(url))
            .await
            .expect("the page loads");
    }

    /// Gives the page this size and colour scheme.
    pub(super) async fn look(&self, width: u32, height: u32, scheme: &str) {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", size)
            .await;
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    /// The value of a JavaScript expression in the page.
    pub(super) async fn eval(&self, expression: &str) -> Value {
        let script = format!("return {expression};");
        within(expression, self.client.execute(&script, Vec::new()))
            .await
            .unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    /// The visible text of the first element that `css` selects. Empty if there is no such element,
    /// or it is hidden.
    pub(super) async fn text(&self, css: &str) -> String {
        let css = json!(css);
        let shown = "element.checkVisibility() ? element.textContent : ''";
        let text = format!("(element => element && {shown} || '')(document.querySelector({css}))");
        let text = self.eval(&text).await;
        text.as_str().expect("it is text").replace('\u{202f}', " ")
    }

    /// Waits until `accept` returns true for the text of `css`.
    pub(super) async fn wait_for(&self, css: &str, what: &str, accept: impl Fn(&str) -> bool) {
        let look = async || self.text(css).await;
        let what = format!("{css} says {what}");
        wait_until(&what, DEADLINE, look, |text| accept(text)).await;
    }

    /// Waits until the text of `css` contains `part`.
    pub(super) async fn wait_for_text(&self, css: &str, part: &str) {
        self.wait_for(css, part, |text| text.contains(part)).await;
    }

    /// Clicks the middle of an element, once the element exists and no other element covers it.
    pub(super) async fn click(&self, css: &str) {
        let click = async || {
            let element = self.client.find(Locator::Css(css)).await?;
            element.click().await
        };
        let what = format!("{css} is clicked");
        let clicked = wait_until(&what, DEADLINE, click, Result::is_ok).await;
        clicked.expect("it was waited for");
    }

    /// Presses keys one after the other, in the element that has the focus.
    pub(super) async fn press(&self, keys: &str) {
        let mut actions = KeyActions::new("keyboard".to_owned());
        for value in keys.chars() {
            actions = actions
                .then(KeyAction::Down { value })
                .then(KeyAction::Up { value });
        }
        within("pressing keys", self.client.perform_actions(actions))
            .await
            .expect("keys can be pressed");
    }

    /// Presses Tab until the element with this id has the focus. Fails if Tab does not reach it.
    pub(super) async fn tab_to(&self, id: &str) {
        let mut passed = Vec::new();
        for _ in 0..60 {
            self.press(&TAB.to_string()).await;
            let focused = self
                .eval("document.activeElement.id || document.activeElement.outerHTML.slice(0, 80)")
                .await;
            if focused == id {
                return;
            }
            passed.push(focused);
        }
        panic!("Tab does not lead to #{id} but to {passed:#?}");
    }

    /// Closes the browser. Fails if the page violated its content security policy, or a script
    /// failed.
    pub(super) async fn end(self) {
        assert_eq!(self.complaints().await, Vec::<String>::new());
        let closing = within("closing the browser", self.client.close()).await;
        closing.expect("it closes");
    }

    /// The errors in the browser's console: violations of the policy, and exceptions of scripts.
    async fn complaints(&self) -> Vec<String> {
        let log = self.issue("se/log", json!({ "type": "browser" })).await;
        let lines = log.as_array().expect("the log is a list").iter();
        lines
            .map(|line| line["message"].as_str().unwrap_or_default().to_owned())
            // A worker that has ended or refuses a token is not the page's fault.
            .filter(|line| !line.contains("/api/v1/") || !line.contains("Failed to load resource"))
            .collect()
    }

    /// A screenshot of the window, as PNG.
    pub(super) async fn picture(&self) -> Vec<u8> {
        within("taking a picture", self.client.screenshot())
            .await
            .expect("a picture")
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        self.issue("goog/cdp/execute", body).await
    }

    async fn issue(&self, path: &'static str, body: Value) -> Value {
        within(path, self.client.issue_cmd(Vendor { path, body }))
            .await
            .unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

/// A command that only chromedriver has, in addition to WebDriver's.
#[derive(Debug)]
struct Vendor {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Vendor {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        let session = session.expect("the session has begun");
        base.join(&format!("session/{session}/{}", self.path))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}

/// Installs the browser if it is missing. `make test` has already done so.
async fn install() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/browser");
    let mut command = Command::new(script);
    command
        .arg("install")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = command.output().await.expect("the script starts");
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}");
}

/// Starts chromedriver on a free port, and returns the process and its address.
async fn driver(folder: &TempDir) -> (Child, String) {
    let mut command = Command::new("chromedriver");
    let mut driver = command
        .arg("--port=0")
        .env("TMPDIR", folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("chromedriver is installed");
    let stdout = driver.stdout.take().expect("it is piped");
    let mut lines = BufReader::new(stdout).lines();
    let port = within("chromedriver's port", async {
        while let Some(line) = lines.next_line().await.expect("it is text") {
            if let Some((_, port)) = line.split_once("successfully on port ") {
                return port.trim_end_matches('.').to_owned();
            }
        }
        panic!("chromedriver ended before it said its port");
    })
    .await;
    // The pipe stays open, because chromedriver may write more.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (driver, format!("http://127.0.0.1:{port}"))
}

fn capabilities(profile: &TempDir) -> Capabilities {
    let profile = format!("--user-data-dir={}", profile.path().display());
    let arguments = [
        "--headless",
        // Chromium refuses to run as root with its sandbox. It loads only our own page.
        "--no-sandbox",
        "--remote-debugging-pipe",
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        &profile,
    ];
    let capabilities = json!({
        "goog:chromeOptions": { "args": arguments },
        "goog:loggingPrefs": { "browser": "ALL" },
    });
    let Value::Object(capabilities) = capabilities else {
        unreachable!("it is an object");
    };
    capabilities
}
