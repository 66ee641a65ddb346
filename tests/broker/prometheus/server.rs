//! A Prometheus server for one test.

use serde_json::Value;
use tempfile::TempDir;

use super::{RULES, in_repository, program};
use crate::support::{DEADLINE, WorkerProcess, get_json, wait_until};

/// A Prometheus that scrapes one worker and evaluates the rules. Killed when dropped.
pub(super) struct Prometheus {
    process: WorkerProcess,
    url: String,
}

impl Prometheus {
    /// `target` is the worker's host and port.
    pub(super) async fn scraping(target: &str) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let rules = in_repository(RULES);
        let config = format!(
            "global: {{ scrape_interval: 250ms, evaluation_interval: 250ms }}\n\
             rule_files: [ '{}' ]\n\
             scrape_configs:\n\
             - {{ job_name: orders, static_configs: [ {{ targets: [ '{target}' ] }} ] }}\n",
            rules.display()
        );
        std::fs::write(folder.path().join("prometheus.yml"), config).expect("a temporary file");
        let mut command = program("prometheus").await;
        command.args([
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            "--web.listen-address=127.0.0.1:0",
            "--log.format=json",
        ]);
        let process = WorkerProcess::spawn(command, folder);
        let said = |what: &'static str| move |line: &Value| line["msg"] == what;
        let listening = process.wait_for("its address", DEADLINE, said("Listening on"));
        let address = listening.await["address"].clone();
        let address = address.as_str().expect("it is text").to_owned();
        let ready = said("Server is ready to receive web requests.");
        process.wait_for("its being ready", DEADLINE, ready).await;
        Self {
            process,
            url: format!("http://{address}/api/v1"),
        }
    }

    /// Calls its API, and returns the field `data` of the answer.
    pub(super) async fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let url = format!("{}/{path}", self.url);
        get_json(&url, parameters).await["data"].take()
    }

    /// The values of an instant query, without those that are not numbers.
    pub(super) async fn query(&self, expression: &str) -> Vec<f64> {
        let data = self.ask("query", &[("query", expression)]).await;
        let found = data["result"].as_array().expect("an instant vector");
        let values = found.iter().filter_map(|one| one["value"][1].as_str());
        let values = values.filter_map(|text| text.parse::<f64>().ok());
        values.filter(|value| !value.is_nan()).collect()
    }

    /// Waits until `accept` returns true for the values of an expression.
    pub(super) async fn wait_for(&self, expression: &str, accept: impl Fn(&[f64]) -> bool) {
        let look = async || self.query(expression).await;
        wait_until(expression, DEADLINE, look, |seen: &Vec<f64>| accept(seen)).await;
    }

    /// Whether it still runs.
    pub(super) fn is_running(&mut self) -> bool {
        self.process.is_running()
    }
}
